"""From a seed to related studies: candidates by the vector index, exact re-ranking, its patient set apart."""

import copy
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from config.access import Cohort
from config.model import SearchSettings
from indexer.alignment import Alignment, align_each
from indexer.answer import Answer, ChunkMatch, Completeness, Seed, SeriesHit, StudyHit
from indexer.calibration import Scales
from indexer.catalog import Catalog, SeriesState
from indexer.catalog.embeddings import EmbeddingSequence, StoredChunk
from indexer.catalog.lookup import SeriesInfo
from indexer.errors import NotFound, Parked, Transient
from indexer.judging import Judge, Query, Scored, best_of_series, ranked
from indexer.outside import OutsideSeries, outside_query
from indexer.own_order import own_newest_first
from indexer.places import level_of
from indexer.recalibration import Recalibration
from indexer.remembered import Remembered
from indexer.shortlist import Own, Shortlist
from indexer.uids import EncoderId
from indexer.vectors import VectorIndex

SHOWN_MATCHES = 8
"""Chunk pairs that a hit is explained with."""
_BATCH = 512
"""Candidate series that are scored before it is asked whether the question was cancelled."""


class IndexSource(Protocol):
    """Where the present index comes from; it may be replaced while the node runs."""

    def current(self) -> tuple[VectorIndex, EncoderId]:
        """Return the index that answers now, and whose embeddings it holds."""
        ...


class Search:
    """Answers questions for similar studies from a catalog and its index; see `indexer.answer.Finder`."""

    def __init__(self, catalog: Catalog, source: IndexSource, settings: SearchSettings) -> None:
        self._catalog = catalog
        self._view = catalog.within(None)
        self._source = source
        self._least_similarity = settings.least_similarity
        self._remembered = Remembered(catalog)
        self._shortlist = Shortlist(self._remembered, settings.candidates_per_chunk)
        self._recalibration = Recalibration(catalog, self._remembered)

    def within(self, cohort: Cohort | None) -> Self:
        """A search for which only a cohort's studies are there; see `indexer.answer.Finder.within`."""
        seen = copy.copy(self)
        seen._view = self._catalog.within(cohort)
        return seen

    def similar(
        self,
        seed: Seed,
        *,
        limit: int,
        allowed_series: frozenset[int] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        explained: bool = True,
    ) -> Answer:
        """Find the studies that look like the seed; see `indexer.answer.Finder.similar`."""
        query = self._query(seed, self._source.current()[1])
        return self._answer(query, {} if explained else None, limit, allowed_series, cancelled)

    def similar_to(
        self,
        given: Sequence[OutsideSeries],
        encoder_id: EncoderId,
        *,
        limit: int,
        allowed_series: frozenset[int] | None = None,
    ) -> Answer:
        """Find the studies that look like series which are not in the catalog; none of them is a prior.

        Parameters
        ----------
        encoder_id : EncoderId
            Who embedded them.

        Raises
        ------
        Transient
            Another encoder answers now.
        """
        if encoder_id != self._source.current()[1]:
            raise Transient("the archive is not embedded by the configured encoder yet")
        query, chunks = outside_query(given)
        return self._answer(query, chunks, limit, allowed_series, lambda: False)

    def _answer(
        self,
        query: Query,
        own_chunks: Mapping[int, StoredChunk] | None,
        limit: int,
        allowed_series: frozenset[int] | None,
        cancelled: Callable[[], bool],
    ) -> Answer:
        """Answer a query; `own_chunks` are those of it that the catalog does not know, None: explain nothing."""
        index, encoder_id = self._source.current()
        found = self._candidate_series(query, index, encoder_id, limit, allowed_series)
        sequences = self._remembered.sequences(sorted(found), encoder_id)
        scored = _scored(query, found, sequences, cancelled)
        calibration = self._recalibration.current(index, encoder_id)
        scales = calibration.scales({info.modality for info, _ in query.series})
        judge = Judge(query, scales, self._least_similarity)
        hits = own_newest_first(self._view.lookup, ranked(judge.judged(scored), limit), limit)
        if own_chunks is None:
            return Answer(encoder_id, tuple(hits), scales is not None)
        explained = self._explained(judge, hits, scored, encoder_id, own_chunks)
        return Answer(encoder_id, explained, scales is not None, query.is_unusual(calibration))

    def scales(self, modalities: Set[str]) -> Mapping[str, Scales] | None:
        """How scores of some modalities are read as similarities; None where the archive cannot say."""
        index, encoder_id = self._source.current()
        return self._recalibration.current(index, encoder_id).scales(modalities)

    def _query(self, seed: Seed, encoder_id: EncoderId) -> Query:
        infos = self._seed_series(seed)
        if not infos:
            raise NotFound("the seed is not in the catalog")
        sequences = self._catalog.embeddings.sequences([info.series_pk for info in infos], encoder_id)
        is_part = bool(seed.sop_instance_uids) or seed.region_lps_mm is not None
        if is_part:
            chunks = self._catalog.embeddings.chunks(list(sequences), encoder_id)
            wanted = {chunk.chunk_pk for chunk in chunks if _is_seed(chunk, seed)}
            sequences = {pk: part for pk, whole in sequences.items() if (part := _only(whole, wanted)) is not None}
        present = tuple((info, sequences[info.series_pk]) for info in infos if info.series_pk in sequences)
        if not present:
            raise self._why_nothing(infos, encoder_id)
        studies, patients = {info.study_pk for info in infos}, {info.patient_pk for info in infos}
        return Query(frozenset(studies), frozenset(patients), present, is_part)

    def _why_nothing(self, infos: Sequence[SeriesInfo], encoder_id: EncoderId) -> Exception:
        states = {info.state for info in infos}
        if states & {SeriesState.RECEIVING, SeriesState.SETTLED, SeriesState.INDEXING}:
            return Transient("the seed is not indexed yet")
        indexed = [info.series_pk for info in infos if info.state == SeriesState.INDEXED]
        if set(indexed) - set(self._catalog.embeddings.revisions(indexed, encoder_id)):
            return Transient("the seed is not indexed by the present encoder yet")
        if SeriesState.PARKED in states:
            reasons = "; ".join(sorted({info.reason for info in infos if info.state == SeriesState.PARKED}))
            return Parked(f"the seed is parked: {reasons}")
        if indexed:
            return Parked("no volume of the seed lies in the region asked for, or the encoder has no use for it")
        return Parked("the seed holds no CT or MR images")

    def _seed_series(self, seed: Seed) -> Sequence[SeriesInfo]:
        lookup = self._view.lookup
        if seed.sop_instance_uids:
            return lookup.series_of_instances(seed.sop_instance_uids)
        if seed.series_instance_uid is not None:
            info = lookup.series_by_uid(seed.series_instance_uid)
            return [info] if info else []
        if seed.study_instance_uid is not None:
            return lookup.series_of_study(seed.study_instance_uid)
        return []

    def _candidate_series(
        self,
        query: Query,
        index: VectorIndex,
        encoder_id: EncoderId,
        limit: int,
        allowed: frozenset[int] | None,
    ) -> dict[int, SeriesInfo]:
        """Series nearest to the query's, and all of the patient's own; the query's study left out."""
        embeddings, lookup = self._catalog.embeddings, self._view.lookup
        series_pks = {info.series_pk for pk in query.patient_pks for info in lookup.series_of_patient(pk)}
        allowed_ids = self._allowed_ids(encoder_id, allowed)
        if len(index) and (allowed_ids is None or len(allowed_ids)):
            own = Own(series_pks, lambda: len(embeddings.ids_of_series(sorted(series_pks), encoder_id)))
            series_pks = series_pks | self._shortlist.of(query, index, own, allowed_ids, limit)
        infos = self._remembered.infos(sorted(series_pks if allowed is None else series_pks & allowed))
        modalities = {info.modality for info, _ in query.series}
        return {
            pk: info
            for pk, info in infos.items()
            if info.study_pk not in query.study_pks and info.modality in modalities
        }

    def _allowed_ids(self, encoder_id: EncoderId, allowed: frozenset[int] | None) -> NDArray[np.int64] | None:
        """Embeddings that may be found; None: all. Those of others take no place among the candidates."""
        embeddings, cohort = self._catalog.embeddings, self._view.cohort
        asked = None if allowed is None else embeddings.ids_of_series(sorted(allowed), encoder_id)
        if cohort is None:
            return asked
        seen = embeddings.ids_within(cohort, encoder_id)
        return seen if asked is None else np.intersect1d(asked, seen, assume_unique=True)

    def _explained(
        self,
        judge: Judge,
        hits: Sequence[StudyHit],
        scored: Mapping[int, Sequence[Scored]],
        encoder_id: EncoderId,
        own_chunks: Mapping[int, StoredChunk],
    ) -> tuple[StudyHit, ...]:
        """Add to each hit why and where, and whether its embeddings know all of it."""
        embeddings = self._catalog.embeddings
        shown = {hit.study_pk: best_of_series(scored[hit.study_pk]) for hit in hits}
        up_to_date = embeddings.revisions([one.info.series_pk for of in shown.values() for one in of], encoder_id)
        pairs = [pair for of in shown.values() for one in of for pair in _shown_pairs(judge.query, one)]
        keys = {pk for pair in pairs for pk in (pair.asked, pair.there)} - own_chunks.keys()
        chunks = {**embeddings.chunks_by_pk(sorted(keys)), **own_chunks}
        return tuple(_explain(hit, judge, shown[hit.study_pk], chunks, up_to_date) for hit in hits)


def _is_seed(chunk: StoredChunk, seed: Seed) -> bool:
    wanted = set(seed.sop_instance_uids)
    if wanted and not any(ref.sop_instance_uid in wanted for ref in chunk.slices):
        return False
    region, box = seed.region_lps_mm, chunk.box_lps_mm
    return region is None or all(region[i] <= box[i + 3] and box[i] <= region[i + 3] for i in range(3))


def _only(sequence: EmbeddingSequence, chunk_pks: set[int]) -> EmbeddingSequence | None:
    kept = [row for row, pk in enumerate(sequence.chunk_pks) if pk in chunk_pks]
    return sequence.rows(kept) if kept else None


def _scored(
    query: Query,
    infos: Mapping[int, SeriesInfo],
    sequences: Mapping[int, EmbeddingSequence],
    cancelled: Callable[[], bool],
) -> dict[int, list[Scored]]:
    """Compare candidates with every series of the query that has their modality: study key to what was found."""
    found: dict[int, list[Scored]] = {}
    for start in range(0, len(sequences), _BATCH):
        if cancelled():
            break
        batch = dict(islice(sequences.items(), start, start + _BATCH))
        for modality in dict.fromkeys(info.modality for info, _ in query.series):
            own = [number for number, (info, _) in enumerate(query.series) if info.modality == modality]
            alike = {pk: one for pk, one in batch.items() if infos[pk].modality == modality}
            best = _best_volumes([query.series[number][1] for number in own], alike)
            for number, of_series in zip(own, best, strict=True):
                for pk, (alignment, part) in of_series.items():
                    info = infos[pk]
                    found.setdefault(info.study_pk, []).append(Scored(info, number, alignment, part))
    return found


def _best_volumes(
    queries: Sequence[EmbeddingSequence], sequences: Mapping[int, EmbeddingSequence]
) -> list[dict[int, tuple[Alignment, EmbeddingSequence]]]:
    """Align series of the query with others; the best volume of each counts, of equal ones the first."""
    parts = [(pk, part) for pk, sequence in sequences.items() for part in sequence.by_volume()]
    aligned = align_each([query.looks for query in queries], [part.looks for _, part in parts])
    found = []
    for of_query in aligned:
        best: dict[int, tuple[Alignment, EmbeddingSequence]] = {}
        for (pk, part), alignment in zip(parts, of_query, strict=True):
            if pk not in best or alignment.score > best[pk][0].score:
                best[pk] = (alignment, part)
        found.append(best)
    return found


def _explain(
    hit: StudyHit,
    judge: Judge,
    shown: Sequence[Scored],
    chunks: Mapping[int, StoredChunk],
    up_to_date: Mapping[int, bool],
) -> StudyHit:
    series = tuple(
        SeriesHit(
            series_pk=one.info.series_pk,
            series_instance_uid=one.info.series_instance_uid,
            similarity=judge.similarity(one),
            matches=_matches(judge, one, chunks),
        )
        for one in shown
    )
    complete = all(up_to_date.get(one.series_pk, False) for one in series)
    return replace(hit, series=series, completeness=Completeness.COMPLETE if complete else Completeness.PROVISIONAL)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A chunk of the query and the one it was found in: their keys and levels."""

    asked: int
    there: int
    cosine: float
    levels: tuple[str, str]


def _shown_pairs(query: Query, one: Scored) -> list[_Pair]:
    """The best pairs of chunks, best first."""
    own, found, aligned = query.series[one.query_series][1], one.sequence, one.alignment
    order = np.argsort(-aligned.cosines, kind="stable")[:SHOWN_MATCHES].tolist()
    pairs = [(i, int(aligned.pairs[i])) for i in order]
    return [
        _Pair(
            own.chunk_pks[i],
            found.chunk_pks[k],
            float(aligned.cosines[i]),
            (level_of(own.vectors[i]), level_of(found.vectors[k])),
        )
        for i, k in pairs
    ]


def _matches(judge: Judge, one: Scored, chunks: Mapping[int, StoredChunk]) -> tuple[ChunkMatch, ...]:
    query, scale = judge.query, judge.of_modality(one.query_series).chunk
    found = []
    for pair in _shown_pairs(query, one):
        asked, there = chunks.get(pair.asked), chunks.get(pair.there)
        if asked is not None and there is not None:  # neither was replaced meanwhile
            found.append(
                ChunkMatch(
                    query_series_instance_uid=query.series[one.query_series][0].series_instance_uid,
                    query_slices=asked.slices,
                    query_z_mm=(asked.box_lps_mm[2], asked.box_lps_mm[5]),
                    found_slices=there.slices,
                    found_z_mm=(there.box_lps_mm[2], there.box_lps_mm[5]),
                    similarity=scale.similarity(scale.standing(pair.cosine)),
                    query_level=pair.levels[0],
                    found_level=pair.levels[1],
                )
            )
    return tuple(found)
