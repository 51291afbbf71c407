"""Volumes changed as the real world changes them: other scanners, kernels, positions, headers, compression.

Each change takes a volume and gives another of the same patient; what is random is drawn from a fixed seed.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from openjpeg.utils import decode, encode_array

from indexer.volume import Volume

Change = Callable[[Volume], Volume]

_SOFT_TISSUE_HU = (-160.0, 240.0)
_WHOLE_RANGE_HU = (-1000.0, 1000.0)
_LEAST_SLICES = 5


def thick_slices(volume: Volume, slice_mm: float) -> Volume:
    """Average neighbouring slices to slices of at least a thickness, mm."""
    bins = max(1, math.ceil(slice_mm / float(volume.spacing_mm[0]) - 1e-6))
    count = len(volume.voxels) // bins
    if bins == 1 or count < _LEAST_SLICES:
        return volume
    voxels = volume.voxels[: count * bins].reshape(count, bins, *volume.voxels.shape[1:]).mean(axis=1)
    affine = volume.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, 0] * (bins - 1) / 2
    affine[:3, 0] *= bins
    return replace(volume, voxels=voxels, affine_lps_mm=affine, slices=volume.slices[bins // 2 :: bins][:count])


def soft_kernel(volume: Volume, width_mm: float) -> Volume:
    """Blur in-plane by a Gaussian of a standard deviation, mm."""
    return replace(volume, voxels=_blurred(volume, width_mm))


def sharp_kernel(volume: Volume, width_mm: float, gain: float) -> Volume:
    """Add detail finer than a width, mm, once more times `gain`, as an edge-enhancing kernel does."""
    return replace(volume, voxels=volume.voxels + np.float32(gain) * (volume.voxels - _blurred(volume, width_mm)))


def noise(volume: Volume, share: float) -> Volume:
    """Add noise with a standard deviation of a share of the range from 1 % to 99 % of all values."""
    low, high = np.percentile(volume.voxels, (1, 99))
    drawn = np.random.default_rng(1).standard_normal(volume.voxels.shape, dtype=np.float32)
    return replace(volume, voxels=volume.voxels + drawn * np.float32(share * (high - low)))


def turned(volume: Volume, degrees: float) -> Volume:
    """Turn the patient about the z axis through the middle of the volume."""
    angle = math.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    middle = volume.affine_lps_mm @ np.append((np.array(volume.voxels.shape) - 1) / 2, 1.0)
    to_origin, back = np.eye(4), np.eye(4)
    to_origin[:3, 3], back[:3, 3] = -middle[:3], middle[:3]
    return replace(volume, affine_lps_mm=back @ turn @ to_origin @ volume.affine_lps_mm)


def cropped(volume: Volume, share: float) -> Volume:
    """Cut a share of the rows and columns off, one side each: a smaller field of view, off centre."""
    rows, columns = (int(n * share) for n in volume.voxels.shape[1:])
    affine = volume.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, 1] * rows
    return replace(volume, voxels=np.ascontiguousarray(volume.voxels[:, rows:, :-columns]), affine_lps_mm=affine)


def stored_otherwise(volume: Volume) -> Volume:
    """Store the same patient feet first and prone: rows and columns run the other way, and so do the slices."""
    affine = volume.affine_lps_mm.copy()
    last = np.array(volume.voxels.shape) - 1
    affine[:3, 3] += affine[:3, :3] @ [last[0], 0, last[2]]
    affine[:3, 0] *= -1
    affine[:3, 2] *= -1
    voxels = np.ascontiguousarray(volume.voxels[::-1, :, ::-1])
    return replace(volume, voxels=voxels, affine_lps_mm=affine, slices=volume.slices[::-1])


def part(volume: Volume, first: float, last: float) -> Volume:
    """Keep the slices between two shares of the stack."""
    count = len(volume.voxels)
    kept = slice(int(count * first), max(int(count * last), int(count * first) + min(count, _LEAST_SLICES)))
    affine = volume.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, 0] * kept.start
    return replace(volume, voxels=volume.voxels[kept], affine_lps_mm=affine, slices=volume.slices[kept])


def windowed(volume: Volume, window_hu: tuple[float, float]) -> Volume:
    """Keep what an 8-bit picture of a window keeps; in MR, of the range from 0.5 % to 99.5 %."""
    low, high = window_hu if volume.modality == "CT" else map(float, np.percentile(volume.voxels, (0.5, 99.5)))
    step = np.float32((high - low) / 255)
    levels = np.round((np.clip(volume.voxels, low, high) - np.float32(low)) / step).astype(np.float32)
    return replace(volume, voxels=levels * step + np.float32(low))


def compressed(volume: Volume, ratio: float) -> Volume:
    """Compress each slice by JPEG 2000, irreversibly."""
    low = float(volume.voxels.min())
    step = max((float(volume.voxels.max()) - low) / 4095, 1e-6)
    stored = np.round((volume.voxels - low) / step).astype(np.uint16)
    slices = [_through_jpeg_2000(one, ratio) for one in stored]
    return replace(volume, voxels=np.stack(slices).astype(np.float32) * np.float32(step) + np.float32(low))


CHANGES: dict[str, Change] = {
    "5 mm slices": partial(thick_slices, slice_mm=5.0),
    "soft kernel": partial(soft_kernel, width_mm=1.2),
    "sharp kernel": partial(sharp_kernel, width_mm=1.0, gain=1.0),
    "noise": partial(noise, share=0.02),
    "turned by 15°": partial(turned, degrees=15.0),
    "turned by -15°": partial(turned, degrees=-15.0),
    "cropped, off centre": partial(cropped, share=0.15),
    "feet first, prone": stored_otherwise,
    "lower half": partial(part, first=0.0, last=0.5),
    "upper half": partial(part, first=0.5, last=1.0),
    "8 bits, wide window": partial(windowed, window_hu=_WHOLE_RANGE_HU),
    "8 bits, soft tissue": partial(windowed, window_hu=_SOFT_TISSUE_HU),
    "JPEG 2000, 1:12": partial(compressed, ratio=12.0),
}
"""Name to change."""


def _blurred(volume: Volume, width_mm: float) -> NDArray[np.float32]:
    image = sitk.GetImageFromArray(volume.voxels)
    slice_mm, row_mm, column_mm = (float(step) for step in volume.spacing_mm)
    image.SetSpacing([column_mm, row_mm, slice_mm])
    variance = [width_mm**2, width_mm**2, 0.0]
    blurred = sitk.DiscreteGaussian(
        image, variance, maximumKernelWidth=32, maximumError=[0.01] * 3, useImageSpacing=True
    )
    return np.asarray(sitk.GetArrayFromImage(blurred), dtype=np.float32)


def _through_jpeg_2000(stored: NDArray[np.uint16], ratio: float) -> NDArray[np.uint16]:
    encoded = encode_array(stored, bits_stored=12, photometric_interpretation=2, compression_ratios=[ratio])
    return np.asarray(decode(encoded))
