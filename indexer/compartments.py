"""Where in a grid lungs, brain, solid organs and bones lie, by density and geometry; disease stays inside."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch.nn import functional

from indexer.body import Mask, parts
from indexer.resample import PatientGrid

Kind = Literal["LUNGS", "BRAIN", "ORGANS", "BONES", "INNER"]
LUNGS: Kind = "LUNGS"
BRAIN: Kind = "BRAIN"
ORGANS: Kind = "ORGANS"
BONES: Kind = "BONES"
INNER: Kind = "INNER"
OF_MODALITY: dict[str, tuple[Kind, ...]] = {"CT": (LUNGS, BRAIN, ORGANS, BONES), "MR": (INNER,)}
"""Compartments that are looked for; MR has no unit of density, so that depth below the skin is all there is."""

_STEP_MM = 6.0
"""Masks are found on voxels of about this size: features are coarser by far."""
_LUNG_HU, _GAS_HU = -500.0, -965.0
_MOST_GAS = 0.5
"""Share of gas, away from the edges, from which on air is bowel or stomach, not lung."""
_LEAST_LUNG_ML, _LEAST_BRAIN_ML, _LEAST_ORGAN_ML = 100.0, 150.0, 40.0
_AIRWAY_MM = 12.0
"""Air this near the midline is trachea."""
_WALL_MM = 9.0
"""Thickness of chest wall that is no part of the cavity."""
_BONE_HU = 220.0
_MARROW_MM = 18.0
"""Half the width of a gap in bone that is taken for bone: marrow, and what a lytic lesion of 24 mm leaves open."""
_SOLID_HU = (-30.0, 240.0)
"""A dark lesion in muscle, or in a liver full of fat, is below 0; a border to fat is darker."""
_SOLID_RADIUS_MM = 12.0
_INNER_MM = 15.0
_DIRECTIONS = 32
"""Half-planes that a convex hull is cut from."""


@dataclass(frozen=True, eq=False)
class _Coarse:
    """A grid averaged to voxels of about 6 mm: (Z, X, Y) as before."""

    voxels: NDArray[np.float32]
    body: Mask
    spacing_mm: NDArray[np.float64]

    @property
    def voxel_ml(self) -> float:
        return float(self.spacing_mm.prod()) / 1000


def compartments(grid: PatientGrid, body: Mask, kinds: Container[str] | None = None) -> dict[Kind, Mask]:
    """Find a volume's compartments: kind to mask (Z, X, Y); one that the volume does not show is left out.

    Lungs are the thoracic cavity on both sides, not the air in it: each side's convex hull and the other side's
    mirror image, so that fluid, consolidation and masses stay inside. The brain is what the skull encloses. Organs
    are thick parts of other soft tissue with their holes filled; bones likewise.

    Parameters
    ----------
    grid, body : PatientGrid and (Z, X, Y) bool
        See `indexer.body.body_mask`.
    kinds : container of str, optional
        Only these are looked for.
    """
    window = around(body)
    coarse, thinning = _averaged(grid.voxels[window], body[window], grid.spacing_mm)
    find: dict[Kind, Callable[[_Coarse], Mask]] = {
        LUNGS: _lungs,
        BRAIN: _brain,
        ORGANS: _organs,
        BONES: _bones,
        INNER: _inner,
    }
    wanted = [kind for kind in OF_MODALITY.get(grid.modality, ()) if kinds is None or kind in kinds]
    found = {kind: find[kind](coarse) for kind in wanted}
    whole: dict[Kind, Mask] = {}
    for kind, mask in found.items():
        if mask.any():
            whole[kind] = np.zeros(body.shape, np.bool_)
            whole[kind][window] = _restored(mask, thinning, body[window].shape) & body[window]
    return whole


def around(body: Mask) -> tuple[slice, slice, slice]:
    """All of z, and what of x and y the body takes."""
    shadow = np.asarray(body.any(axis=0))
    xs, ys = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
    return slice(None), slice(int(xs[0]), int(xs[-1]) + 1), slice(int(ys[0]), int(ys[-1]) + 1)


def _averaged(
    voxels: NDArray[np.float32], body: Mask, spacing_mm: NDArray[np.float64]
) -> tuple[_Coarse, tuple[int, ...]]:
    thinning = tuple(max(1, round(_STEP_MM / step)) for step in spacing_mm)

    def average(values: NDArray[np.float32]) -> NDArray[np.float32]:
        image = torch.from_numpy(values)[None, None]
        pooled = functional.avg_pool3d(image, thinning, ceil_mode=True, count_include_pad=False)
        return np.asarray(pooled[0, 0].numpy())

    inside = average(body.astype(np.float32)) >= 0.5
    return _Coarse(average(voxels), inside, spacing_mm * thinning), thinning


def _restored(mask: Mask, thinning: tuple[int, ...], shape: tuple[int, ...]) -> Mask:
    for axis, times in enumerate(thinning):
        mask = mask.repeat(times, axis=axis)
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
    return cavity & (_depth_mm(coarse.body, coarse.spacing_mm, in_plane=True) > _WALL_MM)


def _lung_air(coarse: _Coarse) -> Mask:
    air = (coarse.voxels < _LUNG_HU) & coarse.body
    labels, sizes = parts(air)
    if not sizes.size:
        return air
    core = _depth_mm(air, coarse.spacing_mm) > _STEP_MM
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
    angles = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    everywhere = np.moveaxis(np.indices(mask.shape), 0, -1) @ directions
    return np.asarray((everywhere <= (points @ directions).max(axis=0) + 1e-6).all(axis=-1))


def _brain(coarse: _Coarse) -> Mask:
    bone = (coarse.voxels > _BONE_HU) & coarse.body
    inside = _filled(bone, _SOLID_RADIUS_MM, coarse) & ~bone
    return _large(_opened(inside, _SOLID_RADIUS_MM, coarse.spacing_mm), _LEAST_BRAIN_ML / coarse.voxel_ml)


def _organs(coarse: _Coarse) -> Mask:
    low, high = _SOLID_HU
    solid = (coarse.voxels > low) & (coarse.voxels < high) & coarse.body
    thick = _opened(solid, _SOLID_RADIUS_MM, coarse.spacing_mm)
    return _filled(_large(thick, _LEAST_ORGAN_ML / coarse.voxel_ml), _SOLID_RADIUS_MM, coarse) & ~_brain(coarse)


def _bones(coarse: _Coarse) -> Mask:
    bone = (coarse.voxels > _BONE_HU) & coarse.body
    filled = _filled(bone, _MARROW_MM, coarse)
    return filled & ~_opened(filled & ~bone, _MARROW_MM, coarse.spacing_mm)


def _inner(coarse: _Coarse) -> Mask:
    return np.asarray(_depth_mm(coarse.body, coarse.spacing_mm, in_plane=True) > _INNER_MM)


def _filled(mask: Mask, radius_mm: float, coarse: _Coarse) -> Mask:
    """Close gaps of twice the radius, and fill what each slice encloses."""
    outside = _opened(~mask, radius_mm, coarse.spacing_mm)
    return _enclosed(~outside) & coarse.body


def _enclosed(mask: Mask) -> Mask:
    """A mask and what each of its axial slices encloses."""
    apart = np.zeros((2 * mask.shape[0], *mask.shape[1:]), np.bool_)
    apart[::2] = ~mask
    padded = np.pad(apart, ((0, 0), (1, 1), (1, 1)))
    padded[::2, [0, -1], :] = padded[::2, :, [0, -1]] = True
    labels, _ = parts(padded)
    outside = np.unique(labels[::2, 0, 0])
    return np.asarray(~np.isin(labels[::2, 1:-1, 1:-1], outside))


def _large(mask: Mask, voxels: float) -> Mask:
    labels, sizes = parts(mask)
    return np.asarray(np.concatenate([[False], sizes >= voxels])[labels])


def _opened(mask: Mask, radius_mm: float, spacing_mm: NDArray[np.float64]) -> Mask:
    """Opening by a ball, by distances; beyond the grid the mask goes on."""
    core = _depth_mm(mask, spacing_mm) > radius_mm
    if not core.any():
        return core
    return np.asarray(_depth_mm(~core, spacing_mm) <= radius_mm)


def _depth_mm(mask: Mask, spacing_mm: NDArray[np.float64], *, in_plane: bool = False) -> NDArray[np.float32]:
    """Distance of each voxel of a mask to the nearest outside it; 0 outside. Beyond the grid the mask goes on."""
    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    image = sitk.GetImageFromArray((~mask).view(np.uint8))
    far = 1e3 if in_plane else 1.0
    image.SetSpacing([float(spacing_mm[2]), float(spacing_mm[1]), float(spacing_mm[0]) * far])
    distance = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(np.maximum(sitk.GetArrayFromImage(distance), 0.0), dtype=np.float32)
