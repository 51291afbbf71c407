"""hnswlib as it is: a graph over rows, with every fact about the library that the code around it must respect.

- Labels are row numbers and are never used twice: replacing in place (``updatePoint``) is ten times slower than
  adding and can leave other vectors unreachable, so a replaced vector gets a new row and its old one is marked
  deleted.
- ``knn_query`` beside ``add_items`` or ``resize_index`` is not safe; the caller holds a lock.
- ``knn_query`` raises where fewer than k live vectors are reached, and crashes without ``init_index``.
- ``ef`` belongs to the whole graph and is not saved. A query for more than ``ef`` results searches as wide as that.
- ``save_index`` does not notice a full disk; the size that it should have written is known beforehand.
- ``load_index`` over an initialised index that then fails leaves a freed pointer behind: only fresh ones load.
- Beyond `_MOST_ROWS` rows the size of its visited list overflows, and the next query crashes.
- A daemon thread that is inside the library when the interpreter ends aborts the process.
- With one thread the library starts none of its own.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged, Transient
from indexer.sealing import StoredFolder, in_memory

FILE = "graph.bin"
_SPACE = "ip"
_PIECE_BYTES = 1 << 20
_MOST_ROWS = 2**31 - 1
_FEW_ROWS = 1 << 16
_NEAR, _WIDER, _LOOKS = 0.75, 8, 3
"""A search may end among vectors far from a query though near ones are there, where clusters are hardly linked. One
that finds nothing so similar, as a share of what the query itself would be, looks again, so many times as wide; so
often in all, and no wider than a share of all rows."""
_WIDEST_SHARE = 8


@dataclass(frozen=True)
class GraphParameters:
    """How the graph is built and searched (Malkov and Yashunin, IEEE TPAMI 2020, sections 4.1 and 4.2).

    Parameters
    ----------
    m : int
        Links of a vector on the upper layers, half of those on the ground layer.
    ef_construction : int
        Candidates held while a vector is linked.
    ef : int
        Candidates held while a query is answered, at least.
    threads : int
        Threads of one call.
    """

    m: int = 32
    ef_construction: int = 300
    ef: int = 128
    threads: int = 1


class Graph:
    """One hnswlib index over row numbers; not thread-safe, see the module.

    Parameters
    ----------
    dim : int
        Components of a vector.
    parameters : GraphParameters
        Of the graph.
    capacity : int
        Rows to make room for.
    file : Path or None
        A saved graph to load instead of making an empty one.
    """

    def __init__(
        self, dim: int, parameters: GraphParameters, capacity: int = 1024, file: Path | None = None
    ) -> None:
        self.dim = dim
        self._index = hnswlib.Index(_SPACE, dim)
        self._threads = parameters.threads
        if file is None:
            self._index.init_index(
                max_elements=capacity, M=parameters.m, ef_construction=parameters.ef_construction
            )
        else:
            self._index.load_index(str(file))
        self._index.set_ef(parameters.ef)

    @property
    def capacity(self) -> int:
        """Rows there is room for; every linked row is below."""
        return int(self._index.max_elements)

    def reserve(self, capacity: int) -> None:
        """Make room for so many rows in all.

        Raises
        ------
        indexer.errors.Transient
            If there is no memory; nothing was changed.
        ValueError
            If the library cannot hold so many.
        """
        if capacity <= self.capacity:
            return
        if capacity > _MOST_ROWS:
            raise ValueError(f"expected at most {_MOST_ROWS} vectors, got {capacity}")
        try:
            self._index.resize_index(min(max(capacity, self.capacity + self._room()), _MOST_ROWS))
        except (RuntimeError, MemoryError) as error:
            raise Transient(f"no memory for a graph of {capacity} vectors") from error

    def _room(self) -> int:
        """As much again for few, a quarter for many: a row takes 50 bytes before it is used."""
        return self.capacity if self.capacity < _FEW_ROWS else self.capacity // 4

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Link new rows, shape (N,), with their vectors, shape (N, dim); room must have been reserved."""
        try:
            self._index.add_items(vectors, rows, num_threads=self._threads)
        except (RuntimeError, MemoryError) as error:
            raise Transient(f"{len(rows)} vectors could not be linked: {error}") from error

    def delete(self, rows: NDArray[np.int64]) -> None:
        """Leave rows, which must be linked and live, out of all answers; they still lead to others."""
        for row in rows.tolist():
            self._index.mark_deleted(row)

    def rows(self) -> NDArray[np.int64]:
        """Return all linked rows, deleted ones included, in no order."""
        return np.asarray(self._index.get_ids_list(), dtype=np.int64)

    def search(self, queries: NDArray[np.float32], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Find about the n nearest live rows of every query.

        Returns
        -------
        tuple of arrays or None
            Rows and similarities, shape (Q, n) each, best first; None where so many could not be reached.
        """
        found = self._nearest(queries, n)
        if found is None:
            return None
        rows, similarities = found
        wide, least = n, _NEAR * np.einsum("qd,qd->q", queries, queries)
        for _ in range(1, _LOOKS):
            wide *= _WIDER
            if wide * _WIDEST_SHARE > self._index.element_count:
                break
            strayed = np.flatnonzero(similarities[:, 0] < least)
            wider = self._nearest(queries[strayed], wide) if strayed.size else None
            if wider is None:
                break
            rows[strayed], similarities[strayed] = (part[:, :n] for part in wider)
        return rows, similarities

    def _nearest(
        self, queries: NDArray[np.float32], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        try:
            rows, distances = self._index.knn_query(queries, k=n, num_threads=self._threads)
        except RuntimeError:
            return None
        return rows.astype(np.int64), 1 - distances

    def save(self, folder: StoredFolder) -> None:
        """Write `FILE`; to a sealed folder by way of memory, as the library knows paths only.

        Raises
        ------
        OSError
            If less than everything was written.
        """
        path = folder / FILE
        if isinstance(path, Path):
            self._save(path)
            return
        with in_memory(FILE) as (plain, where), path.open("wb") as sealed:
            self._save(where)
            shutil.copyfileobj(plain, sealed, _PIECE_BYTES)

    def _save(self, path: Path) -> None:
        expected = self._index.index_file_size()
        try:
            self._index.save_index(str(path))
        except RuntimeError as error:
            raise OSError(f"{FILE} could not be opened") from error
        if path.stat().st_size != expected:
            raise OSError(f"expected {expected} bytes in {FILE}, got {path.stat().st_size}")


def load_graph(folder: StoredFolder, dim: int, parameters: GraphParameters) -> Graph:
    """Read what `Graph.save` wrote, its checksum having been verified.

    Raises
    ------
    indexer.errors.Damaged
        If the library does not accept the file.
    """
    path = folder / FILE
    try:
        if isinstance(path, Path):
            return Graph(dim, parameters, file=path)
        with in_memory(FILE) as (plain, where), path.open("rb") as sealed:
            shutil.copyfileobj(sealed, plain, _PIECE_BYTES)
            plain.flush()
            return Graph(dim, parameters, file=where)
    except RuntimeError as error:
        raise Damaged(f"expected a graph in {FILE}, got a file that hnswlib refuses: {error}") from error
