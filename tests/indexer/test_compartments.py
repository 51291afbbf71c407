"""Compartments of bodies made of simple solids, on a grid of 3 x 1.5 x 1.5 mm."""

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.body import body_mask
from indexer.compartments import BONES, BRAIN, INNER, LUNGS, ORGANS, compartments
from indexer.resample import PatientGrid
from indexer.thinned import Thinned

SHAPE = (24, 160, 120)
Mask = NDArray[np.bool_]


def grid_of(voxels: NDArray[np.float32], modality: str = "CT") -> PatientGrid:
    spacing = np.array([3.0, 1.5, 1.5])
    return PatientGrid(voxels, np.ones(voxels.shape, bool), np.zeros(3), spacing, modality)


def disc(x: float, y: float, across: float, deep: float) -> Mask:
    """An upright cylinder around a place in the slice, semi-axes in voxels."""
    xs, ys = np.indices(SHAPE[1:])
    plane = ((xs - x) / across) ** 2 + ((ys - y) / deep) ** 2 <= 1
    return np.broadcast_to(plane, SHAPE)


def thorax(seed: int = 0) -> tuple[NDArray[np.float32], Mask, Mask]:
    """A chest with two lungs: voxels, the right lung, the left one."""
    noise = np.random.default_rng(seed).normal(0, 15, SHAPE).astype(np.float32)
    voxels = np.where(disc(80, 60, 72, 52), np.float32(40), np.float32(-1000)) + noise
    right, left = disc(112, 60, 24, 36), disc(48, 60, 24, 36)
    return np.where(right | left, -830 + noise, voxels), right, left


def found(voxels: NDArray[np.float32], modality: str = "CT") -> dict[str, Mask]:
    grid = grid_of(voxels, modality)
    return dict(compartments(Thinned(grid, body_mask(grid))))


def inside_by(mask: Mask, voxels: int) -> Mask:
    """What of a mask is so many voxels away from its edge in the slice, along x or y: 14 are 21 mm."""
    deep = mask.copy()
    for axis in (1, 2):
        for move in (-voxels, voxels):
            deep &= np.roll(mask, move, axis)
    return deep


def covered(part: Mask, mask: Mask) -> float:
    return float((part & mask).sum() / part.sum())


def test_both_lungs_are_found_and_little_else() -> None:
    voxels, right, left = thorax()

    lungs = found(voxels)[LUNGS]

    assert covered(right | left, lungs) > 0.85
    assert covered(lungs, right | left) > 0.85


@pytest.mark.parametrize("density", [15.0, 45.0], ids=["fluid", "consolidation"])
def test_what_fills_half_a_lung_stays_in_the_cavity(density: float) -> None:
    voxels, right, _ = thorax()
    filled = right & (np.indices(SHAPE)[2] < 60)
    voxels[filled] = density

    assert covered(filled, found(voxels)[LUNGS]) > 0.8


def test_air_beside_a_collapsed_lung_stays_in_the_cavity() -> None:
    voxels, right, _ = thorax()
    free = right & (np.indices(SHAPE)[2] > 75)
    voxels[free] = -995

    assert covered(free, found(voxels)[LUNGS]) > 0.8


def test_gas_is_no_lung() -> None:
    voxels, right, left = thorax()
    voxels[right | left] = -1000

    assert LUNGS not in found(voxels)


def a_head(opened_mm: float = 0.0) -> tuple[NDArray[np.float32], Mask, Mask]:
    """A skull, a gap of some width sawn into its front, brain and a haemorrhage in it: voxels and both."""
    voxels = np.full(SHAPE, -1000, np.float32)
    voxels[disc(80, 60, 58, 55)] = 40
    voxels[disc(80, 60, 52, 49)] = 900
    inside = disc(80, 60, 46, 43)
    voxels[inside] = 35
    half = round(opened_mm / 1.5 / 2)
    voxels[:, 80 - half : 80 + half, 103:109] = 20
    bleeding = disc(80, 60, 10, 10)
    voxels[bleeding] = 68
    return voxels, inside, bleeding


@pytest.mark.parametrize("opened_mm", [0, 50], ids=["closed", "after surgery"])
def test_the_brain_is_what_the_skull_encloses(opened_mm: float) -> None:
    voxels, inside, bleeding = a_head(opened_mm)

    masks = found(voxels)

    assert covered(inside, masks[BRAIN]) > 0.85
    assert covered(masks[BRAIN], inside) > 0.95
    assert covered(bleeding, masks[BRAIN]) == 1
    assert not (inside_by(inside, 14) & masks[BONES]).any()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_pelvis_is_no_skull(share: float) -> None:
    """Soft tissue within a ring of bone that is open in front, or thin for the body around."""
    voxels = np.full(SHAPE, -1000, np.float32)
    voxels[disc(80, 60, 75, 56)] = -100
    voxels[disc(80, 60, 50, 38)] = 900
    voxels[disc(80, 60, 47, 35)] = 40
    voxels[:, round(80 - 50 * share) : round(80 + 50 * share), 60:] = -100

    assert BRAIN not in found(voxels)


def test_a_lesion_stays_in_its_organ() -> None:
    voxels = np.full(SHAPE, -1000, np.float32)
    voxels[disc(80, 60, 72, 52)] = -100
    liver, lesion = disc(105, 60, 35, 40), disc(105, 60, 9, 9)
    voxels[liver] = 100
    voxels[lesion] = 5

    masks = found(voxels)

    assert covered(liver, masks[ORGANS]) > 0.9
    assert covered(lesion, masks[ORGANS]) == 1
    assert BRAIN not in masks


def test_a_dark_lesion_that_opens_to_the_fat_around_stays_in_its_organ() -> None:
    voxels = np.full(SHAPE, -1000, np.float32)
    voxels[disc(80, 60, 72, 52)] = -100
    liver, lesion = disc(105, 60, 35, 40), disc(133, 60, 12, 12)
    voxels[liver] = 50
    voxels[lesion & liver] = -12

    assert covered(lesion & liver, found(voxels)[ORGANS]) > 0.7


def test_a_lesion_at_the_surface_of_a_bone_stays_in_it() -> None:
    voxels = np.full(SHAPE, -1000, np.float32)
    voxels[disc(80, 60, 72, 52)] = 40
    bone, lesion = disc(80, 40, 26, 20), disc(80, 53, 8, 8)
    voxels[bone] = 500
    voxels[lesion & bone] = 45

    masks = found(voxels)

    assert covered(lesion & bone, masks[BONES]) > 0.95
    assert not (masks[BONES] & ~disc(80, 40, 26 + 14, 20 + 14)).any()


def test_contrast_medium_is_no_bone() -> None:
    """A heart as dense as marrow, beside a vertebra with a cortex."""
    voxels = np.full(SHAPE, -1000, np.float32)
    voxels[disc(80, 60, 72, 52)] = 40
    heart, vertebra = disc(95, 70, 20, 18), disc(80, 30, 16, 12)
    voxels[heart] = 330
    voxels[vertebra] = 700
    voxels[disc(80, 30, 13, 9)] = 260

    bones = found(voxels)[BONES]

    assert covered(heart, bones) == 0
    assert covered(vertebra, bones) > 0.8


def test_the_brain_is_neither_an_organ_of_the_trunk_nor_far_inside_bone() -> None:
    voxels, _, _ = a_head()

    masks = found(voxels)

    assert not (masks[BRAIN] & masks.get(ORGANS, np.zeros(SHAPE, np.bool_))).any()
    assert not (inside_by(masks[BRAIN], 14) & masks[BONES]).any()


def test_mr_knows_depth_alone() -> None:
    voxels = np.where(disc(80, 60, 72, 52), np.float32(300), np.float32(0))
    voxels += np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32)

    masks = found(voxels, "MR")

    assert set(masks) == {INNER}
    assert not masks[INNER][:, 80, :15].any()
    assert masks[INNER][:, 80, 60].all()
