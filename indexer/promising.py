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
    similarities: NDArray[np.float32], lengths: Sequence[int], of: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """How near series are to each of the query's: the mean over its chunks of the best similarity.

    Parameters
    ----------
    similarities : NDArray[np.float32]
        Shape (N, Q), N at least 1: of each chunk there is to each of the query's.
    lengths : sequence of int
        How many of the Q chunks each of the query's series has, in order.
    of : NDArray[np.int64]
        Shape (N,): the series of each chunk there is; those of a series need not follow each other.

    Returns
    -------
    series : NDArray[np.int64]
        Shape (S,), ascending.
    nearness : list of (S,) float32
        One for each of the query's series.
    """
    starts = np.flatnonzero(np.diff(of, prepend=of[0] - 1))
    order = np.argsort(of[starts], kind="stable")
    series = of[starts][order]
    firsts = np.flatnonzero(np.diff(series, prepend=series[0] - 1))
    of_runs = np.maximum.reduceat(similarities, starts, axis=0)
    best = np.maximum.reduceat(of_runs[order], firsts, axis=0)
    ends = np.cumsum(lengths)
    nearness = [best[:, end - length : end].mean(axis=1) for end, length in zip(ends, lengths, strict=True)]
    return series[firsts], nearness


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
