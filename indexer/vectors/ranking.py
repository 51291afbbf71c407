"""Order candidates as exact search does: the arithmetic and the order of ties, the same for every kind of index.

A float32 matrix product rounds one pair differently from call to call (its blocking depends on the shapes), so it
only selects candidates, with a margin above its rounding error; the candidates are then scored in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.vectors import Neighbours

_ROWS_A_BLOCK = 16_384
_QUERIES_A_BLOCK = 128
_PAIRS_A_BLOCK = 8_192


@dataclass(frozen=True, eq=False)
class Pairs:
    """Candidates, P in all: which vector may be among the best of which query.

    Parameters
    ----------
    queries : NDArray[np.int64]
        Shape (P,): the row of the query.
    rows : NDArray[np.int64]
        Shape (P,): the row of the vector.
    """

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]


def margin(dim: int) -> float:
    """Return a bound on the difference of two float32 inner products of the same unit vectors.

    The sum of `dim` products of unit vectors errs by at most about ``dim * 2**-24``, however it is ordered (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1); two sums differ by twice that, doubled for safety.
    """
    return (dim + 4) * 2.0**-22


def empty(n_queries: int, k: int) -> Neighbours:
    """Return an answer of padding only, arrays of shape (n_queries, k)."""
    return Neighbours(
        ids=np.full((n_queries, k), -1, dtype=np.int64),
        similarities=np.full((n_queries, k), -np.inf, dtype=np.float32),
    )


def cosines(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score pairs of unit vectors, row by row.

    Parameters
    ----------
    queries, vectors : NDArray[np.float32]
        Shape (P, dim) each.

    Returns
    -------
    NDArray[np.float32]
        Shape (P,), summed in float64; the value of a pair does not depend on the pairs around it.
    """
    products: NDArray[np.float64] = np.multiply(queries, vectors, dtype=np.float64)
    sums: NDArray[np.float64] = products.sum(axis=1)
    return sums.astype(np.float32)


def score(pairs: Pairs, queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score candidates whose vectors are rows of `vectors`, shape (N, dim); see `cosines`."""
    found = np.empty(len(pairs.rows), dtype=np.float32)
    for start in range(0, len(found), _PAIRS_A_BLOCK):
        block = slice(start, start + _PAIRS_A_BLOCK)
        found[block] = cosines(queries[pairs.queries[block]], vectors[pairs.rows[block]])
    return found


def best(
    query_of: NDArray[np.int64],
    ids: NDArray[np.int64],
    similarities: NDArray[np.float32],
    n_queries: int,
    k: int,
) -> Neighbours:
    """Order scored candidates and keep the k best of every query.

    Parameters
    ----------
    query_of, ids, similarities : NDArray
        Shape (P,) each: the query's row, the vector's id and their similarity.
    n_queries, k : int
        Shape of the answer.

    Returns
    -------
    Neighbours
        Highest similarity first, ties by the smaller id, padded.
    """
    order = np.lexsort((ids, -similarities, query_of))
    query_of, ids, similarities = query_of[order], ids[order], similarities[order]
    place = np.arange(len(ids)) - np.searchsorted(query_of, query_of)
    kept = place < k
    answer = empty(n_queries, k)
    answer.ids[query_of[kept], place[kept]] = ids[kept]
    answer.similarities[query_of[kept], place[kept]] = similarities[kept]
    return answer


def nearest(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    ids: NDArray[np.int64],
    k: int,
    rows: NDArray[np.int64] | None = None,
) -> Neighbours:
    """Search exactly, by looking at every vector.

    Parameters
    ----------
    queries : NDArray[np.float32]
        Shape (Q, dim).
    vectors : NDArray[np.float32]
        Shape (N, dim).
    ids : NDArray[np.int64]
        Shape (N,); rows with a negative id are left out.
    k : int
        How many a query.
    rows : NDArray[np.int64] or None
        The rows to look at, shape (R,); None for all.

    Returns
    -------
    Neighbours
        Arrays of shape (Q, k).
    """
    rows = np.flatnonzero(ids >= 0) if rows is None else np.sort(rows)
    answer = empty(len(queries), k)
    for start in range(0, len(queries), _QUERIES_A_BLOCK):
        block = slice(start, start + _QUERIES_A_BLOCK)
        pairs = _candidates(queries[block], vectors, k, rows)
        scores = score(pairs, queries[block], vectors)
        found = best(pairs.queries, ids[pairs.rows], scores, len(queries[block]), k)
        answer.ids[block], answer.similarities[block] = found.ids, found.similarities
    return answer


def _candidates(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, rows: NDArray[np.int64]
) -> Pairs:
    """Select every pair that may be among the k best, ties at the end included."""
    floor = np.full(len(queries), -np.inf, dtype=np.float32)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = rows[start : start + _ROWS_A_BLOCK]
        scores = queries @ _matrix(vectors, block).T
        if len(block) > k:
            kth = np.partition(scores, len(block) - k, axis=1)[:, len(block) - k]
            floor = np.maximum(floor, kth - np.float32(margin(queries.shape[1])))
        query_of, column = np.nonzero(scores >= floor[:, None])
        found.append((query_of, block[column], scores[query_of, column]))
    if not found:
        return Pairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    query_of, row_of, score_of = (np.concatenate(part) for part in zip(*found, strict=True))
    kept = score_of >= floor[query_of]
    return Pairs(query_of[kept], row_of[kept])


def _matrix(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vectors of ascending rows; a view where they lie together, as a copy costs more than a product."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return vectors[rows[0] : rows[-1] + 1]
    return vectors[rows]


def settle(
    approximate: NDArray[np.float32], usable: NDArray[np.bool_], k: int, dim: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Decide which answers of an index library are long enough to hold the k best usable ones, ties included.

    Parameters
    ----------
    approximate : NDArray[np.float32]
        Shape (Q, n), similarities as the library computed them, best first.
    usable : NDArray[np.bool_]
        Shape (Q, n), which of them may be answered.
    k : int
        How many are wanted.
    dim : int
        Components of a vector, for the rounding error.

    Returns
    -------
    settled : NDArray[np.bool_]
        Shape (Q,): k usable ones are there, and the last one listed is clearly worse than the kth of them.
    kept : NDArray[np.bool_]
        Shape (Q, n): the candidates worth scoring.
    """
    counted = np.cumsum(usable, axis=1)
    enough = counted[:, -1] >= k
    at = np.where(enough, np.argmax(counted >= k, axis=1), approximate.shape[1] - 1)
    floor = approximate[np.arange(len(at)), at] - np.float32(margin(dim))
    settled = enough & (approximate[:, -1] < floor)
    return settled, usable & (approximate >= floor[:, None])


def settle_scored(
    scores: NDArray[np.float32], usable: NDArray[np.bool_], k: int, dim: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Decide as `settle` does where the candidates are scored already and not in order.

    Returns
    -------
    settled : NDArray[np.bool_]
        Shape (Q,): k usable ones are there.
    kept : NDArray[np.bool_]
        Shape (Q, n): those that may be among the k best.
    """
    settled: NDArray[np.bool_] = usable.sum(axis=1) >= k
    if scores.shape[1] < k:
        return settled, usable
    counted = np.where(usable, scores, -np.inf)
    kth = np.partition(counted, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]
    return settled, usable & (scores >= (kth - np.float32(margin(dim)))[:, None])
