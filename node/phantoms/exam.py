"""One series of the demonstration archive: who, what, where, by which scanner."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from pydicom.uid import UID

from node.phantoms.body import Grid, Orientation
from node.phantoms.patient import Patient
from node.phantoms.solids import Point
from node.phantoms.tissue import Sequence
from node.phantoms.vendors import VENDORS, Vendor

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "pacsimile.demo")


class Region(StrEnum):
    """Body part, valued as in Body Part Examined (0018,0015), PS3.16 Annex L."""

    HEAD = "HEAD"
    NECK = "NECK"
    CHEST = "CHEST"
    ABDOMEN = "ABDOMEN"
    PELVIS = "PELVIS"
    CHEST_ABDOMEN_PELVIS = "CHESTABDPELVIS"


@dataclass(frozen=True, slots=True)
class _Extent:
    """Box to be imaged in the standard adult, LPS mm; the fat is added to it."""

    x_mm: tuple[float, float]
    y_mm: tuple[float, float]
    z_mm: tuple[float, float]
    with_fat: bool = True


_EXTENTS = {
    Region.HEAD: _Extent((-84, 84), (-122, 104), (412, 582), with_fat=False),
    Region.NECK: _Extent((-112, 112), (-112, 108), (285, 445), with_fat=False),
    Region.CHEST: _Extent((-186, 186), (-130, 122), (-12, 312)),
    Region.ABDOMEN: _Extent((-172, 172), (-118, 118), (-185, 112)),
    Region.PELVIS: _Extent((-184, 184), (-118, 132), (-335, -105)),
    Region.CHEST_ABDOMEN_PELVIS: _Extent((-190, 190), (-130, 132), (-325, 312)),
}


@dataclass(frozen=True, slots=True)
class Exam:
    """One series to be made.

    Attributes
    ----------
    study_number, series_number : int
        Which study of the patient, which series of the study; both from 1.
    matrix : int
        Rows and Columns.
    sharp : bool
        Reconstructed with a hard kernel (CT).
    """

    patient: Patient
    region: Region
    sequence: Sequence = Sequence.CT
    orientation: Orientation = Orientation.AXIAL
    spacing_mm: float = 6.0
    vendor: Vendor = VENDORS[0]
    study_number: int = 1
    series_number: int = 1
    study_date: str = "20240115"
    matrix: int = 128
    contrast: bool = False
    sharp: bool = False

    @property
    def modality(self) -> Literal["CT", "MR"]:
        """Modality (0008,0060)."""
        return "CT" if self.sequence is Sequence.CT else "MR"

    @property
    def study_uid(self) -> UID:
        """Study Instance UID."""
        return self._uid("study", self.patient.seed, self.patient.patient_id, self.study_number)

    @property
    def series_uid(self) -> UID:
        """Series Instance UID."""
        return self._uid("series", self)

    @property
    def frame_of_reference_uid(self) -> UID:
        """Frame of Reference UID, one a study and modality."""
        return self._uid("frame of reference", self.study_uid, self.modality)

    def instance_uid(self, index: int) -> UID:
        """Return the SOP Instance UID of the slice at an index of the grid."""
        return self._uid("instance", self, index)

    def rng(self, part: str) -> np.random.Generator:
        """Return the generator of this series' own noise."""
        return np.random.default_rng(int(self._uid("noise", self, part).removeprefix("2.25.")))

    @property
    def frame_offset_lps_mm(self) -> Point:
        """What to add to the body's coordinates to get those of the frame of reference: where the table stood."""
        rng = np.random.default_rng(int(self.frame_of_reference_uid.removeprefix("2.25.")))
        x, y, z = np.round(rng.uniform((-8, -150, -900), (8, 20, 900)), 1)
        return float(x), float(y), float(z)

    def grid(self) -> Grid:
        """Return where the voxels lie, in the body's coordinates."""
        low, high = self._box()
        centre = (low + high) / 2
        size = high - low
        normal, down, right = _AXES[self.orientation]
        fov_mm = max(size[down], size[right]) + 10
        pixel_mm = round(float(fov_mm) / self.matrix, 3)
        slices = max(int(size[normal] / self.spacing_mm), 2)
        origin = centre.copy()
        origin[normal] -= self.spacing_mm * (slices - 1) / 2
        origin[down] += (1 if down == 2 else -1) * pixel_mm * (self.matrix - 1) / 2
        origin[right] -= pixel_mm * (self.matrix - 1) / 2
        x, y, z = (round(float(value), 3) for value in origin)
        spacing = (self.spacing_mm, pixel_mm, pixel_mm)
        return Grid(self.orientation, (x, y, z), spacing, (slices, self.matrix, self.matrix))

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        extent = _EXTENTS[self.region]
        limits = np.array([extent.x_mm, extent.y_mm, extent.z_mm], dtype=np.float64)
        if extent.with_fat:
            limits[:2] += np.array([-1, 1]) * self.patient.fat_mm
        if self.orientation is not Orientation.AXIAL:
            normal = _AXES[self.orientation][0]
            limits[normal] = limits[normal].mean() + (limits[normal] - limits[normal].mean()) * 0.7
        limits *= np.array(self.patient.scale)[:, None]
        return limits[:, 0], limits[:, 1]

    @staticmethod
    def _uid(*parts: object) -> UID:
        """Derive a UID under 2.25 (PS3.5 B.2), the same in every run."""
        return UID(f"2.25.{uuid.uuid5(_NAMESPACE, repr(parts)).int}")


_AXES = {Orientation.AXIAL: (2, 1, 0), Orientation.CORONAL: (1, 2, 0), Orientation.SAGITTAL: (0, 2, 1)}
"""LPS axis of slices, rows and columns."""
