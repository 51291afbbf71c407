"""From a settled series to volumes in patient coordinates.

`plan_series` reads headers and says which volumes a series holds and what is left out, and why; `load_volume`
decodes one of them onto an even, orthogonal grid.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Parked
from indexer.frames import Dropped, Frame, Reading, read_frames
from indexer.grids import Grid, heights_mm, plane_of, runs
from indexer.headers import quiet, read_dataset
from indexer.pixels import CT_AIR_HU, frame_values
from indexer.sealing import StoredPath
from indexer.separation import MIN_SLICES
from indexer.stacks import Stack, stacks_of
from indexer.tilt import shifted
from indexer.uids import SliceRef

__all__ = ["Dropped", "SeriesPlan", "SliceRef", "Stack", "Volume", "load_volume", "plan_series"]

MAX_DAMAGED = 2
MAX_DAMAGED_SHARE = 0.1
"""So many instances or slices of a series, and no larger share of it, may be damaged; they count as missing."""
REASONS_SHOWN = 3
_THREADS = min(len(os.sched_getaffinity(0)), 4)
"""Decoding at once: more would gain little over reading, and each holds an instance."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on an even, orthogonal grid in patient coordinates.

    Attributes
    ----------
    voxels : NDArray
        Shape (slices, rows, columns), C order; Hounsfield units for CT, arbitrary units for MR (air near 0).
    affine_lps_mm : NDArray
        Shape (4, 4): (slice, row, column, 1), the index of a voxel's centre, to (x, y, z, 1), LPS, mm. Its axes are
        orthogonal. Slices go along row direction x column direction, so (column, row, slice) is right-handed as in
        PS3.3 C.7.6.2.1.1, and the determinant in the order of the array's axes is negative.
    slices : tuple of SliceRef
        One a slice of `voxels`: the instance it is, or the nearest one where slices were interpolated.
    label : str
        What sets this volume apart within its series ("echo 2", "b=800", "part 1 of 2"); "" if it is the only one.
    notes : tuple of str
        What was done or noticed, in words for an administrator.
    frame_of_reference_uid : str
        "" where the frames have none, or different ones.
    """

    voxels: NDArray[np.float32]
    affine_lps_mm: NDArray[np.float64]
    slices: tuple[SliceRef, ...]
    modality: Literal["CT", "MR"]
    label: str
    notes: tuple[str, ...]
    frame_of_reference_uid: str = ""

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between slices, rows and columns; shape (3,), mm."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.affine_lps_mm[:3, :3], axis=0)
        return lengths


@dataclass(frozen=True)
class SeriesPlan:
    """The volumes that a series holds, and the instances that are part of none."""

    stacks: tuple[Stack, ...]
    dropped: tuple[Dropped, ...]


def plan_series(paths: Sequence[StoredPath]) -> SeriesPlan:
    """Say which volumes the instances of one series make up; pixel data are not kept.

    Parameters
    ----------
    paths : sequence of StoredPath
        All stored instances of the series, in any order.

    Raises
    ------
    ValueError
        No path, or instances of different series.
    Parked
        The series holds no volume, or it is ambiguous which; the message says why.
    Transient
        An instance cannot be read now.
    """
    if not paths:
        raise ValueError("expected the instances of a series, got none")
    readings = [read_frames(path) for path in paths]
    series = {reading.series_instance_uid for reading in readings} - {""}
    if len(series) > 1:
        raise ValueError(f"expected instances of one series, got {len(series)} Series Instance UIDs")
    _demand_sound(readings)
    frames = [frame for reading in readings for frame in reading.frames]
    excluded = [dropped for reading in readings for dropped in reading.dropped]
    if not frames:
        raise Parked(f"no instance is part of a CT or MR volume: {_counted(excluded)}")
    try:
        with quiet():
            stacks, dropped = stacks_of(frames)
    except Parked as reason:
        raise (Parked(f"{reason}; left out: {_counted(excluded)}") if excluded else reason) from reason
    return SeriesPlan(tuple(stacks), tuple(excluded + dropped))


def load_volume(stack: Stack) -> Volume:
    """Decode a stack onto its grid.

    A slice or two that cannot be decoded count as missing; they are named in the notes.

    Parameters
    ----------
    stack : Stack
        One of a plan's.

    Raises
    ------
    Parked
        The pixel data are damaged, or no grid fits.
    Transient
        An instance cannot be read now.
    """
    grid = stack.grid()
    voxels = np.empty((len(stack.frames), *grid.shape[1:]), dtype=np.float32)
    if failures := _decode_all(voxels, stack, grid):
        return load_volume(_without(stack, failures))
    _settle(voxels, stack)
    resampled = _along_slices(voxels, grid) if grid.interpolates else voxels
    references = {frame.frame_of_reference_uid for frame in stack.frames}
    return Volume(
        voxels=resampled,
        affine_lps_mm=grid.affine_lps_mm,
        slices=tuple(_reference(stack.frames[k]) for k in grid.nearest),
        modality=stack.modality,
        label=stack.label,
        notes=(*stack.notes, *_unit_notes(stack), *grid.notes),
        frame_of_reference_uid=references.pop() if len(references) == 1 else "",
    )


def _decode_all(voxels: NDArray[np.float32], stack: Stack, grid: Grid) -> dict[int, str]:
    """Decode every slice, several instances at once; reasons by slice of those few that cannot be decoded."""
    failures: dict[int, str] = {}
    with ThreadPoolExecutor(_THREADS, "decode") as threads:
        waiting = [
            threads.submit(_decode_into, voxels, path, [(k, stack.frames[k]) for k in members], grid)
            for path, members in _by_path(stack.frames).items()
        ]
        try:
            for decoded in waiting:
                failures |= decoded.result()
                if not _tolerable(len(failures), len(voxels)):
                    raise Parked(f"{len(failures)} of {len(voxels)} slices are damaged; {_first(failures)}")
        finally:
            threads.shutdown(cancel_futures=True)
    return failures


def _decode_into(
    voxels: NDArray[np.float32], path: StoredPath, members: Sequence[tuple[int, Frame]], grid: Grid
) -> dict[int, str]:
    """Decode frames of one instance into their slices; reasons by slice of those that cannot be decoded."""
    try:
        with quiet():
            dataset = read_dataset(path, with_pixels=True)
    except Parked as reason:
        return {k: str(reason) for k, _ in members}
    failures = {}
    for k, frame in members:
        try:
            values = frame_values(dataset, frame)
        except Parked as reason:
            failures[k] = str(reason)
            continue
        if grid.shifts_px is None:
            voxels[k] = values
        else:
            air = CT_AIR_HU if frame.modality == "CT" else np.nan
            voxels[k] = shifted(values, grid.shape[1:], grid.shifts_px[k], air)
    return failures


def _settle(voxels: NDArray[np.float32], stack: Stack) -> None:
    """Turn MR of MONOCHROME1 over, and fill what no slice covers, in place.

    MR values have no unit, and the encoder expects air to be dark and signal bright, as MONOCHROME2 shows it; so a
    volume whose smallest value is shown white is subtracted from its largest value. In CT the values are Hounsfield
    units whatever the display does, and stay.
    """
    if stack.modality == "CT":
        return
    empty = np.isnan(voxels)
    if stack.frames[0].format.inverted and not empty.all():
        np.subtract(voxels[~empty].max(), voxels, out=voxels)
    voxels[empty] = 0


def _along_slices(voxels: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Interpolate linearly along the slice axis; shape of the grid."""
    resampled = np.empty(grid.shape, dtype=np.float32)
    for k, (lower, weight) in enumerate(zip(grid.lower, grid.weight, strict=True)):
        if weight in (0, 1):
            resampled[k] = voxels[lower + int(weight)]
        else:
            share = np.float32(weight)
            resampled[k] = voxels[lower] * (1 - share) + voxels[lower + 1] * share
    return resampled


def _without(stack: Stack, failures: dict[int, str]) -> Stack:
    """The stack without slices that cannot be decoded; a gap too wide to be bridged parks the series."""
    rest = tuple(frame for k, frame in enumerate(stack.frames) if k not in failures)
    note = f"{len(failures)} slice(s) left out as damaged: {_first(failures)}"
    remaining = replace(stack, frames=rest, notes=(*stack.notes, note))
    heights = heights_mm(rest, plane_of(rest))
    if len(rest) < MIN_SLICES or len(runs(heights)) > 1:
        raise Parked(f"{len(failures)} damaged slice(s) leave a gap too wide to be bridged: {_first(failures)}")
    return remaining


def _unit_notes(stack: Stack) -> tuple[str, ...]:
    first = stack.frames[0]
    if stack.modality == "CT" and any(frame.rescale and frame.rescale.unit == "US" for frame in stack.frames):
        return ("Rescale Type US (unspecified) taken as Hounsfield units",)
    if stack.modality == "MR" and first.format.inverted:
        return ("MONOCHROME1: values turned over so that air is dark",)
    return ()


def _demand_sound(readings: Sequence[Reading]) -> None:
    """Park a series with more damaged instances than can count as missing slices."""
    damaged = [reading.dropped[0] for reading in readings if reading.damaged]
    if not _tolerable(len(damaged), len(readings)):
        if len(damaged) == len(readings):
            raise Parked(_counted(damaged))
        raise Parked(f"{len(damaged)} of {len(readings)} instances are damaged: {_counted(damaged)}")


def _tolerable(damaged: int, total: int) -> bool:
    return damaged <= min(MAX_DAMAGED, MAX_DAMAGED_SHARE * total)


def _counted(dropped: Sequence[Dropped]) -> str:
    """The commonest reasons with their numbers."""
    counts = Counter(one.reason for one in dropped).most_common()
    shown = "; ".join(f"{count} x {reason}" for reason, count in counts[:REASONS_SHOWN])
    return f"{shown}; and others" if len(counts) > REASONS_SHOWN else shown


def _first(failures: dict[int, str]) -> str:
    return next(iter(failures.values()))


def _by_path(frames: Sequence[Frame]) -> dict[StoredPath, list[int]]:
    found: dict[StoredPath, list[int]] = defaultdict(list)
    for k, frame in enumerate(frames):
        found[frame.path].append(k)
    return found


def _reference(frame: Frame) -> SliceRef:
    return SliceRef(frame.sop_instance_uid, None if frame.index is None else frame.index + 1)
