"""Vectors by row and by id: in memory, or where there are many in a file that is mapped."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged
from indexer.sealing import StoredFolder
from indexer.vectors.scratch import ScratchFile

_SMALLEST = 1024
_IN_MEMORY_BYTES = 64 << 20
"""More vectors than that are mapped, where a folder was given."""
_ROWS_A_BLOCK = 2048
"""Of a product, so that they stay in a processor's cache."""
IDS_FILE = "ids.npy"
VECTORS_FILE = "vectors.npy"


class Rows:
    """A growing table of ids and vectors in which a row, once given, is never given again.

    Replacing or forgetting an id leaves its row dead (id -1) until the table is `compacted`, so that a graph built
    over the rows stays right. Not thread-safe but for `reserve`, which may run beside readers.

    Parameters
    ----------
    dim : int
        Components of a vector.
    scratch : Path or None
        Where files of many vectors go; None keeps all in memory.
    """

    def __init__(self, dim: int, scratch: Path | None = None) -> None:
        self.ids: NDArray[np.int64] = np.full(_SMALLEST, -1, dtype=np.int64)
        """Shape (capacity,): the id of a row, -1 where dead or unused."""
        self.vectors: NDArray[np.float32] = np.zeros((_SMALLEST, dim), dtype=np.float32)
        """Shape (capacity, dim)."""
        self.used = 0
        """Rows given so far, dead ones included."""
        self._scratch = scratch
        self._file: ScratchFile | None = None
        self._live = 0
        self._ordered = np.empty((2, _SMALLEST), dtype=np.int64)  # ids ascending, and their rows

    def __len__(self) -> int:
        """Count the live rows."""
        return self._live

    @property
    def _sorted_ids(self) -> NDArray[np.int64]:
        return self._ordered[0, : self._live]

    @property
    def _sorted_rows(self) -> NDArray[np.int64]:
        return self._ordered[1, : self._live]

    @property
    def dead(self) -> int:
        """Rows given and no longer in use."""
        return self.used - len(self)

    def sorted_ids(self) -> NDArray[np.int64]:
        """Return a copy of the live ids, ascending."""
        return self._sorted_ids.copy()

    def live_rows(self) -> NDArray[np.int64]:
        """Return the live rows in the order of their ids, shape (len,)."""
        return self._sorted_rows

    def vectors_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which of the ids (N,) are present, and the vectors of those, (M, dim), in their order."""
        at, present = self._places(ids)
        return present, self.vectors[self._sorted_rows[at[present]]]

    def similarities(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids of all rows given, (used,), -1 where dead, and their products (used, Q) with queries (Q, dim)."""
        found = np.empty((self.used, len(queries)), dtype=np.float32)
        for start in range(0, self.used, _ROWS_A_BLOCK):
            stop = min(start + _ROWS_A_BLOCK, self.used)
            np.matmul(self.vectors[start:stop], queries.T, out=found[start:stop])
        return self.ids[: self.used].copy(), found

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of those of the ids that are present, in the order of `ids`."""
        at, present = self._places(ids)
        return self._sorted_rows[at[present]]

    def reserve(self, extra: int) -> None:
        """Make room for so many more rows; what was read from the arrays before stays valid.

        Raises
        ------
        MemoryError
            Before anything was changed.
        """
        wanted = self.used + extra
        if wanted <= len(self.ids):
            return
        capacity = max(wanted, 2 * len(self.ids))
        dim = self.vectors.shape[1]
        is_mapped = self._scratch is not None and capacity * dim * 4 > _IN_MEMORY_BYTES
        if is_mapped:
            capacity = max(wanted, len(self.ids) + len(self.ids) // 4)
        ids = np.full(capacity, -1, dtype=np.int64)
        ids[: self.used] = self.ids[: self.used]
        vectors = self._mapped(capacity) if is_mapped else self._copied(capacity)
        self.ids, self.vectors = ids, vectors

    def _copied(self, capacity: int) -> NDArray[np.float32]:
        vectors = np.empty((capacity, self.vectors.shape[1]), dtype=np.float32)
        vectors[: self.used] = self.vectors[: self.used]
        return vectors

    def _mapped(self, capacity: int) -> NDArray[np.float32]:
        assert self._scratch is not None  # noqa: S101 - the caller has looked
        is_new = self._file is None
        try:
            if self._file is None:
                self._file = ScratchFile(self._scratch, self.vectors.shape[1])
            vectors = self._file.rows(capacity)
        except OSError as error:
            self._file = None if is_new else self._file
            raise MemoryError(f"no room for {capacity} vectors in the folder of the index: {error}") from error
        if is_new:
            vectors[: self.used] = self.vectors[: self.used]
        return vectors

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Give every id a new row, after `discard` of its old one; room must have been reserved.

        Returns
        -------
        NDArray[np.int64]
            Shape (N,), the new rows in the order of `ids`.
        """
        rows = np.arange(self.used, self.used + len(ids), dtype=np.int64)
        self.vectors[rows[0] : rows[-1] + 1] = vectors
        self.ids[rows] = ids
        self.used += len(ids)
        self._order(ids, rows)
        return rows

    def _order(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Put new ids in their places; those above all others, which is what a catalog gives, cost nothing more."""
        order = np.argsort(ids)
        end = self._live + len(ids)
        if end > self._ordered.shape[1]:
            fresh = np.empty((2, max(end, len(self.ids))), dtype=np.int64)
            fresh[:, : self._live] = self._ordered[:, : self._live]
            self._ordered = fresh
        if self._live and ids[order[0]] < self._ordered[0, self._live - 1]:
            at = np.searchsorted(self._sorted_ids, ids[order])
            self._ordered[0, :end] = np.insert(self._sorted_ids, at, ids[order])
            self._ordered[1, :end] = np.insert(self._sorted_rows, at, rows[order])
        else:
            self._ordered[0, self._live : end], self._ordered[1, self._live : end] = ids[order], rows[order]
        self._live = end

    def discard(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Forget ids, those not present ignored, and return the rows that died, each once."""
        at, present = self._places(ids)
        at = np.unique(at[present])
        rows = self._sorted_rows[at]
        self.ids[rows] = -1
        if len(at):
            kept = np.delete(self._ordered[:, : self._live], at, axis=1)
            self._live = kept.shape[1]
            self._ordered[:, : self._live] = kept
        return rows

    def compacted(self) -> "Rows":
        """Return a table of the live rows alone, renumbered."""
        fresh = Rows(self.vectors.shape[1], self._scratch)
        if len(self):
            fresh.reserve(len(self))
            fresh.append(self._sorted_ids, self.vectors[self._sorted_rows])
        return fresh

    def save(self, folder: StoredFolder) -> None:
        """Write `IDS_FILE` and `VECTORS_FILE`, every row up to `used`."""
        for name, array in ((IDS_FILE, self.ids), (VECTORS_FILE, self.vectors)):
            with (folder / name).open("wb") as file:
                np.save(file, array[: self.used], allow_pickle=False)

    @classmethod
    def load(cls, folder: StoredFolder, dim: int, scratch: Path | None = None) -> "Rows":
        """Read what `Rows.save` wrote; many vectors in plain are mapped where they are.

        Raises
        ------
        indexer.errors.Damaged
            If the arrays are not of the right type and shape or an id is there twice.
        """
        try:
            with (folder / IDS_FILE).open("rb") as file:
                ids = np.load(file, allow_pickle=False)
            vectors = _load_vectors(folder)
        except (OSError, ValueError, EOFError) as error:
            raise Damaged(f"expected arrays of ids and vectors, got unreadable files: {error}") from error
        if ids.dtype != np.int64 or vectors.dtype != np.float32 or vectors.shape != (*ids.shape, dim):
            raise Damaged(
                f"expected int64 (N,) and float32 (N, {dim}), got {ids.dtype} {ids.shape} "
                f"and {vectors.dtype} {vectors.shape}"
            )
        live = np.flatnonzero(ids >= 0)
        order = live[np.argsort(ids[live], kind="stable")]
        if (np.diff(ids[order]) == 0).any():
            raise Damaged("expected every id once, got repetitions")
        rows = cls(dim, scratch)
        if len(ids):
            rows.ids, rows.vectors = ids, vectors
            rows._ordered = np.stack([ids[order], order])
        rows.used, rows._live = len(ids), len(order)
        return rows

    def _places(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if not len(self):
            return np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.bool_)
        at = np.minimum(np.searchsorted(self._sorted_ids, ids), len(self) - 1)
        return at, self._sorted_ids[at] == ids


def _load_vectors(folder: StoredFolder) -> NDArray[np.float32]:
    path = folder / VECTORS_FILE
    if isinstance(path, Path) and path.stat().st_size > _IN_MEMORY_BYTES:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    with path.open("rb") as file:
        return np.asarray(np.load(file, allow_pickle=False))
