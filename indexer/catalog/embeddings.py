"""The embeddings themselves: kept here, from where every index can be rebuilt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BindParameter,
    Connection,
    Engine,
    RowMapping,
    Select,
    String,
    bindparam,
    case,
    cast,
    func,
    select,
    update,
)

from config.access import Cohort
from indexer.answer import BoxLpsMm
from indexer.catalog.cohort import visible
from indexer.catalog.embedded import EmbeddedChunk, enter_chunks, enter_indexing, take_out
from indexer.catalog.engine import BLOCK, JOURNAL_LOCK, blocks, lock, one_of, reading, writing
from indexer.catalog.journal import get_meta, set_meta
from indexer.catalog.progress import LeasedSeries, end_lease, waiting_for
from indexer.catalog.schema import chunk, embedding, indexing, series, study
from indexer.catalog.sequences import BESIDE, GLOBAL, PART_WEIGHTS, EmbeddingSequence, added_up
from indexer.catalog.states import SeriesState
from indexer.catalog.vector_values import VectorValues, is_plain
from indexer.sealing import Vault
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

__all__ = ["GLOBAL", "EmbeddedChunk", "EmbeddingSequence", "Embeddings", "ExportRow", "StoredChunk"]

_ACTIVE = "active_encoder_id"
_FORGOTTEN_AT_ONCE = 64
"""Series whose embeddings go in one transaction, so that nobody waits long to write."""


@dataclass(frozen=True)
class StoredChunk:
    """A chunk as the catalog holds it."""

    chunk_pk: int
    series_pk: int
    volume: int
    position: int
    box_lps_mm: BoxLpsMm
    slices: tuple[SliceRef, ...]


class ExportRow(NamedTuple):
    """One embedding with who and where it is; `embedding` is (D,) float32 of unit length."""

    study_uid: StudyInstanceUID
    series_uid: SeriesInstanceUID
    modality: str
    kind: str
    box_lps_mm: BoxLpsMm
    embedding: NDArray[np.float32]


class Embeddings:
    """The embedding side of the catalog.

    Parameters
    ----------
    vault : Vault, optional
        Seals the vectors.
    """

    def __init__(self, engine: Engine, vault: Vault | None = None) -> None:
        self._engine = engine
        self._values = VectorValues(vault)

    def finish(
        self,
        leased: LeasedSeries,
        owner: str | None,
        encoder_id: EncoderId,
        chunks: Sequence[EmbeddedChunk],
        *,
        seconds: Mapping[str, float],
        notes: Sequence[str],
    ) -> None:
        """Replace a series' embeddings by one encoder, journal it, and end the lease, in one transaction.

        Embeddings made of an older revision than those held are dropped.

        Parameters
        ----------
        owner : str or None
            Who holds the lease; None where the series stays INDEXED and another encoder is added.
        seconds : mapping of str to float
            Stage to seconds.
        notes : sequence of str
            What was noticed, for an administrator.
        """
        with writing(self._engine) as connection:
            lock(connection, JOURNAL_LOCK)
            mine = (indexing.c.series_pk == leased.series_pk) & (indexing.c.encoder_id == encoder_id)
            held = connection.execute(select(indexing.c.id, indexing.c.revision).where(mine)).one_or_none()
            if held is None or held.revision <= leased.revision:
                if held is not None:
                    take_out(connection, held.id, encoder_id)
                indexing_pk = enter_indexing(connection, leased, encoder_id, seconds, notes)
                enter_chunks(connection, indexing_pk, leased.series_pk, encoder_id, chunks, self._values)
            if owner is not None:
                end_lease(connection, leased, owner, {"state": SeriesState.INDEXED, "reason": ""})

    def active_encoder(self) -> EncoderId | None:
        """The encoder whose embeddings answer queries; None before the first one."""
        with reading(self._engine) as connection:
            value = get_meta(connection, _ACTIVE)
        return EncoderId(value) if value is not None else None

    def activate(self, encoder_id: EncoderId) -> None:
        """Let queries be answered by `encoder_id` from now on."""
        with writing(self._engine) as connection:
            set_meta(connection, _ACTIVE, encoder_id)

    def activate_if_complete(self, encoder_id: EncoderId) -> bool:
        """Let queries be answered by `encoder_id` if it has seen every indexed series; whether it had."""
        with writing(self._engine) as connection:
            lock(connection, JOURNAL_LOCK)  # no series becomes INDEXED meanwhile
            if connection.execute(waiting_for(encoder_id).limit(1)).first() is not None:
                return False
            set_meta(connection, _ACTIVE, encoder_id)
            return True

    def forget_other_encoders(self, encoder_id: EncoderId) -> int:
        """Delete the embeddings of every encoder but one; returns how many series' embeddings went."""
        others = select(indexing.c.id, indexing.c.encoder_id).where(indexing.c.encoder_id != encoder_id)
        forgotten = 0
        while True:
            with writing(self._engine) as connection:
                lock(connection, JOURNAL_LOCK)
                rows = connection.execute(others.order_by(indexing.c.id).limit(_FORGOTTEN_AT_ONCE)).all()
                for row in rows:
                    take_out(connection, row.id, EncoderId(row.encoder_id))
            forgotten += len(rows)
            if len(rows) < _FORGOTTEN_AT_ONCE:
                return forgotten

    def count(self, encoder_id: EncoderId, kind: str = GLOBAL) -> int:
        """How many embeddings of a kind an encoder has made."""
        chosen = (embedding.c.encoder_id == encoder_id) & (embedding.c.kind == kind)
        with reading(self._engine) as connection:
            return int(connection.execute(select(func.count()).where(chosen)).scalar_one())

    def hold_any(self) -> bool:
        """Whether there is any embedding at all."""
        with reading(self._engine) as connection:
            return connection.execute(select(embedding.c.id).limit(1)).first() is not None

    def seal_plain(self, vault: Vault, after: int) -> int | None:
        """Seal those of the next embeddings that are kept in plain; other values than vectors are not touched.

        Parameters
        ----------
        after : int
            Id of the last one that was looked at; 0 at first.

        Returns
        -------
        int or None
            Id of the last one that was looked at; None if there was none left.
        """
        values = select(embedding.c.id, embedding.c.vector).where(embedding.c.id > after)
        with writing(self._engine) as connection:
            rows = connection.execute(values.order_by(embedding.c.id).limit(BLOCK)).all()
            sealed = [{"key": row.id, "value": vault.seal(row.vector)} for row in rows if is_plain(row.vector)]
            if sealed:
                changed = update(embedding).where(embedding.c.id == bindparam("key"))
                connection.execute(changed.values(vector=bindparam("value")), sealed)
        return rows[-1].id if rows else None

    def ids(self, encoder_id: EncoderId, kind: str = GLOBAL) -> NDArray[np.int64]:
        """Ids (N,), ascending, of every embedding of a kind."""
        chosen = (embedding.c.encoder_id == encoder_id) & (embedding.c.kind == kind)
        with reading(self._engine) as connection:
            return np.sort(_keys(connection, select(embedding.c.id).where(chosen))[0])

    def vectors(
        self, encoder_id: EncoderId, kind: str = GLOBAL
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Every embedding of a kind in blocks: ids (N,) ascending and vectors (N, D)."""
        after = 0
        chosen = (embedding.c.encoder_id == encoder_id) & (embedding.c.kind == kind)
        columns = (embedding.c.id, embedding.c.vector)
        while True:
            with reading(self._engine) as connection:
                rows = connection.execute(
                    select(*columns).where(chosen, embedding.c.id > after).order_by(embedding.c.id).limit(BLOCK)
                ).all()
            if not rows:
                return
            after = rows[-1].id
            yield self._ids_and_vectors(rows)

    def vectors_of(self, ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Those of the embeddings `ids` that exist: ids (N,) and vectors (N, D)."""
        rows: list[tuple[int, bytes]] = []
        with reading(self._engine) as connection:
            for block in blocks(ids):
                chosen = embedding.c.id.in_(block)
                rows += connection.execute(select(embedding.c.id, embedding.c.vector).where(chosen)).all()
        return self._ids_and_vectors(rows)

    def _ids_and_vectors(self, rows: Sequence[tuple[int, bytes]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        ids = np.asarray([row[0] for row in rows], dtype=np.int64)
        return ids, self._values.all([row[1] for row in rows])

    def series_of(self, ids: Sequence[int]) -> dict[int, int]:
        """Embedding id to the key of its series, for those that exist."""
        found: dict[int, int] = {}
        with reading(self._engine) as connection:
            for block in blocks(ids):
                query = select(embedding.c.id, chunk.c.series_pk).join(chunk).where(embedding.c.id.in_(block))
                found.update((key, series_pk) for key, series_pk in connection.execute(query))
        return found

    def series_after(self, after: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids (N,), ascending, of all embeddings above one, and the keys of their series.

        Above 0, that is of all, they are read from the database's indexes alone.
        """
        with reading(self._engine) as connection:
            if after:
                newer = select(embedding.c.id, chunk.c.series_pk).join(chunk).where(embedding.c.id > after)
                found = _by_the_first(_keys(connection, newer))
                return found[0], found[1]
            of_chunk = _by_the_first(_keys(connection, select(chunk.c.id, chunk.c.series_pk)))
            found = _by_the_first(_keys(connection, select(embedding.c.id, embedding.c.chunk_pk)))
        at = np.searchsorted(of_chunk[0], found[1])
        return found[0], of_chunk[1][at]

    def ids_of_series(
        self, series_pks: Sequence[int], encoder_id: EncoderId, kind: str = GLOBAL
    ) -> NDArray[np.int64]:
        """Ids (N,), ascending, of the embeddings of some series."""
        ids: list[int] = []
        query = _of_series(select(embedding.c.id), encoder_id, kind)
        with reading(self._engine) as connection:
            for block in blocks(series_pks):
                ids += connection.execute(query.where(indexing.c.series_pk.in_(block))).scalars()
        return np.sort(np.asarray(ids, dtype=np.int64))

    def ids_within(self, cohort: Cohort, encoder_id: EncoderId, kind: str = GLOBAL) -> NDArray[np.int64]:
        """Ids (N,), ascending, of the embeddings of a cohort's studies."""
        members = select(series.c.id).join(study).where(*visible(cohort))
        query = _of_series(select(embedding.c.id), encoder_id, kind).where(indexing.c.series_pk.in_(members))
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(embedding.c.id))
            return np.fromiter(rows.scalars(), dtype=np.int64)

    def sequences(self, series_pks: Sequence[int], encoder_id: EncoderId) -> dict[int, EmbeddingSequence]:
        """The ordered embeddings (volume, then z) of those series that have any: series key to sequence."""
        found: dict[int, EmbeddingSequence] = {}
        if not series_pks:
            return found
        with reading(self._engine) as connection:
            for block in blocks(series_pks):
                found |= self._sequences(*_in_any_order(connection, encoder_id, block))
        return found

    def _sequences(
        self, keys: Sequence[NDArray[np.int64]], values: Sequence[bytes]
    ) -> dict[int, EmbeddingSequence]:
        """Sequences from series, volume, position, chunk, and which part it is (0 the whole), of each embedding."""
        if not values:
            return {}
        vectors = self._values.all(values)
        series_pk, volume, position, chunk_pk, of_part = keys
        order = np.lexsort((of_part, chunk_pk, position, volume, series_pk))
        is_part = of_part[order] > 0
        whole, chunk = order[~is_part], np.cumsum(~is_part) - 1
        # A chunk's parts follow its whole; it is ranked by the first one, and by the one beside.
        is_ranked = is_part & (np.roll(~is_part, 1) | (of_part[order] == _BESIDE))
        ranked = order[is_ranked]
        parts, weights = added_up(len(whole), chunk[is_ranked], _WEIGHTS[of_part[ranked]], vectors[ranked])
        starts = np.flatnonzero(np.diff(series_pk[whole], prepend=-1)).tolist()
        found: dict[int, EmbeddingSequence] = {}
        for start, stop in pairwise([*starts, len(whole)]):
            chosen, own = whole[start:stop], slice(start, stop)
            has_part = bool(weights[own].any())
            found[int(series_pk[chosen[0]])] = EmbeddingSequence(
                tuple(chunk_pk[chosen].tolist()),
                tuple(volume[chosen].tolist()),
                vectors[chosen],
                parts[own].copy() if has_part else None,  # one that is kept must not keep all others
                weights[own].copy() if has_part else None,
            )
        return found

    def indexings(self, series_pks: Sequence[int], encoder_id: EncoderId) -> dict[int, int]:
        """Series key to the key of its embeddings as a whole, which is another one once they are replaced."""
        found: dict[int, int] = {}
        with reading(self._engine) as connection:
            for block in blocks(series_pks):
                pairs = _keys(connection, _INDEXINGS, {"encoder": encoder_id, "keys": block})
                found.update(zip(*(column.tolist() for column in pairs), strict=True))
        return found

    def chunks(self, series_pks: Sequence[int], encoder_id: EncoderId) -> list[StoredChunk]:
        """The chunks of some series, each series' ordered by volume and z."""
        query = select(chunk).join(indexing, indexing.c.id == chunk.c.indexing_pk)
        query = query.where(indexing.c.encoder_id == encoder_id)
        query = query.order_by(chunk.c.series_pk, chunk.c.volume, chunk.c.position)
        found: list[StoredChunk] = []
        with reading(self._engine) as connection:
            for block in blocks(series_pks):
                rows = connection.execute(query.where(indexing.c.series_pk.in_(block))).mappings()
                found += [_stored_chunk(row) for row in rows]
        return found

    def chunks_by_pk(self, chunk_pks: Sequence[int]) -> dict[int, StoredChunk]:
        """Key to chunk, for those that exist."""
        found: dict[int, StoredChunk] = {}
        with reading(self._engine) as connection:
            for block in blocks(chunk_pks):
                rows = connection.execute(select(chunk).where(chunk.c.id.in_(block))).mappings()
                found |= {row["id"]: _stored_chunk(row) for row in rows}
        return found

    def revisions(self, series_pks: Sequence[int], encoder_id: EncoderId) -> dict[int, bool]:
        """Series key to whether its embeddings are of all its present instances, for those that the encoder saw."""
        query = (
            select(series.c.id, series.c.revision == indexing.c.revision, series.c.state == SeriesState.INDEXED)
            .join(indexing, indexing.c.series_pk == series.c.id)
            .where(indexing.c.encoder_id == encoder_id)
        )
        found: dict[int, bool] = {}
        with reading(self._engine) as connection:
            for block in blocks(series_pks):
                rows = connection.execute(query.where(series.c.id.in_(block)))
                found |= {key: bool(same and done) for key, same, done in rows}
        return found

    def rows(self, encoder_id: EncoderId) -> Iterator[ExportRow]:
        """Every embedding of an encoder with who and where it is, in the order of its id."""
        after = 0
        columns = (
            embedding.c.id,
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            series.c.modality,
            embedding.c.kind,
            chunk.c.box_lps_mm,
            embedding.c.vector,
        )
        joined = embedding.join(chunk).join(series, series.c.id == chunk.c.series_pk).join(study)
        query = select(*columns).select_from(joined).where(embedding.c.encoder_id == encoder_id)
        while True:
            with reading(self._engine) as connection:
                block = query.where(embedding.c.id > after).order_by(embedding.c.id).limit(BLOCK)
                rows = connection.execute(block).all()
            if not rows:
                return
            after = rows[-1].id
            for _, study_uid, series_uid, modality, kind, box, vector in rows:
                yield ExportRow(study_uid, series_uid, modality, kind, tuple(box), self._values.one(vector))

    def last_indexing(self) -> int:
        """Key of the last indexing that was entered; 0 if there was none."""
        with reading(self._engine) as connection:
            return int(connection.execute(select(func.max(indexing.c.id))).scalar_one() or 0)

    def seconds_after(self, key: int, limit: int) -> list[tuple[int, Mapping[str, float]]]:
        """Key and seconds by stage of the first indexings that were entered after one."""
        chosen = select(indexing.c.id, indexing.c.seconds).where(indexing.c.id > key)
        with reading(self._engine) as connection:
            return [
                (row.id, row.seconds) for row in connection.execute(chosen.order_by(indexing.c.id).limit(limit))
            ]

    def record_of(self, series_pk: int, encoder_id: EncoderId) -> tuple[dict[str, float], list[str]]:
        """Seconds by stage and notes of a series' indexing; both empty if there was none."""
        mine = (indexing.c.series_pk == series_pk) & (indexing.c.encoder_id == encoder_id)
        with reading(self._engine) as connection:
            row = connection.execute(select(indexing.c.seconds, indexing.c.notes).where(mine)).one_or_none()
        return (dict(row.seconds), list(row.notes)) if row else ({}, [])


def _of_series(columns: Select[Any], encoder_id: EncoderId | BindParameter[Any], *kinds: str) -> Select[Any]:
    """Select among the embeddings of series, still to be named by `indexing.series_pk`.

    `indexing` alone is asked for the encoder: asked of `embedding`, SQLite would go through all that it made.
    """
    joined = indexing.join(chunk, chunk.c.indexing_pk == indexing.c.id).join(embedding)
    return columns.select_from(joined).where(indexing.c.encoder_id == encoder_id, embedding.c.kind.in_(kinds))


def _in_any_order(
    connection: Connection, encoder_id: EncoderId, series_pks: Sequence[int]
) -> tuple[list[NDArray[np.int64]], list[bytes]]:
    """Columns of `_OF_EMBEDDING`, (N,) each, and the values of the embeddings of some series."""
    rows = connection.execute(_IN_ANY_ORDER, {"encoder": encoder_id, "keys": series_pks}).all()
    keys = [np.asarray([row[at] for row in rows], dtype=np.int64) for at in range(len(_OF_EMBEDDING))]
    return keys, [row[-1] for row in rows]


def _keys(
    connection: Connection, query: Select[Any], given: Mapping[str, object] | None = None
) -> list[NDArray[np.int64]]:
    """Columns of keys, (N,) each, all in one order.

    They come as one row of texts: a row for each key takes several times as long.
    """
    columns = (func.aggregate_strings(cast(column, String), ",") for column in query.selected_columns)
    return [_numbers(text) for text in connection.execute(query.with_only_columns(*columns), given or {}).one()]


def _numbers(text: str | None) -> NDArray[np.int64]:
    return np.fromstring(text or "", dtype=np.int64, sep=",")


_WEIGHTS = np.array([0.0, *PART_WEIGHTS.values()], np.float32)
_NUMBERS = {kind: number for number, kind in enumerate(PART_WEIGHTS, start=1)}
_BESIDE = _NUMBERS[BESIDE]
_OF_EMBEDDING = (
    chunk.c.series_pk,
    chunk.c.volume,
    chunk.c.position,
    chunk.c.id,
    case(_NUMBERS, value=embedding.c.kind, else_=0),
)
_IN_ANY_ORDER = _of_series(
    select(*_OF_EMBEDDING, embedding.c.vector), bindparam("encoder"), GLOBAL, *PART_WEIGHTS
).where(indexing.c.series_pk.in_(one_of()))
_INDEXINGS = select(indexing.c.series_pk, indexing.c.id).where(
    indexing.c.encoder_id == bindparam("encoder"), indexing.c.series_pk.in_(one_of())
)


def _by_the_first(columns: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    order = np.argsort(columns[0], kind="stable")
    return [column[order] for column in columns]


def _stored_chunk(row: RowMapping) -> StoredChunk:
    return StoredChunk(
        chunk_pk=row["id"],
        series_pk=row["series_pk"],
        volume=row["volume"],
        position=row["position"],
        box_lps_mm=tuple(row["box_lps_mm"]),
        slices=tuple(SliceRef(SOPInstanceUID(uid), frame) for uid, frame in row["slices"]),
    )
