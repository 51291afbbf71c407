"""Entering what an encoder made of a series, and taking it out again, with the journal that indexes follow."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table, delete, insert, select

from indexer.answer import BoxLpsMm
from indexer.catalog.progress import LeasedSeries
from indexer.catalog.schema import chunk, embedding, indexing, journal
from indexer.catalog.sequences import GLOBAL
from indexer.catalog.vector_values import VectorValues
from indexer.uids import EncoderId, SliceRef

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class EmbeddedChunk:
    """One chunk of a volume as an encoder saw it.

    Attributes
    ----------
    volume, position : int
        Which volume of the series, which place along z (0 is the most inferior).
    embeddings : mapping of str to (D,) float32
        Kind to unit vector; `GLOBAL` is always there.

    Raises
    ------
    ValueError
        A vector is not of length one, or `GLOBAL` is missing.
    """

    volume: int
    position: int
    box_lps_mm: BoxLpsMm
    slices: tuple[SliceRef, ...]
    embeddings: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        if GLOBAL not in self.embeddings:
            raise ValueError(f"expected an embedding {GLOBAL}, got {sorted(self.embeddings)}")
        for kind, vector in self.embeddings.items():
            length = float(np.linalg.norm(vector))
            if vector.ndim != 1 or not abs(length - 1) <= _UNIT_TOLERANCE:  # also where it is not a number
                raise ValueError(f"expected {kind} as a vector of length 1, got {vector.shape} of length {length}")


def enter_indexing(
    connection: Connection,
    leased: LeasedSeries,
    encoder_id: EncoderId,
    seconds: Mapping[str, float],
    notes: Sequence[str],
) -> int:
    """Enter that an encoder has seen a series; the key of that."""
    values = {
        "series_pk": leased.series_pk,
        "encoder_id": encoder_id,
        "revision": leased.revision,
        "at": time.time(),
        "seconds": dict(seconds),
        "notes": list(notes),
    }
    return int(connection.execute(insert(indexing).values(**values).returning(indexing.c.id)).scalar_one())


def enter_chunks(
    connection: Connection,
    indexing_pk: int,
    series_pk: int,
    encoder_id: EncoderId,
    chunks: Sequence[EmbeddedChunk],
    values: VectorValues,
) -> None:
    """Enter chunks, their embeddings and the journal of these: three statements, however many there are."""
    rows = [
        {
            "indexing_pk": indexing_pk,
            "series_pk": series_pk,
            "volume": one.volume,
            "position": one.position,
            "box_lps_mm": [float(value) for value in one.box_lps_mm],
            "slices": [[ref.sop_instance_uid, ref.frame_number] for ref in one.slices],
        }
        for one in chunks
    ]
    keys = _inserted_keys(connection, chunk, rows)
    rows = [
        {
            "chunk_pk": key,
            "encoder_id": encoder_id,
            "kind": kind,
            "vector": values.kept(vector),
        }
        for key, one in zip(keys, chunks, strict=True)
        for kind, vector in one.embeddings.items()
    ]
    entries = [
        {"encoder_id": encoder_id, "embedding_id": key, "kind": row["kind"], "added": True}
        for key, row in zip(_inserted_keys(connection, embedding, rows), rows, strict=True)
    ]
    if entries:
        connection.execute(insert(journal), entries)


def _inserted_keys(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> Sequence[int]:
    """Insert rows; their keys in the same order."""
    if not rows:
        return []
    statement = insert(table).returning(table.c.id, sort_by_parameter_order=True)
    return connection.execute(statement, rows).scalars().all()


def take_out(connection: Connection, indexing_pk: int, encoder_id: EncoderId) -> None:
    """Remove what an encoder made of a series, and journal that its embeddings are gone."""
    rows = connection.execute(
        select(embedding.c.id, embedding.c.kind).join(chunk).where(chunk.c.indexing_pk == indexing_pk)
    ).all()
    if rows:
        gone = [
            {"encoder_id": encoder_id, "embedding_id": row.id, "kind": row.kind, "added": False} for row in rows
        ]
        connection.execute(insert(journal), gone)
    connection.execute(delete(indexing).where(indexing.c.id == indexing_pk))
