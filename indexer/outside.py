"""Series that ask and are not in the catalog: embedded for one question, and gone after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.catalog import SeriesState
from indexer.catalog.embeddings import EmbeddedChunk, StoredChunk
from indexer.catalog.lookup import SeriesInfo
from indexer.catalog.sequences import sequence_of
from indexer.judging import Query
from indexer.uids import SeriesInstanceUID, StudyInstanceUID


@dataclass(frozen=True, eq=False)
class OutsideSeries:
    """A series from outside.

    Attributes
    ----------
    series_instance_uid : SeriesInstanceUID
        Empty where it has none.
    chunks : sequence of EmbeddedChunk
        At least one.
    """

    series_instance_uid: SeriesInstanceUID
    modality: str
    chunks: Sequence[EmbeddedChunk]


def outside_query(given: Sequence[OutsideSeries]) -> tuple[Query, Mapping[int, StoredChunk]]:
    """Put series as a query, of no patient and no study; and its chunks by their keys, all negative."""
    chunks: dict[int, StoredChunk] = {}
    series = []
    for number, one in enumerate(given, start=1):
        ordered = sorted(one.chunks, key=lambda chunk: (chunk.volume, chunk.position))
        keys = []
        for chunk in ordered:
            key = -1 - len(chunks)
            keys.append(key)
            chunks[key] = StoredChunk(key, -number, chunk.volume, chunk.position, chunk.box_lps_mm, chunk.slices)
        sequence = sequence_of(keys, [chunk.volume for chunk in ordered], [chunk.embeddings for chunk in ordered])
        info = SeriesInfo(
            series_pk=-number,
            study_pk=-1,
            patient_pk=-1,
            series_instance_uid=one.series_instance_uid,
            study_instance_uid=StudyInstanceUID(""),
            modality=one.modality,
            state=SeriesState.INDEXED,
            reason="",
        )
        series.append((info, sequence))
    return Query(frozenset(), frozenset(), tuple(series), is_part=False), chunks
