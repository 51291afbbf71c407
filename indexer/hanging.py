"""Where the slices of a stored series lie, in the order in which they are looked at; no pixel data are read.

Places come from the catalog, for multi-frame instances from the header of their file.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword

from indexer.attributes import JsonObject, first_value
from indexer.catalog.lookup import Level, Lookup, Prefilter, SeriesInfo
from indexer.errors import Transient
from indexer.frames import MULTI_FRAME, read_frames
from indexer.sealing import InstanceFolder
from indexer.uids import SliceRef, SOPInstanceUID


class Plane(StrEnum):
    """Which plane of the patient the slices show; the nearest one, if oblique."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


_AXIS_OF_PLANE = {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}
_PLANES = (Plane.SAGITTAL, Plane.CORONAL, Plane.AXIAL)
_PARALLEL_DECIMALS = 1
"""Normals that agree to so many decimals belong together."""


@dataclass(frozen=True, slots=True)
class HungSlice:
    """One slice and its place.

    Attributes
    ----------
    at_mm : float
        Place of its centre along the axis of the series' plane (x, y or z), LPS.
    """

    ref: SliceRef
    at_mm: float


@dataclass(frozen=True)
class HungSeries:
    """A series ready to be looked at.

    Attributes
    ----------
    towards : tuple of str
        Where columns and rows lead to: L, R, P, A, H (head) or F (feet).
    slices : tuple of HungSlice
        From head to feet, from front to back, or from the patient's right to left.
    """

    info: SeriesInfo
    plane: Plane
    towards: tuple[str, str]
    slices: tuple[HungSlice, ...]

    @property
    def axis(self) -> int:
        """Along which the slices follow each other: 0, 1 or 2 for x, y or z, LPS."""
        return _AXIS_OF_PLANE[self.plane]


@dataclass(frozen=True, slots=True)
class _Placed:
    ref: SliceRef
    centre_mm: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row, self.column)


def hang(
    lookup: Lookup, spool: InstanceFolder, info: SeriesInfo, wanted: Collection[SliceRef] | None = None
) -> HungSeries | None:
    """Order the slices of a series.

    Parameters
    ----------
    wanted : collection of SliceRef, optional
        Only these; None for all that lie parallel to most.

    Returns
    -------
    HungSeries or None
        None where no slice has a place.
    """
    placed = [one for one in _placed(lookup, spool, info) if wanted is None or one.ref in wanted]
    placed = _most_parallel(placed)
    if not placed:
        return None
    axis = int(np.abs(placed[0].normal).argmax())
    slices = [HungSlice(one.ref, float(one.centre_mm[axis])) for one in placed]
    towards = -1 if _PLANES[axis] is Plane.AXIAL else 1  # z grows to the head, y to the back, x to the left
    slices.sort(key=lambda one: (towards * one.at_mm, one.ref.sop_instance_uid, one.ref.frame_number or 0))
    return HungSeries(info, _PLANES[axis], (_letter(placed[0].row), _letter(placed[0].column)), tuple(slices))


def _letter(direction: NDArray[np.float64]) -> str:
    """Name the direction of the patient's body that is nearest (PS3.3 C.7.6.1.1.1), LPS."""
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "HF")[axis][int(direction[axis] < 0)]


def _most_parallel(placed: Sequence[_Placed]) -> list[_Placed]:
    groups: dict[tuple[float, ...], list[_Placed]] = defaultdict(list)
    for one in placed:
        groups[tuple((one.normal.round(_PARALLEL_DECIMALS) + 0.0).tolist())].append(one)
    return max(groups.values(), key=len, default=[])


def _placed(lookup: Lookup, spool: InstanceFolder, info: SeriesInfo) -> list[_Placed]:
    found: list[_Placed] = []
    prefilter = Prefilter(
        study_instance_uid=[info.study_instance_uid], series_instance_uid=[info.series_instance_uid]
    )
    for entity in lookup.entities(Level.IMAGE, prefilter):
        uid = SOPInstanceUID(first_value(entity.attributes, "SOPInstanceUID"))
        if first_value(entity.attributes, "SOPClassUID") in MULTI_FRAME:
            found += _frames_of(lookup, spool, uid)
        elif (one := _single(uid, entity.attributes)) is not None:
            found.append(one)
    return found


def _single(uid: SOPInstanceUID, attributes: JsonObject) -> _Placed | None:
    position = _numbers(attributes, "ImagePositionPatient", 3)
    orientation = _numbers(attributes, "ImageOrientationPatient", 6)
    spacing = _numbers(attributes, "PixelSpacing", 2)
    size = [_numbers(attributes, keyword, 1) for keyword in ("Rows", "Columns")]
    if position is None or orientation is None or spacing is None or size[0] is None or size[1] is None:
        return None
    extent = (float(size[0][0] - 1) * spacing[0], float(size[1][0] - 1) * spacing[1])
    return _at(SliceRef(uid, None), position, orientation, extent)


def _frames_of(lookup: Lookup, spool: InstanceFolder, uid: SOPInstanceUID) -> list[_Placed]:
    path = lookup.instance_path(uid)
    if path is None:
        return []
    try:
        frames = read_frames(spool / path).frames
    except Transient:  # only the archive has the file
        return []
    placed = [
        _at(
            SliceRef(uid, (one.index or 0) + 1),
            np.asarray(one.position_mm),
            np.asarray(one.orientation),
            ((one.format.rows - 1) * one.spacing_mm[0], (one.format.columns - 1) * one.spacing_mm[1]),
        )
        for one in frames
    ]
    return [one for one in placed if one is not None]


def _at(
    ref: SliceRef,
    position: NDArray[np.float64],
    orientation: NDArray[np.float64],
    extent_mm: tuple[float, float],
) -> _Placed | None:
    """Find the centre of a slice; `extent_mm` is from its first row to its last, and from column to column."""
    row, column = orientation[:3], orientation[3:]
    if not 0.5 < float(np.linalg.norm(np.cross(row, column))) < 2.0:  # no directions
        return None
    return _Placed(ref, position + column * extent_mm[0] / 2 + row * extent_mm[1] / 2, row, column)


def _numbers(attributes: JsonObject, keyword: str, count: int) -> NDArray[np.float64] | None:
    """Values of an attribute in the DICOM JSON Model if they are so many finite numbers, else None."""
    values = attributes.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or ()
    try:
        found = np.asarray([float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and np.isfinite(found).all() else None
