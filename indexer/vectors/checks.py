"""What every index asks of its arguments, so that all kinds refuse the same things in the same words."""

import numpy as np
from numpy.typing import NDArray

_UNIT_TOLERANCE = 1e-4
"""Far above what float32 leaves after a normalisation, far below any similarity difference that matters."""


def check_ids(ids: NDArray[np.int64]) -> None:
    """Refuse ids that are not a 1-D int64 array.

    Raises
    ------
    ValueError
        Saying what was expected and what came.
    """
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise ValueError(f"expected ids as int64 of shape (N,), got {ids.dtype} of shape {ids.shape}")


def check_vectors(vectors: NDArray[np.float32], dim: int) -> None:
    """Refuse vectors that are not (N, dim) float32 of unit length.

    Raises
    ------
    ValueError
        Saying what was expected and what came.
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(
            f"expected vectors as float32 of shape (N, {dim}), got {vectors.dtype} of shape {vectors.shape}"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT_TOLERANCE))
    if wrong.size:
        raise ValueError(
            f"expected vectors of unit length, got {wrong.size} of {len(vectors)} that are not; "
            f"the first, at row {wrong[0]}, has length {lengths[wrong[0]]}"
        )


def check_addition(ids: NDArray[np.int64], vectors: NDArray[np.float32], dim: int) -> None:
    """Refuse what cannot be added: wrong arrays, differing numbers, negative or repeated ids.

    Raises
    ------
    ValueError
        Saying what was expected and what came.
    """
    check_ids(ids)
    check_vectors(vectors, dim)
    if len(ids) != len(vectors):
        raise ValueError(f"expected as many ids as vectors, got {len(ids)} ids and {len(vectors)} vectors")
    if ids.size and ids.min() < 0:
        raise ValueError(f"expected ids that are not negative, got {ids.min()}")
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"expected every id once, got {len(ids) - len(np.unique(ids))} repetitions")


def check_search(queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None, dim: int) -> None:
    """Refuse queries, counts and filters that no index can answer.

    Raises
    ------
    ValueError
        Saying what was expected and what came.
    """
    check_vectors(queries, dim)
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    if allowed is not None:
        check_ids(allowed)
        if (allowed[1:] <= allowed[:-1]).any():
            raise ValueError("expected allowed ids ascending and none twice, got another order")
