"""Answers from the candidates that a graph brings in: scored by whole vectors, and enough of them or not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.vectors import Neighbours, ranking
from indexer.vectors.graph import Graph
from indexer.vectors.rows import Rows


@dataclass(frozen=True, eq=False)
class Asking:
    """Queries, whole and as the graph knows them; `usable` says which rows may be answered."""

    rows: Rows
    graph: Graph
    queries: NDArray[np.float32]
    known: NDArray[np.float32]
    usable: NDArray[np.bool_] | None
    is_reduced: bool


def usable_rows(rows: Rows, capacity: int, looked_at: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    """Which rows may be answered, shape (capacity,); None: all that the graph answers."""
    if looked_at is None:
        return None
    usable = np.zeros(capacity, dtype=np.bool_)
    usable[looked_at] = True
    return usable


def search_graph(asking: Asking, chosen: NDArray[np.int64], n: int, answer: Neighbours) -> NDArray[np.bool_]:
    """Answer those of the chosen queries, shape (C,), for which n candidates of the graph suffice; say which."""
    found = asking.graph.search(asking.known[chosen], n)
    if found is None:
        return np.zeros(len(chosen), dtype=np.bool_)
    labels, approximate = found
    if len(asking.queries) == 1 and asking.usable is None:
        return np.array([_settle_alone(asking, labels[0], approximate[0], answer)])
    k, dim = answer.ids.shape[1], asking.queries.shape[1]
    rows = asking.rows
    usable = np.ones(labels.shape, dtype=np.bool_) if asking.usable is None else asking.usable[labels]
    if asking.is_reduced:
        approximate = _scored(asking.queries[chosen], labels, rows.vectors)
        settled, kept = ranking.settle_scored(approximate, usable, k, dim)
    else:
        settled, kept = ranking.settle(approximate, usable, k, dim)
    query_of, column = np.nonzero(kept & settled[:, None])
    pairs = ranking.Pairs(query_of, labels[query_of, column])
    scores = ranking.score(pairs, asking.queries[chosen], rows.vectors)
    ranked = ranking.best(pairs.queries, rows.ids[pairs.rows], scores, len(chosen), k)
    answer.ids[chosen[settled]] = ranked.ids[settled]
    answer.similarities[chosen[settled]] = ranked.similarities[settled]
    return settled


def _settle_alone(
    asking: Asking, labels: NDArray[np.int64], approximate: NDArray[np.float32], answer: Neighbours
) -> bool:
    """`search_graph` for one query without filter, whose candidates (n,) are all usable, in fewer steps."""
    rows, k = asking.rows, answer.ids.shape[1]
    margin = np.float32(ranking.margin(rows.vectors.shape[1]))
    if len(labels) < k:
        return False
    if asking.is_reduced:
        approximate = rows.vectors[labels] @ asking.queries[0]
        floor = np.partition(approximate, -k)[-k] - margin
    else:
        floor = approximate[k - 1] - margin
        if approximate[-1] >= floor:
            return False
    chosen = labels[approximate >= floor]
    scores, ids = ranking.cosines(asking.queries, rows.vectors[chosen]), rows.ids[chosen]
    order = np.lexsort((ids, -scores))[:k]
    answer.ids[0], answer.similarities[0] = ids[order], scores[order]
    return True


def _scored(
    queries: NDArray[np.float32], labels: NDArray[np.int64], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inner products of queries (Q, dim) with the rows that each has found, (Q, n); a row of many is read once."""
    found, place = np.unique(labels, return_inverse=True)
    return np.take_along_axis(queries @ vectors[found].T, place.reshape(labels.shape), axis=1)
