"""Projections of a network's pooled features: as shipped, fitted to the evaluated series, or without a patient."""

from collections.abc import Collection as AnyCollection
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer import projection
from indexer.evaluate.describe import Pooled
from indexer.evaluate.items import Item
from indexer.evaluate.similarity import Evidence, Rows
from indexer.fit import MOST_ROWS, SEEDS, ReferenceFeatures, fit_projection, joined
from indexer.heads import HeadAtlas, HeadFinder
from indexer.levels import Atlas, LevelFinder
from indexer.uids import SeriesInstanceUID

_SAME_FIT = 0.02
"""Two fits to the same series differ by rounding: less than this share of the features' spread."""

PooledEvidence = tuple[tuple[Pooled, ...], ...]
"""What a network's features say of an item: its series, of each its volumes."""
Projections = Mapping[str, projection.Projection]
"""Modality to projection; under "" one for all."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What a bundle lays volumes on: in CT levels along the body, in MR heads."""

    levels: Atlas | None = None
    heads: HeadAtlas | None = None

    def without(self, series: AnyCollection[SeriesInstanceUID]) -> "Anatomy":
        """The same as if it had never seen some series."""
        return Anatomy(self.levels and self.levels.without(series), self.heads and self.heads.without(series))

    @property
    def names(self) -> str:
        """What it holds, in words; empty for nothing."""
        held = {"atlas of levels": self.levels, "atlas of heads": self.heads}
        return " and the ".join(name for name, one in held.items() if one is not None)


@dataclass(frozen=True, eq=False)
class Reference:
    """What a projection may be fitted to: the features of one volume."""

    patient: str
    modality: str
    features: ReferenceFeatures


class Refit:
    """Fits a projection for each modality as `indexer.fit` does, some patients left out.

    A modality of which fewer than two windows are left gets directions drawn from a seed, unfitted.
    """

    def __init__(self, references: Sequence[Reference]) -> None:
        self._references: dict[str, list[Reference]] = {}
        for one in references:
            self._references.setdefault(one.modality, []).append(one)
        self._whole: Projections = {}

    def whole(self) -> Projections:
        """Fit to all of them, once."""
        if not self._whole:
            self._whole = {modality: _fitted(modality, of) for modality, of in self._references.items()}
        return self._whole

    def without(self, patients: AnyCollection[str]) -> Projections:
        """Fit to everybody else; a modality that none of the patients has is as in the whole fit."""
        found = {}
        for modality, of_modality in self._references.items():
            if any(one.patient in patients for one in of_modality):
                found[modality] = _fitted(modality, of_modality, patients)
            else:
                found[modality] = self.whole()[modality]
        return found


def _fitted(modality: str, references: Sequence[Reference], but: AnyCollection[str] = ()) -> projection.Projection:
    parts = [one.features for one in references if one.patient not in but]
    if sum(len(one.rows) for one in parts) < 2:
        return projection.drawn(references[0].features.rows.shape[1], SEEDS.get(modality, 0))
    whole = joined(parts)
    return fit_projection(modality, ReferenceFeatures(_thinned(whole.rows), whole.changes))


def same_fit(first: Projections, second: Projections) -> bool:
    """Whether two sets of projections were fitted to the same features, by their means and scales."""
    shared = set(first) & set(second)

    def agree(modality: str) -> bool:
        one, other = first[modality], second[modality]
        apart = np.abs(one.mean - other.mean) / np.maximum(other.scale, 1e-6)
        wider = np.abs(one.scale / np.maximum(other.scale, 1e-6) - 1)
        return bool(np.median(apart) < _SAME_FIT and np.median(wider) < _SAME_FIT)

    return bool(shared) and all(agree(modality) for modality in shared)


def embed(
    items: Sequence[Item], features: Sequence[PooledEvidence], projections: Projections, anatomy: Anatomy
) -> list[Evidence]:
    """Project the features of every item's series by their modality, and lay them on atlases: unit vectors."""
    levels = LevelFinder(anatomy.levels, _of_modality(projections, "CT")) if anatomy.levels is not None else None
    heads = HeadFinder(anatomy.heads) if anatomy.heads is not None else None

    def vectors(modality: str, one: Pooled) -> Rows:
        projected = _of_modality(projections, modality)(one.rows)
        if levels is not None and one.column is not None:
            return levels.placed(projected, one.column, one.heights_mm)
        if heads is not None and modality == "MR":
            return heads.placed(projected, one.head, one.heights_mm)
        return projected

    return [
        tuple(
            tuple(vectors(modality, one) for one in volumes)
            for modality, volumes in zip(item.modalities, evidence, strict=True)
        )
        for item, evidence in zip(items, features, strict=True)
    ]


def unit(features: Sequence[Evidence]) -> list[Evidence]:
    """Take descriptions as they are, at unit length; one of length 0 stays so and is like nothing."""
    return [tuple(tuple(_unit(rows) for rows in volumes) for volumes in evidence) for evidence in features]


def _of_modality(projections: Projections, modality: str) -> projection.Projection:
    return projections[modality] if modality in projections else projections[""]


def _unit(rows: Rows) -> Rows:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), dtype=np.float32)


def _thinned(rows: Rows) -> Rows:
    return rows[:: -(-len(rows) // MOST_ROWS)]
