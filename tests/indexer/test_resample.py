from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer import resample as module
from indexer.errors import Parked
from indexer.resample import AIR_HU, PatientGrid, resample
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]

ORIENTATIONS = {  # unit steps of slices, rows and columns, in LPS
    "axial": [(0, 0, 1), (0, 1, 0), (1, 0, 0)],
    "coronal": [(0, 1, 0), (0, 0, -1), (1, 0, 0)],
    "sagittal": [(1, 0, 0), (0, 0, -1), (0, 1, 0)],
    "feet first": [(0, 0, -1), (0, 1, 0), (-1, 0, 0)],
    "prone": [(0, 0, 1), (0, -1, 0), (-1, 0, 0)],
    "oblique": [(0, -0.6, 0.8), (0, 0.8, 0.6), (1, 0, 0)],
    "double oblique": [
        (0.48, -0.6, 0.64),
        (0.36, 0.8, 0.48),
        (-0.8, 0, 0.6),
    ],
}


def imaged(
    field: Field,
    steps: list[tuple[float, float, float]],
    spacing_mm: tuple[float, float, float],
    extent_mm: float = 90.0,
    modality: str = "CT",
    centre_mm: tuple[float, float, float] = (6.0, -9.0, 14.0),
) -> Volume:
    """A cube of a field, voxel by voxel."""
    axes = np.array(steps, dtype=np.float64).T * spacing_mm
    shape = np.ceil(extent_mm / np.array(spacing_mm)).astype(int)
    first = np.array(centre_mm) - axes @ ((shape - 1) / 2)
    points = np.moveaxis(np.indices(shape), 0, -1) @ axes.T + first
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, first
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(shape[0]))
    return Volume(field(points).astype(np.float32), affine, slices, modality, "", ())  # type: ignore[arg-type]


def points_of(grid: PatientGrid) -> NDArray[np.float64]:
    """Every voxel's centre in LPS, mm: (Z, X, Y, 3), from the contract alone: x right, y anterior, z superior."""
    z, x, y = np.indices(grid.voxels.shape)
    dz, dx, dy = grid.spacing_mm
    return grid.origin_lps_mm + np.stack([-x * dx, -y * dy, z * dz], axis=-1)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("spacing_mm", [(3.0, 1.5, 1.5), (2.0, 0.8, 0.7), (1.0, 1.0, 1.0), (5.0, 0.5, 0.5)])
def test_a_body_is_where_it_was_from_any_orientation(
    phantom: Field, orientation: str, spacing_mm: tuple[float, float, float]
) -> None:
    volume = imaged(phantom, ORIENTATIONS[orientation], spacing_mm)

    grid = resample(volume, (3.0, 1.5, 1.5))

    points, dense = points_of(grid), (grid.voxels > -450) & grid.inside
    assert np.abs(points[dense].mean(axis=0) - [6.0, -9.0, 14.0]).max() < 0.1
    semi_axes = np.sqrt(5 * points[dense].var(axis=0))  # of an ellipsoid
    assert np.abs(semi_axes - [16.0, 22.0, 19.0]).max() < 0.6


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_holds_the_value_of_its_place(orientation: str) -> None:
    slope = np.array([3.0, -5.0, 7.0])
    volume = imaged(lambda points: points @ slope, ORIENTATIONS[orientation], (2.0, 0.75, 0.75))

    grid = resample(volume, (3.0, 1.5, 1.5))

    deep = np.abs(points_of(grid) - [6.0, -9.0, 14.0]).max(axis=-1) < 25
    assert deep.any()
    assert np.abs(grid.voxels - points_of(grid) @ slope)[deep].max() < 0.02


def test_the_grid_encloses_the_volume_to_its_outer_edges() -> None:
    volume = imaged(lambda points: points[..., 0], ORIENTATIONS["axial"], (4.0, 0.8, 0.8), extent_mm=40)

    grid = resample(volume, (3.0, 1.5, 1.5))

    points, half = points_of(grid).reshape(-1, 3), np.array([1.5, 1.5, 3.0]) / 2
    assert np.all(points.min(axis=0) - half <= np.array([6.0, -9.0, 14.0]) - 20 + 1e-2)
    assert np.all(points.max(axis=0) + half >= np.array([6.0, -9.0, 14.0]) + 20 - 1e-2)
    assert np.all(points.min(axis=0) + points.max(axis=0) == pytest.approx([12.0, -18.0, 28.0]))


def test_detail_finer_than_the_grid_is_averaged_away() -> None:
    def stripes(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1000.0 * (-1.0) ** np.floor(points[..., 0] / 0.5 + 0.5)

    volume = imaged(stripes, ORIENTATIONS["axial"], (3.0, 0.5, 0.5), extent_mm=60)

    grid = resample(volume, (3.0, 2.0, 2.0))

    assert np.abs(grid.voxels[2:-2, 2:-2, 2:-2]).max() < 1.0


def beyond(volume: Volume, grid: PatientGrid) -> NDArray[np.float64]:
    """How far each voxel of a grid lies outside a volume's outer edges, in the volume's voxels; negative inside."""
    inverse, shape = np.linalg.inv(volume.affine_lps_mm), np.array(volume.voxels.shape)
    indices = points_of(grid) @ inverse[:3, :3].T + inverse[:3, 3]
    apart: NDArray[np.float64] = (np.abs(indices - (shape - 1) / 2) - shape / 2).max(axis=-1)
    return apart


@pytest.mark.parametrize(("modality", "filled"), [("CT", AIR_HU), ("MR", 5.0)])
def test_what_was_not_imaged_is_known_and_filled_in(modality: str, filled: float) -> None:
    volume = imaged(lambda p: 5.0 + np.abs(p[..., 2]), ORIENTATIONS["oblique"], (2.0, 2.0, 2.0), modality=modality)
    volume.voxels[0, 0, 0] = 5.0

    grid = resample(volume, (3.0, 1.5, 1.5))

    edge = beyond(volume, grid)
    assert not grid.inside[edge > 1e-6].any()
    assert grid.inside[edge < -1e-6].all()
    assert np.all(grid.voxels[~grid.inside] == np.float32(filled))


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "double oblique"])
@pytest.mark.parametrize("aslant", [0.0, 3e-8, 1e-2])
def test_what_was_imaged_is_known_however_little_aslant(orientation: str, aslant: float) -> None:
    steps = [(x, y + aslant * z, z - aslant * y) for x, y, z in ORIENTATIONS[orientation]]
    steps = [(0.8 * x - 0.6 * z, y, 0.6 * x + 0.8 * z) for x, y, z in steps]
    volume = imaged(lambda p: p[..., 0], steps, (6.0, 5.0, 5.0), extent_mm=300.0)

    grid = resample(volume, (6.0, 6.0, 0.75))

    edge = beyond(volume, grid)
    assert not grid.inside[edge > 2e-6].any()
    assert grid.inside[edge < -2e-6].all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_park(value: float) -> None:
    volume = imaged(lambda p: p[..., 0], ORIENTATIONS["axial"], (5.0, 5.0, 5.0))
    volume.voxels[3, 4, 5] = value

    with pytest.raises(Parked, match="not finite"):
        resample(volume, (3.0, 1.5, 1.5))


@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal", "feet first", "prone"])
@pytest.mark.parametrize("spacing_mm", [(5.0, 0.7, 1.3), (2.0, 0.4, 0.4), (3.0, 1.5, 1.5)])
def test_axis_by_axis_is_what_simpleitk_interpolates(
    phantom: Field, orientation: str, spacing_mm: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = imaged(phantom, ORIENTATIONS[orientation], spacing_mm)
    monkeypatch.setattr(module, "_image", lambda _: pytest.fail("SimpleITK was asked"))
    found = resample(volume, (3.0, 1.5, 1.5))
    monkeypatch.undo()
    monkeypatch.setattr(module, "_UNNOTICED", -1.0)

    expected = resample(volume, (3.0, 1.5, 1.5))

    assert found.voxels.flags.c_contiguous
    assert np.abs(found.voxels - expected.voxels).max() < 1e-2  # HU


def test_a_volume_of_one_value_parks() -> None:
    volume = imaged(lambda p: np.full(p.shape[:-1], -1000.0), ORIENTATIONS["axial"], (5.0, 5.0, 5.0))

    with pytest.raises(Parked, match="each of its voxels is -1000"):
        resample(volume, (3.0, 1.5, 1.5))


def test_an_absurd_extent_parks_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = imaged(lambda p: p[..., 0], ORIENTATIONS["axial"], (5.0, 5.0, 5.0))
    volume.affine_lps_mm[:3, :3] *= 1e4
    monkeypatch.setattr(module, "_sampled", lambda *_: pytest.fail("the volume was copied"))

    with pytest.raises(Parked, match="too large: 900000 x 900000 x 900000 mm"):
        resample(volume, (3.0, 1.5, 1.5))
