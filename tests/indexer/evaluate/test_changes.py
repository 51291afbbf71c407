"""Changes of volumes: the patient stays where he was, unless it is he who was moved."""

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.evaluate import changes
from indexer.evaluate.changes import CHANGES
from indexer.resample import resample
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

SPACING = (3.0, 1.5, 1.5)


@pytest.fixture(scope="module", params=["CT", "MR"])
def volume(request: pytest.FixtureRequest) -> Volume:
    """A trunk with one dense ball off centre, 24 slices of 64 x 80; air is -1000 (CT) or 0 (MR)."""
    slices, rows, columns = np.indices((24, 64, 80))
    trunk = ((rows - 32) / 26) ** 2 + ((columns - 40) / 34) ** 2 < 1
    ball = ((slices - 8) * 2.0) ** 2 + (rows - 20) ** 2 + (columns - 28) ** 2 < 8**2
    air, tissue, bone = (-1000.0, 40.0, 2000.0) if request.param == "CT" else (0.0, 300.0, 700.0)
    voxels = np.where(ball, bone, np.where(trunk, tissue, air)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.0], [0, 1.0, 0], [2.0, 0, 0]])
    affine[:3, 3] = (-40.0, -30.0, 10.0)
    refs = tuple(SliceRef(SOPInstanceUID(f"2.25.{n}"), None) for n in range(24))
    return Volume(voxels, affine, refs, request.param, "", ())


def ball_lps_mm(volume: Volume) -> NDArray[np.float64]:
    level = 950.0 if volume.modality == "CT" else 500.0
    found = np.argwhere(volume.voxels > level).mean(axis=0)
    return (volume.affine_lps_mm @ np.append(found, 1.0))[:3]


def test_all_keep_the_invariants_of_a_volume(volume: Volume) -> None:
    for name, change in CHANGES.items():
        changed = change(volume)
        assert changed.voxels.dtype == np.float32, name
        assert len(changed.slices) == len(changed.voxels), name
        assert np.isfinite(changed.voxels).all(), name
        assert changed.voxels is not volume.voxels or name.startswith("turned"), name


@pytest.mark.parametrize("name", [name for name in CHANGES if "half" not in name and "turned" not in name])
def test_the_patient_stays_in_place(volume: Volume, name: str) -> None:
    if name == name == "8 bits, soft tissue" and volume.modality == "CT":
        pytest.skip("nothing of a window is above it")
    assert ball_lps_mm(CHANGES[name](volume)) == pytest.approx(ball_lps_mm(volume), abs=1.0)


def test_the_patient_is_turned(volume: Volume) -> None:
    middle = volume.affine_lps_mm @ np.append((np.array(volume.voxels.shape) - 1) / 2, 1.0)
    before, after = (ball_lps_mm(one) - middle[:3] for one in (volume, changes.turned(volume, 15.0)))
    angle = np.degrees(np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0]))
    assert angle == pytest.approx(15.0, abs=0.1)
    assert after[2] == pytest.approx(before[2])


def test_other_storage_is_the_same_volume(volume: Volume) -> None:
    one, other = (resample(v, SPACING) for v in (volume, changes.stored_otherwise(volume)))
    assert one.origin_lps_mm == pytest.approx(other.origin_lps_mm)
    assert np.abs(one.voxels - other.voxels).max() < 1e-2
    assert changes.stored_otherwise(volume).slices[0] == volume.slices[-1]


def test_thick_slices(volume: Volume) -> None:
    thick = changes.thick_slices(volume, 5.0)
    assert thick.spacing_mm[0] == 6.0
    assert len(thick.voxels) == 8
    assert changes.thick_slices(thick, 5.0) is thick


def test_halves_are_halves(volume: Volume) -> None:
    lower, upper = CHANGES["lower half"](volume), CHANGES["upper half"](volume)
    assert np.array_equal(np.concatenate([lower.voxels, upper.voxels]), volume.voxels)
    assert upper.affine_lps_mm[2, 3] == 10.0 + 12 * 2.0


def test_kernels_and_noise(volume: Volume) -> None:
    detail = lambda one: float(np.abs(np.diff(one.voxels, axis=2)).max())  # noqa: E731
    soft, sharp = CHANGES["soft kernel"](volume), CHANGES["sharp kernel"](volume)
    assert detail(soft) < detail(volume) < detail(sharp)
    added = CHANGES["noise"](volume).voxels - volume.voxels
    low, high = np.percentile(volume.voxels, (1, 99))
    assert added.std() == pytest.approx(0.02 * (high - low), rel=0.05)


def test_compression_loses_a_little(volume: Volume) -> None:
    noisy = changes.noise(volume, 0.02)
    lost = changes.compressed(noisy, 12.0).voxels - noisy.voxels
    assert 0 < np.abs(lost).mean() < 0.05 * np.ptp(volume.voxels)
