"""Embeddings of compartments: from the cells of the same feature map, weighted by how unusual they are."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer import kind_files
from indexer.bundle import EMBEDDING_DIM
from indexer.compartments import Kind

Rows = NDArray[np.float32]
PLAIN_DIM = 192
"""Dimensions of the part that no label has a say in; the trained part has what is left of the embedding."""
LEAST_SHARE = 0.02
"""Of the compartment in a cell's surroundings: cells with less are not looked at."""
LEAST_CELLS = 3.0
"""Sum of shares below which a chunk shows too little of a compartment."""
TRAINED_WEIGHT = 0.8
"""Of the cosine, where there is a trained part."""
_CLIP = 5.0
_UNUSUAL = 12
"""Power of a cell's distance from the usual that it counts by: a focal finding must not drown in healthy cells."""
_GREATEST = (1, 3, 8, 20)
"""Each finding's greatest scores are averaged over so many cells: how much of the compartment it takes."""
_FULL_SHARE_PERCENTILE = 90


@dataclass(frozen=True, eq=False)
class Region:
    """What the cells of one compartment are embedded with; F features, K findings.

    Attributes
    ----------
    mean, scale : (F,) float32
        Of each feature over cells of reference slabs.
    common, damping : (F, P) and (P,) float32
        Directions in which such cells ordinarily vary, and what is left of each.
    views : (F, V) float32
        Directions that the plain part is seen from, at most 192: in which other tissue is unusual, evened out.
    centre : (V,) float32
        Of the plain part over reference slabs.
    cells, offset : (F, K) and (K,) float32
        Score of each finding in a cell; K may be 0.
    score_mean, score_scale : (5 K,) float32
        Of the pooled scores over training slabs.
    trained : (5 K, T) float32
    """

    mean: Rows
    scale: Rows
    common: Rows
    damping: Rows
    views: Rows
    centre: Rows
    cells: Rows
    offset: Rows
    score_mean: Rows
    score_scale: Rows
    trained: Rows

    def __call__(self, features: Rows, shares: Rows) -> Rows:
        """Embed a compartment of one chunk as a unit vector (256,).

        Parameters
        ----------
        features : (n, F) float32
            Of its cells.
        shares : (n,) float32
            Of the compartment in each of them.
        """
        return next(self.chunks(features, shares, [slice(None)]))

    def chunks(self, features: Rows, shares: Rows, chunks: Iterable[slice]) -> Iterator[Rows]:
        """Embed a compartment of several chunks, which may share cells: `chunks` says which are each one's."""
        standard = self.standard(features)
        unusual, scores = self.unusual(standard), self.scores(standard)
        distances = np.linalg.norm(unusual, axis=1)
        for at in chunks:
            vector = np.zeros(EMBEDDING_DIM, np.float32)
            vector[: len(self.centre)] = _unit(self._focal(unusual[at], distances[at], shares[at]) - self.centre)
            if self.trained.size:
                trained = np.sqrt(TRAINED_WEIGHT) * _unit(self._told(scores[at], shares[at]))
                vector *= np.float32(np.sqrt(1 - TRAINED_WEIGHT))
                vector[PLAIN_DIM : PLAIN_DIM + len(trained)] = trained
            yield _unit(vector)

    def standard(self, features: Rows) -> Rows:
        """Standardise features (n, F)."""
        return np.asarray(np.clip((features - self.mean) / self.scale, -_CLIP, _CLIP), dtype=np.float32)

    def plain(self, standard: Rows, shares: Rows) -> Rows:
        """Pool what is unusual in standardised cells, without any label: (V,)."""
        unusual = self.unusual(standard)
        return self._focal(unusual, np.linalg.norm(unusual, axis=1), shares)

    def unusual(self, standard: Rows) -> Rows:
        """Even out directions in which standardised cells (n, F) ordinarily vary."""
        return np.asarray(standard - (standard @ self.common * (1 - self.damping)) @ self.common.T)

    def scores(self, standard: Rows) -> Rows:
        """How much each standardised cell (n, F) looks like each finding: (n, K)."""
        return np.asarray(standard @ self.cells + self.offset, dtype=np.float32)

    def _focal(self, unusual: Rows, distances: Rows, shares: Rows) -> Rows:
        """Pool what is unusual in cells (n, F), each weighted by how much of it there is (n,): (V,)."""
        weights = shares * (distances / max(float(distances.max()), 1e-12)) ** _UNUSUAL
        pooled = (weights / max(float(weights.sum()), 1e-12)) @ unusual
        return np.asarray(pooled @ self.views, dtype=np.float32)

    def _told(self, scores: Rows, shares: Rows) -> Rows:
        """Directions that tell findings apart, from the pooled scores of a chunk's cells: (T,)."""
        pooled = pool_scores(scores, shares)
        return np.asarray((pooled - self.score_mean) / self.score_scale @ self.trained, dtype=np.float32)


def pool_scores(scores: Rows, shares: Rows) -> Rows:
    """Pool the scores of cells (n, K): their mean and the means of the greatest few, (5 K,)."""
    full = max(float(np.percentile(shares, _FULL_SHARE_PERCENTILE)), 1e-6)
    positive = np.maximum(scores, 0.0)
    greatest = np.sort(positive * np.minimum(shares / full, 1.0)[:, None], axis=0)[::-1]
    means = [positive.T @ shares / max(float(shares.sum()), 1e-6), *(greatest[:k].mean(axis=0) for k in _GREATEST)]
    return np.asarray(np.concatenate(means), dtype=np.float32)


def save(path: Path, regions: Mapping[Kind, Region]) -> None:
    """Write what every kind is embedded with to one file, matrices as float16."""
    kind_files.save(path, regions)


def load(path: Path, features: int) -> dict[str, Region]:
    """Read what `save` wrote: kind to region.

    Raises
    ------
    ConfigError
        The file is missing or damaged, or made for another number of features.
    """
    found = kind_files.load(path, Region, "regions")
    for kind, one in found.items():
        _check(path, kind, one, features)
    return found


def _check(path: Path, kind: str, one: Region, features: int) -> None:
    directions, findings, told = one.common.shape[-1], one.cells.shape[-1], one.trained.shape[-1]
    views = one.views.shape[-1]
    pooled = (1 + len(_GREATEST)) * findings
    expected = [(features,)] * 2 + [(features, directions), (directions,), (features, views), (views,)]
    expected += [(features, findings), (findings,), (pooled,), (pooled,), (pooled, told)]
    parts = [getattr(one, part.name) for part in fields(Region)]
    if [part.shape for part in parts] != expected or max(views - PLAIN_DIM, told - EMBEDDING_DIM + PLAIN_DIM) > 0:
        raise ConfigError([f"regions {path}: {kind} is not for {features} features: fit it anew"])
    if one.scale.min() <= 0:
        raise ConfigError([f"regions {path}: {kind} holds values that are no embedding's"])


def _unit(vector: Rows) -> Rows:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)
