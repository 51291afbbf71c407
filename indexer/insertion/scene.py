"""A grid and its compartment, ready to be drawn into: distances, random fields, a scanner's blur and noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch.nn import functional

from indexer.body import Mask
from indexer.insertion.styles import Span, Style
from indexer.resample import PatientGrid

Field = NDArray[np.float32]
_LEAST_VOXELS = 4
"""What SimpleITK's recursive filters need along every axis."""
_EVEN_TISSUE = 15
"""Percentile of the local deviation that is taken for noise: more of it is anatomy."""


class NoPlace(Exception):  # noqa: N818 - says what happened, as `indexer.errors` does
    """The volume has no room for the finding; the message says what was looked for."""


@dataclass(frozen=True, eq=False)
class Scanner:
    """What a scan would have made of a finding.

    Attributes
    ----------
    blur_mm : (3,) float64
        Standard deviation of the point spread along z, x, y.
    noise : float
        Standard deviation of the noise, in the unit of the voxels.
    """

    blur_mm: NDArray[np.float64]
    noise: float


@dataclass(frozen=True, eq=False)
class Scene:
    """Where a finding is drawn.

    Attributes
    ----------
    grid, body : PatientGrid and (Z, X, Y) bool
        The clean volume.
    place : (Z, X, Y) bool
        The compartment.
    span : slice
        Along z: the finding must show there.
    """

    grid: PatientGrid
    body: Mask
    place: Mask
    span: slice
    style: Style
    rng: np.random.Generator

    def draw(self, span: Span) -> float:
        """One value from a range."""
        return float(self.rng.uniform(*span))

    def points_mm(self, centre: Sequence[float]) -> tuple[Field, Field, Field]:
        """Offsets of every voxel from a place given in voxels, along z, x, y; they broadcast to (Z, X, Y)."""
        axes = [
            ((np.arange(n) - c) * step).astype(np.float32)
            for n, c, step in zip(self.grid.voxels.shape, centre, self.grid.spacing_mm, strict=True)
        ]
        return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]

    def depth_mm(self, mask: Mask) -> Field:
        """Distance of every voxel of a mask to the nearest outside; 0 outside."""
        if not mask.any() or mask.all():
            return mask.astype(np.float32) * np.float32(1e3)
        image = sitk.GetImageFromArray((~mask).view(np.uint8))
        image.SetSpacing([float(step) for step in self.grid.spacing_mm[::-1]])
        distance = sitk.SignedMaurerDistanceMap(
            image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )
        return np.asarray(np.maximum(sitk.GetArrayFromImage(distance), 0.0), dtype=np.float32)

    def random_field(self, correlation_mm: float) -> Field:
        """Gaussian random field with standard deviation 1."""
        shape, step = self.grid.voxels.shape, self.grid.spacing_mm
        thinning = np.maximum(1, np.round(0.7 * correlation_mm / step)).astype(int)
        coarse = [-(-n // by) + 1 for n, by in zip(shape, thinning, strict=True)]
        white = self.rng.standard_normal(coarse, dtype=np.float32)
        field = torch.from_numpy(smoothed(white, np.full(3, correlation_mm), step * thinning))[None, None]
        fine = functional.interpolate(field, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()
        return np.asarray(fine / max(float(fine.std()), 1e-6), dtype=np.float32)

    def texture(self) -> Field:
        """Density within a finding, about its mean."""
        return self.random_field(self.draw(self.style.texture_mm)) * np.float32(self.draw(self.style.texture_hu))

    def site(self, allowed: Mask) -> tuple[int, int, int]:
        """One of the allowed voxels within the span.

        Raises
        ------
        NoPlace
            There is none.
        """
        places = np.argwhere(allowed[self.span])
        if not len(places):
            raise NoPlace("no site of the size asked for")
        z, x, y = (int(one) for one in places[self.rng.integers(len(places))])
        return z + self.span.start, x, y


def scanner_of(grid: PatientGrid, body: Mask, slice_mm: Sequence[float]) -> Scanner:
    """Measure a scan: resolution from its voxels (along z, x, y), noise where tissue is even."""
    blur = 0.42 * np.maximum(np.asarray(slice_mm), grid.spacing_mm)  # a box of that width, as a Gaussian
    tissue = body & (grid.voxels > (0 if grid.modality == "CT" else np.percentile(grid.voxels[body], 40)))
    rest = grid.voxels - smoothed(grid.voxels, grid.spacing_mm, grid.spacing_mm)
    local = np.sqrt(np.maximum(smoothed(rest**2, 3 * grid.spacing_mm, grid.spacing_mm), 0.0))
    return Scanner(blur, float(np.percentile(local[tissue if tissue.any() else body], _EVEN_TISSUE)))


def smoothed(values: Field, deviation_mm: NDArray[np.float64], spacing_mm: NDArray[np.float64]) -> Field:
    """Gaussian of some standard deviations along z, x, y."""
    lacking = [max(0, _LEAST_VOXELS - n) for n in values.shape]
    padded = np.pad(values, [(0, n) for n in lacking], mode="edge")
    image = sitk.GetImageFromArray(padded)
    image.SetSpacing([float(step) for step in spacing_mm[::-1]])
    found = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, [float(d) for d in deviation_mm[::-1]]))
    return np.asarray(found[tuple(slice(0, n) for n in values.shape)], dtype=np.float32)
