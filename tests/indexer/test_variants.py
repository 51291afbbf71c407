"""Slabs that are changed as patients and scanners differ."""

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.insertion.scene import Scanner
from indexer.insertion.slabs import Slab
from indexer.insertion.variants import Variant
from indexer.resample import PatientGrid

SHAPE = (30, 90, 70)
SPAN = slice(4, 26)
SCANNER = Scanner(np.ones(3), 5.0)


def a_slab(modality: str = "CT") -> Slab:
    """A body with one organ, to the right of the midline."""
    z, x, y = np.indices(SHAPE)
    body = ((x - 45) / 40) ** 2 + ((y - 35) / 30) ** 2 <= 1
    organ = ((x - 62) / 14) ** 2 + ((y - 35) / 14) ** 2 + ((z - 15) / 8) ** 2 <= 1
    voxels = np.where(organ, 120, np.where(body, 40, -1000 if modality == "CT" else 0)).astype(np.float32)
    grid = PatientGrid(voxels, np.ones(SHAPE, np.bool_), np.zeros(3), np.array([3.0, 1.5, 1.5]), modality)
    return Slab(grid, body, organ, SPAN)


def variant(seed: int) -> Variant:
    return Variant(np.random.default_rng(seed))


def centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.argwhere(mask).mean(axis=0) / mask.shape)


@pytest.mark.parametrize("seed", range(6))
def test_masks_go_with_the_voxels(seed: int) -> None:
    slab = a_slab()
    posed = variant(seed).posed(slab)

    assert posed.grid.voxels.shape == posed.body.shape == posed.place.shape == posed.grid.inside.shape
    assert posed.span == SPAN
    assert posed.grid.voxels[posed.place].mean() == pytest.approx(120, abs=8)
    assert posed.grid.voxels[~posed.body].mean() < -940
    assert 0.6 < posed.place.sum() / slab.place.sum() < 1.6
    assert 0.6 < posed.body.sum() / slab.body.sum() < 1.6


def test_a_circle_that_is_only_turned_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.insertion.variants._STRETCH", (1.0, 1.0))
    _, x, y = np.indices(SHAPE)
    disc = (x - 45) ** 2 + (y - 35) ** 2 <= 20**2
    voxels = np.where(disc, 40, -1000).astype(np.float32)
    grid = PatientGrid(voxels, np.ones(SHAPE, np.bool_), np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")
    for seed in range(4):
        body = variant(seed).posed(Slab(grid, disc, disc, SPAN)).body
        across, deep = (np.ptp(np.flatnonzero(body.any(axis=axes))) + 1 for axes in ((0, 2), (0, 1)))
        assert across == pytest.approx(41, abs=1)
        assert deep == pytest.approx(41, abs=1)


def test_sides_change_and_seeds_tell() -> None:
    slab = a_slab()
    sides = {bool(centre(variant(seed).posed(slab).place)[1] > 0.5) for seed in range(12)}

    assert sides == {True, False}
    one, again, other = (variant(seed).posed(slab).grid.voxels for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_another_scan_shows_the_same_patient(modality: str) -> None:
    slab = a_slab(modality)
    scans = [variant(seed).scanned(slab.grid, SCANNER).voxels for seed in range(6)]
    inner, beside = ((slice(8, 22), slice(first, first + 14), slice(28, 42)) for first in (55, 18))

    for scan in scans:
        assert np.corrcoef(scan.ravel(), slab.grid.voxels.ravel())[0, 1] > 0.9
        assert scan[inner].std() < 25
    assert np.ptp([float(scan[beside].mean()) for scan in scans]) > 4
    assert np.ptp([float(scan[inner].std()) for scan in scans]) > 2
