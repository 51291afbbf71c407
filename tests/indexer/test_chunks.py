from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.chunks import Lattice, Slab, slabs, windows
from indexer.resample import PatientGrid, resample
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

CENTRED = Lattice((8, 16, 16), (0.0, 0.0, 0.0))


def axial(count: int, spacing_mm: float, side: int = 20, first_mm: float = -50.0) -> Volume:
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[:3, :3] = np.array([[0, 0, 2.0], [0, 2.0, 0], [spacing_mm, 0, 0]])
    affine[:3, 3] = (10, 20, first_mm)
    voxels = np.zeros((count, side, side), np.float32)
    voxels[:, 5:-5, 3:-3] = 40
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(count))
    return Volume(voxels, affine, slices, "CT", "", ())


def cut(volume: Volume, lattice: Lattice = CENTRED, chunk_mm: float = 96, step_mm: float = 48) -> list[Slab]:
    grid: PatientGrid = resample(volume, (3.0, 1.5, 1.5))
    cells = -(-grid.voxels.shape[0] // lattice.stride[0])
    return slabs(volume, grid, grid.voxels > 20, cells=cells, lattice=lattice, chunk_mm=chunk_mm, step_mm=step_mm)


@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 12))
def test_windows_cover_everything_and_none_leaves_it(count: int, length: int, step: int) -> None:
    found = windows(count, length, min(step, length))

    assert {cell for one in found for cell in range(one.start, one.stop)} == set(range(count))
    assert {one.stop - one.start for one in found} == {min(length, count)}
    assert [one.start for one in found] == sorted({one.start for one in found})


@pytest.mark.parametrize(("count", "spacing_mm"), [(3, 5.0), (100, 3.0), (450, 1.0), (20, 30.0), (7, 40.0)])
def test_chunks_cover_the_volume_and_every_slice_is_in_one(count: int, spacing_mm: float) -> None:
    volume = axial(count, spacing_mm)

    found = cut(volume)

    lower, upper = -50 - spacing_mm / 2, -50 + (count - 0.5) * spacing_mm
    assert found[0].box_lps_mm[2] == pytest.approx(lower, abs=1.5)
    assert found[-1].box_lps_mm[5] == pytest.approx(upper, abs=1.5)
    assert set(volume.slices) == {ref for one in found for ref in one.slices}
    assert all(one.slices for one in found)
    assert all(a.box_lps_mm[5] >= b.box_lps_mm[2] for a, b in pairwise(found))


def test_a_chunk_names_the_slices_within_its_box() -> None:
    volume = axial(100, 3.0)

    for one in cut(volume):
        within = [k for k in range(100) if one.box_lps_mm[2] <= -50 + 3.0 * k <= one.box_lps_mm[5]]
        assert [volume.slices[k] for k in within] == list(one.slices)


def test_slices_farther_apart_than_a_chunk_are_named_by_the_nearest() -> None:
    volume = axial(5, 60.0)

    found = cut(volume, chunk_mm=24, step_mm=24)

    assert all(1 <= len(one.slices) <= 2 for one in found)


def test_boxes_are_centred_on_their_features() -> None:
    volume = axial(100, 3.0)
    grid = resample(volume, (3.0, 1.5, 1.5))

    inner = cut(volume, chunk_mm=24, step_mm=24)[3]

    centre_mm = (inner.box_lps_mm[2] + inner.box_lps_mm[5]) / 2
    assert inner.cells == slice(3, 4)
    assert centre_mm == pytest.approx(grid.origin_lps_mm[2] + 3 * 8 * 3.0)


def test_boxes_of_patches_begin_with_the_patch() -> None:
    volume = axial(100, 3.0)
    grid = resample(volume, (3.0, 1.5, 1.5))
    patches = Lattice((8, 8, 8), (3.5, 3.5, 3.5))

    inner = cut(volume, patches, chunk_mm=24, step_mm=24)[3]

    assert patches.lead == (0, 0, 0)
    assert CENTRED.lead == (4, 8, 8)
    assert inner.box_lps_mm[2] == pytest.approx(grid.origin_lps_mm[2] + (24 - 0.5) * 3.0)
    assert inner.box_lps_mm[5] == pytest.approx(grid.origin_lps_mm[2] + (32 - 0.5) * 3.0)


def test_a_box_encloses_the_body_in_plane() -> None:
    box = cut(axial(40, 3.0))[0].box_lps_mm

    # columns 3 to 16 from x = 10, rows 5 to 14 from y = 20, 2 mm each
    assert (box[0], box[3]) == pytest.approx((10 + 2 * 2.5, 10 + 2 * 16.5), abs=1.5)
    assert (box[1], box[4]) == pytest.approx((20 + 2 * 4.5, 20 + 2 * 14.5), abs=1.5)


def test_a_chunk_without_body_has_the_box_of_the_grid() -> None:
    volume = axial(60, 3.0)
    volume.voxels[:30] = 0
    volume.voxels[:30, 0, 0] = 1

    box = cut(volume, chunk_mm=24, step_mm=24)[0].box_lps_mm

    assert (box[0], box[3]) == pytest.approx((9.0, 49.0), abs=1.5)
