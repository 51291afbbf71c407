"""How much of the true answer an approximate index finds."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from indexer.vectors import VectorIndex

_TIE = 1e-6
"""Vectors this close to the last of the true answer are as good as it."""


def recall(
    index: VectorIndex,
    queries: NDArray[np.float32],
    k: int,
    everything: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> float:
    """Share of the k nearest vectors that the index finds, by exact search over all of them; 0 to 1.

    Parameters
    ----------
    queries : NDArray[np.float32]
        Shape (Q, D), unit length; at least one.
    everything : iterable of (ids, vectors)
        What the index should hold, in blocks of shapes (N,) and (N, D); at least k vectors.
    """
    nearest = np.full((len(queries), k), -np.inf)
    found_ids = index.search(queries, k).ids
    found = np.full(found_ids.shape, -np.inf)
    for ids, vectors in everything:
        similarities = queries.astype(np.float64) @ vectors.astype(np.float64).T
        both = np.concatenate([nearest, similarities], axis=1)
        nearest = -np.sort(-both, axis=1)[:, :k]
        places = np.searchsorted(ids, found_ids).clip(max=len(ids) - 1)
        here = ids[places] == found_ids
        found = np.where(here, np.take_along_axis(similarities, places, axis=1), found)
    return float((found >= nearest[:, -1:] - _TIE).mean())
