"""Where in a grid lungs, brain, solid organs and bones lie, by density and geometry; disease stays inside."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from indexer.body import Mask, filled, parts
from indexer.resample import averaged
from indexer.thinned import STEP_MM, Thinned

Kind = Literal["LUNGS", "BRAIN", "ORGANS", "BONES", "INNER"]
LUNGS: Kind = "LUNGS"
BRAIN: Kind = "BRAIN"
ORGANS: Kind = "ORGANS"
BONES: Kind = "BONES"
INNER: Kind = "INNER"
OF_MODALITY: dict[str, tuple[Kind, ...]] = {"CT": (LUNGS, BRAIN, ORGANS, BONES), "MR": (INNER,)}
"""Compartments that are looked for; MR has no unit of density, so that depth below the skin is all there is."""

_LUNG_HU, _GAS_HU = -500.0, -965.0
_MOST_GAS = 0.5
"""Share of gas, away from the edges, from which on air is bowel or stomach, not lung."""
_LEAST_LUNG_ML, _LEAST_BRAIN_ML, _LEAST_ORGAN_ML = 100.0, 150.0, 40.0
_AIRWAY_MM = 12.0
"""Air this near the midline is trachea."""
_WALL_MM = 9.0
"""Thickness of chest wall that is no part of the cavity."""
_BONE_HU = 220.0
_BRAIN_HU = (-20.0, 120.0)
"""Oedema and fresh blood are within."""
_LEAST_SKULL = 0.08
"""Of a slice's body: bone of a skull takes more."""
_BESET = 7
"""Of eight directions, those in which bone has to be met."""
_EVEN, _MOST_CONTRAST_HU = 0.75, 450.0
"""Of its densest neighbour, as dense is a cell of contrast medium; bone is not, next to its cortex."""
_VESSEL_MM, _RIM_MM = 9.0, 12.0
"""Half the width of a vessel from which on it is one, and what of its surroundings may be half filled."""
_MARROW_MM = 18.0
"""Half the width of a gap in bone that is taken for bone: marrow, and what a lesion leaves open."""
BESIDE_BONE_MM = 12.0
"""What is as near to bone belongs to it: a lesion of its surface, or of all of a vertebra, stays inside."""
_SOLID_HU = (-30.0, 240.0)
"""A dark lesion in muscle, or in a liver full of fat, is below 0; a border to fat is darker."""
_SOLID_RADIUS_MM = 12.0
_INNER_MM = 15.0
_DIRECTIONS = 32
"""Half-planes that a convex hull is cut from."""
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class _Coarse:
    """A volume averaged to voxels of about 6 mm, (Z, X, Y) as before."""

    seen: Thinned

    @property
    def times(self) -> tuple[int, int, int]:
        """Voxels of the grid along z, x, y that one is the mean of."""
        return max(1, round(STEP_MM / float(self.seen.grid.spacing_mm[0]))), *self.seen.times

    @cached_property
    def spacing_mm(self) -> NDArray[np.float64]:
        return self.seen.grid.spacing_mm * self.times

    @cached_property
    def voxels(self) -> NDArray[np.float32]:
        return averaged(self.seen.voxels, 0, self.times[0])

    @cached_property
    def body(self) -> Mask:
        return averaged(self.seen.share, 0, self.times[0]) >= 0.5

    @cached_property
    def brain(self) -> Mask:
        return _brain(self)

    @property
    def voxel_ml(self) -> float:
        return float(self.spacing_mm.prod()) / 1000


def compartments(seen: Thinned, kinds: Container[str] | None = None) -> dict[Kind, Mask]:
    """Find a volume's compartments: kind to mask (Z, X, Y), see `in_box`."""
    whole = {}
    for kind, mask in in_box(seen, kinds).items():
        whole[kind] = np.zeros(seen.body.shape, np.bool_)
        whole[kind][seen.window] = mask
    return whole


def in_box(seen: Thinned, kinds: Container[str] | None = None) -> dict[Kind, Mask]:
    """Find a volume's compartments: kind to mask within the body's box in-plane; those not shown are left out.

    Lungs are the thoracic cavity on both sides, not the air in it: each side's convex hull and the other side's
    mirror image, so that fluid, consolidation and masses stay inside. The brain is what the skull encloses. Organs
    are thick parts of other soft tissue with their holes filled; bones are what is dense, but not thick and even as
    contrast medium is, with the marrow between and a little of what is beside.

    Parameters
    ----------
    kinds : container of str, optional
        Only these are looked for.
    """
    coarse = _Coarse(seen)
    find: dict[Kind, Callable[[_Coarse], Mask]] = {
        LUNGS: _lungs,
        BRAIN: lambda one: one.brain,
        ORGANS: _organs,
        BONES: _bones,
        INNER: _inner,
    }
    wanted = [kind for kind in OF_MODALITY.get(seen.grid.modality, ()) if kinds is None or kind in kinds]
    found = {kind: find[kind](coarse) for kind in wanted}
    body = seen.body[seen.window]
    return {kind: _restored(mask, coarse.times, body.shape) & body for kind, mask in found.items() if mask.any()}


def _restored(mask: Mask, thinning: tuple[int, ...], shape: tuple[int, ...]) -> Mask:
    for axis in (2, 1, 0):  # single values while there are few, then whole rows and planes
        mask = mask.repeat(thinning[axis], axis=axis)
    return mask[: shape[0], : shape[1], : shape[2]]


def _lungs(coarse: _Coarse) -> Mask:
    air = _lung_air(coarse)
    if not air.any():
        return air
    cavity = np.zeros_like(air)
    xs = np.arange(air.shape[1])
    for z in np.flatnonzero(air.any(axis=(1, 2))):
        middle = _middle(coarse.body[z])
        lateral = (np.abs(xs - middle) * coarse.spacing_mm[1] > _AIRWAY_MM)[:, None]
        right, left = (xs > middle)[:, None], (xs < middle)[:, None]
        sides = [_hull(air[z] & lateral & side) for side in (right, left)]
        mirrored = [_mirrored(side, middle) for side in sides]
        cavity[z] = sides[0] | sides[1] | (mirrored[1] & right & lateral) | (mirrored[0] & left & lateral)
    return cavity & _eroded(coarse.body, _WALL_MM, coarse.spacing_mm, in_plane=True)


def _lung_air(coarse: _Coarse) -> Mask:
    air = (coarse.voxels < _LUNG_HU) & coarse.body
    labels, sizes = parts(air)
    if not sizes.size:
        return air
    core = _eroded(air, STEP_MM, coarse.spacing_mm)
    inside = np.bincount(labels[core], minlength=len(sizes) + 1)[1:]
    gas = np.bincount(labels[core], coarse.voxels[core] < _GAS_HU, len(sizes) + 1)[1:]
    kept = (sizes * coarse.voxel_ml >= _LEAST_LUNG_ML) & (gas < _MOST_GAS * inside)
    return np.asarray(np.concatenate([[False], kept])[labels])


def _middle(body: Mask) -> float:
    """Where the midline is along x, from the body's edges in a slice."""
    xs = np.flatnonzero(body.any(axis=1))
    return float(xs[0] + xs[-1]) / 2 if xs.size else body.shape[0] / 2


def _mirrored(mask: Mask, middle: float) -> Mask:
    source = np.round(2 * middle - np.arange(mask.shape[0])).astype(int)
    inside = (source >= 0) & (source < mask.shape[0])
    return np.asarray(mask[source.clip(0, mask.shape[0] - 1)] & inside[:, None])


def _hull(mask: Mask) -> Mask:
    """Convex hull of a slice's mask (X, Y), as the half-planes of some directions that hold all of it."""
    points = np.argwhere(mask)
    if len(points) < 3:
        return mask
    lowest, highest = points.min(axis=0), points.max(axis=0) + 1
    angles = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    near = np.moveaxis(np.indices((highest - lowest).tolist()), 0, -1) @ directions
    farthest = ((points - lowest) @ directions).max(axis=0)
    hull = np.zeros_like(mask)
    hull[lowest[0] : highest[0], lowest[1] : highest[1]] = (near <= farthest + _ROUNDING).all(axis=-1)
    return hull


def _brain(coarse: _Coarse) -> Mask:
    """Tissue as dense as brain with bone in nearly all directions of its slice: a skull may have gaps."""
    bone = (coarse.voxels > _BONE_HU) & coarse.body
    of_skull = bone.sum(axis=(1, 2)) > _LEAST_SKULL * coarse.body.sum(axis=(1, 2))
    enclosed = np.zeros_like(bone)
    enclosed[of_skull] = _beset(bone[of_skull]) & ~bone[of_skull]
    low, high = _BRAIN_HU
    brain = enclosed & (coarse.voxels > low) & (coarse.voxels < high)
    if not brain.any():
        return brain
    thick = _opened(brain, _SOLID_RADIUS_MM, coarse.spacing_mm)
    return filled(_large(thick, _LEAST_BRAIN_ML / coarse.voxel_ml)) & ~bone


def _beset(mask: Mask) -> Mask:
    """Where at least `_BESET` of the eight directions of a slice, diagonals among them, lead to a mask."""
    seen = np.zeros(mask.shape, np.uint8)
    for direction in np.argwhere(np.arange(9).reshape(3, 3) != 4) - 1:
        reached, far = mask.copy(), 1
        while far < max(mask.shape[1:]):
            _add_moved(reached, reached.copy(), [0, *(far * direction).tolist()])
            far *= 2
        seen += reached
    return seen >= _BESET


def _organs(coarse: _Coarse) -> Mask:
    low, high = _SOLID_HU
    solid = (coarse.voxels > low) & (coarse.voxels < high) & coarse.body
    thick = _opened(solid, _SOLID_RADIUS_MM, coarse.spacing_mm)
    return _closed(_large(thick, _LEAST_ORGAN_ML / coarse.voxel_ml), _SOLID_RADIUS_MM, coarse) & ~coarse.brain


def _bones(coarse: _Coarse) -> Mask:
    bone = (coarse.voxels > _BONE_HU) & coarse.body
    bone &= ~_contrast(coarse, bone)
    closed = _closed(bone, _MARROW_MM, coarse)
    bones = closed & ~_opened(closed & ~bone, _MARROW_MM, coarse.spacing_mm) & ~coarse.brain
    return _dilated(bones, BESIDE_BONE_MM, coarse.spacing_mm) & coarse.body


def _contrast(coarse: _Coarse, bone: Mask) -> Mask:
    """Heart and vessels full of contrast medium: as dense as bone, but thick and even, without a cortex."""
    even = bone & (coarse.voxels > _EVEN * _highest(coarse.voxels)) & (coarse.voxels < _MOST_CONTRAST_HU)
    thick = _opened(even, _VESSEL_MM, coarse.spacing_mm)
    return _dilated(thick, _RIM_MM, coarse.spacing_mm)


def _highest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The greatest value of each voxel and the 18 that share a face or an edge with it."""
    deep, across = _of_three(values, 2), _of_three(values, 1)
    in_slice, upright = _of_three(deep, 1), np.maximum(_of_three(deep, 0), _of_three(across, 0))
    return np.maximum(in_slice, upright)


def _of_three(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The greatest of each value and its two neighbours along an axis."""
    greatest = values.copy()
    to, of = np.moveaxis(greatest, axis, 0), np.moveaxis(values, axis, 0)
    np.maximum(to[1:], of[:-1], out=to[1:])
    np.maximum(to[:-1], of[1:], out=to[:-1])
    return greatest


def _inner(coarse: _Coarse) -> Mask:
    return _eroded(coarse.body, _INNER_MM, coarse.spacing_mm, in_plane=True)


def _closed(mask: Mask, radius_mm: float, coarse: _Coarse) -> Mask:
    """Close gaps of twice the radius, and fill what each slice encloses."""
    outside = _opened(~mask, radius_mm, coarse.spacing_mm)
    return filled(~outside) & coarse.body


def _large(mask: Mask, voxels: float) -> Mask:
    labels, sizes = parts(mask)
    return np.asarray(np.concatenate([[False], sizes >= voxels])[labels])


def _opened(mask: Mask, radius_mm: float, spacing_mm: NDArray[np.float64]) -> Mask:
    """Opening by a ball; beyond the grid the mask goes on."""
    return _dilated(_eroded(mask, radius_mm, spacing_mm), radius_mm, spacing_mm)


def _eroded(mask: Mask, radius_mm: float, spacing_mm: NDArray[np.float64], *, in_plane: bool = False) -> Mask:
    """What of a mask is farther than the radius from all that is outside; beyond the grid the mask goes on."""
    return ~_dilated(~mask, radius_mm, spacing_mm, in_plane=in_plane)


def _dilated(mask: Mask, radius_mm: float, spacing_mm: NDArray[np.float64], *, in_plane: bool = False) -> Mask:
    """Voxels whose centres are no farther than the radius from one of a mask's."""
    radius_mm *= 1 + _ROUNDING
    reach = (radius_mm / spacing_mm).astype(int)
    moves = np.indices((2 * reach + 1).tolist()).reshape(3, -1).T - reach
    near = ((moves * spacing_mm) ** 2).sum(axis=1) <= radius_mm**2
    if in_plane:
        near &= moves[:, 0] == 0
    farthest = dict[tuple[int, int], int]()
    for z, x, y in moves[near].tolist():
        farthest[z, x] = max(y, farthest.get((z, x), 0))
    rows = [mask]  # grown along y alone, by 0, 1, 2, ... voxels: a ball is made of them
    for far in range(1, max(farthest.values()) + 1):
        rows.append(rows[-1].copy())
        for y in (-far, far):
            _add_moved(rows[-1], mask, [0, 0, y])
    grown = rows[farthest.pop((0, 0))].copy()
    for (z, x), far in farthest.items():
        _add_moved(grown, rows[far], [z, x, 0])
    return grown


def _add_moved(grown: Mask, mask: Mask, move: Sequence[int]) -> None:
    """Add to a mask another one, moved; what is moved beyond the edge is lost."""
    if all(-length < n < length for n, length in zip(move, mask.shape, strict=True)):
        z, x, y = map(_moved, move)
        grown[z[0], x[0], y[0]] |= mask[z[1], x[1], y[1]]


@cache
def _moved(by: int) -> tuple[slice, slice]:
    """Along one axis, what is moved to where, and what is moved there."""
    return slice(max(0, by), min(0, by) or None), slice(max(0, -by), min(0, -by) or None)
