"""Which neighbouring voxels are alike: what sequences of one patient share, whatever their contrast.

A modality independent neighbourhood descriptor (MIND) [1]_: how little each voxel differs from its neighbours
along z, x and y, relative to how much it differs from all six. It is found on voxels of 3 mm, averaged to cells of
6 mm, and on these cells themselves.

References
----------
.. [1] Heinrich et al., MIND: modality independent neighbourhood descriptor for multi-modal deformable registration,
   Medical Image Analysis 2012.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from indexer.body import Mask
from indexer.resample import PatientGrid, averaged, interpolated

CELL_MM = 6.0
CHANNELS = 6
"""Neighbours along z, x, y: on voxels of 3 mm, then on cells."""
_VOXELS_A_CELL = 2
_VOXEL_MM = CELL_MM / _VOXELS_A_CELL
_BODY_SHARE, _IMAGED_SHARE = 0.3, 0.98
"""Of a voxel: less is air, or the edge of what was imaged."""
_LEAST_VARIANCE = 1e-6
"""Of the mean square of the body's voxels."""
LEAST_WEIGHT = 0.05

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class SelfSimilarity:
    """Cells of 6 mm of a part of a grid; along z, x, y.

    Attributes
    ----------
    weighted : (7, z, x, y) float32
        The channels, each 0 to 1, times the share of a cell that is body, and that share.
    corner_mm : (3,) float64
        Lower corner of the first cell from that of the grid.
    """

    weighted: Tensor
    corner_mm: NDArray[np.float64]


def self_similarity(grid: PatientGrid, body: Mask, box: Box) -> SelfSimilarity:
    """Describe a box, voxels along z, x, y, of a grid.

    Parameters
    ----------
    body : (Z, X, Y) bool
    """
    corner_mm = np.array([part.start for part in box]) * grid.spacing_mm
    parts = (grid.voxels[box], body[box].astype(np.float32), grid.inside[box].astype(np.float32))
    voxels = _of_3_mm(parts, grid.spacing_mm)
    fine, weight = _described(voxels)
    coarse, _ = _described(_cells(voxels))
    of_cells = _cells(torch.cat([fine * weight, weight[None]]))
    return SelfSimilarity(torch.cat([of_cells[:-1], coarse * of_cells[-1], of_cells[-1:]]), corner_mm)


def _described(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Channels (3, Z, X, Y) and weights (Z, X, Y) of an image, the shares of body, and of what was imaged."""
    image, of_body, imaged = parts
    weight = _blurred((of_body > _BODY_SHARE).float()) * (imaged > _IMAGED_SHARE).float()
    power = float((image.square() * of_body).sum() / of_body.sum().clamp(min=1.0))
    return _mind(image, _LEAST_VARIANCE * max(power, 1e-12)), weight


def _cells(voxels: Tensor) -> Tensor:
    return functional.avg_pool3d(voxels, _VOXELS_A_CELL, ceil_mode=True, count_include_pad=False)


def channels_of(weighted: Tensor) -> tuple[Tensor, Tensor]:
    """Channels (6, …) and weights (…) of what was weighted (7, …)."""
    weight = weighted[-1]
    return weighted[:-1] / weight.clamp(min=LEAST_WEIGHT), weight


def _of_3_mm(parts: Sequence[NDArray[np.float32]], spacing_mm: NDArray[np.float64]) -> Tensor:
    """Images (n, Z, X, Y) on voxels of 3 mm: averaged where they are finer, interpolated where coarser."""
    bins = [max(1, int(_VOXEL_MM / step + 1e-6)) for step in spacing_mm]
    binned = []
    for image in parts:
        size = [
            max(1, round(-(-count // width) * width * step / _VOXEL_MM))
            for count, width, step in zip(image.shape, bins, spacing_mm, strict=True)
        ]
        for axis, width in enumerate(bins):
            image = averaged(image, axis, width)
        for axis, count in enumerate(size):
            if count != (length := image.shape[axis]):
                image = interpolated(image, axis, (np.arange(count) + 0.5) * (length / count) - 0.5)
        binned.append(torch.from_numpy(image))
    return torch.stack(binned)


def _mind(image: Tensor, least: float) -> Tensor:
    """Likeness to both neighbours along each axis, (3, Z, X, Y)."""
    unlike = torch.zeros((image.ndim, *image.shape))
    for axis, channel in enumerate(unlike):
        squares = image.diff(dim=axis).square()
        channel.narrow(axis, 1, image.shape[axis] - 1).add_(squares)
        channel.narrow(axis, 0, image.shape[axis] - 1).add_(squares)
    unlike = _blurred(unlike)
    return unlike.div_(unlike.mean(dim=0).add_(least)).neg_().exp_()


def _blurred(image: Tensor) -> Tensor:
    """Mean with the weights 1, 2, 1 along each of the last three axes; at the edges the outermost voxel goes on."""
    for axis in range(-3, 0):
        length = image.shape[axis]
        shape = list(image.shape)
        shape[axis] += 1
        pairs = image.new_empty(shape)
        torch.add(
            image.narrow(axis, 0, length - 1),
            image.narrow(axis, 1, length - 1),
            out=pairs.narrow(axis, 1, length - 1),
        )
        for end, outermost in ((0, 0), (length, length - 1)):
            pairs.narrow(axis, end, 1).copy_(image.narrow(axis, outermost, 1)).mul_(2)
        image = pairs.narrow(axis, 0, length) + pairs.narrow(axis, 1, length)
    return image.div_(64)
