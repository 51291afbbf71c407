"""CT stored through a window: air and lungs are given back, other volumes stay as they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.body import body_mask
from indexer.clipping import patient_grid
from indexer.evaluate.changes import windowed
from indexer.resample import resample
from indexer.volume import Volume, load_volume, plan_series

SPACING_MM = (6.0, 3.0, 3.0)
X, Y = np.meshgrid(np.arange(120), np.arange(110), indexing="ij")


def a_chest() -> Volume:
    """Fat around muscle, two lungs, bone, and air around it: 120 x 110 voxels of 3 mm, eight slices."""
    plane = np.full(X.shape, -1000.0)
    for (x, y, rx, ry), hu in {
        (60, 55, 45, 32): -100.0,
        (60, 55, 40, 27): 50.0,
        (42, 55, 13, 20): -840.0,
        (78, 55, 13, 20): -840.0,
        (60, 35, 5, 5): 700.0,
    }.items():
        plane[((X - x) / rx) ** 2 + ((Y - y) / ry) ** 2 <= 1] = hu
    affine = np.array([[0.0, 0, 3, 0], [0, 3, 0, 0], [6, 0, 0, 0], [0, 0, 0, 1]])
    return Volume(np.repeat(plane[None].astype(np.float32), 8, axis=0), affine, (), "CT", "", ())


def test_air_and_lungs_that_a_window_cuts_off_are_given_back() -> None:
    chest = a_chest()
    whole, cut = resample(chest, SPACING_MM), windowed(chest, (-160.0, 240.0))

    grid = patient_grid(cut, SPACING_MM)

    assert (body_mask(grid) == body_mask(whole)).mean() > 0.99
    lung = whole.voxels == -840
    assert np.median(grid.voxels[lung]) == pytest.approx(-850)
    assert np.abs(np.clip(grid.voxels, -1000, 240) - np.clip(whole.voxels, -1000, 240)).mean() < 30
    assert body_mask(resample(cut, SPACING_MM)).all()  # as it would be otherwise


@pytest.mark.parametrize("case", ["whole", "tissue alone", "MR"])
def test_other_volumes_stay_as_they_are(case: str) -> None:
    chest = a_chest()
    volume = {
        "whole": chest,
        "tissue alone": replace(chest, voxels=np.random.default_rng(0).normal(40, 20, (8, 120, 110)).astype("f4")),
        "MR": replace(windowed(chest, (-160.0, 240.0)), modality="MR"),
    }[case]

    assert (patient_grid(volume, SPACING_MM).voxels == resample(volume, SPACING_MM).voxels).all()


def test_the_body_of_a_real_chest_is_found_through_a_soft_tissue_window(real_data: Path) -> None:
    files = sorted((real_data / "ct-chest-rad1").glob("*.dcm"))
    chest = load_volume(plan_series(files).stacks[0])

    found = body_mask(patient_grid(windowed(chest, (-160.0, 240.0)), SPACING_MM))

    assert (found == body_mask(resample(chest, SPACING_MM))).mean() > 0.95
