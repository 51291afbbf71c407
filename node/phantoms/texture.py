"""Band-limited noise as a function of place, so that every grid sees the same texture at the same point."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from node.phantoms.solids import Floats, floats

LOW_MM = (-300.0, -300.0, -520.0)
"""Corner (x, y, z) of the lattice; there is no texture beyond it."""
HIGH_MM = (300.0, 300.0, 640.0)


def texture(axes_mm: tuple[Floats, Floats, Floats], seed: int, cell_mm: float) -> Floats:
    """Return smooth noise of mean 0 and about unit standard deviation.

    Parameters
    ----------
    axes_mm : tuple of NDArray
        The z, y and x coordinates of the grid in mm, each one-dimensional.
    seed : int
        Which noise.
    cell_mm : float
        Width of the finest detail.

    Returns
    -------
    NDArray of float32, shape (z, y, x)
        Cubic B-spline over a lattice of normal deviates.
    """
    field = _lattice(seed, cell_mm)
    weights = [_weights(axis, *limits, cell_mm) for axis, limits in zip(axes_mm, _LIMITS, strict=True)]
    field = np.tensordot(weights[0], field, axes=(1, 0))
    field = np.matmul(weights[1], field)
    return np.ascontiguousarray(np.matmul(field, weights[2].T) / _SPREAD)


_LIMITS = tuple(zip(reversed(LOW_MM), reversed(HIGH_MM), strict=True))
_SPREAD = np.float32(0.33)
"""Standard deviation of a cubic B-spline of unit normal deviates in three dimensions, averaged over the cell."""


@lru_cache(maxsize=8)
def _lattice(seed: int, cell_mm: float) -> Floats:
    shape = [_nodes(low, high, cell_mm) for low, high in _LIMITS]
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _nodes(low_mm: float, high_mm: float, cell_mm: float) -> int:
    return int((high_mm - low_mm) / cell_mm) + 4


def _weights(axis_mm: Floats, low_mm: float, high_mm: float, cell_mm: float) -> Floats:
    """Return cubic B-spline weights, shape (points, nodes)."""
    at: NDArray[np.float64] = (np.asarray(axis_mm, dtype=np.float64) - low_mm) / cell_mm + 1
    away = np.abs(at[:, None] - np.arange(_nodes(low_mm, high_mm, cell_mm)))
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.clip(2 - away, 0, None) ** 3 / 6
    return floats(np.where(away < 1, near, far))
