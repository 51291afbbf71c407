import shutil
import subprocess
from collections import defaultdict
from dataclasses import replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.phantoms import (
    VENDORS,
    Exam,
    Finding,
    Grid,
    Orientation,
    Patient,
    Region,
    Sequence,
    Vendor,
    archive,
    datasets,
    voxels,
)
from node.phantoms.scanner import acquire
from node.phantoms.solids import (
    BelowDomes,
    Both,
    Capsule,
    Column,
    Ellipsoid,
    Grown,
    HalfSpace,
    Outside,
    Solid,
    floats,
)

Array = NDArray[np.float32]

SEEDS = (1, 4, 9)
SMALL = {"matrix": 64, "spacing_mm": 20.0}


def around(patient: Patient, place_mm: tuple[float, float, float], sequence: Sequence = Sequence.CT) -> Array:
    """Voxels in a cube of 12 mm around a place of the standard adult, scaled to the patient."""
    x, y, z = np.multiply(place_mm, patient.scale) - 6
    return voxels(patient, Grid(Orientation.AXIAL, (x, y, z), (2.0, 2.0, 2.0), (7, 7, 7)), sequence)


def to_bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("solid", "inside", "outside"),
    [
        (Ellipsoid((5, 0, 0), (10, 20, 30)), (5, 0, 29), (5, 0, 31)),
        (Ellipsoid((0, 0, 0), (5, 5, 40), roll_deg=90), (39, 0, 0), (0, 0, 39)),
        (Capsule((0, 0, 0), (0, 0, 100), 4, 8), (7, 0, 100), (7, 0, 0)),
        (Column(((0, 10, 20, 5), (50, 30, 20, 5)), smoothing_mm=1), (25, 5, 48), (25, 5, 10)),
        (BelowDomes(((0, 0, 50, 30, 30, 40),)), (0, 0, 49), (30, 0, 11)),
        (HalfSpace("y", "above", 3), (0, 4, 0), (0, 2, 0)),
        (Both((Ellipsoid((0, 0, 0), (9, 9, 9)), HalfSpace("x", "below", 0))), (-5, 0, 0), (5, 0, 0)),
        (Grown(Ellipsoid((0, 0, 0), (9, 9, 9)), 3), (11, 0, 0), (13, 0, 0)),
        (Outside(Ellipsoid((0, 0, 0), (9, 9, 9))), (13, 0, 0), (0, 0, 0)),
    ],
)
def test_solid_knows_its_inside(solid: Solid, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    def at(point: tuple[float, ...]) -> float:
        x, y, z = (floats(value).reshape(1, 1, 1) for value in point)
        return float(solid.distance(x, y, z).item())

    assert at(inside) < 0 < at(outside)
    assert all(
        low <= value <= high for low, value, high in zip(solid.box.low_mm, inside, solid.box.high_mm, strict=True)
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("place_mm", "low", "high"),
    [
        ((-70, 20, 230), -950, -500),
        ((75, 20, 190), -950, -500),
        ((-78, 0, 15), 40, 80),
        ((92, 38, 42), 30, 70),
        ((90, 6, -264), 200, 400),
        ((30, -25, 120), 20, 80),
        ((30, 10, 520), 15, 50),
        ((0, 0, 260), -1010, 60),
        ((0, -200, 0), -1001, -999),
    ],
    ids=["right lung", "left lung", "liver", "spleen", "femoral head", "heart", "brain", "airway or wall", "air"],
)
def test_hounsfield_units_are_those_of_the_organ(
    seed: int, place_mm: tuple[float, float, float], low: float, high: float
) -> None:
    median = float(np.median(around(Patient.from_seed(seed), place_mm)))

    assert low <= median <= high


def test_compact_bone_is_dense() -> None:
    patient = Patient.from_seed(2)
    x, y, z = np.multiply((-75, -100, 440), patient.scale)
    skull = voxels(patient, Grid(Orientation.AXIAL, (x, y, z), (10, 2, 2), (12, 110, 76)), Sequence.CT)

    assert np.percentile(skull, 98) > 600


def test_every_orientation_sees_the_same_place() -> None:
    patient = Patient.from_seed(3, finding=Finding.LIVER_LESION)
    n, step = 24, 5.0
    low, high = (-120.0, -60.0, -20.0), tuple(v + step * (n - 1) for v in (-120.0, -60.0, -20.0))
    spacing, shape = (step, step, step), (n, n, n)

    axial = voxels(patient, Grid(Orientation.AXIAL, low, spacing, shape), Sequence.CT)
    coronal = voxels(patient, Grid(Orientation.CORONAL, (low[0], low[1], high[2]), spacing, shape), Sequence.CT)
    sagittal = voxels(patient, Grid(Orientation.SAGITTAL, (low[0], low[1], high[2]), spacing, shape), Sequence.CT)

    assert axial.std() > 50
    np.testing.assert_array_equal(coronal[:, ::-1].transpose(1, 0, 2), axial)
    np.testing.assert_array_equal(sagittal[:, ::-1].transpose(1, 2, 0), axial)


def test_detail_does_not_depend_on_what_else_is_in_the_grid() -> None:
    patient = Patient.from_seed(5)
    large = voxels(patient, Grid(Orientation.AXIAL, (-150, -100, 50), (6, 3, 3), (12, 60, 100)), Sequence.CT)
    part = voxels(patient, Grid(Orientation.AXIAL, (-90, -40, 74), (6, 3, 3), (5, 30, 40)), Sequence.CT)

    np.testing.assert_allclose(part, large[4:9, 20:50, 20:60], atol=0.1)


def haemorrhage_mm(exam: Exam, near_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of what is as dense as blood near a place, found as a receiver would: by pixels and headers alone."""
    places = []
    for dataset in datasets(exam):
        hounsfield = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        rows, columns = np.nonzero((hounsfield > 55) & (hounsfield < 85))
        along_row, along_column = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_mm, column_mm = (float(value) for value in dataset.PixelSpacing)
        place = np.array(dataset.ImagePositionPatient, dtype=float)
        places.append(place + np.outer(columns * column_mm, along_row) + np.outer(rows * row_mm, along_column))
    found = np.concatenate(places)
    return np.asarray(found[(np.abs(found - near_mm) < (20, 28, 23)).all(axis=1)].mean(axis=0))


@pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
def test_headers_place_a_landmark_alike_in_every_orientation(vendor: Vendor) -> None:
    patient = Patient.from_seed(6, finding=Finding.HAEMORRHAGE)
    exam = Exam(patient, Region.HEAD, spacing_mm=4.0, matrix=80, vendor=vendor)

    drawn = np.multiply(patient.near("haemorrhage", (32.0, -4.0, 490.0), 3.0), patient.scale)
    drawn += exam.frame_offset_lps_mm

    axial, coronal, sagittal = (haemorrhage_mm(replace(exam, orientation=o), drawn) for o in Orientation)

    np.testing.assert_allclose(axial, drawn, atol=2.0)
    np.testing.assert_allclose(coronal, axial, atol=0.7)
    np.testing.assert_allclose(sagittal, axial, atol=0.7)


def test_two_seeds_are_two_people() -> None:
    grid = Grid(Orientation.AXIAL, (-180, -120, 0), (20, 6, 6), (8, 40, 60))
    first, second = (voxels(Patient.from_seed(seed), grid, Sequence.CT) for seed in (7, 8))

    assert Patient.from_seed(7) == Patient.from_seed(7)
    assert np.mean(np.abs(first - second) > 100) > 0.1


@pytest.mark.parametrize("finding", [f for f in Finding if f is not Finding.NONE])
def test_finding_is_the_only_difference_to_the_healthy_patient(finding: Finding) -> None:
    healthy = Patient.from_seed(12)
    ill = replace(healthy, finding=finding)
    grid = Grid(Orientation.AXIAL, (-150, -120, -60), (10, 5, 5), (64, 48, 60))
    changed = voxels(healthy, grid, Sequence.T2) != voxels(ill, grid, Sequence.T2)

    z = np.flatnonzero(changed.any(axis=(1, 2))) * 10.0 - 60
    in_head = finding in {Finding.HAEMORRHAGE, Finding.BRAIN_TUMOUR}
    assert len(z) > 0
    assert z.min() > 440 if in_head else z.max() < 300
    assert changed.mean() < 0.05


def test_two_sequences_share_anatomy() -> None:
    patient = Patient.from_seed(10)
    grid = Grid(Orientation.AXIAL, (-90, -120, 470), (5, 2, 2), (10, 110, 90))
    t1, t2, flair = (voxels(patient, grid, sequence) for sequence in (Sequence.T1, Sequence.T2, Sequence.FLAIR))

    fluid = t2 > 0.93
    assert fluid.sum() > 500
    assert np.median(flair[fluid]) < 0.2
    assert np.median(t1[fluid]) < 0.25
    np.testing.assert_array_equal(t1 > 0, t2 > 0)


def test_contrast_enhances_vessels_not_bile() -> None:
    patient = Patient.from_seed(4)
    grid = Grid(Orientation.AXIAL, (-20, 0, 60), (10, 2, 2), (6, 40, 40))
    gain = voxels(patient, grid, Sequence.CT, contrast=True) - voxels(patient, grid, Sequence.CT)

    assert gain.max() == pytest.approx(120, abs=1)
    assert gain.min() > -1


@pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
@pytest.mark.parametrize("sequence", [Sequence.CT, Sequence.T2])
def test_written_file_holds_what_was_scanned(vendor: Vendor, sequence: Sequence) -> None:
    exam = Exam(
        Patient.from_seed(3),
        Region.ABDOMEN,
        sequence,
        spacing_mm=40.0,
        matrix=64,
        vendor=vendor,
    )
    acquired = acquire(exam)

    read = [dcmread(BytesIO(to_bytes(dataset))) for dataset in datasets(exam)]

    assert [dataset.InstanceNumber for dataset in read] == list(range(1, len(acquired.stored) + 1))
    if exam.vendor.descending:
        read.reverse()
    assert [float(dataset.SliceLocation) for dataset in read] == sorted(float(d.SliceLocation) for d in read)
    for dataset, stored in zip(read, acquired.stored, strict=True):
        np.testing.assert_array_equal(dataset.pixel_array, stored)
        assert dataset.file_meta.TransferSyntaxUID == exam.vendor.transfer_syntax
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert stored[32, 32] != stored[0, 0]


@pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
def test_rescaled_pixels_are_hounsfield_units(vendor: Vendor) -> None:
    exam = Exam(Patient.from_seed(3), Region.CHEST, vendor=vendor, matrix=64, spacing_mm=30.0)

    for dataset in datasets(exam):
        hounsfield = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        if "PixelPaddingValue" in dataset:
            padding = dataset.pixel_array == dataset.PixelPaddingValue
            assert padding[0, 0]
            assert not padding[32, 32]
            hounsfield = hounsfield[~padding]
        assert hounsfield.min() >= -1024
        assert -1010 < np.percentile(hounsfield, 20) < -980
        assert 20 < np.median(hounsfield[(hounsfield > 0) & (hounsfield < 100)]) < 70


def test_same_seed_makes_the_same_bytes() -> None:
    exam = archive()[0]
    small = replace(exam, **SMALL)
    again = replace(archive()[0], **SMALL)

    assert [to_bytes(d) for d in datasets(small)] == [to_bytes(d) for d in datasets(again)]
    assert archive() == archive()
    assert not {e.series_uid for e in archive()} & {e.series_uid for e in archive(seed=1)}


def test_archive_has_priors_duplicates_and_a_study_of_two_sequences() -> None:
    exams = archive()

    assert len({exam.patient.patient_id for exam in exams}) == 6
    assert len({exam.series_uid for exam in exams}) == len(exams)
    dates = defaultdict(set)
    sequences = defaultdict(set)
    for exam in exams:
        dates[exam.patient.number, exam.region, exam.modality].add(exam.study_date)
        sequences[exam.study_uid].add(exam.sequence)
    assert max(len(found) for found in dates.values()) == 2
    assert {Sequence.T1, Sequence.FLAIR} in sequences.values()
    assert any(exam.sharp for exam in exams)
    for modality, region in (
        ("CT", Region.CHEST),
        ("CT", Region.ABDOMEN),
        ("CT", Region.HEAD),
        ("MR", Region.HEAD),
    ):
        matching = {e.patient.patient_id for e in exams if (e.modality, e.region) == (modality, region)}
        assert len(matching) >= 2
    assert len(archive(patients=9)) > len(exams)


@pytest.fixture(scope="module")
def sample() -> list[Dataset]:
    """Three instances of every series of the archive, in few pixels."""
    return [d for exam in archive() for d in islice(datasets(replace(exam, **SMALL)), 3)]


def test_uids_are_valid_and_unique_and_agree_within_a_study(sample: list[Dataset]) -> None:
    frames = defaultdict(set)
    for dataset in sample:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            uid = dataset[keyword].value
            assert uid.is_valid
            assert uid.startswith("2.25.")
        frames[dataset.StudyInstanceUID, dataset.Modality].add(dataset.FrameOfReferenceUID)
    assert len({dataset.SOPInstanceUID for dataset in sample}) == len(sample)
    assert all(len(found) == 1 for found in frames.values())


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_instances_conform_to_the_standard(sample: list[Dataset], tmp_path: Path) -> None:
    for number, dataset in enumerate(sample):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(to_bytes(dataset))
        answer = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        lines = (answer.stdout + answer.stderr).splitlines()

        assert f"{dataset.Modality}Image" in lines
        assert [line for line in lines if line.startswith("Error")] == []
