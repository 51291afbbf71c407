"""Where the right dome of the diaphragm stands in a CT: patients differ in that by 90 mm against the spine.

It is told by density alone, nothing is learned: from there upwards the right lung takes more than half of its
greatest cross-section.
"""

import numpy as np
from numpy.typing import NDArray

from indexer.thinned import Thinned

Floats = NDArray[np.float64]

_LUNG_HU = (-960.0, -400.0)
_LEAST_CM2 = 20.0
"""A greatest cross-section of less is no lung, but airways, sinuses or bowel."""
_DOME_SHARE = 0.5
_SMOOTHING_MM = 8.0


def right_dome_mm(seen: Thinned) -> float | None:
    """Height of a CT's right dome of the diaphragm above the lower edge of its grid; None without a right lung.

    0 where the lung is wide in the lowest slice: the dome is there or below.
    """
    step_mm = float(seen.spacing_mm[0])
    areas = _smoothed(_right_lung_cm2(seen), step_mm)
    widest = int(areas.argmax())
    if areas[widest] < _LEAST_CM2:
        return None
    below = np.flatnonzero(areas[:widest] < _DOME_SHARE * areas[widest])
    return (float(below[-1]) + 0.5) * step_mm if below.size else 0.0


def _right_lung_cm2(seen: Thinned) -> Floats:
    """Cross-section of what is as dense as lung, right of the body's middle, of each slice."""
    of_columns = seen.share.sum(axis=(0, 2))
    middle = of_columns @ np.arange(len(of_columns)) / of_columns.sum()
    right = slice(int(middle) + 1, None)  # x grows to the right
    lung = (seen.voxels > _LUNG_HU[0]) & (seen.voxels < _LUNG_HU[1]) & (seen.share >= 0.5)
    pixel_cm2 = float(np.prod(seen.spacing_mm[1:])) / 100
    return np.asarray(lung[:, right].sum(axis=(1, 2)) * pixel_cm2, dtype=np.float64)


def _smoothed(values: Floats, step_mm: float) -> Floats:
    at_mm = step_mm * np.arange(len(values))
    near = np.exp(-0.5 * ((at_mm[:, None] - at_mm) / _SMOOTHING_MM) ** 2)
    return np.asarray(near @ values / near.sum(axis=1))
