"""A patient's body sampled on a grid."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from node.phantoms.abdomen import organs
from node.phantoms.findings import finding
from node.phantoms.head import head
from node.phantoms.outline import Layer, coats
from node.phantoms.patient import Patient
from node.phantoms.skeleton import bones
from node.phantoms.solids import Floats, Point, floats
from node.phantoms.texture import texture
from node.phantoms.thorax import lungs, mediastinum
from node.phantoms.tissue import Sequence, Tissue

_COARSE_MM, _FINE_MM = 22.0, 7.0


class Orientation(StrEnum):
    """Plane of the slices."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


ARRAY_AXES: dict[Orientation, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    Orientation.AXIAL: ((2, 1), (1, 1), (0, 1)),
    Orientation.CORONAL: ((1, 1), (2, -1), (0, 1)),
    Orientation.SAGITTAL: ((0, 1), (2, -1), (1, 1)),
}
"""For slices, rows and columns: the LPS axis (0, 1, 2) along which the index grows, and its sense.

Growing column and row index run as a radiologist hangs the plane: to the patient's left and back or down, in
sagittal slices to the back and down.
"""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie.

    Attributes
    ----------
    origin_lps_mm : tuple of float
        Centre of voxel (0, 0, 0).
    spacing_mm : tuple of float
        Between slices, rows and columns.
    shape : tuple of int
        Slices, rows, columns.
    """

    orientation: Orientation
    origin_lps_mm: Point
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def point(self, index: tuple[int, int, int]) -> Point:
        """Return the centre in LPS mm of the voxel at (slice, row, column)."""
        place = list(self.origin_lps_mm)
        for (axis, sense), step, i in zip(ARRAY_AXES[self.orientation], self.spacing_mm, index, strict=True):
            place[axis] += sense * step * i
        return place[0], place[1], place[2]

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Return the x, y and z coordinates of the voxels in mm, in the order of the array's indices."""
        found: dict[int, Floats] = {}
        for (axis, sense), step, n in zip(ARRAY_AXES[self.orientation], self.spacing_mm, self.shape, strict=True):
            found[axis] = floats(self.origin_lps_mm[axis] + sense * step * np.arange(n))
        return found[0], found[1], found[2]


def voxels(patient: Patient, grid: Grid, sequence: Sequence, contrast: bool = False) -> Floats:
    """Sample a patient's body.

    Parameters
    ----------
    patient : Patient
        Whose body; points are in its own coordinates (see `Patient`).
    grid : Grid
        Where to sample.
    sequence : Sequence
        What to see.
    contrast : bool
        CT only: portal venous phase.

    Returns
    -------
    NDArray of float32, shape (slices, rows, columns)
        HU for CT, relative signal (fat in T1 is 1) for MR; no noise of the scanner.
    """
    axes = [axis / np.float32(scale) for axis, scale in zip(grid.axes(), patient.scale, strict=True)]
    ascending = [np.sort(axis) for axis in axes]
    canvas = _Canvas(patient, (ascending[0], ascending[1], ascending[2]), sequence, contrast)
    for layer in anatomy(patient):
        canvas.paint(layer)
    image = canvas.image.transpose(2, 1, 0)
    for axis, coordinates in enumerate(axes):
        if coordinates[0] > coordinates[-1]:
            image = np.flip(image, axis)
    return np.ascontiguousarray(image.transpose([axis for axis, _ in ARRAY_AXES[grid.orientation]]))


@lru_cache(maxsize=4)
def anatomy(patient: Patient) -> tuple[Layer, ...]:
    """Return every layer of a patient in the order of painting."""
    return (
        *coats(patient),
        *lungs(patient),
        *mediastinum(patient),
        *organs(patient),
        *bones(patient),
        *head(patient),
        *finding(patient),
    )


class _Canvas:
    """The image under construction, shape (z, y, x), coordinates ascending."""

    def __init__(
        self, patient: Patient, axes: tuple[Floats, Floats, Floats], sequence: Sequence, contrast: bool
    ) -> None:
        self.axes = axes
        self._look = (sequence, contrast)
        zyx = (axes[2], axes[1], axes[0])
        self._coarse = texture(zyx, patient.seed, _COARSE_MM)
        self._fine = texture(zyx, patient.seed + 1, _FINE_MM)
        self._grain = np.float32(0.6) * self._coarse + np.float32(0.8) * self._fine
        steps = sorted(float(np.ptp(axis)) / max(len(axis) - 1, 1) for axis in axes if len(axis) > 1)
        self._edge_mm = np.float32(max(steps[0] if steps else 1.0, 0.5) * 1.2)
        background, _ = Tissue.AIR.value.level(*self._look)
        self.image = np.full([len(axis) for axis in zyx], background, dtype=np.float32)

    def paint(self, layer: Layer) -> None:
        """Cover what lies in the layer's solid; the edge is as wide as a pixel (partial volume)."""
        box = layer.solid.box.grown(layer.warp_mm * 3 + layer.fold_mm * 3 + float(self._edge_mm))
        spans = [
            slice(*np.searchsorted(axis, limits))
            for axis, limits in zip(self.axes, zip(box.low_mm, box.high_mm, strict=True), strict=True)
        ]
        where = (spans[2], spans[1], spans[0])
        target = self.image[where]
        if target.size == 0:
            return
        x, y, z = (axis[span] for axis, span in zip(self.axes, spans, strict=True))
        distance = layer.solid.distance(x[None, None, :], y[None, :, None], z[:, None, None])
        if layer.warp_mm:
            distance = distance + np.float32(layer.warp_mm) * self._coarse[where]
        if layer.fold_mm:
            distance = distance + np.float32(layer.fold_mm) * self._fine[where]
        cover = np.clip(np.float32(0.5) - distance / self._edge_mm, 0, 1)
        mean, spread = layer.tissue.value.level(*self._look)
        target += cover * (np.float32(mean) + np.float32(spread) * self._grain[where] - target)
