"""From the frames of a series to stacks: frames of one orientation and raster that make up one volume.

Orientation, raster and frame of reference part a series first; then what explains positions that occur again
(`separation`), and gaps too wide to be bridged (`grids`).
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from indexer.errors import Parked
from indexer.frames import Dropped, Frame, Modality
from indexer.grids import Grid, even_axis, grid_of, plane_of, prevailing_mm, runs
from indexer.pixels import same_pixels
from indexer.separation import MIN_SLICES, SAME_PLACE_MM, Group, Placed, interleaved, place, separate
from indexer.traits import Traits

PARALLEL_TOLERANCE_DEG = 0.5
"""Frames whose row and column directions differ by less than this are parallel."""
MIN_EXTENT_MM = 5.0
"""A volume thinner than this holds nothing to compare."""
IRREGULAR_SHARE = 0.8
"""Where fewer steps than this have the smallest prevailing spacing, two stacks may be interleaved."""


@dataclass(frozen=True)
class Stack:
    """Frames of one volume, in increasing order along the normal (row direction x column direction).

    Attributes
    ----------
    label : str
        What sets it apart within its series; "" if it is the only one.
    notes : tuple of str
        What was noticed so far, in words for an administrator.
    """

    frames: tuple[Frame, ...]
    label: str
    notes: tuple[str, ...] = ()

    @property
    def modality(self) -> Modality:
        """CT or MR; the same for all frames."""
        return self.frames[0].modality

    def grid(self) -> Grid:
        """Even, orthogonal grid of the volume; raises `Parked` where there is none."""
        return grid_of(self.frames)


def stacks_of(frames: Sequence[Frame]) -> tuple[list[Stack], list[Dropped]]:
    """Part the frames of one series into stacks.

    Parameters
    ----------
    frames : sequence of Frame
        All usable frames of the series, in any order.

    Returns
    -------
    stacks : list of Stack
        Each with enough slices, none with a position twice; in an order that depends on the data only.
    dropped : list of Dropped
        Frames that are part of no stack, by instance and reason.

    Raises
    ------
    Parked
        No stack is left, or positions occur again and nothing explains why.
    """
    ordered = sorted(frames, key=lambda frame: (frame.sop_instance_uid, frame.index or 0))
    unique, dropped = _without_twins(ordered)
    notes, by_reference = _by_frame_of_reference(unique)
    parted = [
        parallel for same in by_reference for raster in _by_raster(same) for parallel in _by_orientation(raster)
    ]
    _refuse_radial(parted)
    stacks: list[Stack] = []
    small: list[int] = []
    for parallel, label in _named(parted):
        for stack, lost in _volumes(parallel, label, notes):
            dropped += lost
            if _too_small(stack):
                small.append(len(stack.frames))
                reason = f"one of {len(stack.frames)} slice(s) that lie apart: a volume needs {MIN_SLICES}"
                dropped += [Dropped(frame.sop_instance_uid, reason) for frame in stack.frames]
            else:
                stacks.append(stack)
    if not stacks:
        needs = f"a volume needs at least {MIN_SLICES} and {MIN_EXTENT_MM:g} mm"
        raise Parked(f"a series of {max(small)} slice{'s' * (max(small) > 1)}: {needs}")
    return _unique_labels(stacks), _summed(dropped)


def _volumes(frames: Sequence[Frame], label: str, notes: tuple[str, ...]) -> list[tuple[Stack, list[Dropped]]]:
    """Stacks of parallel frames of one raster, with what was dropped on the way to each."""
    placed = place(frames, plane_of(frames))
    placed, duplicates = _without_duplicates(placed)
    found = []
    for group in separate(placed):
        for whole in _disentangled(group):
            members = [one.frame for one in whole.members]
            pieces = runs(np.asarray([one.height_mm for one in whole.members]))
            for number, piece in enumerate(pieces, start=1):
                part = f"part {number} of {len(pieces)}" if len(pieces) > 1 else ""
                named = ", ".join(filter(None, (label, whole.label, part)))
                found.append((Stack(tuple(members[piece]), named, notes + whole.notes), list(whole.dropped)))
                whole = replace(whole, dropped=())
    if duplicates and found:
        stack, lost = found[0]
        note = f"{len(duplicates)} duplicate{'s' * (len(duplicates) > 1)} dropped"
        found[0] = (replace(stack, notes=(*stack.notes, note)), lost + duplicates)
    return found


def _disentangled(group: Group) -> list[Group]:
    """Two stacks at positions of their own that were taken for one uneven stack, taken apart."""
    heights = np.asarray([one.height_mm for one in group.members])
    if len(heights) < 2 * MIN_SLICES or even_axis(heights) is not None:
        return [group]
    steps, smallest = np.diff(heights), prevailing_mm(heights)[0]
    if np.mean(np.abs(steps - smallest) < 0.1 * smallest) >= IRREGULAR_SHARE:
        return [group]
    parts = interleaved(group.members, _is_even)
    named = [replace(part, label=", ".join(filter(None, (group.label, part.label)))) for part in parts]
    named[0] = replace(named[0], notes=group.notes, dropped=group.dropped)
    return named


def _is_even(placed: Sequence[Placed]) -> bool:
    return even_axis(np.asarray([one.height_mm for one in placed])) is not None


def _too_small(stack: Stack) -> bool:
    if len(stack.frames) < MIN_SLICES:
        return True
    first, last = (np.asarray(stack.frames[k].position_mm) for k in (0, -1))
    extent = float(np.linalg.norm(last - first)) * len(stack.frames) / (len(stack.frames) - 1)
    return extent < MIN_EXTENT_MM


def _without_twins(frames: Sequence[Frame]) -> tuple[list[Frame], list[Dropped]]:
    """Keep one frame each of instances that came twice under one SOP Instance UID."""
    seen: dict[tuple[str, int | None], Frame] = {}
    dropped = []
    for frame in frames:
        key = (frame.sop_instance_uid, frame.index)
        if seen.setdefault(key, frame) is not frame:
            dropped.append(Dropped(frame.sop_instance_uid, "its SOP Instance UID came twice"))
    return list(seen.values()), dropped


def _without_duplicates(placed: list[Placed]) -> tuple[list[Placed], list[Dropped]]:
    """Drop frames that show the same place, look the same in every attribute, and have the same pixels."""
    kept: list[Placed] = []
    dropped = []
    for _, same in groupby(placed, key=lambda one: one.location):
        here: list[Placed] = []
        for one in same:
            if any(_alike(one.frame, other.frame) and same_pixels(one.frame, other.frame) for other in here):
                dropped.append(Dropped(one.frame.sop_instance_uid, "a duplicate: same position, same pixels"))
            else:
                here.append(one)
        kept += here
    return kept, dropped


def _alike(a: Frame, b: Frame) -> bool:
    """Whether nothing but numbering and times of creation tells two frames apart."""
    apart = max(abs(p - q) for p, q in zip(a.position_mm, b.position_mm, strict=True))
    return apart <= SAME_PLACE_MM and a.rescale == b.rescale and _unnumbered(a.traits) == _unnumbered(b.traits)


def _unnumbered(traits: Traits) -> Traits:
    return replace(traits, instance_number=None, content_time_s=None, dimension_index=())


def _by_frame_of_reference(frames: Sequence[Frame]) -> tuple[tuple[str, ...], list[list[Frame]]]:
    """Part by frame of reference, unless it differs from slice to slice, as careless pseudonymisation makes it."""
    groups = _grouped(frames, [frame.frame_of_reference_uid for frame in frames])
    if len(groups) == 1:
        return (), groups
    large = sum(len(group) for group in groups if len(group) >= MIN_SLICES)
    if large >= len(frames) / 2:
        return (), groups
    return ("the Frame of Reference UID differs from slice to slice and was ignored",), [list(frames)]


def _by_raster(frames: Sequence[Frame]) -> list[list[Frame]]:
    keys = [
        (frame.modality, frame.format.rows, frame.format.columns, *(round(mm, 3) for mm in frame.spacing_mm),
         frame.format.inverted)
        for frame in frames
    ]  # fmt: skip
    return _grouped(frames, keys)


def _by_orientation(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Part into groups of frames parallel to the group's first one within the tolerance."""
    limit = 2 * np.sin(np.radians(PARALLEL_TOLERANCE_DEG) / 2)
    groups: list[tuple[np.ndarray, list[Frame]]] = []
    for frame in frames:
        cosines = np.asarray(frame.orientation).reshape(2, 3)
        for reference, members in groups:
            if np.linalg.norm(cosines - reference, axis=1).max() <= limit:
                members.append(frame)
                break
        else:
            groups.append((cosines, [frame]))
    return [members for _, members in groups]


def _refuse_radial(parted: Sequence[Sequence[Frame]]) -> None:
    if len(parted) > MIN_SLICES and max(map(len, parted)) < MIN_SLICES:
        raise Parked(
            f"{len(parted)} slices with {len(parted)} orientations or rasters: radial or rotating images, no volume"
            if max(map(len, parted)) == 1
            else f"{len(parted)} orientations or rasters, none with {MIN_SLICES} slices: radial images, no volume"
        )


def _named(parted: Sequence[list[Frame]]) -> list[tuple[list[Frame], str]]:
    """Name groups by their orientation where there are several."""
    if len(parted) == 1:
        return [(parted[0], "")]
    names = [_orientation_name(frames) for frames in parted]
    several = len(set(names)) > 1
    return [(frames, name if several else "") for frames, name in zip(parted, names, strict=True)]


def _orientation_name(frames: Sequence[Frame]) -> str:
    """Which anatomical plane the normal is nearest to."""
    normal = np.abs(plane_of(frames).normal)
    return ("sagittal", "coronal", "axial")[int(np.argmax(normal))]


def _unique_labels(stacks: Sequence[Stack]) -> list[Stack]:
    """Tell stacks of the same label apart by a number; a single stack needs no label."""
    if len(stacks) == 1:
        return [replace(stacks[0], label="")]
    counts = Counter(stack.label for stack in stacks)
    used: Counter[str] = Counter()
    named = []
    for stack in stacks:
        used[stack.label] += 1
        number = f"volume {used[stack.label]}" if counts[stack.label] > 1 else ""
        named.append(replace(stack, label=", ".join(filter(None, (stack.label, number)))))
    return named


def _summed(dropped: Sequence[Dropped]) -> list[Dropped]:
    """One entry an instance and reason, with the number of frames where there are several."""
    counts = Counter(dropped)
    return [
        one if n == 1 else Dropped(one.sop_instance_uid, f"{one.reason} ({n} frames)") for one, n in counts.items()
    ]


def _grouped(frames: Sequence[Frame], keys: Sequence[Hashable]) -> list[list[Frame]]:
    """Frames by key, in the order in which the keys first occur."""
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame, key in zip(frames, keys, strict=True):
        groups[key].append(frame)
    return list(groups.values())
