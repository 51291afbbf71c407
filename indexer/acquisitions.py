"""The same MR volume as other sequences, coils and slab thicknesses might have shown it: what must not decide."""

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from indexer.resample import PatientGrid

Voxels = NDArray[np.float32]

_PERCENTILES = (0.5, 99.5)
_KNOTS = 6
"""Of the curve from one sequence's intensities to another's."""
_INVERTED_SHARE = 0.4
"""Fluid is dark in T1 and bright in T2; air is dark in both."""
_UNEVEN = 0.12
_BIAS = 0.5
"""Greatest natural logarithm of the field of a coil."""
_THICKNESS_MM = (2.0, 7.0)
_NOISE = 0.04


def other_acquisitions(grid: PatientGrid, body: NDArray[np.bool_], count: int) -> Iterator[PatientGrid]:
    """Change contrast, slice thickness along any axis, coil's field and noise; a volume always in the same ways.

    Parameters
    ----------
    body : (Z, X, Y) bool
    """
    darkest, brightest = np.percentile(grid.voxels[body], _PERCENTILES)
    scaled = np.clip((grid.voxels - darkest) / max(brightest - darkest, 1e-6), 0, 1).astype(np.float32)
    of_volume = zlib.crc32(scaled.tobytes())
    for number in range(count):
        draw = np.random.default_rng((of_volume, number))
        image = _thick(_contrast(scaled, draw), grid, draw) * _field(scaled.shape, draw)
        noise = draw.uniform(0, _NOISE) * draw.standard_normal(image.shape, dtype=np.float32)
        yield replace(grid, voxels=np.abs(image + noise).astype(np.float32))


def _contrast(image: Voxels, draw: np.random.Generator) -> Voxels:
    """Intensities of 0 to 1 through a curve that mostly rises, or falls but for air."""
    curve = np.cumsum(draw.uniform(0.05, 1, _KNOTS))
    curve = (curve - curve[0]) / (curve[-1] - curve[0])
    if draw.random() < _INVERTED_SHARE:
        curve = np.concatenate([[0], curve[:0:-1]])
    curve = np.clip(curve + draw.normal(0, _UNEVEN, _KNOTS), 0, 1)
    curve[0] = 0
    return np.interp(image, np.linspace(0, 1, _KNOTS), curve).astype(np.float32)


def _thick(image: Voxels, grid: PatientGrid, draw: np.random.Generator) -> Voxels:
    """Average into slices along one axis, and interpolate between them."""
    axis = int(draw.integers(3))
    count = round(draw.uniform(*_THICKNESS_MM) / grid.spacing_mm[axis])
    if count < 2:
        return image
    along = np.moveaxis(image, axis, 0)
    starts = np.arange(0, len(along), count)
    sizes = np.diff(np.append(starts, len(along)))
    slices = np.add.reduceat(along, starts, axis=0) / sizes[:, None, None]
    places = np.interp(np.arange(len(along)), starts + (sizes - 1) / 2, np.arange(len(starts)))
    lower = places.astype(int)
    share = (places - lower).astype(np.float32)[:, None, None]
    upper = np.minimum(lower + 1, len(starts) - 1)
    return np.moveaxis(slices[lower] * (1 - share) + slices[upper] * share, 0, axis)


def _field(shape: tuple[int, ...], draw: np.random.Generator) -> Voxels:
    """A smooth factor: the exponential of a polynomial of second degree."""
    z, x, y = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    terms = (z, x, y, z * x, x * y, z * y, x * x, y * y, z * z)
    total = sum((np.float32(draw.normal()) * term for term in terms), np.zeros(shape, np.float32))
    strength = np.float32(draw.uniform(0, _BIAS) / max(float(np.abs(total).max()), 1e-6))
    return np.asarray(np.exp(strength * total), dtype=np.float32)
