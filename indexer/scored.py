"""Embeddings of compartments by what each of their places looks like: scores of findings, pooled."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer import kind_files
from indexer.bundle import EMBEDDING_DIM
from indexer.compartments import BONES, BRAIN, INNER, ORGANS, Kind

Rows = NDArray[np.float32]
SCORED: tuple[Kind, ...] = (BRAIN, ORGANS, BONES, INNER)
"""Compartments that are embedded so; the others are embedded as `indexer.regions` says."""
RELATIVE: tuple[Kind, ...] = (BRAIN,)
"""Those whose scores are pooled by how far they are above most of the same chunk; see `ScoredKind.relative`."""
SHOWN = 0.3
"""Share of the compartment around a place from which on its scores count."""
LEAST_PLACES = 200
"""Fewer such places are too little of a compartment; 43 ml where they lie every 6 mm."""
_MOST_TOLD = 8
_LEFT: dict[Kind, int] = {BONES: _MOST_TOLD, BRAIN: 2 * _MOST_TOLD}
"""Dimensions, from the last one on, that a compartment leaves to those of the same modality."""
_GREATEST = (1, 8, 30, 100)
"""Each finding's greatest scores are averaged over so many places."""
_USUAL = 90
"""Percentile of a chunk's scores that is what healthy tissue of this patient comes to on this scanner."""
_SURE = 1.4
"""A logit: places with greater scores are counted."""
WAYS = len(_GREATEST) + 2


@dataclass(frozen=True, eq=False)
class ScoredKind:
    """What one compartment is embedded with; C1 and C2 features of two layers, H and G hidden units, K findings.

    Attributes
    ----------
    findings : (K,) str
        Their names.
    first, second, offset : (C1, H), (C2, H) and (H,) float32
        From the features of both layers to the first hidden units.
    hidden, hidden_offset : (H, G) and (G,) float32
    last, last_offset : (G, K) and (K,) float32
        To a logit for each finding.
    relative : () float32
        1: scores are pooled less their 90th percentile over the chunk's places, 0: as they are.
    score_mean, score_scale : (6 K,) float32
        Of pooled scores over training slabs.
    told, told_offset : (6 K, T) and (T,) float32
        From pooled scores to what tells findings apart.
    """

    findings: NDArray[np.str_]
    first: Rows
    second: Rows
    offset: Rows
    hidden: Rows
    hidden_offset: Rows
    last: Rows
    last_offset: Rows
    relative: Rows
    score_mean: Rows
    score_scale: Rows
    told: Rows
    told_offset: Rows

    def scores(self, first: Rows, second: Rows) -> Rows:
        """Score features (n, C1) and (n, C2) of both layers at n places: logits (n, K)."""
        seen = np.maximum(first @ self.first + second @ self.second + self.offset, 0.0)
        few = np.maximum(seen @ self.hidden + self.hidden_offset, 0.0)
        return np.asarray(few @ self.last + self.last_offset, dtype=np.float32)

    def __call__(self, scores: Rows) -> Rows:
        """Embed a compartment of one chunk as a unit vector (256,), its last T dimensions.

        Parameters
        ----------
        scores : (n, K) float32
            Logits at its places.
        """
        standard = (self.pooled(scores) - self.score_mean) / self.score_scale
        vector = standard @ self.told + self.told_offset
        filled = np.pad(vector, (EMBEDDING_DIM - len(vector), 0))
        return np.asarray(filled / max(float(np.linalg.norm(filled)), 1e-12), dtype=np.float32)

    def pooled(self, scores: Rows) -> Rows:
        """Pool the scores of a chunk's places (n, K): (6 K,)."""
        usual = np.percentile(scores, _USUAL, axis=0) if self.relative else np.float32(0)
        return pool_logits(np.asarray(scores - usual, dtype=np.float32))


def laid(kind: Kind, vector: Rows) -> Rows:
    """Lay an embedding (256,) where it has no dimension in common with those of other compartments."""
    return np.roll(vector, -_LEFT.get(kind, 0))


def pool_logits(scores: Rows) -> Rows:
    """Pool the scores of places (n, K): the greatest, means of the greatest few, and how many there are; (6 K,).

    Two soft counts, as logarithms: the sum of probabilities, and places with a probability of at least 0.8.
    """
    most = min(_GREATEST[-1], len(scores))
    falling = -np.sort(np.partition(-scores, most - 1, axis=0)[:most], axis=0)
    means = [falling[:count].mean(axis=0) for count in _GREATEST]
    likely = 1 / (1 + np.exp(-scores.clip(-60, 60)))
    counts = [np.log(likely.sum(axis=0) + 0.1), np.log((scores > _SURE).sum(axis=0) + 1.0)]
    return np.concatenate([*means, *counts]).astype(np.float32)


def save(path: Path, kinds: Mapping[Kind, ScoredKind]) -> None:
    """Write what every kind is embedded with to one file, matrices as float16."""
    kind_files.save(path, kinds)


def load(path: Path) -> dict[Kind, ScoredKind]:
    """Read what `save` wrote, in the order of `SCORED`.

    Raises
    ------
    ConfigError
        The file is missing or damaged.
    """
    found = kind_files.load(path, ScoredKind, "findings")
    for kind, one in found.items():
        _check(path, kind, one)
    return {kind: found[kind] for kind in SCORED if kind in found}


def _check(path: Path, kind: str, one: ScoredKind) -> None:
    if kind not in SCORED:
        raise ConfigError([f"findings {path}: expected kinds of {', '.join(SCORED)}, got {kind}"])
    (units, few), count, told = one.hidden.shape, len(one.findings), one.told.shape[-1]
    pooled = WAYS * count
    expected = [(count,), (len(one.first), units), (len(one.second), units), (units,), (units, few), (few,)]
    expected += [(few, count), (count,), (), (pooled,), (pooled,), (pooled, told), (told,)]
    parts = [getattr(one, part.name) for part in fields(ScoredKind)]
    if [part.shape for part in parts] != expected or told > _MOST_TOLD:
        raise ConfigError([f"findings {path}: {kind} holds matrices that do not fit together: fit it anew"])
    if one.score_scale.min() <= 0:
        raise ConfigError([f"findings {path}: {kind} holds values that are no embedding's"])
