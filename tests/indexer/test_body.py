from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.body import body_mask
from indexer.errors import Parked
from indexer.resample import PatientGrid, resample
from indexer.volume import load_volume, plan_series

SHAPE = (6, 120, 110)
X, Y = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[2]), indexing="ij")


def disc(x: float, y: float, rx: float, ry: float) -> NDArray[np.bool_]:
    return ((X - x) / rx) ** 2 + ((Y - y) / ry) ** 2 <= 1


TRUNK = disc(60, 60, 42, 30)


def grid_of(plane: NDArray[np.float64], modality: str) -> PatientGrid:
    voxels = np.repeat(plane[None].astype(np.float32), SHAPE[0], axis=0)
    return PatientGrid(voxels, np.ones(SHAPE, bool), np.zeros(3), np.array([3.0, 1.5, 1.5]), modality)


def agreement(mask: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Overlap as Dice coefficient, slice by slice the same."""
    wanted = np.repeat(expected[None], SHAPE[0], axis=0)
    return float(2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()))


def test_ct_lungs_are_in_and_table_and_clothes_are_out() -> None:
    plane = np.full(SHAPE[1:], -1000.0)
    plane[TRUNK] = 40
    plane[disc(40, 60, 14, 20) | disc(80, 60, 14, 20)] = -850  # lungs
    plane[:, 20:22] = 300  # table top, 3 mm
    plane[disc(60, 60, 46, 34) & ~disc(60, 60, 45, 33)] = -300  # a blanket

    assert agreement(body_mask(grid_of(plane, "CT")), TRUNK) > 0.97


def test_a_lung_that_the_field_of_view_cuts_is_body_and_foam_is_not() -> None:
    plane = np.full(SHAPE[1:], -1000.0)
    plane[disc(90, 60, 50, 30)] = 40
    plane[disc(100, 60, 26, 20)] = -850  # reaches the last rows, which open it to the air beside the chest
    plane[117:] = -1024  # padding
    whole = disc(90, 60, 50, 30) & (X < 117)
    plane[:, 12:28] = np.where(whole[:, 12:28], 40.0, -920.0)  # a mattress

    assert agreement(body_mask(grid_of(plane, "CT")), whole) > 0.97


def test_ct_arms_beside_the_trunk_are_body() -> None:
    arms = disc(8, 60, 7.5, 20) | disc(112, 60, 7.5, 20)
    plane = np.where(TRUNK | arms, 40.0, -1000.0)

    mask = body_mask(grid_of(plane, "CT"))

    assert agreement(mask, TRUNK | arms) > 0.97


def test_mr_muscle_beside_much_brighter_fat_is_body() -> None:
    generator = np.random.default_rng(0)
    plane = np.abs(generator.normal(0, 8, SHAPE[1:]))  # noise of the air
    plane[TRUNK] = 900  # fat
    plane[disc(60, 60, 38, 24)] = 130  # muscle

    assert agreement(body_mask(grid_of(plane, "MR")), TRUNK) > 0.95


def test_the_body_may_fill_the_whole_field_of_view() -> None:
    mask = body_mask(grid_of(np.full(SHAPE[1:], 40.0) + X, "CT"))

    assert mask.all()


def test_ct_of_nothing_but_air_parks() -> None:
    with pytest.raises(Parked, match="no body in the volume: no voxel exceeds -400"):
        body_mask(grid_of(-1000.0 + 0.1 * X, "CT"))


def test_what_was_not_imaged_is_no_body() -> None:
    plane = np.full(SHAPE[1:], 40.0) + X
    grid = grid_of(plane, "CT")
    grid.inside[:, :, :50] = False

    assert not body_mask(grid)[:, :, :50].any()


def test_a_body_thinner_than_the_opening_is_kept() -> None:
    plane = np.full(SHAPE[1:], -1000.0)
    plane[30:90, 50:52] = 40

    assert body_mask(grid_of(plane, "CT")).any()


@pytest.mark.parametrize(
    ("series", "least", "most"),
    [("ct-chest-lidc0314", 0.3, 0.5), ("mr-prostate-3t-a", 0.7, 1.0), ("mr-brain-vol-flair", 0.4, 0.7)],
)
def test_the_body_is_a_sensible_share_of_real_series(
    real_data: Path, series: str, least: float, most: float
) -> None:
    volume = load_volume(plan_series(sorted((real_data / series).glob("*.dcm"))).stacks[0])
    grid = resample(volume, (6.0, 3.0, 3.0))

    assert least < body_mask(grid)[grid.inside].mean() < most
