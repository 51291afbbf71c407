"""From scores to a ranked list of studies: what is alike enough, what is nearly the same, who comes first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexer.alignment import Alignment
from indexer.answer import Completeness, Relation, StudyHit
from indexer.calibration import UNCALIBRATED, Calibration, Scale, Scales, Uncalibrated
from indexer.catalog.embeddings import EmbeddingSequence
from indexer.catalog.lookup import SeriesInfo

DUPLICATE_COSINE = 0.97
"""From this mean cosine on, two series show nearly the same images."""


@dataclass(frozen=True, eq=False)
class Query:
    """The seed's chunks: by series, ordered along z; `is_part` where only some of a series' chunks ask."""

    study_pks: frozenset[int]
    patient_pks: frozenset[int]
    series: tuple[tuple[SeriesInfo, EmbeddingSequence], ...]
    is_part: bool

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All of the whole body region, (N, D)."""
        return np.concatenate([sequence.vectors for _, sequence in self.series])

    def is_unusual(self, calibration: Calibration) -> bool:
        """Whether none of its series is like the archive's."""
        return not self.is_part and all(
            calibration.is_unusual(info.modality, sequence.looks, info.patient_pk) for info, sequence in self.series
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """A candidate series against one of the query's series."""

    info: SeriesInfo
    query_series: int
    alignment: Alignment
    sequence: EmbeddingSequence


@dataclass(frozen=True, eq=False)
class Judged:
    """A study, and where it stands: similarities near 1 fall together where this does not."""

    hit: StudyHit
    standing: float


@dataclass(frozen=True, eq=False)
class Judge:
    """Reads scores as similarities: all of an answer's on one footing."""

    query: Query
    scales: Mapping[str, Scales] | None
    least_similarity: float

    def scale(self, query_series: int) -> Scale | Uncalibrated:
        """How to read the score of a candidate against one of the query's series."""
        of_modality = self.of_modality(query_series)
        return of_modality.chunk if self.query.is_part else of_modality.series

    def of_modality(self, query_series: int) -> Scales:
        """How to read scores against one of the query's series."""
        return self.scales[self.query.series[query_series][0].modality] if self.scales else UNCALIBRATED

    def similarity(self, one: Scored) -> float:
        """Similarity, 0 to 1, of a candidate series."""
        scale = self.scale(one.query_series)
        return scale.similarity(scale.standing(one.alignment.score))

    def judged(self, scored: Sequence[Scored]) -> Judged | None:
        """Judge a study: the mean over the query's series of how well its best fitting series does.

        None for another patient's study that is not alike enough.
        """
        best: dict[int, float] = {}
        for one in scored:
            standing = self.scale(one.query_series).standing(one.alignment.score)
            best[one.query_series] = max(best.get(one.query_series, -math.inf), standing)
        info, standing = scored[0].info, sum(best.values()) / len(best)
        best_one = max(scored, key=lambda one: one.alignment.score)
        own = self.query.series[best_one.query_series][1]
        nearly_same = shows_nearly_the_same(own, best_one.sequence, best_one.alignment)
        relation = Relation.PRIOR if info.patient_pk in self.query.patient_pks else Relation.ANALOGUE
        hit = StudyHit(
            study_pk=info.study_pk,
            study_instance_uid=info.study_instance_uid,
            rank=0,
            similarity=self.scale(scored[0].query_series).similarity(standing),
            relation=Relation.DUPLICATE if nearly_same else relation,
            completeness=Completeness.COMPLETE,
            series=(),
        )
        too_far = self.scales is not None and hit.similarity < self.least_similarity
        return None if too_far and hit.relation is Relation.ANALOGUE else Judged(hit, standing)


def ranked(judged: Sequence[Judged], scored: Mapping[int, Sequence[Scored]], limit: int) -> list[StudyHit]:
    """Put `limit` analogues first, then all of the patient's own and copies; best first, ties as in the catalog."""
    ordered = [one.hit for one in sorted(judged, key=lambda one: (-one.standing, one.hit.study_pk))]
    analogues = _collapsed([hit for hit in ordered if hit.relation is Relation.ANALOGUE], scored, limit)
    related = [hit for hit in ordered if hit.relation is not Relation.ANALOGUE]
    return [replace(hit, rank=rank) for rank, hit in enumerate([*analogues, *related], start=1)]


def _collapsed(ordered: Sequence[StudyHit], scored: Mapping[int, Sequence[Scored]], limit: int) -> list[StudyHit]:
    """Keep the best of studies that show nearly the same images (copies under other UIDs, reconstructions)."""
    kept: list[StudyHit] = []
    for hit in ordered:
        if len(kept) == limit:
            break
        if not any(_nearly_same(scored[one.study_pk], scored[hit.study_pk]) for one in kept):
            kept.append(hit)
    return kept


def _nearly_same(first: Sequence[Scored], second: Sequence[Scored]) -> bool:
    one, other = (max(scored, key=lambda s: s.alignment.score).sequence.appearance for scored in (first, second))
    if len(one) != len(other):
        return False
    return _mean_cosine(one, other) >= DUPLICATE_COSINE


def shows_nearly_the_same(query: EmbeddingSequence, found: EmbeddingSequence, alignment: Alignment) -> bool:
    """Whether the chunks that go together are nearly the same images, seen as a whole."""
    return _mean_cosine(query.appearance, found.appearance[alignment.pairs]) >= DUPLICATE_COSINE


def _mean_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of unit vectors (N, D), row by row."""
    return float(np.einsum("nd,nd->", one, other)) / len(one)


def best_of_series(scored: Sequence[Scored]) -> list[Scored]:
    """Each found series once, against the query's series that it fits best; best first."""
    best: dict[int, Scored] = {}
    for one in sorted(scored, key=lambda one: (-one.alignment.score, one.info.series_pk, one.query_series)):
        best.setdefault(one.info.series_pk, one)
    return list(best.values())
