"""Where the right dome of the diaphragm stands in a CT: patients differ in that by 90 mm against the spine.

It is told by density alone, nothing is learned: from there upwards the right lung takes more than half of its
greatest cross-section.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from indexer.body import Mask
from indexer.resample import PatientGrid

Floats = NDArray[np.float64]

_PIXEL_MM = 6.0
"""Slices are averaged to pixels of about this size: noise and fine air count for nothing."""
_LUNG_HU = (-960.0, -400.0)
_LEAST_CM2 = 20.0
"""A greatest cross-section of less is no lung, but airways, sinuses or bowel."""
_DOME_SHARE = 0.5
_SMOOTHING_MM = 8.0


def right_dome_mm(grid: PatientGrid, body: Mask) -> float | None:
    """Height of the right dome of the diaphragm above the lower edge of the grid; None where no right lung is seen.

    0 where the lung is wide in the lowest slice: the dome is there or below.

    Parameters
    ----------
    grid, body : PatientGrid and (Z, X, Y) bool
        Of a CT; see `indexer.body.body_mask`.
    """
    step_mm = float(grid.spacing_mm[0])
    areas = _smoothed(_right_lung_cm2(grid, body), step_mm)
    widest = int(areas.argmax())
    if areas[widest] < _LEAST_CM2:
        return None
    below = np.flatnonzero(areas[:widest] < _DOME_SHARE * areas[widest])
    return (float(below[-1]) + 0.5) * step_mm if below.size else 0.0


def _right_lung_cm2(grid: PatientGrid, body: Mask) -> Floats:
    """Cross-section of what is as dense as lung, right of the body's middle, of each slice."""
    xs, ys = np.flatnonzero(body.any(axis=(0, 2))), np.flatnonzero(body.any(axis=(0, 1)))
    if not xs.size:
        return np.zeros(len(body))
    window = (slice(None), slice(xs[0], xs[-1] + 1), slice(ys[0], ys[-1] + 1))
    thinning = tuple(max(1, round(_PIXEL_MM / step)) for step in grid.spacing_mm[1:])
    density, share = _averaged(grid.voxels[window], thinning), _averaged(body[window].astype(np.float32), thinning)
    of_columns = share.sum(axis=(0, 2))
    middle = of_columns @ np.arange(len(of_columns)) / of_columns.sum()
    right = slice(int(middle) + 1, None)  # x grows to the right
    lung = (density > _LUNG_HU[0]) & (density < _LUNG_HU[1]) & (share >= 0.5)
    pixel_cm2 = float(np.prod(grid.spacing_mm[1:] * thinning)) / 100
    return np.asarray(lung[:, right].sum(axis=(1, 2)) * pixel_cm2, dtype=np.float64)


def _averaged(values: NDArray[np.float32], thinning: tuple[int, ...]) -> NDArray[np.float32]:
    image = torch.from_numpy(values)[:, None]
    pooled = functional.avg_pool2d(image, thinning, ceil_mode=True, count_include_pad=False)
    return np.asarray(pooled[:, 0].numpy())


def _smoothed(values: Floats, step_mm: float) -> Floats:
    at_mm = step_mm * np.arange(len(values))
    near = np.exp(-0.5 * ((at_mm[:, None] - at_mm) / _SMOOTHING_MM) ** 2)
    return np.asarray(near @ values / near.sum(axis=1))
