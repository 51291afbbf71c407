"""Approximate search by an hnswlib graph, embedded in this process: the default.

The vectors are kept twice, in the graph and in a plain table: reading one back from hnswlib costs some 14 µs,
scoring one of the table well under 1 µs. The table gives every answer its exact similarities, and narrow filters
their answers.
"""

import atexit
import threading
import weakref
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged, Transient
from indexer.sealing import StoredFolder
from indexer.uids import EncoderId
from indexer.vectors import Neighbours, checks, ranking, snapshot
from indexer.vectors.graph import Graph, GraphParameters, load_graph
from indexer.vectors.locks import PhaseFairLock
from indexer.vectors.rows import Rows

KIND = "hnsw"
_ROWS_A_BLOCK = 32
"""Searches wait for one block: some 10 ms."""
_SLACK = 8
"""Candidates asked beyond what is expected to suffice, so that few ties need a second look."""
_GROWTH = 4
_GRAPH_COST = 32
"""One candidate of the graph costs as much as scoring so many vectors of the table (bench_vectors.py)."""
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
    """

    def __init__(self, *, dim: int, encoder_id: EncoderId, parameters: GraphParameters | None = None) -> None:
        self.dim = dim
        self.encoder_id = encoder_id
        self._parameters = parameters or GraphParameters()
        self._parts: tuple[Rows, Graph] | None = (Rows(dim), Graph(dim, self._parameters))
        self._lock = PhaseFairLock()
        self._changing = threading.Lock()
        _OPEN.add(self)

    def __len__(self) -> int:
        """Count the vectors."""
        with self._lock.read():
            return len(self._open()[0])

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

    def search(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None = None) -> Neighbours:
        """Find the k nearest vectors of every query, by the graph where that is cheaper than looking at all."""
        checks.check_search(queries, k, allowed, self.dim)
        with self._lock.read():
            rows, graph = self._open()
            looked_at = rows.live_rows() if allowed is None else rows.rows_of(allowed)
            n = k + _SLACK
            if allowed is not None:
                # As many allowed candidates as an unfiltered search holds, so that it is as sure of its answer.
                n = max(n, self._parameters.ef) * len(rows) // max(len(looked_at), 1)
            usable = np.zeros(graph.capacity, dtype=np.bool_)
            usable[looked_at] = True
            answer = ranking.empty(len(queries), k)
            open_queries = np.arange(len(queries))
            while open_queries.size and max(n, self._parameters.ef) * _GRAPH_COST <= len(looked_at):
                settled = _search_graph(rows, graph, queries, open_queries, n, usable, answer)
                open_queries = open_queries[~settled]
                n *= _GROWTH
            if open_queries.size:
                found = ranking.nearest(
                    queries[open_queries], rows.vectors, rows.ids, k, looked_at if allowed is not None else None
                )
                answer.ids[open_queries], answer.similarities[open_queries] = found.ids, found.similarities
            return answer

    def snapshot(self, folder: StoredFolder, sequence: int) -> None:
        """Write graph and table to a folder, built anew first if more than half of the rows are dead.

        Searches go on, additions wait. hnswlib holds the interpreter while it writes its file.
        """
        with self._changing:
            rows, _ = self._open()
            if rows.dead > max(len(rows), _ROWS_A_BLOCK):
                self._compact()
            rows, graph = self._open()
            parameters: dict[str, int | str] = {**asdict(self._parameters), "space": "ip"}
            description = snapshot.Description(KIND, self.dim, self.encoder_id, len(rows), sequence, parameters)

            def fill(data: StoredFolder) -> None:
                rows.save(data)
                graph.save(data)

            snapshot.write(folder, description, fill)

    def close(self) -> None:
        """Release the memory; an addition under way ends after its block, with the error of a closed index."""
        with self._lock.write():
            self._parts = None

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
        graph.add(fresh, vectors)
        graph.delete(rows.discard(ids))
        rows.append(ids, vectors)

    def _compact(self) -> None:
        """Build both anew from the live rows; searches use the old ones until the new ones are complete."""
        fresh = self._open()[0].compacted()
        graph = Graph(self.dim, self._parameters, capacity=max(len(fresh), 1))
        for start in range(0, fresh.used, _ROWS_A_BLOCK):
            stop = min(start + _ROWS_A_BLOCK, fresh.used)
            with self._lock.read():
                self._open()
                graph.add(np.arange(start, stop, dtype=np.int64), fresh.vectors[start:stop])
        with self._lock.write():
            self._open()
            self._parts = (fresh, graph)


_OPEN: "weakref.WeakSet[HnswIndex]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leave no daemon thread inside the library when the interpreter ends, which would abort the process."""
    for index in list(_OPEN):
        index.close()


def _search_graph(
    rows: Rows,
    graph: Graph,
    queries: NDArray[np.float32],
    chosen: NDArray[np.int64],
    n: int,
    usable: NDArray[np.bool_],
    answer: Neighbours,
) -> NDArray[np.bool_]:
    """Answer those of the chosen queries, shape (C,), for which n candidates of the graph suffice; say which."""
    found = graph.search(queries[chosen], n)
    if found is None:
        return np.zeros(len(chosen), dtype=np.bool_)
    labels, approximate = found
    k, dim = answer.ids.shape[1], queries.shape[1]
    settled, kept = ranking.settle(approximate, usable[labels], k, dim)
    query_of, column = np.nonzero(kept & settled[:, None])
    pairs = ranking.Pairs(query_of, labels[query_of, column])
    scores = ranking.score(pairs, queries[chosen], rows.vectors)
    ranked = ranking.best(pairs.queries, rows.ids[pairs.rows], scores, len(chosen), k)
    answer.ids[chosen[settled]] = ranked.ids[settled]
    answer.similarities[chosen[settled]] = ranked.similarities[settled]
    return settled


def restore(
    folder: StoredFolder, *, dim: int, encoder_id: EncoderId, parameters: GraphParameters | None = None
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
    rows = Rows.load(data, dim)
    graph = load_graph(data, dim, parameters)
    linked = np.isin(rows.live_rows(), graph.rows())
    if len(rows) != description.count or not linked.all():
        raise Damaged(f"expected {description.count} linked vectors, got {linked.sum()} of {len(rows)}")
    _check_self_recall(rows, graph)
    index = HnswIndex(dim=dim, encoder_id=encoder_id, parameters=parameters)
    index._parts = (rows, graph)
    return index, description.sequence


def _check_self_recall(rows: Rows, graph: Graph) -> None:
    """Refuse a graph that does not find a sample of its own vectors."""
    live = rows.live_rows()
    if not live.size:
        return
    sample = live[np.unique(np.linspace(0, live.size - 1, _SAMPLE).astype(np.int64))]
    found = graph.search(rows.vectors[sample], 1)
    share = 0.0 if found is None else float((found[1][:, 0] >= 1 - 1e-3).mean())
    if share < _SAMPLE_RECALL:
        raise Damaged(f"expected the graph to find {_SAMPLE_RECALL:.0%} of its own vectors, got {share:.0%}")
