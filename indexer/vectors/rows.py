"""Vectors in memory, by row and by id."""

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged
from indexer.sealing import StoredFolder

_SMALLEST = 1024
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
    """

    def __init__(self, dim: int) -> None:
        self.ids: NDArray[np.int64] = np.full(_SMALLEST, -1, dtype=np.int64)
        """Shape (capacity,): the id of a row, -1 where dead or unused."""
        self.vectors: NDArray[np.float32] = np.zeros((_SMALLEST, dim), dtype=np.float32)
        """Shape (capacity, dim)."""
        self.used = 0
        """Rows given so far, dead ones included."""
        self._sorted_ids: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._sorted_rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Count the live rows."""
        return len(self._sorted_ids)

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
        ids = np.full(capacity, -1, dtype=np.int64)
        vectors = np.empty((capacity, self.vectors.shape[1]), dtype=np.float32)
        ids[: self.used], vectors[: self.used] = self.ids[: self.used], self.vectors[: self.used]
        self.ids, self.vectors = ids, vectors

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
        order = np.argsort(ids)
        at = np.searchsorted(self._sorted_ids, ids[order])
        self._sorted_ids = np.insert(self._sorted_ids, at, ids[order])
        self._sorted_rows = np.insert(self._sorted_rows, at, rows[order])
        return rows

    def discard(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Forget ids, those not present ignored, and return the rows that died, each once."""
        at, present = self._places(ids)
        at = np.unique(at[present])
        rows = self._sorted_rows[at]
        self.ids[rows] = -1
        self._sorted_ids = np.delete(self._sorted_ids, at)
        self._sorted_rows = np.delete(self._sorted_rows, at)
        return rows

    def compacted(self) -> "Rows":
        """Return a table of the live rows alone, renumbered."""
        fresh = Rows(self.vectors.shape[1])
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
    def load(cls, folder: StoredFolder, dim: int) -> "Rows":
        """Read what `Rows.save` wrote.

        Raises
        ------
        indexer.errors.Damaged
            If the arrays are not of the right type and shape or an id is there twice.
        """
        try:
            with (folder / IDS_FILE).open("rb") as file:
                ids = np.load(file, allow_pickle=False)
            with (folder / VECTORS_FILE).open("rb") as file:
                vectors = np.load(file, allow_pickle=False)
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
        rows = cls(dim)
        if len(ids):
            rows.ids, rows.vectors = ids, vectors
        rows.used, rows._sorted_ids, rows._sorted_rows = len(ids), ids[order], order
        return rows

    def _places(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if not len(self):
            return np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.bool_)
        at = np.minimum(np.searchsorted(self._sorted_ids, ids), len(self) - 1)
        return at, self._sorted_ids[at] == ids
