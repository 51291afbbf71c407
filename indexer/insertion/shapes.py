"""Outlines of solid findings: how far inside each voxel lies, in mm."""

from collections.abc import Sequence

import numpy as np

from indexer.insertion.scene import Field, Scene


def solid(scene: Scene, centre: Sequence[float], radius_mm: float, roughness: float | None = None) -> Field:
    """Signed distance to an outline in the scene's style, about: positive inside, (Z, X, Y) mm."""
    balls = _ellipsoid if scene.style.outline == "ellipsoid" else _lobes
    rough = scene.draw(scene.style.roughness) if roughness is None else roughness
    wave = scene.random_field(max(2.0, 0.6 * radius_mm))
    return np.asarray(balls(scene, centre, radius_mm) + rough * radius_mm * wave, dtype=np.float32)


def faded(scene: Scene, distance_mm: Field) -> Field:
    """Share of the finding in each voxel, 0 to 1, from a signed distance."""
    edge = scene.draw(scene.style.edge_mm)
    return np.asarray(np.clip(distance_mm / edge + 0.5, 0.0, 1.0), dtype=np.float32)


def _ellipsoid(scene: Scene, centre: Sequence[float], radius_mm: float) -> Field:
    stretch = scene.rng.uniform(0.8, 1.25, 3)
    stretch /= stretch.prod() ** (1 / 3)
    z, x, y = scene.points_mm(centre)
    inside = np.sqrt((z / stretch[0]) ** 2 + (x / stretch[1]) ** 2 + (y / stretch[2]) ** 2)
    return np.asarray(radius_mm - inside, dtype=np.float32)


def _lobes(scene: Scene, centre: Sequence[float], radius_mm: float) -> Field:
    z, x, y = scene.points_mm(centre)
    best = 0.85 * radius_mm - np.sqrt(z**2 + x**2 + y**2)
    for _ in range(int(scene.rng.integers(3, 6))):
        towards = scene.rng.standard_normal(3)
        dz, dx, dy = towards / np.linalg.norm(towards) * 0.55 * radius_mm
        lobe = scene.rng.uniform(0.4, 0.65) * radius_mm
        best = np.maximum(best, lobe - np.sqrt((z - dz) ** 2 + (x - dx) ** 2 + (y - dy) ** 2))
    return np.asarray(best, dtype=np.float32)
