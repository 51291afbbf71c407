"""Slabs changed as patients and scanners differ: a fit sees more of both than there are volumes."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from indexer.insertion.scene import Scanner, smoothed
from indexer.insertion.slabs import Slab
from indexer.insertion.styles import Span
from indexer.resample import AIR_HU, PatientGrid

_TURN_DEGREES: Span = (-12.0, 12.0)
"""About z."""
_STRETCH: Span = (0.88, 1.14)
"""Along every axis by itself."""
_MARGIN = 0.1
"""Of a slab's width, added on every side in-plane: what is turned and stretched stays inside."""
_BLUR_MM: Span = (0.0, 0.9)
_NOISE: Span = (0.0, 1.5)
"""Times the scan's noise that is added."""
_DENSE: Span = (0.88, 1.12)
"""What is denser than water is so by so much more: other tube voltages, more or less contrast medium."""
_CURVE: Span = (0.75, 1.35)
"""Exponents of MR intensities."""


@dataclass(frozen=True)
class Variant:
    """One way to be different; the same seed gives the same."""

    rng: np.random.Generator

    def posed(self, slab: Slab) -> Slab:
        """Turn and stretch a slab, and mirror every second one at the midline."""
        draw, shape = self.rng.uniform, slab.grid.voxels.shape
        angle = np.deg2rad(draw(*_TURN_DEGREES))
        stretch = 1 / draw(*_STRETCH, 3)  # along z, x, y: from the new slab to the old one
        mirrored = -1.0 if draw() < 0.5 else 1.0
        edges = [0, *(round(_MARGIN * n) for n in shape[1:])]
        wide = [n + 2 * edge for n, edge in zip(shape, edges, strict=True)]
        across, deep = (n * step for n, step in zip(wide[1:], slab.grid.spacing_mm[1:], strict=True))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn * [[1, deep / across], [across / deep, 1]] * stretch[1:, None]
        # Torch counts axes from the last one: y, x, z.
        matrix = np.zeros((3, 4))
        matrix[2, 2] = stretch[0]
        matrix[1, 1], matrix[1, 0] = turn[0, 0] * mirrored, turn[0, 1]
        matrix[0, 1], matrix[0, 0] = turn[1, 0] * mirrored, turn[1, 1]
        at = functional.affine_grid(
            torch.from_numpy(matrix.astype(np.float32))[None], [1, 1, *wide], align_corners=False
        )
        grid = slab.grid
        empty = AIR_HU if grid.modality == "CT" else float(grid.voxels.min())
        voxels = _sampled(np.pad(grid.voxels - empty, [(edge, edge) for edge in edges]), at, "bilinear") + empty
        inside, body, place = (
            _sampled(np.pad(mask, [(edge, edge) for edge in edges]).astype(np.float32), at, "nearest") > 0
            for mask in (grid.inside, slab.body, slab.place)
        )
        return replace(slab, grid=replace(grid, voxels=voxels, inside=inside), body=body, place=place)

    def scanned(self, grid: PatientGrid, scanner: Scanner) -> PatientGrid:
        """Scan a slab anew: more blurred, more noise, other densities."""
        draw, spacing = self.rng.uniform, grid.spacing_mm
        voxels = smoothed(grid.voxels, np.full(3, max(draw(*_BLUR_MM), 1e-3)), spacing)
        if grid.modality == "CT":
            voxels = np.where(voxels > 0, voxels * draw(*_DENSE), voxels)
        else:
            low, high = np.percentile(voxels, (0.5, 99.5))
            scaled = ((voxels - low) / max(high - low, 1e-6)).clip(0)
            voxels = low + (high - low) * scaled ** draw(*_CURVE)
        white = self.rng.standard_normal(voxels.shape, dtype=np.float32)
        noise = smoothed(white, 0.5 * spacing, spacing) if draw() < 0.5 else white
        amount = draw(*_NOISE) * scanner.noise / max(float(noise.std()), 1e-6)
        return replace(grid, voxels=np.asarray(voxels + amount * noise, dtype=np.float32))


def _sampled(volume: NDArray[np.float32], at: torch.Tensor, mode: str) -> NDArray[np.float32]:
    image = torch.from_numpy(np.ascontiguousarray(volume))[None, None]
    found: NDArray[np.float32] = functional.grid_sample(image, at, mode=mode, align_corners=False)[0, 0].numpy()
    return found
