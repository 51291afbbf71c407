"""The right dome of the diaphragm, found in drawn chests."""

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.body import body_mask
from indexer.domes import right_dome_mm
from indexer.resample import PatientGrid
from indexer.thinned import Thinned

STEP_MM = (6.0, 3.0, 3.0)
SLICES = 50


def a_trunk() -> NDArray[np.float32]:
    """Soft tissue in air: 300 mm high, 240 mm wide, 180 mm deep; x grows to the patient's right."""
    voxels = np.full((SLICES, 100, 80), -1000.0, np.float32)
    voxels[:, 10:90, 10:70] = 40.0
    return voxels


def dome_of(voxels: NDArray[np.float32]) -> float | None:
    grid = PatientGrid(voxels, np.ones(voxels.shape, np.bool_), np.zeros(3), np.array(STEP_MM), "CT")
    return right_dome_mm(Thinned(grid, body_mask(grid)))


@pytest.mark.parametrize("right_from", [15, 30])
def test_the_dome_is_where_the_right_lung_widens(right_from: int) -> None:
    voxels = a_trunk()
    voxels[20:, 16:45, 16:64] = -850.0  # left
    for slice_, half in enumerate(range(2, 22, 4)):  # above the dome the lung widens within 30 mm
        voxels[right_from + slice_, 70 - half : 70 + half - 6, 16:64] = -850.0
    voxels[right_from + 5 :, 55:84, 16:64] = -850.0

    assert dome_of(voxels) == pytest.approx(right_from * STEP_MM[0] + 12, abs=12)


def test_a_scan_that_begins_above_the_dome_has_it_at_its_lower_edge() -> None:
    voxels = a_trunk()
    voxels[:, 55:84, 16:64] = -850.0

    assert dome_of(voxels) == 0.0


@pytest.mark.parametrize("air", [None, (slice(20, 30), slice(60, 72), slice(30, 42))])
def test_where_no_right_lung_is_seen_there_is_no_dome(air: tuple[slice, slice, slice] | None) -> None:
    voxels = a_trunk()
    voxels[20:, 16:45, 16:64] = -850.0  # the left lung alone
    if air is not None:
        voxels[air] = -850.0  # a loop of bowel

    assert dome_of(voxels) is None
