"""Slabs of a volume in which findings are inserted, cut out with some of the surroundings along z."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from indexer.body import Mask, around
from indexer.compartments import BRAIN, Kind
from indexer.resample import PatientGrid

SLAB_MM = 96.0
_AROUND_MM = 12.0
_LEAST_MM = 60.0
"""A shorter stretch of a compartment is no slab."""
_WIDE = 0.4
"""Of the compartment's largest section: as large are the sections of a slab."""
_STEP_MM, _SHORT_STEP_MM = 64.0, 40.0
"""From one slab to the next, about: they overlap."""
_MOST_SLABS = 4
_BEYOND_MM: dict[Kind, float] = {BRAIN: 32.0}
"""Beyond either end of what is hardly longer than a slab: slabs that show a part of it count as well."""


@dataclass(frozen=True, eq=False)
class Slab:
    """A slab with its surroundings.

    Attributes
    ----------
    grid, body, place : PatientGrid and (Z, X, Y) bool
        The volume cut along z and around the body, the body and the compartment in it.
    span : slice
        The slab itself, in voxels along z of that grid.
    """

    grid: PatientGrid
    body: Mask
    place: Mask
    span: slice


def slabs_of(grid: PatientGrid, body: Mask, masks: dict[Kind, Mask], kind: Kind) -> Iterator[Slab]:
    """Cut overlapping slabs of 96 mm where a compartment is wide; a shorter compartment is one shorter slab."""
    if kind not in masks:
        return
    area = masks[kind].sum(axis=(1, 2))
    wide = np.flatnonzero(area >= _WIDE * area.max())
    first, last = int(wide[0]), int(wide[-1]) + 1
    step = grid.spacing_mm[0]
    if (last - first) * step < _LEAST_MM:
        return
    beyond = round(_BEYOND_MM.get(kind, 0.0) / step)
    first, last = max(0, first - beyond), min(len(area), last + beyond)
    apart = _SHORT_STEP_MM if beyond else _STEP_MM
    count = int(np.clip((last - first) * step / apart, 1, _MOST_SLABS))
    length = min(last - first, round(SLAB_MM / step))
    starts = np.linspace(first, last - length, count) if count > 1 else [(first + last - length) / 2]
    margin = round(_AROUND_MM / step)
    in_plane = around(body)[1:]
    for start in (round(float(one)) for one in starts):
        lower, upper = max(0, start - margin), min(len(area), start + length + margin)
        window = (slice(lower, upper), *in_plane)
        yield Slab(
            grid=_cut(grid, window),
            body=body[window],
            place=masks[kind][window],
            span=slice(start - lower, start - lower + length),
        )


def _cut(grid: PatientGrid, window: tuple[slice, slice, slice]) -> PatientGrid:
    z, x, y = (one.start * step for one, step in zip(window, grid.spacing_mm, strict=True))
    origin = grid.origin_lps_mm + np.array([-x, -y, z])  # x and y of the grid run against LPS
    return replace(grid, voxels=grid.voxels[window], inside=grid.inside[window], origin_lps_mm=origin)
