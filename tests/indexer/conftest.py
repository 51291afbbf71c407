"""Builders of small CT and MR instances, as factories: classic slices, Enhanced instances, an analytic phantom."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SERIES = "2.25.1001"
SOP_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}


def _image(pixels: NDArray[np.integer], sop_class: str, modality: str, syntax: UID) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = SERIES, "2.25.1000"
    dataset.FrameOfReferenceUID = "2.25.1002"
    dataset.Modality = modality
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    raw = pixels.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    return dataset


def build_slice(
    pixels: NDArray[np.integer],
    position_mm: Sequence[float] = (0.0, 0.0, 0.0),
    modality: str = "CT",
    syntax: UID = ExplicitVRLittleEndian,
    **attributes: object,
) -> Dataset:
    """A classic single-frame instance; an attribute of None is removed."""
    dataset = _image(pixels, SOP_CLASS[modality], modality, syntax)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.ImagePositionPatient = [round(float(v), 6) for v in position_mm]
    dataset.PixelSpacing = [1.0, 1.0]
    if modality == "CT":
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def _group(**sequences: dict[str, object]) -> Dataset:
    group = Dataset()
    for name, content in sequences.items():
        item = Dataset()
        for keyword, value in content.items():
            setattr(item, keyword, value)
        setattr(group, name, [item])
    return group


@pytest.fixture
def real_data() -> Path:
    """Folder of real series; the test is skipped where there is none."""
    if not REAL.is_dir():
        pytest.skip("real series are not there (../shared/data/dicom)")
    return REAL


@pytest.fixture
def a_slice() -> Callable[..., Dataset]:
    return build_slice


@pytest.fixture
def a_stack() -> Callable[..., list[Dataset]]:
    """Axial slices at heights (mm); pixel value = 10 * height unless given; Instance Number counts up."""

    def build(heights: Iterable[float], modality: str = "CT", **attributes: object) -> list[Dataset]:
        slices = []
        for number, height in enumerate(heights, start=1):
            pixels = np.full((4, 5), round(10 * height), np.int16)
            slices.append(build_slice(pixels, (0, 0, height), modality, InstanceNumber=number, **attributes))
        return slices

    return build


@pytest.fixture
def an_enhanced() -> Callable[..., Dataset]:
    """An Enhanced instance: pixels (frames, rows, columns), and the macros of every frame and of all."""

    def build(
        pixels: NDArray[np.integer],
        per_frame: Sequence[dict[str, dict[str, object]]],
        shared: dict[str, dict[str, object]] | None = None,
        modality: str = "MR",
    ) -> Dataset:
        dataset = _image(pixels, ENHANCED[modality], modality, ExplicitVRLittleEndian)
        dataset.NumberOfFrames = len(pixels)
        common: dict[str, dict[str, object]] = {
            "PlaneOrientationSequence": {"ImageOrientationPatient": list(AXIAL)},
            "PixelMeasuresSequence": {"PixelSpacing": [1.0, 1.0], "SliceThickness": 2.0},
            "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"},
        }
        dataset.SharedFunctionalGroupsSequence = [_group(**(common | (shared or {})))]
        dataset.PerFrameFunctionalGroupsSequence = [_group(**frame) for frame in per_frame]
        return dataset

    return build


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Iterable[Dataset]], list[Path]]:
    """Write instances; values are written as they are, however wrong."""
    written: list[Path] = []

    def write(datasets: Iterable[Dataset]) -> list[Path]:
        paths = []
        for dataset in datasets:
            path = tmp_path / f"{len(written):04}"
            with disable_value_validation():
                dataset.save_as(path, enforce_file_format=True)
            written.append(path)
            paths.append(path)
        return paths

    return write


@pytest.fixture
def phantom() -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Hounsfield units of a soft-edged ellipsoid, off the centre, at points (..., 3) in LPS mm."""

    def hounsfield(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        radius = np.linalg.norm((points_mm - np.array([6.0, -9.0, 14.0])) / np.array([16.0, 22.0, 19.0]), axis=-1)
        return -1000 + 1100 / (1 + np.exp(8 * (radius - 1)))

    return hounsfield


@pytest.fixture
def scan(
    phantom: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Callable[..., list[Dataset]]:
    """Classic CT slices of the phantom: one for each position of the first voxel (mm)."""

    def build(
        positions_mm: Iterable[Sequence[float]],
        orientation: Sequence[float] = AXIAL,
        spacing_mm: Sequence[float] = (1.5, 1.25),
        shape: tuple[int, int] = (48, 56),
        **attributes: object,
    ) -> list[Dataset]:
        row, column = np.asarray(orientation[:3]), np.asarray(orientation[3:])
        i, j = np.indices(shape)
        offsets = i[..., None] * spacing_mm[0] * column + j[..., None] * spacing_mm[1] * row
        return [
            build_slice(
                np.round(phantom(np.asarray(position) + offsets)).astype(np.int16),
                position,
                ImageOrientationPatient=[round(float(v), 8) for v in orientation],
                PixelSpacing=list(spacing_mm),
                **attributes,
            )
            for position in positions_mm
        ]

    return build
