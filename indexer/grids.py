"""The even, orthogonal grid that a stack of parallel frames is brought to (PS3.3 C.7.6.2.1.1).

Along the slice axis: the frames' positions along the normal, evenly spaced or not. In the plane: frames may be
shifted against each other, as a tilted gantry shifts them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Parked
from indexer.frames import Frame
from indexer.pixel_format import demand_budget

EVEN_TOLERANCE = 0.1
"""Slices this share of their spacing off an even grid are taken as even: positions are rounded text."""
SHIFT_TOLERANCE = 0.25
"""In-plane shifts that spread over up to this share of a pixel are left alone: interpolating would only blur."""
PREVAILING_SHARE = 0.1
"""A spacing prevails if at least this share of the steps (and two of them) have it."""
SAME_SPACING = 0.05
"""Steps that differ by less than this share are the same spacing."""
MAX_MISSING_SLICES = 3
MAX_MISSING_MM = 10.0
"""A gap is bridged by interpolation up to so many slices, and so many mm beyond one regular step."""
MAX_SPACING_MM = 20.0
"""Slices further apart than this show separate places, not a volume."""
MAX_TILT_DEG = 45.0
"""More than any gantry tilts (30 degrees): such frames lie side by side."""


@dataclass(frozen=True, eq=False)
class Plane:
    """Orientation that the frames of a stack share; three orthonormal vectors, LPS, each of shape (3,).

    Attributes
    ----------
    row : NDArray
        Direction of increasing column index.
    column : NDArray
        Direction of increasing row index.
    normal : NDArray
        `row` x `column`: the direction of increasing slice index.
    """

    row: NDArray[np.float64]
    column: NDArray[np.float64]
    normal: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie, and how frames are brought there.

    Attributes
    ----------
    affine_lps_mm : NDArray
        Shape (4, 4): (slice, row, column, 1) to (x, y, z, 1), LPS, mm.
    shape : tuple of int
        Slices, rows, columns.
    shifts_px : NDArray or None
        Shape (frames, 2): how many rows and columns into the grid each frame's first voxel lies; None for no shift.
    lower, weight : NDArray
        Shape (slices,): slice k is (1 - weight[k]) of frame lower[k] and weight[k] of the next one.
    notes : tuple of str
        What had to be done, in words.
    """

    affine_lps_mm: NDArray[np.float64]
    shape: tuple[int, int, int]
    shifts_px: NDArray[np.float64] | None
    lower: NDArray[np.intp]
    weight: NDArray[np.float64]
    notes: tuple[str, ...]

    @property
    def interpolates(self) -> bool:
        """Whether slices are not the frames themselves, one by one."""
        return bool(np.any(self.weight)) or not np.array_equal(self.lower, np.arange(self.shape[0]))

    @property
    def nearest(self) -> NDArray[np.intp]:
        """Frame nearest to each slice; shape (slices,)."""
        return self.lower + (self.weight > 0.5)


def plane_of(frames: Sequence[Frame]) -> Plane:
    """Mean orientation of frames that are parallel within a tolerance."""
    mean = np.mean([frame.orientation for frame in frames], axis=0)
    row = mean[:3] / np.linalg.norm(mean[:3])
    column = mean[3:] - (mean[3:] @ row) * row
    column = column / np.linalg.norm(column)
    return Plane(row, column, np.cross(row, column))


def heights_mm(frames: Sequence[Frame], plane: Plane) -> NDArray[np.float64]:
    """Positions along the normal; shape (frames,), mm."""
    return np.asarray([frame.position_mm for frame in frames]) @ plane.normal


def even_axis(heights: NDArray[np.float64]) -> tuple[float, float] | None:
    """First position and spacing (mm) of increasing positions that are evenly spaced; None if they are not."""
    spacing = float(heights[-1] - heights[0]) / (len(heights) - 1)
    off = heights - np.arange(len(heights)) * spacing
    if np.ptp(off) / 2 > EVEN_TOLERANCE * spacing:
        return None
    return float(off.max() + off.min()) / 2, spacing


def prevailing_mm(heights: NDArray[np.float64]) -> list[float]:
    """Spacings that make up a stack, smallest first, of increasing positions; mm."""
    steps = np.sort(np.diff(heights))
    starts = [0]
    for i in range(1, len(steps)):
        if steps[i] > steps[starts[-1]] * (1 + SAME_SPACING):
            starts.append(i)
    clusters = [steps[a:b] for a, b in zip(starts, [*starts[1:], len(steps)], strict=True)]
    enough = max(2, math.ceil(PREVAILING_SHARE * len(steps)))
    prevailing = [cluster for cluster in clusters if len(cluster) >= enough]
    return [float(np.median(cluster)) for cluster in prevailing or [max(clusters, key=len)]]


def runs(heights: NDArray[np.float64]) -> list[slice]:
    """Cut increasing positions where a gap is too wide to be bridged; at least one run."""
    if len(heights) < 3 or even_axis(heights) is not None:
        return [slice(0, len(heights))]
    prevailing = prevailing_mm(heights)
    cuts = [0]
    for k, step in enumerate(np.diff(heights)):
        regular = any(abs(step - spacing) <= SAME_SPACING * spacing for spacing in prevailing)
        missing = round(step / prevailing[0]) - 1
        if step - prevailing[0] > MAX_MISSING_MM or (not regular and missing > MAX_MISSING_SLICES):
            cuts.append(k + 1)
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(heights)], strict=True)]


def grid_of(frames: Sequence[Frame]) -> Grid:
    """The grid of a stack.

    Parameters
    ----------
    frames : sequence of Frame
        At least two parallel frames of one raster in the order of their positions along the normal, all different.

    Raises
    ------
    Parked
        Slices too far apart, too strongly sheared, or more voxels than a volume may have.
    """
    plane = plane_of(frames)
    heights = heights_mm(frames, plane)
    axis = _slice_axis(heights)
    lower, weight, spacing, notes = axis.lower, axis.weight, axis.spacing_mm, axis.notes
    if spacing > MAX_SPACING_MM:
        raise Parked(f"slices {spacing:.4g} mm apart: a volume needs at most {MAX_SPACING_MM:g} mm")
    corner, shifts, extra, shift_notes = _in_plane(frames, plane, heights)
    rows, columns = frames[0].format.rows + extra[0], frames[0].format.columns + extra[1]
    demand_budget(len(lower) * rows * columns)
    row_mm, column_mm = frames[0].spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = plane.normal * spacing
    affine[:3, 1] = plane.column * row_mm
    affine[:3, 2] = plane.row * column_mm
    affine[:3, 3] = plane.normal * axis.start_mm + plane.column * corner[0] + plane.row * corner[1]
    return Grid(affine, (len(lower), rows, columns), shifts, lower, weight, shift_notes + notes)


@dataclass(frozen=True, eq=False)
class _SliceAxis:
    """An even slice axis: where it starts along the normal, and which frames make up each slice."""

    start_mm: float
    spacing_mm: float
    lower: NDArray[np.intp]
    weight: NDArray[np.float64]
    notes: tuple[str, ...]


def _slice_axis(heights: NDArray[np.float64]) -> _SliceAxis:
    """The frames' own positions where they are even, else the finest spacing that prevails among them."""
    even = even_axis(heights)
    if even is not None:
        return _SliceAxis(*even, np.arange(len(heights)), np.zeros(len(heights)), ())
    prevailing = prevailing_mm(heights)
    extent = float(heights[-1] - heights[0])
    count = round(extent / prevailing[0]) + 1
    demand_budget(count)
    # The last slice falls on the last frame, so that nothing that was seen is cut off.
    wanted = np.linspace(heights[0], heights[-1], count)
    lower = np.clip(np.searchsorted(heights, wanted, side="right") - 1, 0, len(heights) - 2)
    weight = (wanted - heights[lower]) / (heights[lower + 1] - heights[lower])
    weight = np.where(weight < EVEN_TOLERANCE / 2, 0.0, np.where(weight > 1 - EVEN_TOLERANCE / 2, 1.0, weight))
    notes = _spacing_notes(heights, prevailing)
    return _SliceAxis(float(heights[0]), extent / (count - 1), lower, weight, notes)


def _spacing_notes(heights: NDArray[np.float64], prevailing: list[float]) -> tuple[str, ...]:
    steps = np.diff(heights)
    if len(prevailing) > 1:
        several = " and ".join(f"{spacing:.3g}" for spacing in prevailing)
        return (f"slice spacings of {several} mm resampled to {prevailing[0]:.3g} mm",)
    multiples = steps / prevailing[0]
    missing = int(np.sum(np.round(multiples) - 1))
    if missing > 0 and np.all(np.abs(multiples - np.round(multiples)) <= EVEN_TOLERANCE):
        return (f"{missing} missing slice{'s' * (missing > 1)} interpolated",)
    return (
        f"uneven slice spacing ({steps.min():.3g} to {steps.max():.3g} mm) resampled to {prevailing[0]:.3g} mm",
    )


def _in_plane(
    frames: Sequence[Frame], plane: Plane, heights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, tuple[int, int], tuple[str, ...]]:
    """First voxel in the plane (mm along column, row direction), frames' shifts, rows and columns to add, notes."""
    positions = np.asarray([frame.position_mm for frame in frames])
    corners = np.column_stack([positions @ plane.column, positions @ plane.row])
    spacing = np.asarray(frames[0].spacing_mm)
    spread = np.ptp(corners, axis=0)
    tilt = frames[0].traits.gantry_tilt_deg
    if np.all(spread <= SHIFT_TOLERANCE * spacing):
        untold = tilt is not None and abs(tilt) > 1 and abs(plane.normal[2]) > math.cos(math.radians(abs(tilt) / 2))
        note = (f"a gantry tilt of {tilt:g} degrees is named, but the positions show none",) if untold else ()
        return corners.mean(axis=0), None, (0, 0), note
    slopes = np.polyfit(heights - heights.mean(), corners, 1)
    angle = math.degrees(math.atan(float(np.hypot(*slopes[0]))))
    if angle > MAX_TILT_DEG:
        raise Parked(
            f"slices are sheared by {angle:.1f} degrees: expected at most {MAX_TILT_DEG:g}, as a gantry tilts"
        )
    shifts = (corners - corners.min(axis=0)) / spacing
    rest = np.abs(corners - slopes[1] - np.outer(heights - heights.mean(), slopes[0])).max()
    note = (f"gantry tilt of {angle:.1f} degrees sheared away",)
    if rest > spacing.max():
        note = (f"slices shifted against each other in their plane by up to {spread.max():.1f} mm were aligned",)
    extra = np.ceil(shifts.max(axis=0) - 1e-3).astype(int)
    return corners.min(axis=0), shifts, (int(extra[0]), int(extra[1])), note
