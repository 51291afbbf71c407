"""Telling apart frames of one series that show the same place: by what differs there, never by the order of files.

An attribute separates frames only if it explains why positions occur again. What merely varies along the stack (the
acquisition time of every slice, say) separates nothing, and positions that occur once need no explanation.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from indexer.errors import Parked
from indexer.frames import Dropped, Frame
from indexer.grids import Plane, heights_mm

SAME_PLACE_MM = 0.05
"""Frames closer than this along the normal are at the same position."""
MIN_SLICES = 3
"""Fewer slices are no volume."""
PARALLEL_SHARE = 0.5
"""Two groups show the same range if this share of the smaller one's positions occur in both."""
STRAY_SHARE = 0.1
"""At most this share of positions may occur twice where one acquisition continues another."""
IN_GROUPS_SHARE = 0.8
"""An attribute that leaves more than the rest of the frames in groups too small for a volume explains nothing."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A frame with its position along the normal of its stack.

    Attributes
    ----------
    height_mm : float
        Position along the normal.
    location : int
        Number of the position; frames of the same position share it.
    shift_mm : tuple of int
        Whole mm of the first voxel in the plane, along column and row direction.
    """

    frame: Frame
    height_mm: float
    location: int
    shift_mm: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Frames of one volume, each at its own position, and what sets them apart from the others of the series."""

    members: tuple[Placed, ...]
    label: str = ""
    notes: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, slots=True)
class Criterion:
    """An attribute that may separate frames, and how a volume separated by it is called.

    Attributes
    ----------
    label : str
        Format of the label: `value` is the attribute's value, `rank` its place among the values, from 1.
    """

    name: str
    value: Callable[[Placed], Any]
    label: str


def _trait(name: str, keyword: str, label: str) -> Criterion:
    return Criterion(name, lambda placed: getattr(placed.frame.traits, keyword), label)


CRITERIA = (
    _trait("Stack ID", "stack_id", "stack {rank}"),
    _trait("Image Type", "image_type", "{value}"),
    _trait("Complex Image Component", "component", "component {rank}"),
    _trait("Echo Time", "echo_time_ms", "echo {rank}"),
    _trait("Echo Number", "echo_number", "echo {value:g}"),
    _trait("Inversion Time", "inversion_time_ms", "TI={value:g}"),
    _trait("b-value", "b_value_s_mm2", "b={value:g}"),
    _trait("gradient direction", "gradient", "direction {rank}"),
    _trait("Temporal Position", "temporal_position", "phase {rank}"),
    _trait("Trigger Time", "trigger_time_ms", "phase {rank}"),
    _trait("cardiac phase", "cardiac_percent", "{value:g} % of the cardiac cycle"),
    _trait("KVP", "kvp", "{value:g} kV"),
    _trait("energy", "energy_kev", "{value:g} keV"),
    _trait("Convolution Kernel", "kernel", "kernel {rank}"),
    _trait("Slice Thickness", "thickness_mm", "{value:g} mm slices"),
    _trait("Flip Angle", "flip_angle_deg", "flip angle {value:g}"),
    _trait("Acquisition Number", "acquisition_number", "acquisition {rank}"),
    _trait("Acquisition Time", "acquisition_time_s", "phase {rank}"),
    _trait("Content Time", "content_time_s", "phase {rank}"),
    _trait("dimension index", "dimension_index", "dimension {rank}"),
    Criterion("in-plane position", lambda placed: placed.shift_mm, "field {rank}"),
)
"""Attributes whose values separate, the most telling first."""

RANKED = (
    _trait("Trigger Time", "trigger_time_ms", "phase {rank}"),
    _trait("Acquisition Time", "acquisition_time_s", "phase {rank}"),
    _trait("Content Time", "content_time_s", "phase {rank}"),
)
"""Attributes whose order at each position separates: phases that every slice times for itself."""


def place(frames: Iterable[Frame], plane: Plane) -> list[Placed]:
    """Sort frames along the normal and number their positions."""
    ordered = list(frames)
    heights = heights_mm(ordered, plane)
    placed: list[Placed] = []
    location, start = -1, -np.inf
    for k in np.argsort(heights, kind="stable"):
        if heights[k] - start > SAME_PLACE_MM:
            location, start = location + 1, heights[k]
        position = np.asarray(ordered[k].position_mm)
        shift = (round(float(position @ plane.column)), round(float(position @ plane.row)))
        placed.append(Placed(ordered[k], float(heights[k]), location, shift))
    return placed


def separate(placed: Sequence[Placed]) -> list[Group]:
    """Split frames into groups in which every position occurs once.

    Raises
    ------
    Parked
        Positions occur again and nothing explains why.
    """
    if not _repeated(placed):
        return [Group(tuple(placed))]
    for criterion in CRITERIA:
        parts = _by_value(placed, criterion)
        if _explains(parts):
            return _labelled(parts, criterion)
    for criterion in RANKED:
        ranks = _by_rank(placed, criterion)
        if ranks:
            return _labelled(ranks, criterion)
    return [_continued(placed)] if _is_continued(placed) else _by_instance_number(placed)


def interleaved(placed: Sequence[Placed], is_even: Callable[[Sequence[Placed]], bool]) -> list[Group]:
    """Split frames whose positions occur once, but belong to several even stacks, shifted against each other.

    Parameters
    ----------
    placed : sequence of Placed
        Frames at different positions, unevenly spaced.
    is_even : callable
        Whether frames are evenly spaced.

    Returns
    -------
    list of Group
        A single group where no attribute separates the frames into even stacks of overlapping extent.
    """
    for criterion in CRITERIA:
        parts = _by_value(placed, criterion)
        if len(parts) < 2 or min(map(len, parts.values())) < MIN_SLICES:
            continue
        overlap = min(part[-1].height_mm for part in parts.values()) - max(
            part[0].height_mm for part in parts.values()
        )
        extent = max(part[-1].height_mm - part[0].height_mm for part in parts.values())
        if overlap > PARALLEL_SHARE * extent and all(is_even(part) for part in parts.values()):
            return _labelled(parts, criterion)
    return [Group(tuple(placed))]


def _repeated(placed: Iterable[Placed]) -> set[int]:
    """Locations that more than one frame has."""
    return {location for location, count in Counter(p.location for p in placed).items() if count > 1}


def _by_location(placed: Iterable[Placed]) -> dict[int, list[Placed]]:
    found: dict[int, list[Placed]] = defaultdict(list)
    for one in placed:
        found[one.location].append(one)
    return found


def _by_value(placed: Iterable[Placed], criterion: Criterion) -> dict[Any, list[Placed]]:
    """Frames by the value of an attribute, absent values last."""
    found: dict[Any, list[Placed]] = defaultdict(list)
    for one in placed:
        found[criterion.value(one)].append(one)
    order = sorted(found, key=lambda value: (value is None, 0 if value is None else value))
    return {value: found[value] for value in order}


def _explains(parts: dict[Any, list[Placed]]) -> bool:
    """Whether parts are volumes side by side: they share positions, and nearly all frames are in large parts."""
    locations = [{one.location for one in part} for part in parts.values()]
    large = [k for k, own in enumerate(locations) if len(own) >= MIN_SLICES]
    sizes = [len(part) for part in parts.values()]
    if sum(sizes[k] for k in large) < IN_GROUPS_SHARE * sum(sizes):
        return False
    pairs = combinations([locations[k] for k in large], 2)
    return any(len(a & b) >= PARALLEL_SHARE * min(len(a), len(b)) for a, b in pairs)


def _by_rank(placed: Sequence[Placed], criterion: Criterion) -> dict[Any, list[Placed]]:
    """Frames by the rank of their value at their position; nothing where the ranks do not make whole volumes."""
    parts: dict[Any, list[Placed]] = defaultdict(list)
    counts: Counter[int] = Counter()
    for here in _by_location(placed).values():
        values = [criterion.value(one) for one in here]
        if None in values or len(set(values)) < len(values):
            return {}
        counts[len(here)] += 1
        for rank, (_, one) in enumerate(sorted(zip(values, here, strict=True), key=lambda pair: pair[0])):
            parts[rank].append(one)
    most = max(counts)
    full = counts[most] >= PARALLEL_SHARE * counts.total()
    return dict(sorted(parts.items())) if full and min(counts) >= most - 1 else {}


def _labelled(parts: dict[Any, list[Placed]], criterion: Criterion) -> list[Group]:
    """Separate every part further, and say what set it apart."""
    groups = []
    common = set.intersection(*(set(value) for value in parts)) if criterion.name == "Image Type" else set()
    for rank, (value, part) in enumerate(parts.items(), start=1):
        shown = " ".join(str(v) for v in value if v not in common) if isinstance(value, tuple) else value
        text = criterion.label.format(value=shown, rank=rank) if value is not None else f"no {criterion.name}"
        for group in separate(part):
            label = ", ".join(filter(None, (text.strip(), group.label)))
            groups.append(Group(group.members, label, group.notes, group.dropped))
    return groups


def _is_continued(placed: Sequence[Placed]) -> bool:
    """Whether a few positions occur again because one acquisition starts where another ended."""
    locations = _by_location(placed)
    again = _repeated(placed)
    if len(again) > max(1, STRAY_SHARE * len(locations)):
        return False
    return any(
        all(len({criterion.value(one) for one in locations[k]}) == len(locations[k]) for k in again)
        for criterion in CRITERIA[:-1]
    )


def _continued(placed: Sequence[Placed]) -> Group:
    """One frame a position: the one of the acquisition with the most frames."""
    sizes = Counter(one.frame.traits.acquisition_number for one in placed)
    kept, dropped = [], []
    for here in _by_location(placed).values():
        best, *rest = sorted(here, key=lambda one: -sizes[one.frame.traits.acquisition_number])
        kept.append(best)
        reason = "its position was acquired again where one acquisition continues another"
        dropped += [Dropped(one.frame.sop_instance_uid, reason) for one in rest]
    note = f"{len(dropped)} position(s) acquired twice, where one acquisition continues another"
    return Group(tuple(kept), "", (note,), tuple(dropped))


def _by_instance_number(placed: Sequence[Placed]) -> list[Group]:
    """Equal runs in the order of Instance Number: a volume after the other, or all of a position after another."""
    again = len(_repeated(placed))
    locations = {one.location for one in placed}
    count = len(placed) // len(locations)
    numbers = [one.frame.traits.instance_number for one in placed]
    known = [number for number in numbers if number is not None]
    problem = f"{again} of {len(locations)} positions occur again and no attribute explains why"
    if len(set(known)) < len(placed) or count * len(locations) != len(placed) or count < 2:
        raise Parked(f"{problem}, nor does Instance Number")
    ordered = [one for _, one in sorted(zip(known, placed, strict=True), key=lambda pair: pair[0])]
    length = len(locations)
    whole = [ordered[k * length : (k + 1) * length] for k in range(count)]
    nested = [ordered[k::count] for k in range(count)]
    for parts in (whole, nested):
        if all(len({one.location for one in part}) == length for part in parts) and _steady(parts):
            return [
                Group(
                    tuple(sorted(part, key=lambda one: one.height_mm)),
                    f"run {k}",
                    ("separated by Instance Number",),
                )
                for k, part in enumerate(parts, start=1)
            ]
    raise Parked(f"{problem}, nor does Instance Number")


def _steady(parts: Sequence[Sequence[Placed]]) -> bool:
    """Whether all parts run through the positions in the same order."""
    orders = [[one.location for one in part] for part in parts]
    return all(a == b for a, b in pairwise(orders))
