"""Approximate search by an hnswlib graph, embedded in this process: the default.

The vectors are kept twice, in the graph and in a plain table: reading one back from hnswlib costs some 14 µs,
scoring one of the table well under 1 µs. The table gives every answer its exact similarities, and narrow filters
their answers. In a large archive the graph knows the most telling directions only (`indexer.vectors.reduction`),
and the table is a file that is mapped: of it is in memory what there is room for.
"""

import atexit
import threading
import weakref
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged, Transient
from indexer.sealing import StoredFolder
from indexer.uids import EncoderId
from indexer.vectors import Neighbours, checks, ranking, snapshot
from indexer.vectors.asking import Asking, search_graph, usable_rows
from indexer.vectors.graph import Graph, GraphParameters, load_graph
from indexer.vectors.locks import PhaseFairLock
from indexer.vectors.reduction import LEAST_VECTORS, Reduction, load_reduction
from indexer.vectors.rows import Rows

KIND = "hnsw"
_ROWS_A_BLOCK = 16
"""Searches wait for one block: some 10 ms at 200,000 vectors, on one thread."""
_SLACK = 8
"""Candidates asked beyond what is expected to suffice, so that few ties need a second look."""
_ROWS_A_CANDIDATE = 64
"""One candidate for so many rows: a graph that is asked for as many as ever misses more the larger it is."""
_GROWTH = 4
_REDUCED_SHARE, _REDUCED_EF, _REDUCED_ROWS, _WIDEST = 2, 2048, 56, 16_384
"""Candidates where the graph knows not all of the vectors: for each one wanted, at least, for so many rows one, and
at most for their number."""
_TOGETHER_EF = 768
"""At least so many for each of several queries that are asked together, as many as one alone in all."""
_GRAPH_COST = 8
"""One candidate of the graph costs as much as scoring so many vectors of the table."""
_SAMPLE = 64
_SAMPLE_RECALL = 0.9


class HnswIndex:
    """A graph and a table over the same rows; see `indexer.vectors.VectorIndex` for the contract.

    Parameters
    ----------
    dim : int
        Components of a vector.
    encoder_id : EncoderId
        Whose embeddings.
    parameters : GraphParameters
        Of the graph.
    reduction : Reduction or None
        The directions that the graph knows; None: all.
    scratch : Path or None
        Where the file of a large table goes; None keeps it in memory.
    """

    def __init__(
        self,
        *,
        dim: int,
        encoder_id: EncoderId,
        parameters: GraphParameters | None = None,
        reduction: Reduction | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.dim = dim
        self.encoder_id = encoder_id
        self._parameters = parameters or GraphParameters()
        self._reduction = reduction
        self._lost, self._reduced = 0.0, 0
        graph = Graph(dim if reduction is None else reduction.dim, self._parameters)
        self._parts: tuple[Rows, Graph] | None = (Rows(dim, scratch), graph)
        self._lock = PhaseFairLock()
        self._changing = threading.Lock()
        _OPEN.add(self)

    def __len__(self) -> int:
        """Count the vectors."""
        with self._lock.read():
            return len(self._open()[0])

    @property
    def is_outgrown(self) -> bool:
        """Whether a graph made anew from the catalog would know better directions: many vectors, or others."""
        if self._reduction is None:
            return len(self) >= 2 * LEAST_VECTORS
        return self._reduced >= LEAST_VECTORS and not self._reduction.fits(self._lost / self._reduced)

    def ids(self) -> NDArray[np.int64]:
        """Return the ids, ascending."""
        with self._lock.read():
            return self._open()[0].sorted_ids()

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors, block by block; searches go on between the blocks."""
        checks.check_addition(ids, vectors, self.dim)
        with self._changing:
            self._reserve(len(ids))
            for start in range(0, len(ids), _ROWS_A_BLOCK):
                block = slice(start, start + _ROWS_A_BLOCK)
                with self._lock.write():
                    self._add_block(ids[block], vectors[block])

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Forget vectors."""
        checks.check_ids(ids)
        with self._changing, self._lock.write():
            rows, graph = self._open()
            graph.delete(rows.discard(ids))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None = None,
        *,
        together: bool = False,
    ) -> Neighbours:
        """Find the k nearest vectors of every query, by the graph where that is cheaper than looking at all."""
        checks.check_search(queries, k, allowed, self.dim)
        with self._lock.read():
            rows, graph = self._open()
            looked_at = None if allowed is None else rows.rows_of(allowed)
            present = len(rows) if looked_at is None else len(looked_at)
            n = self._wanted(k, len(queries) if together else 1)
            if looked_at is not None:
                # As many allowed candidates as an unfiltered search holds, so that it is as sure of its answer.
                n = max(n, self._parameters.ef) * len(rows) // max(present, 1)
            usable = usable_rows(rows, graph.capacity, looked_at)
            asked = queries if self._reduction is None else self._reduction.asked(queries)
            asking = Asking(rows, graph, queries, asked, usable, is_reduced=self._reduction is not None)
            answer = ranking.empty(len(queries), k)
            open_queries = np.arange(len(queries))
            while open_queries.size and max(n, self._parameters.ef) * _GRAPH_COST <= present:
                settled = search_graph(asking, open_queries, n, answer)
                open_queries = open_queries[~settled]
                n *= _GROWTH
            if open_queries.size:
                found = ranking.nearest(queries[open_queries], rows.vectors, rows.ids, k, looked_at)
                answer.ids[open_queries], answer.similarities[open_queries] = found.ids, found.similarities
            return answer

    def vectors_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See `indexer.vectors.HoldsVectors`."""
        with self._lock.read():
            return self._open()[0].vectors_of(ids)

    def similarities(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `indexer.vectors.HoldsVectors`."""
        with self._lock.read():
            return self._open()[0].similarities(queries)

    def near(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.int64] | None = None) -> Neighbours:
        """See `indexer.vectors.HoldsVectors`: what the graph says, unless a narrow look at all costs less."""
        checks.check_search(queries, n, allowed, self.dim)
        if allowed is None:
            known = queries if self._reduction is None else self._reduction.asked(queries)
            wide = n if self._reduction is None else max(n, _TOGETHER_EF)
            with self._lock.read():
                rows, graph = self._open()
                is_worth_it = max(wide, self._parameters.ef) * _GRAPH_COST <= len(rows)
                found = graph.search(known, wide) if is_worth_it else None
                if found is not None:
                    return Neighbours(rows.ids[found[0]], found[1])
        return self.search(queries, n, allowed, together=True)

    def snapshot(self, folder: StoredFolder, sequence: int) -> None:
        """Write graph and table to a folder, built anew first if more than half of the rows are dead.

        Searches go on, additions wait. hnswlib holds the interpreter while it writes its file.
        """
        with self._changing:
            rows, _ = self._open()
            if rows.dead > max(len(rows), _ROWS_A_BLOCK):
                self._compact()
            rows, graph = self._open()
            parameters: dict[str, int | str] = {**asdict(self._parameters), "space": "ip", "directions": graph.dim}
            description = snapshot.Description(KIND, self.dim, self.encoder_id, len(rows), sequence, parameters)

            def fill(data: StoredFolder) -> None:
                rows.save(data)
                graph.save(data)
                if self._reduction is not None:
                    self._reduction.save(data)

            snapshot.write(folder, description, fill)

    def close(self) -> None:
        """Release the memory; an addition under way ends after its block, with the error of a closed index."""
        with self._lock.write():
            self._parts = None

    def _wanted(self, k: int, together: int) -> int:
        """Candidates for the k nearest of each of so many queries."""
        size = len(self._open()[0])
        if self._reduction is None:
            return max(k + _SLACK, size // _ROWS_A_CANDIDATE // max(together, 1))
        if together > 1:
            return max(_REDUCED_SHARE * k, _REDUCED_EF // together, min(_TOGETHER_EF, _REDUCED_EF))
        return max(_REDUCED_SHARE * k, _REDUCED_EF, min(size // _REDUCED_ROWS, _WIDEST))

    def _open(self) -> tuple[Rows, Graph]:
        if self._parts is None:
            raise ValueError("the index is closed")
        return self._parts

    def _reserve(self, extra: int) -> None:
        rows, graph = self._open()
        try:
            rows.reserve(extra)
        except MemoryError as error:
            raise Transient(f"no memory for {extra} more vectors") from error
        with self._lock.write():
            graph.reserve(rows.used + extra)

    def _add_block(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        rows, graph = self._open()
        fresh = np.arange(rows.used, rows.used + len(ids), dtype=np.int64)
        graph.add(fresh, self._known(vectors))
        graph.delete(rows.discard(ids))
        rows.append(ids, vectors)

    def _known(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the graph knows of vectors."""
        if self._reduction is None:
            return vectors
        known, lost = self._reduction.known(vectors)
        self._lost += lost
        self._reduced += len(known)
        return known

    def _compact(self) -> None:
        """Build both anew from the live rows; searches use the old ones until the new ones are complete."""
        fresh = self._open()[0].compacted()
        graph = Graph(self._open()[1].dim, self._parameters, capacity=max(len(fresh), 1))
        for start in range(0, fresh.used, _ROWS_A_BLOCK):
            stop = min(start + _ROWS_A_BLOCK, fresh.used)
            with self._lock.read():
                self._open()
                graph.add(np.arange(start, stop, dtype=np.int64), self._known(fresh.vectors[start:stop]))
        with self._lock.write():
            self._open()
            self._parts = (fresh, graph)


_OPEN: "weakref.WeakSet[HnswIndex]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leave no daemon thread inside the library when the interpreter ends, which would abort the process."""
    for index in list(_OPEN):
        index.close()


def restore(
    folder: StoredFolder,
    *,
    dim: int,
    encoder_id: EncoderId,
    parameters: GraphParameters | None = None,
    scratch: Path | None = None,
) -> tuple[HnswIndex, int]:
    """Open a snapshot.

    Parameters
    ----------
    folder : StoredFolder
        As given to `HnswIndex.snapshot`.
    dim, encoder_id
        What is expected.
    parameters : GraphParameters
        `ef` and `threads` are used at once, the others when the graph is built anew.
    scratch : Path or None
        As for `HnswIndex`.

    Returns
    -------
    index : HnswIndex
        As it was.
    sequence : int
        The position in the catalog's journal that it includes.

    Raises
    ------
    indexer.errors.Damaged
        If anything is missing, changed or of another index, or the graph does not find its own vectors.
    """
    description, data = snapshot.read(folder, kind=KIND, dim=dim, encoder_id=encoder_id)
    parameters = parameters or GraphParameters()
    rows = Rows.load(data, dim, scratch)
    directions = int(description.parameters.get("directions", dim))
    reduction = load_reduction(data, dim, directions) if directions != dim else None
    graph = load_graph(data, directions, parameters)
    is_linked = np.zeros(max(graph.capacity, rows.used), dtype=np.bool_)
    is_linked[graph.rows()] = True
    linked = int(is_linked[rows.live_rows()].sum())
    if not len(rows) == description.count == linked:
        raise Damaged(f"expected {description.count} linked vectors, got {linked} of {len(rows)}")
    _check_self_recall(rows, graph, reduction)
    index = HnswIndex(dim=dim, encoder_id=encoder_id, parameters=parameters, reduction=reduction)
    index._parts = (rows, graph)
    return index, description.sequence


def _check_self_recall(rows: Rows, graph: Graph, reduction: Reduction | None) -> None:
    """Refuse a graph that does not find a sample of its own vectors."""
    live = rows.live_rows()
    if not live.size:
        return
    sample = live[np.unique(np.linspace(0, live.size - 1, _SAMPLE).astype(np.int64))]
    vectors = rows.vectors[sample]
    known = vectors if reduction is None else reduction.asked(vectors)
    found = graph.search(known, 1)
    own = np.einsum("nd,nd->n", known, known)
    share = 0.0 if found is None else float((found[1][:, 0] >= own - 1e-3).mean())
    if share < _SAMPLE_RECALL:
        raise Damaged(f"expected the graph to find {_SAMPLE_RECALL:.0%} of its own vectors, got {share:.0%}")
