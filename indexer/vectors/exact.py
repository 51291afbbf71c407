"""Exact search over vectors in memory: the yardstick of the other kinds, and enough for small archives."""

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged, Transient
from indexer.sealing import StoredFolder
from indexer.uids import EncoderId
from indexer.vectors import Neighbours, checks, ranking, snapshot
from indexer.vectors.locks import PhaseFairLock
from indexer.vectors.rows import Rows

KIND = "exact"
_ROWS_A_BLOCK = 4_096


class ExactIndex:
    """Look at every vector; see `indexer.vectors.VectorIndex` for the contract.

    Parameters
    ----------
    dim : int
        Components of a vector.
    encoder_id : EncoderId
        Whose embeddings.
    scratch : Path or None
        Where the file of a large table goes; None keeps it in memory.
    """

    def __init__(self, *, dim: int, encoder_id: EncoderId, scratch: Path | None = None) -> None:
        self.dim = dim
        self.encoder_id = encoder_id
        self._rows: Rows | None = Rows(dim, scratch)
        self._lock = PhaseFairLock()
        self._changing = threading.Lock()

    def __len__(self) -> int:
        """Count the vectors."""
        with self._lock.read():
            return len(self._table())

    def ids(self) -> NDArray[np.int64]:
        """Return the ids, ascending."""
        with self._lock.read():
            return self._table().sorted_ids()

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors."""
        checks.check_addition(ids, vectors, self.dim)
        with self._changing:
            try:
                self._table().reserve(len(ids))
            except MemoryError as error:
                raise Transient(f"no memory for {len(ids)} more vectors") from error
            for start in range(0, len(ids), _ROWS_A_BLOCK):
                block = slice(start, start + _ROWS_A_BLOCK)
                with self._lock.write():
                    self._table().discard(ids[block])
                    self._table().append(ids[block], vectors[block])
            self._compact_if_mostly_dead()

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Forget vectors."""
        checks.check_ids(ids)
        with self._changing:
            with self._lock.write():
                self._table().discard(ids)
            self._compact_if_mostly_dead()

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None = None,
        *,
        together: bool = False,
    ) -> Neighbours:
        """Find the k nearest vectors of every query."""
        checks.check_search(queries, k, allowed, self.dim)
        with self._lock.read():
            table = self._table()
            rows = None if allowed is None else table.rows_of(allowed)
            return ranking.nearest(queries, table.vectors, table.ids, k, rows)

    def vectors_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See `indexer.vectors.HoldsVectors`."""
        with self._lock.read():
            return self._table().vectors_of(ids)

    def similarities(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `indexer.vectors.HoldsVectors`."""
        with self._lock.read():
            return self._table().similarities(queries)

    def near(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.int64] | None = None) -> Neighbours:
        """See `indexer.vectors.HoldsVectors`: here they are the nearest."""
        return self.search(queries, n, allowed)

    def snapshot(self, folder: StoredFolder, sequence: int) -> None:
        """Write ids and vectors to a folder."""
        with self._changing:
            table = self._table()
            description = snapshot.Description(KIND, self.dim, self.encoder_id, len(table), sequence, {})
            snapshot.write(folder, description, table.save)

    def close(self) -> None:
        """Release the memory."""
        with self._changing, self._lock.write():
            self._rows = None

    def _table(self) -> Rows:
        if self._rows is None:
            raise ValueError("the index is closed")
        return self._rows

    def _compact_if_mostly_dead(self) -> None:
        table = self._table()
        if table.dead > max(len(table), _ROWS_A_BLOCK):
            fresh = table.compacted()
            with self._lock.write():
                self._rows = fresh


def restore(folder: StoredFolder, *, dim: int, encoder_id: EncoderId) -> tuple[ExactIndex, int]:
    """Open a snapshot.

    Returns
    -------
    index : ExactIndex
        As it was.
    sequence : int
        The position in the catalog's journal that it includes.

    Raises
    ------
    indexer.errors.Damaged
        If anything is missing, changed or of another index.
    """
    description, data = snapshot.read(folder, kind=KIND, dim=dim, encoder_id=encoder_id)
    rows = Rows.load(data, dim)
    if len(rows) != description.count:
        raise Damaged(f"expected {description.count} vectors, got {len(rows)}")
    index = ExactIndex(dim=dim, encoder_id=encoder_id)
    index._rows = rows
    return index, description.sequence
