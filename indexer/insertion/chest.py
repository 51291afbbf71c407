"""Findings of lung and pleura; every drawing gives its share in each voxel and its density, (Z, X, Y)."""

from dataclasses import dataclass

import numpy as np

from indexer.body import Mask
from indexer.insertion.scene import Field, NoPlace, Scene, smoothed
from indexer.insertion.shapes import faded, solid

_LUNG_HU = -400.0
_VESSEL_MM = 4.0
"""Over which density is averaged, so that vessels count as lung."""
_LEAST_LUNG_ML = 100.0
_BRONCHUS = 1.5
"""Standard deviations of a field above which consolidated lung holds an airway."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is added: share 0 to 1 and density of each voxel."""

    share: Field
    density: Field


def lung(scene: Scene) -> Mask:
    """Lung with its vessels, within the cavity."""
    even = smoothed(scene.grid.voxels, np.full(3, _VESSEL_MM), scene.grid.spacing_mm)
    found = (np.minimum(even, scene.grid.voxels) < _LUNG_HU) & scene.place
    if found[scene.span].sum() * scene.grid.spacing_mm.prod() / 1000 < _LEAST_LUNG_ML:
        raise NoPlace("less than 100 mL of lung")
    return found


def nodule(scene: Scene, size_mm: float) -> Drawing:
    """Solid, round, anywhere in the lung."""
    radius = size_mm / 2
    inside = lung(scene)
    depth = scene.depth_mm(inside)
    deepest = float(depth[scene.span].max())
    centre = scene.site(depth >= min(radius, 0.8 * deepest))
    share = faded(scene, solid(scene, centre, radius)) * scene.place
    return Drawing(share, 35.0 + scene.draw(scene.style.shift_hu) + scene.texture())


def consolidation(scene: Scene, size_mm: float) -> Drawing:
    """Filled lung from the pleura inwards, with open airways."""
    share = _patch(scene, size_mm)
    airways = scene.random_field(3.0) > _BRONCHUS
    share[airways] *= 0.35
    return Drawing(share, 38.0 + scene.draw(scene.style.shift_hu) + scene.texture())


def ground_glass(scene: Scene, size_mm: float) -> Drawing:
    """Hazy lung: vessels stay visible."""
    share = _patch(scene, size_mm) * scene.rng.uniform(0.28, 0.42)
    patchy = np.clip(1.0 + 0.2 * scene.random_field(scene.draw(scene.style.texture_mm)), 0.4, 1.6)
    density = np.full_like(share, 10.0 + scene.draw(scene.style.shift_hu))
    return Drawing(np.asarray(share * patchy, dtype=np.float32), density)


def effusion(scene: Scene, size_mm: float) -> Drawing:
    """Fluid that lies at the back of one side, rising along the chest wall."""
    side, wall = _side(scene)
    deep = scene.depth_mm(scene.place)
    _, _, y = scene.points_mm((0, 0, 0))
    floor = _edge_mm(scene, side, posterior=True)
    level = size_mm + 0.5 * size_mm * np.exp(-wall / 12.0) * (deep < 15)
    wave = scene.draw(scene.style.roughness) * 0.3 * size_mm * scene.random_field(25.0)
    share = faded(scene, floor + level + wave - y) * side
    return Drawing(share, 8.0 + 0.6 * scene.draw(scene.style.shift_hu) + 0.4 * scene.texture())


def pneumothorax(scene: Scene, size_mm: float) -> Drawing:
    """Air in front of and beside the lung of one side, behind it the pleura as a thin line."""
    side, _ = _side(scene)
    _, _, y = scene.points_mm((0, 0, 0))
    ceiling = _edge_mm(scene, side, posterior=False)
    wave = scene.draw(scene.style.roughness) * 0.3 * size_mm * scene.random_field(25.0)
    depth = y - (ceiling - size_mm) + wave
    line = np.exp(-0.5 * ((depth + 1.5) / 1.2) ** 2)
    share = np.maximum(faded(scene, depth), 0.6 * line) * side
    density = np.where(depth > -0.5, -995.0, -150.0)
    return Drawing(np.asarray(share, np.float32), np.asarray(density, np.float32))


def bullae(scene: Scene, size_mm: float) -> Drawing:
    """Thin-walled air spaces of several sizes in the periphery of one lung."""
    inside = lung(scene)
    depth = scene.depth_mm(inside)
    centre = scene.site(inside & (depth < 15))
    z, x, y = scene.points_mm(centre)
    near = inside & (z**2 + x**2 + y**2 < (1.6 * size_mm) ** 2)
    hollow = np.full(inside.shape, -1e3, np.float32)
    for number in range(int(scene.rng.integers(6, 10))):
        radius = size_mm / 2 * (1.0 if number == 0 else scene.rng.uniform(0.4, 0.9))
        rough = 0.3 * scene.draw(scene.style.roughness)
        hollow = np.maximum(hollow, solid(scene, scene.site(near), radius, rough))
    wall = np.exp(-0.5 * ((hollow + 0.8) / 0.9) ** 2)
    share = np.maximum(faded(scene, hollow), 0.3 * wall) * inside
    density = np.where(hollow > -0.3, -985.0, -100.0)
    return Drawing(np.asarray(share, np.float32), np.asarray(density, np.float32))


def _patch(scene: Scene, size_mm: float) -> Field:
    """A region of lung at the pleura."""
    inside = lung(scene)
    depth = scene.depth_mm(inside)
    centre = scene.site(inside & (depth < 0.5 * size_mm) & (depth > 0.2 * size_mm))
    return faded(scene, solid(scene, centre, size_mm / 2)) * inside


def _side(scene: Scene) -> tuple[Mask, Field]:
    """One side's pleural space, and how far each voxel lies from the lateral wall, mm."""
    inside = lung(scene)
    xs = np.flatnonzero(scene.body.any(axis=(0, 2)))
    middle = (xs[0] + xs[-1]) / 2
    _, x, _ = scene.points_mm((0, middle, 0))
    rights = [inside & (x > 0), inside & (x <= 0)]
    large = [one for one in rights if one[scene.span].sum() > 0.3 * inside[scene.span].sum()]
    side = large[scene.rng.integers(len(large))]
    offsets = np.abs(np.broadcast_to(x, side.shape))
    outer = np.where(side, offsets, 0.0).max(axis=1, keepdims=True)
    return side, np.asarray(np.maximum(outer - offsets, 0.0), dtype=np.float32)


def _edge_mm(scene: Scene, side: Mask, *, posterior: bool) -> Field:
    """Where a side's space ends at the back or in front in each slice, mm along y: (Z, 1, 1)."""
    step = scene.grid.spacing_mm[2]
    found = np.zeros((len(side), 1, 1), np.float32)
    for z, plane in enumerate(side):
        ys = np.flatnonzero(plane.sum(axis=0) > 3)
        edge = (ys[0] if posterior else ys[-1]) if ys.size else (-1e3 if posterior else 1e3)
        found[z] = edge * step
    return found
