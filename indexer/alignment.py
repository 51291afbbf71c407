"""Late interaction of two ordered sequences of chunks: how well one is found within the other, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ORDER_WEIGHT = 0.5
"""Share of the score that asks for matches in the same order along z; the rest takes each chunk's best match."""
_DECIMALS = 6
"""Scores are computed in float64 and rounded, so that equal images tie however a processor orders its sums."""
_SEQUENCES_A_BLOCK = 8
"""Sequences whose vectors are widened at once, so that they stay in a processor's cache."""


@dataclass(frozen=True, eq=False, slots=True)
class _Paths:
    """How a query's chunks lie in each of S series: columns (Q, S) int64, and the cosines (Q, S) float64 there."""

    columns: NDArray[np.int64]
    cosines: NDArray[np.float64]


@dataclass(eq=False, slots=True)
class Alignment:
    """How a query's chunks lie in a found series.

    Attributes
    ----------
    score : float
        Mean cosine over the query's chunks, -1 to 1.
    """

    score: float
    _paths: _Paths
    _column: int

    @property
    def pairs(self) -> NDArray[np.int64]:
        """For each chunk of the query, (Q,), the chunk of the found series it is matched with, never back in z."""
        return self._paths.columns[:, self._column]

    @property
    def cosines(self) -> NDArray[np.float32]:
        """Of those pairs, (Q,)."""
        return self._paths.cosines[:, self._column].astype(np.float32)


def align(query: NDArray[np.float32], found: NDArray[np.float32]) -> Alignment:
    """Match a query's chunks (Q, D) with those of a found series (R, D), both ordered along z, unit vectors.

    The score is the mean over the query's chunks of the best cosine [1]_, half of it under the condition that
    matches keep their order along z (dynamic programming over the cosine matrix, O(Q R)). The whole query must be
    found; what else the found series shows costs nothing: an abdomen is found inside a whole-body scan.

    References
    ----------
    .. [1] Khattab and Zaharia, ColBERT: efficient and effective passage search via contextualized late interaction,
       SIGIR 2020.
    """
    return align_all(query, [found])[0]


def align_all(query: NDArray[np.float32], found: Sequence[NDArray[np.float32]]) -> list[Alignment]:
    """Match a query (Q, D) with each of several sequences (R, D), as `align` does; those of like length at once.

    Vectors of more dimensions than others are compared with those on the dimensions that both have.
    """
    return align_each([query], found)[0]


def align_each(
    queries: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]
) -> list[list[Alignment]]:
    """Match each of several queries (Q, D) with each of several sequences, as `align_all` does; a list a query."""
    together: dict[int, list[int]] = {}
    for number, query in enumerate(queries):
        together.setdefault(query.shape[1], []).append(number)
    aligned: dict[int, list[Alignment]] = {}
    for numbers in together.values():
        stacked = np.concatenate([queries[number] for number in numbers])
        ends = np.cumsum([len(queries[number]) for number in numbers]).tolist()
        aligned |= dict(zip(numbers, _aligned(stacked, ends, found), strict=True))
    return [aligned[number] for number in range(len(queries))]


def _aligned(
    queries: NDArray[np.float32], ends: Sequence[int], found: Sequence[NDArray[np.float32]]
) -> list[list[Alignment]]:
    """Match queries that follow each other, each up to one of the ends, with sequences of like length at once."""
    alike: dict[tuple[int, int], list[int]] = {}
    for place, vectors in enumerate(found):
        columns = 1 << (len(vectors) - 1).bit_length()
        alike.setdefault((columns, min(vectors.shape[1], queries.shape[1])), []).append(place)
    aligned: list[dict[int, Alignment]] = [{} for _ in ends]
    for (columns, dim), places in alike.items():
        products = _products(queries[:, :dim], [found[place][:, :dim] for place in places], columns)
        for of_query, start, end in zip(aligned, [0, *ends], ends, strict=False):
            scores, paths = _scored(products[start:end])
            rows = enumerate(zip(places, scores, strict=True))
            of_query |= {place: Alignment(score, paths, column) for column, (place, score) in rows}
    return [[of_query[place] for place in range(len(found))] for of_query in aligned]


def _scored(products: NDArray[np.float64]) -> tuple[list[float], _Paths]:
    """Score a query against S sequences by its products (Q, S, columns) with them."""
    columns = _monotone_paths(products)
    along = np.take_along_axis(products, columns[:, :, None], axis=2)[:, :, 0]
    best = products.max(axis=2).mean(axis=0)
    scores = _ORDER_WEIGHT * along.mean(axis=0) + (1 - _ORDER_WEIGHT) * best
    return scores.round(_DECIMALS).tolist(), _Paths(columns, along)


def _products(
    query: NDArray[np.float32], found: Sequence[NDArray[np.float32]], columns: int
) -> NDArray[np.float64]:
    """Inner products of a query (Q, D) with S sequences, (Q, S, columns); minus infinity beyond each one's end."""
    lengths = np.array([len(vectors) for vectors in found])
    exactly = query.astype(np.float64)
    blocks = (found[start : start + _SEQUENCES_A_BLOCK] for start in range(0, len(found), _SEQUENCES_A_BLOCK))
    products = np.hstack([exactly @ np.concatenate(block, dtype=np.float64).T for block in blocks])
    if (lengths == columns).all():
        return products.reshape(len(query), len(found), columns)
    padded = np.full((len(query), len(found) * columns), -np.inf)
    ends = np.cumsum(lengths)
    # The nth row of all: its sequence's place among the padded ones, and its own within the sequence.
    padded[:, np.arange(ends[-1]) + np.repeat(np.arange(len(found)) * columns - (ends - lengths), lengths)] = (
        products
    )
    return padded.reshape(len(query), len(found), columns)


def _monotone_paths(cosines: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose for each row of each of S sequences a column, never decreasing, with the greatest sum.

    Parameters
    ----------
    cosines : (Q, S, R) float64
        Minus infinity beyond the end of a sequence.

    Returns
    -------
    (Q, S) int64
        Of equal sums the path that lies lower.
    """
    rows, sequences, columns = cosines.shape
    total = cosines[0]
    came_from = np.zeros((rows, sequences, columns), dtype=np.int64)
    everywhere = np.arange(columns)
    for row in range(1, rows):
        reached = np.maximum.accumulate(total, axis=1)
        is_new = np.ones((sequences, columns), dtype=np.bool_)
        is_new[:, 1:] = total[:, 1:] > reached[:, :-1]
        came_from[row] = np.maximum.accumulate(np.where(is_new, everywhere, 0), axis=1)
        total = reached + cosines[row]
    paths = np.empty((rows, sequences), dtype=np.int64)
    paths[-1] = total.argmax(axis=1)
    for row in range(rows - 1, 0, -1):
        paths[row - 1] = came_from[row, np.arange(sequences), paths[row]]
    return paths
