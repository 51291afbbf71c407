"""Cutting a volume into chunks: overlapping slabs along the patient's z axis, each knowing where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.answer import BoxLpsMm
from indexer.resample import PatientGrid
from indexer.uids import SliceRef
from indexer.volume import Volume


@dataclass(frozen=True)
class Lattice:
    """Where features lie in the grid that they were computed from; along z, x, y.

    Attributes
    ----------
    stride : tuple of int
        Voxels from one feature to the next.
    first : tuple of float
        Centre of feature 0, as a voxel index.
    """

    stride: tuple[int, int, int]
    first: tuple[float, float, float]

    @property
    def lead(self) -> tuple[int, int, int]:
        """Voxels of feature 0's surroundings that lie before voxel 0."""
        z, x, y = (int(step / 2 - first) for step, first in zip(self.stride, self.first, strict=True))
        return z, x, y

    def edges_z(self, cells: slice) -> tuple[float, float]:
        """Where the surroundings of some features along z begin and end, as voxel indices."""
        before = self.first[0] - self.stride[0] / 2
        return cells.start * self.stride[0] + before, cells.stop * self.stride[0] + before


@dataclass(frozen=True)
class Slab:
    """One chunk of a volume.

    Attributes
    ----------
    cells : slice
        Which features along z it pools.
    box_lps_mm : BoxLpsMm
        Around the body within the slab.
    slices : tuple of SliceRef
        The volume's slices that meet the slab, in the volume's order.
    """

    cells: slice
    box_lps_mm: BoxLpsMm
    slices: tuple[SliceRef, ...]


def windows(count: int, length: int, step: int) -> list[slice]:
    """Cut `count` cells into windows of `length` every `step`; the last one ends at the end.

    Fewer cells than one window are one shorter window: any extent is welcome, none is stretched.
    """
    if count <= length:
        return [slice(0, count)]
    starts = list(range(0, count - length + 1, step))
    if starts[-1] + length < count:
        starts.append(count - length)
    return [slice(start, start + length) for start in starts]


def slabs(
    volume: Volume,
    grid: PatientGrid,
    body: NDArray[np.bool_],
    *,
    cells: int,
    lattice: Lattice,
    chunk_mm: float,
    step_mm: float,
) -> list[Slab]:
    """Cut a volume into chunks.

    Parameters
    ----------
    grid, body : PatientGrid and (Z, X, Y) bool
        The volume as the encoder sees it, and where in it the patient is.
    cells : int
        Features along z.
    lattice : Lattice
        Where they lie in the grid.
    chunk_mm, step_mm : float
        Length of a chunk and distance to the next, mm; rounded to whole features.
    """
    cell_mm = lattice.stride[0] * grid.spacing_mm[0]
    length, step = (max(1, round(mm / cell_mm)) for mm in (chunk_mm, step_mm))
    found = []
    extents = _slice_extents_mm(volume)
    for window in windows(cells, length, step):
        lower, upper = lattice.edges_z(window)
        end = grid.voxels.shape[0] - 0.5
        box = _box_lps_mm(grid, body, max(lower, -0.5), end if window.stop == cells else min(upper, end))
        found.append(Slab(window, box, _meeting(volume.slices, extents, box[2], box[5])))
    return found


def _box_lps_mm(grid: PatientGrid, body: NDArray[np.bool_], first: float, last: float) -> BoxLpsMm:
    """Outer edges of the body between two edges in z; of the whole grid where the body is absent there."""
    part = body[round(first + 0.5) : round(last + 0.5)]
    shadow = np.asarray(part.any(axis=0))
    xs, ys = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
    if not xs.size:
        xs, ys = np.arange(shadow.shape[0]), np.arange(shadow.shape[1])
    dz, dx, dy = grid.spacing_mm
    x, y, z = grid.origin_lps_mm
    return (  # x and y of the grid run against LPS
        float(x - (xs[-1] + 0.5) * dx),
        float(y - (ys[-1] + 0.5) * dy),
        float(z + first * dz),
        float(x - (xs[0] - 0.5) * dx),
        float(y - (ys[0] - 0.5) * dy),
        float(z + last * dz),
    )


def _slice_extents_mm(volume: Volume) -> NDArray[np.float64]:
    """Lowest and highest z of every slice's plane, (N, 2) LPS mm: equal for axial slices."""
    count, rows, columns = volume.voxels.shape
    corners = np.array([[0, 0], [0, columns - 1], [rows - 1, 0], [rows - 1, columns - 1]])
    z_step = volume.affine_lps_mm[2, :3]
    of_corners = corners @ z_step[1:]
    along = volume.affine_lps_mm[2, 3] + np.arange(count) * z_step[0]
    return np.stack([along + of_corners.min(), along + of_corners.max()], axis=1)


def _meeting(
    slices: Sequence[SliceRef], extents: NDArray[np.float64], lower_mm: float, upper_mm: float
) -> tuple[SliceRef, ...]:
    apart = np.maximum(lower_mm - extents[:, 1], extents[:, 0] - upper_mm)
    meets = apart <= max(0.0, apart.min())  # slices far apart: the nearest one
    return tuple(dict.fromkeys(ref for ref, yes in zip(slices, meets, strict=True) if yes))


def share_of(mask: NDArray[np.bool_], lattice: Lattice, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Share of a mask in the voxels around each feature: (z, x, y) float32 from (Z, X, Y) bool."""
    ends = [n * step - lead for n, step, lead in zip(shape, lattice.stride, lattice.lead, strict=True)]
    within = mask.view(np.uint8)[: ends[0], : ends[1], : ends[2]]
    beyond = [(lead, end - n) for lead, end, n in zip(lattice.lead, ends, within.shape, strict=True)]
    counts: NDArray[np.unsignedinteger] = np.pad(within, beyond)
    most = 1
    for axis, step in enumerate(lattice.stride):
        most *= step
        first, *others = (counts[(slice(None),) * axis + (slice(k, None, step),)] for k in range(step))
        counts = first.astype(np.min_scalar_type(most))  # small integers are added up quickest
        for other in others:
            counts += other
    return np.asarray(counts / np.float32(most), dtype=np.float32)
