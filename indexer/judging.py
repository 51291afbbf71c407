"""From scores to a ranked list of studies: what is alike enough, what is nearly the same, who comes first."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.alignment import Alignment
from indexer.answer import Completeness, Relation, StudyHit
from indexer.calibration import UNCALIBRATED, Calibration, Scale, Scales, Uncalibrated
from indexer.catalog.embeddings import EmbeddingSequence
from indexer.catalog.lookup import SeriesInfo
from indexer.places import cosines_without_places

DUPLICATE_COSINE = 0.97
"""From this mean cosine on, two series show nearly the same images."""
_ROUNDING = 1e-3
"""Embeddings are kept as float16."""


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


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """A candidate series against one of the query's series."""

    info: SeriesInfo
    query_series: int
    alignment: Alignment
    sequence: EmbeddingSequence


@dataclass(frozen=True, eq=False, slots=True)
class Judged:
    """A study by the series of it that fits best, and where it stands: similarities fall together near 1."""

    best: Scored
    standing: float
    similarity: float
    relation: Relation

    @property
    def study_pk(self) -> int:
        """Key of the study."""
        return self.best.info.study_pk

    def hit(self, rank: int) -> StudyHit:
        """The study in an answer, without its series."""
        info = self.best.info
        return StudyHit(
            info.study_pk,
            info.study_instance_uid,
            rank,
            self.similarity,
            self.relation,
            Completeness.COMPLETE,
            (),
        )


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

    def judged(self, scored: Mapping[int, Sequence[Scored]]) -> list[Judged]:
        """Judge studies, each by the mean over the query's series of how well its best fitting series does.

        Left out are other patients' studies that are not alike enough.
        """
        best = {study: max(of, key=lambda one: one.alignment.score) for study, of in scored.items()}
        copies = self._copies(best)
        scales = [self.scale(number) for number in range(len(self.query.series))]
        judged = [self._judged(best[study], of, study in copies, scales) for study, of in scored.items()]
        return [one for one in judged if one is not None]

    def _judged(
        self, best: Scored, scored: Sequence[Scored], is_copy: bool, scales: Sequence[Scale | Uncalibrated]
    ) -> Judged | None:
        scores: dict[int, float] = {}
        for one in scored:
            scores[one.query_series] = max(scores.get(one.query_series, -math.inf), one.alignment.score)
        standing = sum(scales[number].standing(score) for number, score in scores.items()) / len(scores)
        is_own = best.info.patient_pk in self.query.patient_pks
        similarity = scales[scored[0].query_series].similarity(standing)
        if self.scales is not None and similarity < self.least_similarity and not (is_copy or is_own):
            return None
        relation = Relation.DUPLICATE if is_copy else Relation.PRIOR if is_own else Relation.ANALOGUE
        return Judged(best, standing, similarity, relation)

    def _copies(self, best: Mapping[int, Scored]) -> set[int]:
        """Studies whose best fitting series shows nearly the same images as the query's."""
        found: set[int] = set()
        for number, (_, own) in enumerate(self.query.series):
            of_series = {study: one for study, one in best.items() if one.query_series == number}
            possible = _may_show_the_same(own.vectors, of_series)
            paired = [one.sequence.vectors[one.alignment.pairs] for one in possible.values()]
            if paired:
                is_copy = show_nearly_the_same(own.vectors, np.stack(paired))
                found |= {study for study, same in zip(possible, is_copy.tolist(), strict=True) if same}
        return found


def _may_show_the_same(query: NDArray[np.float32], scored: Mapping[int, Scored]) -> Mapping[int, Scored]:
    """Leave out those whose first pair of chunks alone brings the mean cosine below that of a duplicate."""
    least = 1 - (1 - DUPLICATE_COSINE) * len(query) - _ROUNDING
    if not scored or least <= -1:
        return scored
    first = np.stack([one.sequence.vectors[one.alignment.pairs[:1]] for one in scored.values()])
    is_left = cosines_without_places(query[:1], first)[:, 0] >= least
    return {study: one for (study, one), left in zip(scored.items(), is_left.tolist(), strict=True) if left}


def ranked(judged: Sequence[Judged], limit: int) -> list[StudyHit]:
    """Put `limit` analogues first, then all of the patient's own and copies; best first, ties as in the catalog."""
    ordered = sorted(judged, key=lambda one: (-one.standing, one.study_pk))
    analogues = _collapsed((one for one in ordered if one.relation is Relation.ANALOGUE), limit)
    related = [one for one in ordered if one.relation is not Relation.ANALOGUE]
    return [one.hit(rank) for rank, one in enumerate([*analogues, *related], start=1)]


def _collapsed(ordered: Iterable[Judged], limit: int) -> list[Judged]:
    """Keep the best of studies that show nearly the same images (copies under other UIDs, reconstructions)."""
    kept: list[Judged] = []
    for one in ordered:
        if len(kept) == limit:
            break
        if not any(_nearly_same(other.best.sequence, one.best.sequence) for other in kept):
            kept.append(one)
    return kept


def _nearly_same(one: EmbeddingSequence, other: EmbeddingSequence) -> bool:
    if len(one.vectors) != len(other.vectors):
        return False
    return bool(show_nearly_the_same(one.vectors, other.vectors[None])[0])


def show_nearly_the_same(query: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether chunks (S, N, D) that go with those of a query (N, D) are nearly the same images, seen as a whole.

    Returns
    -------
    (S,) bool
    """
    cosines = cosines_without_places(query, found).mean(axis=1)
    return np.asarray(cosines >= DUPLICATE_COSINE)


def best_of_series(scored: Sequence[Scored]) -> list[Scored]:
    """Each found series once, against the query's series that it fits best; best first."""
    best: dict[int, Scored] = {}
    for one in sorted(scored, key=lambda one: (-one.alignment.score, one.info.series_pk, one.query_series)):
        best.setdefault(one.info.series_pk, one)
    return list(best.values())
