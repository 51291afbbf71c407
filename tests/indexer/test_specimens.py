"""Slabs of one chest with findings inserted, seen by a small network: what is drawn, how often, and where."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from indexer.bundle import read_bundle
from indexer.encoder import MonaiEncoder
from indexer.insertion.findings import CLEAN, GROUND_GLASS, HAEMORRHAGE, NODULE, PNEUMOTHORAX, of_compartment
from indexer.regions import Rows
from indexer.specimens import Specimen, specimens_of
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

SLICES, SPACING_MM = 36, 3.0


@pytest.fixture(scope="module")
def encoder() -> MonaiEncoder:
    tiny = read_bundle("tiny")
    pooling = tiny.pooling.model_copy(update={"finer": "layer1"})
    return MonaiEncoder(tiny.model_copy(update={"pooling": pooling}), "cpu", threads=1)


def chest() -> Volume:
    _, y, x = np.indices((SLICES, 80, 110))
    body = ((x - 55) / 52) ** 2 + ((y - 40) / 36) ** 2 <= 1
    lungs = ((np.abs(x - 55) - 24) / 19) ** 2 + ((y - 40) / 27) ** 2 <= 1
    voxels = np.where(lungs, -840.0, np.where(body, 45.0, -1000.0)).astype(np.float32)
    voxels += np.random.default_rng(1).normal(0, 12, voxels.shape).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.eye(3)) * SPACING_MM
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(SLICES))
    return Volume(voxels, affine, slices, "CT", "", ())


@pytest.fixture(scope="module")
def specimens(encoder: MonaiEncoder) -> list[Specimen]:
    return list(specimens_of(chest(), "P", "series", encoder, "LUNGS", ("testing",)))


def test_a_slab_is_seen_clean_first(specimens: list[Specimen]) -> None:
    first, *others = specimens

    assert first.example.label == CLEAN
    assert first.in_gallery
    assert {one.role for one in others} == {"testing"}


def test_clean_slabs_show_what_lies_beside_the_compartment(specimens: list[Specimen]) -> None:
    for one in specimens:
        assert len(one.example.others) > 0 if one.role == "clean" else not len(one.example.others)
        own = {row.tobytes() for row in one.example.features}
        assert not own & {row.tobytes() for row in one.example.others}


def test_a_gallery_holds_every_finding_and_size_in_two_drawings(specimens: list[Specimen]) -> None:
    for finding in of_compartment("LUNGS"):
        for size_mm in finding.shown_mm:
            first, second = (one for one in specimens if (one.finding, one.size_mm) == (finding, size_mm))
            assert first.example.findings[finding.name].any()
            assert not _equal(first.example.features, second.example.features)


def test_cells_of_a_finding_differ_from_the_same_cells_without_it(specimens: list[Specimen]) -> None:
    clean = next(one for one in specimens if one.role == "clean")
    before = {tuple(place): row for place, row in zip(clean.places, clean.example.features, strict=True)}
    for finding in (NODULE, GROUND_GLASS, PNEUMOTHORAX):
        one = next(one for one in specimens if one.role == "testing" and one.finding is finding)
        changed = [
            float(np.linalg.norm(row - before[tuple(place)])) if tuple(place) in before else 0.0
            for place, row in zip(one.places, one.example.features, strict=True)
        ]
        assert one.example.findings[finding.name][int(np.argmax(changed))] > 0


def test_the_same_arguments_give_the_same_specimens(specimens: list[Specimen], encoder: MonaiEncoder) -> None:
    again = next(specimens_of(chest(), "P", "series", encoder, "LUNGS", ()))

    assert _equal(again.example.features, specimens[0].example.features)


def head() -> Volume:
    """A skull with a brain of 230 mL a slab, on the air of a room."""
    _, y, x = np.indices((SLICES, 70, 80))
    across, deep = (x - 40) / 34, (y - 35) / 30
    radius = np.hypot(across, deep)
    voxels = np.select([radius < 0.75, radius < 0.9, radius < 1], [35.0, 900.0, 40.0], -1000.0)
    voxels += np.random.default_rng(1).normal(0, 4, voxels.shape)
    return replace(chest(), voxels=voxels.astype(np.float32))


def test_a_compartment_of_few_patients_is_taught_by_slabs_of_others_and_tested_on_slabs_as_they_are() -> None:
    tiny = read_bundle("tiny")
    deep = tiny.pooling.model_copy(update={"layer": "layer3"})
    encoder = MonaiEncoder(tiny.model_copy(update={"pooling": deep}), "cpu", threads=1)
    made = list(specimens_of(head(), "P", "series", encoder, "BRAIN", ("training", "testing")))
    slabs = {one.slab for one in made}
    teaching = [one for one in made if one.role == "training"]
    labels = Counter(one.example.label for one in teaching)

    assert labels[CLEAN] == 2 * len(slabs)  # changed ones: as they are, clean slabs have a role of their own
    assert labels[HAEMORRHAGE.name] == 3 * len(slabs)
    assert labels[""] == 8 * len(slabs)
    assert not any(one.in_gallery for one in teaching)
    assert Counter(one.example.label for one in made if one.in_gallery) == {
        CLEAN: len(slabs),
        HAEMORRHAGE.name: 2 * len(slabs),
    }
    for one in made:
        assert one.fine is not None
        assert len(one.fine.first) > 0
        assert set(one.fine.findings) == ({HAEMORRHAGE.name} if one.example.label != CLEAN else set())
        only_places = one.role == "training" and one.example.label != CLEAN
        assert (len(one.example.features) == len(one.whole) == 0) == only_places


def test_lungs_are_taught_by_findings_of_others_and_by_clean_slabs_as_they_are(encoder: MonaiEncoder) -> None:
    made = list(specimens_of(chest(), "P", "series", encoder, "LUNGS", ("training",)))
    slabs = {one.slab for one in made}
    singles = Counter(one.example.label for one in made if one.role == "training" and one.finding)
    shown = [(one, size) for one in of_compartment("LUNGS") for size in one.shown_mm]

    assert [one.role for one in made if not one.example.findings] == ["clean"] * len(slabs)
    for finding, size in shown:
        changed = 2 if size == finding.shown_mm[-1] else 0
        assert singles[finding.label(size)] == (1 + changed) * len(slabs)


def _equal(first: Rows, second: Rows) -> bool:
    return first.shape == second.shape and bool(np.array_equal(first, second))
