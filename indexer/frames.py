"""The headers of an instance as frames: one two-dimensional image each, with its place, its raster and its traits.

Classic CT and MR Image Storage hold one frame an instance (PS3.3 A.3, A.4); Enhanced and Legacy Converted Enhanced
CT and MR hold many (PS3.3 A.36, A.38, A.70, A.71). Pixel data stay on disk.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydicom import Dataset

from indexer.errors import Parked, Transient
from indexer.functional_groups import FrameAttributes, InstanceAttributes
from indexer.headers import Attributes, coded, numbers, quiet, read_dataset, text
from indexer.pixel_format import NotAVolume, PixelFormat, pixel_format_of, transfer_syntax_of
from indexer.sealing import StoredPath
from indexer.traits import Traits, traits_of
from indexer.uids import SeriesInstanceUID, SOPInstanceUID

Modality = Literal["CT", "MR"]

CLASSIC: dict[str, Modality] = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.4": "MR",  # MR Image Storage
}
MULTI_FRAME: dict[str, Modality] = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # Legacy Converted Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",  # Enhanced MR Image Storage
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",  # Legacy Converted Enhanced MR Image Storage
}
NO_VOLUME_TYPES = {
    "LOCALIZER": "a localizer",
    "MOSAIC": "a mosaic of slices in one image",
    "SCOUT": "a localizer",
    "TOPOGRAM": "a localizer",
    "PROJECTION IMAGE": "a projection through a volume",
    "MIP": "a projection through a volume",
    "MINIP": "a projection through a volume",
    "VOLUME_RENDERING": "a rendering",
    "VRT": "a rendering",
    "SSD": "a rendering",
    "SCREEN SAVE": "a screen capture",
    "SCREENSAVE": "a screen capture",
    "DOSE_INFO": "a dose report",
}
"""Values of Image Type, from the third on (PS3.3 C.7.6.1.1.2), of images that do not sample a volume."""
HOUNSFIELD_TYPES = frozenset({"", "HU", "HU_MOD", "US"})
"""Values of Rescale Type (PS3.3 C.11.1.1.2) taken as Hounsfield units in CT; US (unspecified) with a note."""

UID_FORM = re.compile(r"[0-9.]{1,64}")
SPACING_RANGE_MM = (0.01, 50.0)
"""Pixel Spacing outside this range is a mistake."""
POSITION_LIMIT_MM = 10_000.0
"""Image Position (Patient) further from the origin is a mistake."""
COSINE_TOLERANCE = 0.01
"""Direction cosines may differ from unit length, and their product from zero, by this much: rounded text."""
SLOPE_LIMIT = 1e6
"""A Rescale Slope or Intercept beyond this is a mistake (single precision would lose the values)."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Output units = `slope` times stored value + `intercept` (PS3.3 C.11.1, C.7.6.16.2.9)."""

    slope: float
    intercept: float
    unit: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One two-dimensional image of a series, without its pixels.

    Attributes
    ----------
    index : int or None
        Its number from 0 in a multi-frame instance; None in a single-frame one.
    position_mm : tuple of float
        Centre of the first voxel, (x, y, z), LPS (PS3.3 C.7.6.2.1.1).
    orientation : tuple of float
        Direction of increasing column index, then of increasing row index; orthonormal, LPS.
    spacing_mm : tuple of float
        Between rows, between columns (PS3.3 10.7.1.3).
    rescale : Rescale or None
        None where the instance has a Modality LUT Sequence instead.
    """

    path: StoredPath
    sop_instance_uid: SOPInstanceUID
    index: int | None
    modality: Modality
    frame_of_reference_uid: str
    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]
    format: PixelFormat
    rescale: Rescale | None
    traits: Traits


@dataclass(frozen=True, slots=True)
class Dropped:
    """An instance, or frames of it, that are part of no volume, and why."""

    sop_instance_uid: SOPInstanceUID
    reason: str


@dataclass(frozen=True)
class Reading:
    """What the header of one instance gave: frames, or a reason why there are none.

    Attributes
    ----------
    damaged : bool
        Whether `dropped` tells of an instance that should have given frames, rather than of one that cannot.
    """

    series_instance_uid: SeriesInstanceUID
    frames: tuple[Frame, ...]
    dropped: tuple[Dropped, ...]
    damaged: bool = False


def read_frames(path: StoredPath) -> Reading:
    """Read the header of one stored instance; whatever it holds, the answer is frames or a reason.

    Raises
    ------
    Transient
        The operating system cannot read the file now.
    """
    sop_instance_uid, series_instance_uid = SOPInstanceUID(""), SeriesInstanceUID("")
    try:
        with quiet():
            dataset = read_dataset(path, with_pixels=False)
            sop_instance_uid = SOPInstanceUID(text(dataset, "SOPInstanceUID"))
            series_instance_uid = SeriesInstanceUID(text(dataset, "SeriesInstanceUID"))
            if not sop_instance_uid or not series_instance_uid:
                raise Parked("no SOP Instance UID (0008,0018) or no Series Instance UID (0020,000E)")
            frames, dropped = _frames_of(dataset, path, sop_instance_uid)
            return Reading(series_instance_uid, frames, dropped)
    except Transient:
        raise
    except Exception as error:
        known = isinstance(error, Parked)
        reason = str(error) if known else f"reading the header failed with {type(error).__name__}"
        dropped = (Dropped(sop_instance_uid, reason),)
        return Reading(series_instance_uid, (), dropped, damaged=not isinstance(error, NotAVolume))


def _frames_of(
    dataset: Dataset, path: StoredPath, uid: SOPInstanceUID
) -> tuple[tuple[Frame, ...], tuple[Dropped, ...]]:
    """Frames of an instance, and why some of its frames are left out."""
    sop_class = text(dataset, "SOPClassUID")
    if sop_class in CLASSIC:
        return (_single_frame(dataset, path, uid, CLASSIC[sop_class]),), ()
    if sop_class not in MULTI_FRAME:
        raise NotAVolume("no CT or MR image by its SOP Class UID")
    items = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shape = pixel_format_of(dataset, transfer_syntax_of(dataset), path.stat().st_size)
    claimed = shape.frames
    if claimed != len(items):
        raise Parked(
            f"Number of Frames: expected one item of functional groups each for {claimed}, got {len(items)}"
        )
    frames: list[Frame] = []
    reasons: list[str] = []
    for index, item in enumerate(items):
        source = FrameAttributes(dataset, item, index)
        try:
            _demand_volume(source, dataset)
            origin = _Origin(path, uid, index, MULTI_FRAME[sop_class], shape)
            frames.append(_frame(source, dataset, item, origin))
        except NotAVolume as reason:
            reasons.append(str(reason))
    dropped = [Dropped(uid, f"{reason} ({reasons.count(reason)} frames)") for reason in dict.fromkeys(reasons)]
    return tuple(frames), tuple(dropped)


def _single_frame(dataset: Dataset, path: StoredPath, uid: SOPInstanceUID, modality: Modality) -> Frame:
    source = InstanceAttributes(dataset)
    _demand_volume(source, source)
    shape = pixel_format_of(source, transfer_syntax_of(dataset), path.stat().st_size)
    if shape.frames != 1:
        raise Parked(f"Number of Frames: expected 1 in a single-frame image, got {shape.frames}")
    origin = _Origin(path, uid, None, modality, shape)
    return _frame(source, source, dataset, origin)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What the frames of an instance have in common."""

    path: StoredPath
    uid: SOPInstanceUID
    index: int | None
    modality: Modality
    format: PixelFormat


def _frame(source: Attributes, dataset: Attributes, private: Dataset, origin: _Origin) -> Frame:
    """One frame: `source` finds its attributes, `dataset` the instance's, `private` holds vendors' elements."""
    return Frame(
        path=origin.path,
        sop_instance_uid=origin.uid,
        index=origin.index,
        modality=origin.modality,
        frame_of_reference_uid=_uid(source, "FrameOfReferenceUID"),
        position_mm=_position(source),
        orientation=_orientation(source),
        spacing_mm=_pixel_spacing(source),
        format=origin.format,
        rescale=_rescale(source, dataset, origin.modality),
        traits=traits_of(source, private),
    )


def _uid(source: Attributes, keyword: str) -> str:
    """A UID (PS3.5 section 9.1), "" where there is none that is one."""
    value = text(source, keyword)
    return value if UID_FORM.fullmatch(value) else ""


def _demand_volume(source: Attributes, dataset: Attributes) -> None:
    """Leave out images that are no samples of a volume by what they say of themselves."""
    image_type = coded(source, "ImageType")
    for value in image_type[2:]:
        if value in NO_VOLUME_TYPES:
            raise NotAVolume(f"{NO_VOLUME_TYPES[value]} (Image Type {value})")
    if coded(dataset, "ConversionType"):
        raise NotAVolume("a secondary capture (it has a Conversion Type)")
    placed = text(source, "ImagePositionPatient") and text(source, "ImageOrientationPatient")
    if image_type[:2] == ("DERIVED", "SECONDARY") and not placed:
        raise NotAVolume("a derived secondary image without a place in the patient")


def _position(source: Attributes) -> tuple[float, float, float]:
    values = numbers(source, "ImagePositionPatient", 3)
    if values is None:
        raise Parked("no Image Position (Patient) (0020,0032): the place of the slice is unknown")
    if max(map(abs, values)) > POSITION_LIMIT_MM:
        raise Parked(f"ImagePositionPatient: expected at most {POSITION_LIMIT_MM:g} mm from the origin, got more")
    x, y, z = values
    return x, y, z


def _orientation(source: Attributes) -> tuple[float, float, float, float, float, float]:
    """Direction cosines made exactly orthonormal; what is too far from that is refused."""
    values = numbers(source, "ImageOrientationPatient", 6)
    if values is None:
        raise Parked("no Image Orientation (Patient) (0020,0037): the direction of the slice is unknown")
    row, column = np.asarray(values[:3]), np.asarray(values[3:])
    lengths = (float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    skew = float(row @ column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(skew)) > COSINE_TOLERANCE:
        got = f"lengths {lengths[0]:.3g} and {lengths[1]:.3g}, product {skew:.3g}"
        raise Parked(f"ImageOrientationPatient: expected two orthogonal unit vectors, got {got}")
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return (*map(float, row), *map(float, column))  # type: ignore[return-value]  # 3 + 3 by construction


def _pixel_spacing(source: Attributes) -> tuple[float, float]:
    values = numbers(source, "PixelSpacing", 2)
    if values is None:
        raise Parked("no Pixel Spacing (0028,0030): the size of the slice is unknown")
    low, high = SPACING_RANGE_MM
    if not all(low <= value <= high for value in values):
        got = " and ".join(f"{value:g}" for value in values)
        raise Parked(f"PixelSpacing: expected {low:g} to {high:g} mm, got {got}")
    return values[0], values[1]


def _rescale(source: Attributes, dataset: Attributes, modality: Modality) -> Rescale | None:
    """Rescale of a frame; CT must come in Hounsfield units, MR without one is taken as stored."""
    table: Any = dataset.get("ModalityLUTSequence")
    slope, intercept = numbers(source, "RescaleSlope", 1), numbers(source, "RescaleIntercept", 1)
    kind = coded(table[0], "ModalityLUTType") if table else coded(source, "RescaleType")
    unit = kind[0] if kind else ""
    if modality == "CT" and unit not in HOUNSFIELD_TYPES:
        raise NotAVolume(f"values in {unit}, not in Hounsfield units")
    if table:
        return None
    if slope is None or intercept is None:
        if modality == "CT":
            raise Parked("no Rescale Slope and Intercept: the CT values are not in Hounsfield units")
        slope, intercept = slope or (1.0,), intercept or (0.0,)
    if slope[0] == 0 or max(abs(slope[0]), abs(intercept[0])) > SLOPE_LIMIT:
        raise Parked(f"RescaleSlope: expected a plausible scale, got {slope[0]:g} and intercept {intercept[0]:g}")
    return Rescale(slope[0], intercept[0], unit)
