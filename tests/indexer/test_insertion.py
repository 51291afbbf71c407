"""Findings inserted into a simple chest: where they lie, how dense they are, and that nothing else changes."""

from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.body import body_mask
from indexer.compartments import BRAIN, LUNGS, compartments
from indexer.insertion import findings
from indexer.insertion.findings import ALL, Finding, of_compartment
from indexer.insertion.insert import Inserted, insert
from indexer.insertion.scene import NoPlace, scanner_of
from indexer.insertion.slabs import slabs_of
from indexer.insertion.styles import TESTING, TRAINING, Style
from indexer.resample import PatientGrid
from indexer.thinned import Thinned

SHAPE = (38, 130, 96)


def chest(noise_hu: float = 12.0) -> PatientGrid:
    z, x, y = np.indices(SHAPE)
    body = ((x - 65) / 62) ** 2 + ((y - 48) / 44) ** 2 <= 1
    lungs = (((np.abs(x - 65) - 28) / 22) ** 2 + ((y - 48) / 32) ** 2 <= 1) & (z >= 0)
    voxels = np.where(lungs, -840.0, np.where(body, 45.0, -1000.0))
    voxels += np.random.default_rng(1).normal(0, noise_hu, SHAPE)
    return PatientGrid(
        voxels.astype(np.float32), np.ones(SHAPE, bool), np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT"
    )


def inserted(
    finding: Finding, size_mm: float, style: Style = TESTING, seed: int = 3
) -> tuple[PatientGrid, Inserted]:
    grid = chest()
    body = body_mask(grid)
    place = compartments(Thinned(grid, body))[LUNGS]
    scanner = scanner_of(grid, body, (3.0, 0.8, 0.8))
    return grid, insert(grid, body, place, slice(3, 35), finding, size_mm, style, scanner, (seed,))


@pytest.mark.parametrize("style", [TRAINING, TESTING], ids=lambda style: style.name)
@pytest.mark.parametrize("finding", of_compartment(LUNGS), ids=lambda finding: finding.name)
def test_a_finding_has_its_density_and_changes_nothing_else(finding: Finding, style: Style) -> None:
    clean, made = inserted(finding, finding.shown_mm[-1], style)
    core, outside = made.share > 0.9, made.share < 1e-3
    if finding is findings.GROUND_GLASS:
        core = made.share > 0.2

    expected = {
        findings.NODULE: (-25, 80),
        findings.CONSOLIDATION: (-25, 80),
        findings.GROUND_GLASS: (-700, -400),
        findings.EFFUSION: (-15, 45),
        findings.PNEUMOTHORAX: (-1010, -950),
        findings.BULLAE: (-1010, -940),
    }
    low, high = expected[finding]
    assert core.sum() > 50
    assert low < np.median(made.grid.voxels[core]) < high
    assert np.abs(made.grid.voxels - clean.voxels)[outside].max() < 2.0


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    _, one = inserted(findings.NODULE, 20)
    _, again = inserted(findings.NODULE, 20)
    _, other = inserted(findings.NODULE, 20, seed=4)

    assert np.array_equal(one.grid.voxels, again.grid.voxels)
    assert not np.array_equal(one.grid.voxels, other.grid.voxels)


def test_a_larger_size_is_larger() -> None:
    volumes = [inserted(findings.NODULE, size)[1].share.sum() * 6.75 / 1000 for size in (12, 35)]

    assert volumes == sorted(volumes)
    assert 10 < volumes[1] < 45  # a ball of 35 mm holds 22 mL


def test_a_finding_is_as_noisy_as_the_scan() -> None:
    """Differences between neighbours in a lesion are those of the tissue around."""

    def roughness(voxels: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
        both = where[:, 1:] & where[:, :-1]
        return float(np.diff(voxels, axis=1)[both].std())

    voxels = np.random.default_rng(2).normal(60, 12, (24, 80, 80)).astype(np.float32)
    inside = np.ones(voxels.shape, bool)
    grid = PatientGrid(voxels, inside, np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")
    scanner = scanner_of(grid, inside, (3.0, 0.8, 0.8))
    made = insert(grid, inside, inside, slice(0, 24), findings.HYPODENSE, 35, TRAINING, scanner, (1,))

    assert scanner.noise == pytest.approx(12, rel=0.35)
    assert 0.4 < roughness(made.grid.voxels, made.share > 0.999) / roughness(voxels, made.share == 0) < 1.6


@pytest.mark.parametrize("style", [TRAINING, TESTING], ids=lambda style: style.name)
@pytest.mark.parametrize("seed", range(4))
def test_a_lytic_lesion_takes_the_place_of_bone(style: Style, seed: int) -> None:
    """Not of what lies between two bones or beside them, though the compartment holds it."""
    voxels = np.random.default_rng(2).normal(40, 12, SHAPE).astype(np.float32)
    bone = np.zeros(SHAPE, np.bool_)
    bone[:, 30:60, 30:60] = bone[:, 80:86] = True
    voxels[bone] += 400
    inside = np.ones(SHAPE, np.bool_)
    grid = PatientGrid(voxels, inside, np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")
    scanner = scanner_of(grid, inside, (3.0, 0.8, 0.8))
    made = insert(grid, inside, inside, slice(3, 35), findings.LYTIC, 24, style, scanner, (seed,))

    assert made.share[bone].sum() > 0.7 * made.share.sum()
    core = made.share > 0.95
    assert 20 < np.median(made.grid.voxels[core]) < 90
    assert (voxels - made.grid.voxels)[core & bone].min() > 150


def test_a_lytic_lesion_leaves_vessels_beside_bone_alone() -> None:
    """As dense as bone, they lie where its compartment goes on beside it."""
    voxels = np.random.default_rng(2).normal(40, 12, SHAPE).astype(np.float32)
    bone, vessel, place = (np.zeros(SHAPE, np.bool_) for _ in range(3))
    bone[:, 30:60, 30:60] = vessel[:, 63:75, 30:60] = place[:, 22:68, 22:68] = True
    voxels[bone | vessel] += 400
    grid = PatientGrid(voxels, np.ones(SHAPE, np.bool_), np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")
    scanner = scanner_of(grid, grid.inside, (3.0, 0.8, 0.8))
    seeds = range(6)
    made = [
        insert(grid, grid.inside, place, slice(3, 35), findings.LYTIC, 35, TESTING, scanner, (seed,))
        for seed in seeds
    ]

    assert max(one.share[bone].max() for one in made) > 0.95
    assert max(one.share[vessel].max() for one in made) < 0.2


def test_no_place_says_so() -> None:
    grid = chest()
    body = body_mask(grid)
    nowhere = np.zeros(SHAPE, bool)
    with pytest.raises(NoPlace, match="less than 100 mL of lung"):
        insert(
            grid, body, nowhere, slice(3, 35), findings.NODULE, 20, TESTING, scanner_of(grid, body, (3, 1, 1)), (1,)
        )


def test_training_and_testing_share_no_setting() -> None:
    for one in fields(Style):
        first, second = getattr(TRAINING, one.name), getattr(TESTING, one.name)
        if one.name == "scale":  # sizes are what is asked for; training varies about them
            continue
        if isinstance(first, str):
            assert first != second
        else:
            assert first[1] < second[0] or second[1] < first[0], one.name


def test_sizes_rise_and_galleries_hold_some_of_them() -> None:
    for one in ALL:
        assert list(one.sizes_mm) == sorted(set(one.sizes_mm))
        assert set(one.shown_mm) <= set(one.sizes_mm)
    assert findings.NODULE.label(20) == "nodule 20 mm"
    assert findings.EFFUSION.label(35) == "pleural effusion"


def test_slabs_of_a_long_compartment_overlap_and_reach_both_ends() -> None:
    long = np.ones((70, 12, 12), np.bool_)  # 210 mm
    grid = PatientGrid(np.zeros(long.shape, np.float32), long, np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")
    slabs = list(slabs_of(grid, long, {LUNGS: long}, LUNGS))
    bottoms = [round(one.grid.origin_lps_mm[2] / 3) + one.span.start for one in slabs]

    assert bottoms == [0, 19, 38]
    assert {one.span.stop - one.span.start for one in slabs} == {32}


def test_a_compartment_no_longer_than_a_slab_is_cut_where_chunks_show_a_part_of_it() -> None:
    brain = np.zeros((80, 12, 12), np.bool_)
    brain[22:58] = True  # 108 mm
    grid = PatientGrid(np.zeros(brain.shape, np.float32), brain, np.zeros(3), np.array([3.0, 1.5, 1.5]), "CT")
    slabs = list(slabs_of(grid, np.ones(brain.shape, np.bool_), {BRAIN: brain}, BRAIN))
    bottoms = [round(one.grid.origin_lps_mm[2] / 3) + one.span.start for one in slabs]

    assert len(bottoms) >= 3
    assert bottoms[0] < 22 < 58 < bottoms[-1] + 32
    assert all(one.place[one.span].any() for one in slabs)


def test_slabs_lie_where_the_compartment_is_wide() -> None:
    grid = chest()
    body = body_mask(grid)
    masks = compartments(Thinned(grid, body))
    (slab,) = slabs_of(grid, body, masks, LUNGS)

    assert (slab.span.stop - slab.span.start) * 3.0 == pytest.approx(96)
    assert slab.place.any()
    corner = slab.grid.origin_lps_mm  # x and y of the grid run against LPS
    assert corner[0] <= 0
    assert slab.grid.voxels.shape == slab.body.shape == slab.place.shape
