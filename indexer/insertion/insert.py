"""Inserting a finding into a volume on the encoder's grid: drawn, blurred as the scanner blurs, with its noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from indexer.body import Mask
from indexer.insertion import chest, findings, lesions
from indexer.insertion.chest import Drawing
from indexer.insertion.findings import Finding
from indexer.insertion.scene import Field, NoPlace, Scanner, Scene, smoothed
from indexer.insertion.styles import Style
from indexer.resample import PatientGrid

__all__ = ["Inserted", "NoPlace", "insert"]

_DRAW: dict[Finding, Callable[[Scene, float], Drawing]] = {
    findings.NODULE: chest.nodule,
    findings.CONSOLIDATION: chest.consolidation,
    findings.GROUND_GLASS: chest.ground_glass,
    findings.EFFUSION: chest.effusion,
    findings.PNEUMOTHORAX: chest.pneumothorax,
    findings.BULLAE: chest.bullae,
    findings.HYPODENSE: lesions.hypodense,
    findings.HYPERDENSE: lesions.hyperdense,
    findings.HAEMORRHAGE: lesions.haemorrhage,
    findings.LYTIC: lesions.lytic,
    findings.BRIGHT_MASS: lesions.bright_mass,
    findings.DARK_MASS: lesions.dark_mass,
}
_LEAST_ML = 0.1


@dataclass(frozen=True, eq=False)
class Inserted:
    """A volume with a finding that its patient does not have.

    Attributes
    ----------
    share : (Z, X, Y) float32
        How much of each voxel is finding, 0 to 1.
    """

    grid: PatientGrid
    share: Field


def insert(
    grid: PatientGrid,
    body: Mask,
    place: Mask,
    span: slice,
    finding: Finding,
    size_mm: float,
    style: Style,
    scanner: Scanner,
    seed: tuple[int, ...],
) -> Inserted:
    """Insert a finding; the same arguments give the same volume.

    Parameters
    ----------
    grid, body : PatientGrid and (Z, X, Y) bool
        The clean volume, HU for CT.
    place : (Z, X, Y) bool
        The finding's compartment there; see `indexer.compartments`.
    span : slice
        Along z, in voxels: where the finding lies.
    scanner : Scanner
        See `indexer.insertion.scene.scanner_of`.

    Raises
    ------
    NoPlace
        The compartment has no room for it.
    """
    rng = np.random.default_rng(seed)
    within = np.zeros_like(place)
    within[span] = place[span]
    scene = Scene(grid, body, place, span, style, rng)
    drawing = _DRAW[finding](scene, size_mm * scene.draw(style.scale))
    share = smoothed(drawing.share, scanner.blur_mm, grid.spacing_mm).clip(0.0, 1.0)
    if (share * within).sum() * grid.spacing_mm.prod() / 1000 < _LEAST_ML:
        raise NoPlace("nothing of the finding lies in the slab")
    density = drawing.density + _noise(scene, scanner)
    voxels = (grid.voxels * (1 - share) + density * share).astype(np.float32)
    return Inserted(replace(grid, voxels=voxels), share)


def _noise(scene: Scene, scanner: Scanner) -> Field:
    """Noise whose difference between neighbours has the scan's deviation."""
    white = scene.rng.standard_normal(scene.grid.voxels.shape, dtype=np.float32)
    step = scene.grid.spacing_mm
    blurred = smoothed(white, np.maximum(0.6 * scanner.blur_mm, 0.3 * step), step)
    between = blurred - smoothed(blurred, step, step)
    return np.asarray(blurred * np.float32(scanner.noise / max(float(between.std()), 1e-6)), dtype=np.float32)
