"""Then and now: a patient's other studies, newest first, each aligned with the one that is read.

A prior is worth what it shows of the same place: for every chunk of the study that is read, the chunk of the prior
that lies at the same level, in the order along z, so that a viewer can hang both at matching slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from config.access import Cohort
from indexer.answer import ChunkMatch, Completeness, Relation
from indexer.catalog import Catalog
from indexer.catalog.dates import study_dates
from indexer.catalog.embeddings import StoredChunk
from indexer.errors import NotFound, Parked
from indexer.judging import show_nearly_the_same
from indexer.pairing import SeriesPair, best_pair
from indexer.places import level_of
from indexer.uids import EncoderId, SeriesInstanceUID, StudyInstanceUID


@dataclass(frozen=True)
class PriorSeries:
    """A series of a prior, and the series of the present study that it shows again.

    Attributes
    ----------
    similarity : float
        0 to 1.
    levels : tuple of ChunkMatch
        Chunks at the same level, inferior to superior; one for each chunk of the present series.
    """

    series_instance_uid: SeriesInstanceUID
    present_series_instance_uid: SeriesInstanceUID
    similarity: float
    levels: tuple[ChunkMatch, ...]


@dataclass(frozen=True)
class PriorStudy:
    """Another study of the patient.

    Attributes
    ----------
    study_date : str
        Study Date (0008,0020), empty where it is unknown.
    relation : Relation
        PRIOR, or DUPLICATE where the images are nearly the same.
    series : tuple of PriorSeries
        Best first; never empty.
    """

    study_instance_uid: StudyInstanceUID
    study_date: str
    similarity: float
    relation: Relation
    completeness: Completeness
    series: tuple[PriorSeries, ...]


@dataclass(frozen=True)
class PriorAnswer:
    """A patient's other studies: priors and duplicates apart, each newest first, then best first."""

    encoder_id: EncoderId
    priors: tuple[PriorStudy, ...]
    duplicates: tuple[PriorStudy, ...]


class Priors:
    """Finds the other studies of a study's patient that show the same anatomy.

    The vector index is not needed: a patient's own studies are few, and are all compared.

    Parameters
    ----------
    cohort : Cohort, optional
        The studies that are there for who asks; None: all.
    """

    def __init__(self, catalog: Catalog, cohort: Cohort | None = None) -> None:
        self._embeddings = catalog.embeddings
        self._lookup = catalog.within(cohort).lookup

    def of_study(self, study_instance_uid: StudyInstanceUID, limit: int) -> PriorAnswer:
        """List the other studies of the patient.

        Parameters
        ----------
        limit : int
            At most so many priors, and as many duplicates.

        Raises
        ------
        NotFound
            The study is not in the catalog.
        Parked
            Nothing of it can be compared (yet).
        """
        lookup, embeddings = self._lookup, self._embeddings
        present = lookup.series_of_study(study_instance_uid)
        if not present:
            raise NotFound("the study is not in the catalog")
        encoder_id = embeddings.active_encoder()
        if encoder_id is None:
            raise Parked("nothing is indexed yet")
        everything = lookup.series_of_patient(present[0].patient_pk)
        sequences = embeddings.sequences([info.series_pk for info in everything], encoder_id)
        own = [info for info in present if info.series_pk in sequences]
        if not own:
            raise Parked("nothing of the study is indexed by the encoder that answers now")
        others = [i for i in everything if i.study_pk != present[0].study_pk and i.series_pk in sequences]
        pairs = [pair for info in others if (pair := best_pair(own, info, sequences)) is not None]
        return self._answer(encoder_id, pairs, limit)

    def _answer(self, encoder_id: EncoderId, pairs: Sequence[SeriesPair], limit: int) -> PriorAnswer:
        dates = study_dates(self._lookup, {pair.other.study_instance_uid for pair in pairs})
        keys = {pk for pair in pairs for pk in (*pair.present_sequence.chunk_pks, *pair.other_sequence.chunk_pks)}
        chunks = self._embeddings.chunks_by_pk(sorted(keys))
        up_to_date = self._embeddings.revisions([pair.other.series_pk for pair in pairs], encoder_id)
        by_study: dict[StudyInstanceUID, list[SeriesPair]] = {}
        for pair in pairs:
            by_study.setdefault(pair.other.study_instance_uid, []).append(pair)
        studies = [_study(uid, dates.get(uid, ""), of, chunks, up_to_date) for uid, of in by_study.items()]
        studies.sort(key=lambda one: (one.study_date, one.similarity, one.study_instance_uid), reverse=True)
        priors = [one for one in studies if one.relation is Relation.PRIOR]
        duplicates = [one for one in studies if one.relation is Relation.DUPLICATE]
        return PriorAnswer(encoder_id, tuple(priors[:limit]), tuple(duplicates[:limit]))


def _study(
    uid: StudyInstanceUID,
    study_date: str,
    pairs: Sequence[SeriesPair],
    chunks: Mapping[int, StoredChunk],
    up_to_date: Mapping[int, bool],
) -> PriorStudy:
    ordered = sorted(pairs, key=lambda pair: (-pair.alignment.score, pair.other.series_pk))
    best = ordered[0]
    paired = best.other_sequence.vectors[best.alignment.pairs]
    is_copy = bool(show_nearly_the_same(best.present_sequence.vectors, paired[None])[0])
    complete = all(up_to_date.get(pair.other.series_pk, False) for pair in pairs)
    return PriorStudy(
        study_instance_uid=uid,
        study_date=study_date,
        similarity=_similarity(best.alignment.score),
        relation=Relation.DUPLICATE if is_copy else Relation.PRIOR,
        completeness=Completeness.COMPLETE if complete else Completeness.PROVISIONAL,
        series=tuple(_series(pair, chunks) for pair in ordered),
    )


def _series(pair: SeriesPair, chunks: Mapping[int, StoredChunk]) -> PriorSeries:
    levels = []
    own, other = pair.present_sequence, pair.other_sequence
    for row, pk in enumerate(own.chunk_pks):
        place = int(pair.alignment.pairs[row])
        here, there = chunks.get(pk), chunks.get(other.chunk_pks[place])
        if here is not None and there is not None:  # neither was replaced meanwhile
            levels.append(
                ChunkMatch(
                    query_series_instance_uid=pair.present.series_instance_uid,
                    query_slices=here.slices,
                    query_z_mm=(here.box_lps_mm[2], here.box_lps_mm[5]),
                    found_slices=there.slices,
                    found_z_mm=(there.box_lps_mm[2], there.box_lps_mm[5]),
                    similarity=_similarity(float(pair.alignment.cosines[row])),
                    query_level=level_of(own.vectors[row]),
                    found_level=level_of(other.vectors[place]),
                )
            )
    return PriorSeries(
        series_instance_uid=pair.other.series_instance_uid,
        present_series_instance_uid=pair.present.series_instance_uid,
        similarity=_similarity(pair.alignment.score),
        levels=tuple(levels),
    )


def _similarity(cosine: float) -> float:
    """Show a mean cosine from -1 to 1 as 0 to 1, as in `indexer.search`."""
    return float(min(max((1.0 + cosine) / 2.0, 0.0), 1.0))
