"""Findings of organs, brain and bone, and masses in MR; shapes as in `indexer.insertion.chest`."""

import numpy as np

from indexer.compartments import BESIDE_BONE_MM
from indexer.insertion.chest import Drawing
from indexer.insertion.scene import NoPlace, Scene, smoothed
from indexer.insertion.shapes import faded, solid

_LEAST_DEPTH = 0.6
"""Of a lesion's radius: so deep its centre lies at least."""
_TRABECULA_MM, _LEAST_BONE_HU = 1.5, 130.0
"""Bone is denser, averaged over its trabeculae."""
_OF_LESION = 0.5
"""Share of bone that a lytic lesion takes the place of, about."""
_EDGE_MM = 5.0
"""Less deep inside its compartment, which goes on beside bone and is made of cells of 6 mm, bone may begin."""


def hypodense(scene: Scene, size_mm: float) -> Drawing:
    """A lesion darker than its organ, in soft tissue."""
    return _lesion(scene, size_mm, -45.0)


def hyperdense(scene: Scene, size_mm: float) -> Drawing:
    """A lesion brighter than its organ."""
    return _lesion(scene, size_mm, 55.0)


def haemorrhage(scene: Scene, size_mm: float) -> Drawing:
    """Fresh blood in the brain, a rim of oedema around it."""
    centre = _centre(scene, size_mm)
    distance = solid(scene, centre, size_mm / 2)
    blood = faded(scene, distance)
    rim = faded(scene, distance + 0.25 * size_mm) * (1 - blood)
    share = np.maximum(blood, 0.8 * rim) * scene.place
    density = np.where(blood >= rim, 66.0 + 0.4 * scene.draw(scene.style.shift_hu), 20.0) + 0.3 * scene.texture()
    return Drawing(share, np.asarray(density, np.float32))


def lytic(scene: Scene, size_mm: float) -> Drawing:
    """Soft tissue in place of bone, at least half of it."""
    voxels, spacing = scene.grid.voxels, scene.grid.spacing_mm
    deep = scene.depth_mm(scene.place | ~scene.body) > BESIDE_BONE_MM - _EDGE_MM
    bone = deep & scene.place & (smoothed(voxels, np.full(3, _TRABECULA_MM), spacing) > _LEAST_BONE_HU)
    around = smoothed(bone.astype(np.float32), np.full(3, size_mm / 4), spacing)
    centre = scene.site(bone & (around > _OF_LESION))
    share = faded(scene, solid(scene, centre, size_mm / 2)) * bone
    return Drawing(share, 45.0 + scene.draw(scene.style.shift_hu) + 0.5 * scene.texture())


def bright_mass(scene: Scene, size_mm: float) -> Drawing:
    """A mass brighter than what is around, with oedema."""
    return _mass(scene, size_mm, 1.6)


def dark_mass(scene: Scene, size_mm: float) -> Drawing:
    """A mass darker than what is around, with oedema."""
    return _mass(scene, size_mm, 0.45)


def _lesion(scene: Scene, size_mm: float, contrast_hu: float) -> Drawing:
    centre = _centre(scene, size_mm)
    share = faded(scene, solid(scene, centre, size_mm / 2)) * scene.place
    organ = _level(scene, centre, size_mm)
    shift = np.sign(contrast_hu) * abs(scene.draw(scene.style.shift_hu))
    return Drawing(share, np.asarray(organ + contrast_hu + shift + 0.5 * scene.texture(), np.float32))


def _mass(scene: Scene, size_mm: float, ratio: float) -> Drawing:
    centre = _centre(scene, size_mm)
    distance = solid(scene, centre, size_mm / 2)
    core = faded(scene, distance)
    oedema = faded(scene, distance + 0.3 * size_mm) * (1 - core)
    level = _level(scene, centre, size_mm)
    share = np.maximum(core, 0.5 * oedema) * scene.place
    # Oedema goes the way of the mass: bright where water is, dark where it is not.
    density = level * np.where(core >= oedema, ratio, 1 + 0.5 * (ratio - 1))
    texture = 1 + scene.texture() / 300
    return Drawing(share, np.asarray(density * texture, np.float32))


def _centre(scene: Scene, size_mm: float) -> tuple[int, int, int]:
    depth = scene.depth_mm(scene.place)
    if not scene.place[scene.span].any() or depth[scene.span].max() < _LEAST_DEPTH * size_mm / 2:
        raise NoPlace(f"no part thick enough for {size_mm:g} mm")
    return scene.site(depth >= _LEAST_DEPTH * size_mm / 2)


def _level(scene: Scene, centre: tuple[int, int, int], size_mm: float) -> float:
    """Median intensity of what the finding takes the place of."""
    z, x, y = scene.points_mm(centre)
    near = (z**2 + x**2 + y**2 < (size_mm / 2) ** 2) & scene.place
    return float(np.median(scene.grid.voxels[near])) if near.any() else float(scene.grid.voxels[centre])
