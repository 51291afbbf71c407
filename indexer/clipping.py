"""CT that was stored through a window: what is cut off at its lower end is taken for air, within the body for lung.

A secondary copy of 8 bits keeps a soft tissue window, mostly, and nothing below it. Taken as it is, air would be as
dense as fat or water, and all of the volume body.
"""

from dataclasses import replace

import numpy as np

from indexer.body import CT_BODY_HU, body_mask
from indexer.resample import PatientGrid, resample
from indexer.volume import Volume

_AIR_HU, _LUNG_HU = -1000.0, -850.0
_NEAR_LEAST = 0.02
"""Of the range of values: so near the least one, a value is cut off."""
_LEAST_SHARE = 0.05
"""Of the voxels: a volume that shows nothing but tissue has hardly any at its least value."""


def patient_grid(volume: Volume, spacing_mm: tuple[float, float, float]) -> PatientGrid:
    """Resample a volume (see `indexer.resample.resample`), with air where a CT's window has cut it off.

    A CT is cut off where nothing of it is less dense than tissue, and many voxels are near its least value.
    """
    upper = _upper_end(volume)
    if upper is None or (cut_off := volume.voxels <= upper).mean() < _LEAST_SHARE:
        return resample(volume, spacing_mm)
    with_air = np.where(cut_off, np.float32(_AIR_HU), volume.voxels)
    grid = resample(replace(volume, voxels=with_air), spacing_mm)
    body = body_mask(grid)
    return replace(grid, voxels=np.where(body, np.maximum(grid.voxels, np.float32(_LUNG_HU)), grid.voxels))


def _upper_end(volume: Volume) -> float | None:
    """Up to where values are cut off, if any are; None where air is there, or all values are equal."""
    if volume.modality != "CT" or volume.voxels[len(volume.voxels) // 2].min() <= CT_BODY_HU:
        return None
    least, greatest = float(volume.voxels.min()), float(volume.voxels.max())
    if not CT_BODY_HU < least < greatest < np.inf:
        return None
    return least + _NEAR_LEAST * (greatest - least)
