"""Which of the series that an index brings in are worth comparing exactly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def promising(
    series: NDArray[np.int64], similarities: NDArray[np.float32], lengths: Sequence[int], most: int
) -> set[int]:
    """Keys of the series that can be nearest to each of the query's series.

    A series' score cannot be above the mean, over the query's chunks, of the best similarity that one of its own
    was found with; where none was found, of the last one that was. The series with the highest bounds are kept.

    Parameters
    ----------
    series : NDArray[np.int64]
        Shape (Q, k): of each neighbour of each chunk; negative ones are left out.
    similarities : NDArray[np.float32]
        Shape (Q, k), best first.
    lengths : sequence of int
        How many of the Q chunks each of the query's series has, in order.
    most : int
        For each of the query's series at most so many.
    """
    kept: set[int] = set()
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        kept |= _best(series[rows], similarities[rows], most)
        start += length
    return kept


def nearest_series(
    query: NDArray[np.float32], lengths: Sequence[int], vectors: NDArray[np.float32], place: NDArray[np.int64]
) -> list[NDArray[np.float32]]:
    """How near candidate series are to each of the query's: the mean over its chunks of the best similarity.

    Parameters
    ----------
    query : NDArray[np.float32]
        Shape (Q, D).
    lengths : sequence of int
        How many of the Q chunks each of the query's series has, in order.
    vectors : NDArray[np.float32]
        Shape (N, D): the chunks of all candidates, at least one.
    place : NDArray[np.int64]
        Shape (N,): the number of each one's series, ascending; those of S series in all.

    Returns
    -------
    list of (S,) float32
        One for each of the query's series.
    """
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    best = np.maximum.reduceat(query @ vectors.T, starts, axis=1)
    ends = np.cumsum(lengths)
    return [best[end - length : end].mean(axis=0) for end, length in zip(ends, lengths, strict=True)]


def _best(series: NDArray[np.int64], similarities: NDArray[np.float32], most: int) -> set[int]:
    keys, place = np.unique(series, return_inverse=True)
    if len(keys) <= most:
        return set(keys[keys >= 0].tolist())
    found = np.isfinite(similarities)
    last = np.where(found, similarities, np.inf).min(axis=1)
    bounds = np.repeat(last[:, None], len(keys), axis=1)
    chunk_and_series = np.arange(len(series))[:, None] * len(keys) + place.reshape(series.shape)
    np.maximum.at(bounds.ravel(), chunk_and_series.ravel(), np.where(found, similarities, -1).ravel())
    total = np.where(keys >= 0, bounds.sum(axis=0), -np.inf)
    chosen = np.argsort(-total, kind="stable")[:most]
    return set(keys[chosen][total[chosen] > -np.inf].tolist())
