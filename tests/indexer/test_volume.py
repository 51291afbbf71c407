import pickle
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from indexer.errors import Parked
from indexer.volume import SliceRef, Volume, load_volume, plan_series

Save = Callable[[Iterable[Dataset]], list[Path]]
Build = Callable[..., list[Dataset]]
Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def centres_lps_mm(volume: Volume) -> NDArray[np.float64]:
    """Voxel centres, shape (slices, rows, columns, 3)."""
    index = np.moveaxis(np.indices(volume.voxels.shape), 0, -1)
    return index @ volume.affine_lps_mm[:3, :3].T + volume.affine_lps_mm[:3, 3]


def only_volume(paths: Sequence[Path]) -> Volume:
    plan = plan_series(paths)
    assert len(plan.stacks) == 1
    return load_volume(plan.stacks[0])


def assert_orthogonal(volume: Volume) -> None:
    steps = volume.affine_lps_mm[:3, :3] / volume.spacing_mm
    np.testing.assert_allclose(steps.T @ steps, np.eye(3), atol=1e-6)
    # Column, row, slice: right-handed.
    assert np.linalg.det(steps[:, ::-1]) == pytest.approx(1)


def assert_shows(volume: Volume, phantom: Field, worst_hu: float) -> None:
    """The phantom lies where it should: its values at the voxels' centres, and its centroid in mm."""
    assert_orthogonal(volume)
    points = centres_lps_mm(volume)
    expected = phantom(points)
    seen = volume.voxels > -1020  # what no slice covers is air
    assert np.abs(volume.voxels - expected)[seen].max() < worst_hu
    weight = np.clip(volume.voxels + 1000, 0, None)[..., None]
    np.testing.assert_allclose((weight * points).sum((0, 1, 2)) / weight.sum(), [6, -9, 14], atol=0.15)


def rotated(degrees: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column direction and normal of an axial plane turned about x."""
    angle = np.radians(degrees)
    return np.array([0, np.cos(angle), np.sin(angle)]), np.array([0, -np.sin(angle), np.cos(angle)])


class TestGeometry:
    def test_axial_slices_lie_where_their_headers_say_whatever_the_order_of_files(
        self, scan: Build, save: Save, phantom: Field
    ) -> None:
        slices = scan([(-30, -45, z) for z in np.arange(-12, 42, 2)])
        volume = only_volume(save(slices[::-1][1::2] + slices[::2]))
        assert_shows(volume, phantom, 1)
        assert volume.notes == ()
        assert volume.label == ""
        np.testing.assert_allclose(volume.affine_lps_mm[:3, 3], [-30, -45, -12])
        np.testing.assert_allclose(volume.spacing_mm, [2, 1.5, 1.25])
        assert volume.slices == tuple(SliceRef(one.SOPInstanceUID, None) for one in slices)
        assert volume.voxels.flags.c_contiguous
        assert volume.voxels.dtype == np.float32

    @pytest.mark.parametrize(
        ("orientation", "first", "step"),
        [
            pytest.param((1, 0, 0, 0, 0, -1), (-30, -40, 48), (0, 2, 0), id="coronal"),
            pytest.param((0, 1, 0, 0, 0, -1), (36, -44, 48), (-2, 0, 0), id="sagittal"),
            pytest.param((-1, 0, 0, 0, -1, 0), (40, 28, -20), (0, 0, 2), id="prone"),
        ],
    )
    def test_other_orientations_are_kept_and_lie_where_they_should(
        self, scan: Build, save: Save, phantom: Field,
        orientation: Sequence[float], first: Sequence[float], step: Sequence[float],
    ) -> None:  # fmt: skip
        positions = [np.asarray(first) + k * np.asarray(step) for k in range(32)]
        volume = only_volume(save(scan(positions, orientation)))
        assert_shows(volume, phantom, 1)
        normal = np.cross(orientation[:3], orientation[3:])
        np.testing.assert_allclose(volume.affine_lps_mm[:3, 0], 2 * normal, atol=1e-9)

    def test_oblique_slices_with_jitter_in_their_cosines(self, scan: Build, save: Save, phantom: Field) -> None:
        slices = []
        for k in range(44):
            column, _ = rotated(20 + 0.05 * (-1) ** k)
            _, normal = rotated(20)
            slices += scan([np.array([-30, -45, -45]) + 2 * k * normal], (1, 0, 0, *column), shape=(64, 56))
        assert_shows(only_volume(save(slices)), phantom, 30)

    @pytest.mark.parametrize("degrees", [-18.5, 25])
    def test_gantry_tilt_is_sheared_away(self, scan: Build, save: Save, phantom: Field, degrees: float) -> None:
        column, _ = rotated(degrees)
        slices = scan([(-30, -45, z) for z in np.arange(-35, 65, 2)], (1, 0, 0, *column), shape=(60, 56))
        volume = only_volume(save(slices))
        assert_shows(volume, phantom, 15)
        assert f"gantry tilt of {abs(degrees):.1f} degrees sheared away" in volume.notes
        assert volume.spacing_mm[0] == pytest.approx(2 * np.cos(np.radians(degrees)))
        # Nothing that was seen is cut off: the grid spans the first voxels of all slices.
        last = volume.affine_lps_mm @ [*np.array(volume.voxels.shape) - 1, 1]
        assert min(volume.affine_lps_mm[1, 3], last[1]) <= -45 + 1.5 + 100 * abs(np.sin(np.radians(degrees)))

    def test_a_tilt_that_the_positions_do_not_show_is_noted(self, scan: Build, save: Save) -> None:
        volume = only_volume(save(scan([(0, 0, z) for z in range(8)], GantryDetectorTilt=-15)))
        assert volume.notes == ("a gantry tilt of -15 degrees is named, but the positions show none",)

    def test_two_spacings_become_the_smaller_one(self, scan: Build, save: Save, phantom: Field) -> None:
        heights = [*np.arange(-20, 12, 2.5), *np.arange(12.5, 48, 5)]
        slices = scan([(-30, -45, z) for z in heights])
        volume = only_volume(save(slices))
        assert_shows(volume, phantom, 60)
        assert volume.notes == ("slice spacings of 2.5 and 5 mm resampled to 2.5 mm",)
        assert volume.spacing_mm[0] == pytest.approx(2.5)
        z = centres_lps_mm(volume)[:, 0, 0, 2]
        nearest = [min(abs(h - height) for h in heights) for height in z]
        by_uid = {one.SOPInstanceUID: one.ImagePositionPatient[2] for one in slices}
        named = [abs(by_uid[one.sop_instance_uid] - height) for one, height in zip(volume.slices, z, strict=True)]
        np.testing.assert_allclose(named, nearest)

    def test_tilt_and_two_spacings_at_once(self, scan: Build, save: Save, phantom: Field) -> None:
        column, _ = rotated(-15)
        heights = [*np.arange(-25, 10, 2), *np.arange(11, 60, 4)]
        volume = only_volume(save(scan([(-30, -45, z) for z in heights], (1, 0, 0, *column), shape=(60, 56))))
        assert_shows(volume, phantom, 60)
        assert len(volume.notes) == 2

    def test_missing_slices_are_interpolated_and_noted(self, a_stack: Build, save: Save) -> None:
        volume = only_volume(save(a_stack([0, 2, 4, 8, 10, 12])))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], [0, 20, 40, 60, 80, 100, 120])
        assert volume.notes == ("1 missing slice interpolated",)
        assert volume.spacing_mm[0] == pytest.approx(2)

    def test_slices_are_interpolated_linearly(self, a_stack: Build, save: Save) -> None:
        volume = only_volume(save(a_stack([0, 2, 4, 10, 12, 14])))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], [0, 20, 40, 60, 80, 100, 120, 140])
        assert volume.notes == ("2 missing slices interpolated",)

    def test_an_even_grid_lies_amid_positions_that_are_a_little_off(self, a_stack: Build, save: Save) -> None:
        heights = [0, *np.arange(2.3, 20, 2), 20]
        volume = only_volume(save(a_stack(heights)))
        np.testing.assert_allclose(centres_lps_mm(volume)[:, 0, 0, 2], heights, atol=0.16)

    def test_rounded_positions_are_even(self, a_stack: Build, save: Save) -> None:
        volume = only_volume(save(a_stack([0.0, 0.6, 1.3, 1.9, 2.5, 3.1, 3.8, 4.4, 5.0])))
        assert volume.notes == ()
        assert volume.spacing_mm[0] == pytest.approx(0.625)

    def test_slices_too_far_apart_are_no_volume(self, a_stack: Build, save: Save) -> None:
        (stack,) = plan_series(save(a_stack([0, 30, 60, 90]))).stacks
        with pytest.raises(Parked, match="30 mm apart"):
            load_volume(stack)


class TestDamage:
    def test_a_slice_that_cannot_be_decoded_counts_as_missing(self, a_stack: Build, save: Save) -> None:
        slices = a_stack(range(0, 40, 2))
        slices[5].PixelData = slices[5].PixelData[:-4]
        volume = only_volume(save(slices))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], np.arange(0, 400, 20))
        assert "1 slice(s) left out as damaged" in volume.notes[0]
        assert slices[5].SOPInstanceUID not in {one.sop_instance_uid for one in volume.slices}

    def test_a_plan_and_its_volume_travel_between_processes(self, a_stack: Build, save: Save) -> None:
        plan = pickle.loads(pickle.dumps(plan_series(save(a_stack(range(0, 12, 2))))))
        volume = load_volume(plan.stacks[0])
        copy = pickle.loads(pickle.dumps(volume))
        np.testing.assert_array_equal(copy.voxels, volume.voxels)
        assert copy.slices == volume.slices

    def test_several_damaged_slices_park_the_series(self, a_stack: Build, save: Save) -> None:
        slices = a_stack(range(0, 40, 2))
        for one in slices[3:6]:
            one.PixelData = b""
        (stack,) = plan_series(save(slices)).stacks
        with pytest.raises(Parked, match="damaged; no pixel data"):
            load_volume(stack)

    def test_a_truncated_file_counts_as_missing(self, a_stack: Build, save: Save) -> None:
        paths = save(a_stack(range(0, 40, 2)))
        paths[7].write_bytes(paths[7].read_bytes()[:-10])
        assert "left out as damaged" in only_volume(paths).notes[0]

    def test_dimensions_that_no_memory_holds_are_refused_before_allocation(
        self, a_stack: Build, save: Save
    ) -> None:
        slices = a_stack(range(0, 12, 2))
        for one in slices:
            one.Rows = one.Columns = 65535
        with pytest.raises(Parked, match="at most 1000000000 voxels"):
            plan_series(save(slices))


class TestModality:
    def test_monochrome1_leaves_hounsfield_units_alone(self, a_stack: Build, save: Save) -> None:
        volume = only_volume(save(a_stack([0, 2, 4], PhotometricInterpretation="MONOCHROME1")))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], [0, 20, 40])

    def test_monochrome1_turns_mr_over_so_that_padding_is_dark(self, a_stack: Build, save: Save) -> None:
        slices = a_stack([0, 2, 4], "MR", PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=20)
        volume = only_volume(save(slices))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], [40, 0, 0])
        assert volume.notes == ("MONOCHROME1: values turned over so that air is dark",)

    def test_padding_and_what_lies_below_air_become_air(self, a_stack: Build, save: Save) -> None:
        slices = a_stack([0, 2, 4, 6], PixelPaddingValue=20, PixelPaddingRangeLimit=25)
        slices[0].PixelData = np.full((4, 5), -3024, np.int16).tobytes()
        np.testing.assert_allclose(only_volume(save(slices)).voxels[:, 0, 0], [-1024, -1024, 40, 60])

    def test_padding_of_mr_becomes_zero(self, a_stack: Build, save: Save) -> None:
        volume = only_volume(save(a_stack([0, 2, 4], "MR", PixelPaddingValue=40)))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], [0, 20, 0])

    def test_every_slice_has_its_own_rescale(self, a_stack: Build, save: Save) -> None:
        slices = a_stack([2, 4, 6], "MR")
        for k, one in enumerate(slices):
            one.RescaleSlope, one.RescaleIntercept = 0.5 * (k + 1), k
        np.testing.assert_allclose(only_volume(save(slices)).voxels[:, 0, 0], [10, 41, 92])

    def test_frames_of_an_enhanced_instance_are_numbered_from_one(
        self, an_enhanced: Callable[..., Dataset], save: Save
    ) -> None:
        order = [3, 0, 2, 1]
        pixels = np.stack([np.full((3, 4), 10 * k, np.uint16) for k in order])
        places = [{"PlanePositionSequence": {"ImagePositionPatient": [0, 0, 2.0 * k]}} for k in order]
        instance = an_enhanced(pixels, places)
        volume = only_volume(save([instance]))
        np.testing.assert_allclose(volume.voxels[:, 0, 0], [0, 10, 20, 30])
        assert volume.slices == tuple(SliceRef(instance.SOPInstanceUID, n) for n in (2, 4, 3, 1))
        assert volume.frame_of_reference_uid == instance.FrameOfReferenceUID


def real_series() -> list[str]:
    folder = Path(__file__).parents[3] / "shared" / "data" / "dicom"
    return sorted(one.name for one in folder.iterdir()) if folder.is_dir() else ["none"]


@pytest.mark.parametrize("name", real_series())
def test_a_real_series_is_read_or_parked_with_a_reason(real_data: Path, name: str) -> None:
    paths = sorted((real_data / name).glob("*.dcm"))
    read = [dcmread(path, stop_before_pixels=True) for path in paths]
    if not all(one.SeriesInstanceUID for one in read):
        with pytest.raises(Parked, match="no Series Instance UID"):
            plan_series(paths)
        return
    plan = plan_series(paths)
    headers = {one.SOPInstanceUID: one for one in read}
    used = {frame.sop_instance_uid for stack in plan.stacks for frame in stack.frames}
    assert used | {one.sop_instance_uid for one in plan.dropped} == set(headers)
    assert all(one.reason for one in plan.dropped)
    for stack in plan.stacks:
        volume = load_volume(stack)
        assert_orthogonal(volume)
        assert len(volume.slices) == len(volume.voxels)
        assert {one.sop_instance_uid for one in volume.slices} <= used
        assert np.isfinite(volume.voxels).all()
        if volume.modality == "CT":
            assert volume.voxels.min() >= -1024
            assert -1024 <= np.median(volume.voxels) < 200
        assert_corners_inside(volume, [headers[frame.sop_instance_uid] for frame in stack.frames])


def assert_corners_inside(volume: Volume, headers: Sequence[Dataset]) -> None:
    """Corners of all slices, by their headers, lie on the grid's planes of slices and within its extent."""
    to_index = np.linalg.inv(volume.affine_lps_mm)
    for header in headers:
        row, column = np.split(np.asarray(header.ImageOrientationPatient, float), 2)
        spacing = np.asarray(header.PixelSpacing, float)
        for i, j in product((0, header.Rows - 1), (0, header.Columns - 1)):
            point = np.asarray(header.ImagePositionPatient, float) + i * spacing[0] * column + j * spacing[1] * row
            index = (to_index @ [*point, 1])[:3]
            assert (index > -0.2).all()
            assert (index < np.array(volume.voxels.shape) - 1 + 0.2).all()
