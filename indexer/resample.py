"""From a volume in any orientation to the grid that an encoder sees: axes along the patient's, fixed spacing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from indexer.errors import Parked
from indexer.volume import Volume

_RAS = np.array([-1.0, -1.0, 1.0])
"""Along LPS, x of the grid grows to the right, y to the anterior, z to the superior."""

AIR_HU = -1024.0
_NOTHING = 1e-6
"""Parts of a voxel that make no difference."""
_UNNOTICED = 1e-3
"""Parts of a voxel by which an axis may stray over the whole grid and still count as running along another."""
MAX_GRID_VOXELS = 2**27
"""512 MiB of float32: a body of 2 m with arms at 3 x 1.5 x 1.5 mm needs 74 million."""


@dataclass(frozen=True, eq=False)
class PatientGrid:
    """A volume on the encoder's grid.

    Attributes
    ----------
    voxels : (Z, X, Y) float32
        HU for CT, arbitrary for MR; x grows to the right, y to the anterior, z to the superior (RAS).
    inside : (Z, X, Y) bool
        Where the volume was imaged: outside it, `voxels` is filled in.
    origin_lps_mm : (3,) float64
        Centre of voxel (0, 0, 0), as x, y, z.
    spacing_mm : (3,) float64
        Along z, x, y.
    """

    voxels: NDArray[np.float32]
    inside: NDArray[np.bool_]
    origin_lps_mm: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    modality: str


def resample(volume: Volume, spacing_mm: tuple[float, float, float]) -> PatientGrid:
    """Resample a volume linearly to a grid along the patient's axes that encloses it.

    Detail finer than the grid is averaged away first, so that it does not alias. Parts of the grid that were not
    imaged hold air (CT) or the volume's least value (MR).

    Parameters
    ----------
    volume : Volume
        In any orientation.
    spacing_mm : tuple of float
        Along z, x, y.

    Raises
    ------
    Parked
        A voxel is not a number, all voxels are equal, or the grid would have more than `MAX_GRID_VOXELS`.
    """
    least, greatest = (float(extreme) for extreme in torch.aminmax(torch.from_numpy(volume.voxels)))
    if not (np.isfinite(least) and np.isfinite(greatest)):
        raise Parked("voxels that are not finite numbers: the pixel data or their rescaling are damaged")
    if least == greatest:
        raise Parked(f"the volume is empty: each of its voxels is {least:g}")
    step_xyz = np.array([spacing_mm[1], spacing_mm[2], spacing_mm[0]])
    size, origin = _enclosing(volume, step_xyz)
    voxels = _sampled(_raster(volume, step_xyz), size, origin, step_xyz)
    inside = _inside(volume, size, origin, step_xyz)
    if not inside.all():
        np.copyto(voxels, np.float32(AIR_HU if volume.modality == "CT" else least), where=~inside)
    return PatientGrid(
        voxels=voxels,
        inside=inside,
        origin_lps_mm=origin,
        spacing_mm=np.asarray(spacing_mm, dtype=np.float64),
        modality=volume.modality,
    )


def _enclosing(volume: Volume, step_xyz: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Number of voxels along x, y, z, and the first one's centre, of a grid centred on the volume."""
    lower, upper = _bounds_lps_mm(volume)
    size = np.maximum(np.ceil((upper - lower) / step_xyz - 1e-3), 1.0)
    if size.prod() > MAX_GRID_VOXELS:
        extent = " x ".join(f"{mm:.0f}" for mm in upper - lower)
        raise Parked(f"the volume is too large: {extent} mm would need more than {MAX_GRID_VOXELS} voxels")
    first = np.where(_RAS > 0, lower, upper) + _RAS * (upper - lower - size * step_xyz) / 2
    return size.astype(np.intp), first + _RAS * step_xyz / 2


@dataclass(frozen=True, eq=False)
class _Raster:
    """Voxels (slice, row, column), and what their means over bins of some voxels along each axis lie by.

    Attributes
    ----------
    bins : (3,) int
        Where the grid is coarser, more than one voxel.
    affine_lps_mm : (4, 4) float64
        Of the means.
    """

    voxels: NDArray[np.float32]
    bins: NDArray[np.intp]
    affine_lps_mm: NDArray[np.float64]


def _raster(volume: Volume, step_xyz: NDArray[np.float64]) -> _Raster:
    """The volume, and what of it is averaged before it is sampled."""
    affine, spacing = volume.affine_lps_mm, volume.spacing_mm
    along = np.sqrt(((affine[:3, :3] / spacing) ** 2).T @ step_xyz**2)  # the grid's step along the volume's axes
    bins = np.clip(np.floor(along / spacing + 0.25).astype(int), 1, volume.voxels.shape)
    coarser = affine.copy()
    coarser[:3, :3] *= bins
    coarser[:3, 3] += affine[:3, :3] @ ((bins - 1) / 2)
    return _Raster(volume.voxels, bins, coarser)


def averaged(voxels: NDArray[np.float32], axis: int, width: int) -> NDArray[np.float32]:
    """Mean over bins along one axis; the last bin may be narrower."""
    if width == 1:
        return voxels
    whole = voxels.shape[axis] // width * width
    before = (slice(None),) * axis
    first, second, *others = (voxels[(*before, slice(k, whole, width))] for k in range(width))
    total = first + second
    for other in others:
        total += other
    total /= np.float32(width)
    rest = voxels[(*before, slice(whole, None))]
    return np.concatenate([total, rest.mean(axis=axis, keepdims=True)], axis=axis) if rest.size else total


def _sampled(
    source: _Raster, size: NDArray[np.intp], origin: NDArray[np.float64], step_xyz: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate linearly at the centres of the grid, (Z, X, Y); beyond the source its outermost voxels go on."""
    first, steps = _indices(source.affine_lps_mm, origin, step_xyz)
    moves = np.abs(steps) * size > _UNNOTICED
    if (moves.sum(axis=0) == 1).all() and (moves.sum(axis=1) == 1).all():
        along = moves.argmax(axis=1)
        index = [first[axis] + steps[axis, xyz] * np.arange(size[xyz]) for axis, xyz in enumerate(along.tolist())]
        return _axis_by_axis(source, index, along)
    order = [1, 0, 2]  # SimpleITK names axes from last to first, and the result has the axes Z, X, Y
    sampler = sitk.ResampleImageFilter()
    sampler.SetSize([int(n) for n in size[order]])
    sampler.SetOutputSpacing([float(s) for s in step_xyz[order]])
    sampler.SetOutputOrigin([float(o) for o in origin])
    sampler.SetOutputDirection([float(d) for d in np.diag(_RAS)[:, order].ravel()])
    sampler.SetInterpolator(sitk.sitkLinear)
    sampler.SetUseNearestNeighborExtrapolator(True)
    voxels: NDArray[np.float32] = sitk.GetArrayFromImage(sampler.Execute(_image(source)))
    return voxels


def _axis_by_axis(
    source: _Raster, index: Sequence[NDArray[np.float64]], along: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Interpolate where each axis of the voxels runs along one of x, y, z: `along` says which; far quicker.

    One slice is averaged and interpolated after the other, while the processor's cache holds it, and turned between
    its two axes, so that whole rows are added. No copy of the volume is made but the result.
    """
    thick, rows, columns = source.bins.tolist()

    @lru_cache(maxsize=2)  # between two of them lies the next slice of the grid
    def plane(number: int) -> torch.Tensor:
        mean = averaged(source.voxels[number * thick : (number + 1) * thick], 0, thick)[0]
        mean = averaged(averaged(mean, 0, rows), 1, columns)
        turned = np.ascontiguousarray(interpolated(mean, 0, index[1]).T)
        return torch.from_numpy(interpolated(turned, 0, index[2]))

    below, above, part = _between(index[0], -(-len(source.voxels) // thick))
    voxels = torch.from_numpy(np.empty([len(one) for one in (index[0], index[2], index[1])], np.float32))
    for place, (low, high, share) in enumerate(zip(below.tolist(), above.tolist(), part.tolist(), strict=True)):
        torch.lerp(plane(low), plane(high), share, out=voxels[place])
    order = along[[0, 2, 1]]
    to_zxy = [int(np.flatnonzero(order == xyz)[0]) for xyz in (2, 0, 1)]
    return np.ascontiguousarray(voxels.numpy().transpose(to_zxy))


def interpolated(voxels: NDArray[np.float32], axis: int, index: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values at some indices along one axis, linear between voxels."""
    below, above, part = _between(index, voxels.shape[axis])
    values = torch.from_numpy(voxels.take(below, axis))
    if part.any():
        shares = torch.from_numpy(part.reshape([-1 if k == axis else 1 for k in range(voxels.ndim)]))
        values.lerp_(torch.from_numpy(voxels.take(above, axis)), shares)
    return np.asarray(values.numpy())


def _between(
    index: NDArray[np.float64], length: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The voxels below and above some indices along an axis of a length, and how far each is from the lower one."""
    index = np.clip(index, 0, length - 1)
    below = np.floor(index).astype(np.intp)
    return below, np.minimum(below + 1, length - 1), (index - below).astype(np.float32)


def _indices(
    affine_lps_mm: NDArray[np.float64], origin: NDArray[np.float64], step_xyz: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the grid's first centre lies in a raster (3,), and how each index changes along x, y, z (3, 3)."""
    to_index = np.linalg.inv(affine_lps_mm)
    return to_index[:3, :3] @ origin + to_index[:3, 3], to_index[:3, :3] * (_RAS * step_xyz)


def _inside(
    volume: Volume, size: NDArray[np.intp], origin: NDArray[np.float64], step_xyz: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which centres of the grid, (Z, X, Y), lie within the volume, outer edges of its voxels included."""
    first, steps = _indices(volume.affine_lps_mm, origin, step_xyz)
    xs, ys, zs = (np.arange(n) for n in size)
    lowest, highest = np.zeros((len(zs), len(xs))), np.full((len(zs), len(xs)), len(ys) - 1.0)
    for axis, length in enumerate(volume.voxels.shape):  # of each row along y, one stretch lies within
        at_row = first[axis] + steps[axis, 2] * zs[:, None] + steps[axis, 0] * xs
        lower, upper = -0.5 - _NOTHING - at_row, length - 0.5 + _NOTHING - at_row
        if abs(step := steps[axis, 1]) * len(ys) <= _NOTHING:
            highest[(lower > 0) | (upper < 0)] = -1.0
            continue
        ends = (lower / step, upper / step) if step > 0 else (upper / step, lower / step)
        np.maximum(lowest, ends[0], out=lowest)
        np.minimum(highest, ends[1], out=highest)
    starts = np.ceil(np.minimum(lowest, len(ys))).astype(np.int32)[..., None]
    stops = np.floor(np.maximum(highest, -1.0)).astype(np.int32)[..., None]
    if (starts <= 0).all() and (stops >= len(ys) - 1).all():
        return np.ones((len(zs), len(xs), len(ys)), np.bool_)
    within = ys.astype(np.int32)
    return np.asarray((within >= starts) & (within <= stops))


def _image(source: _Raster) -> sitk.Image:
    """The means as an image of SimpleITK, which reverses the order of axes."""
    axes, voxels = source.affine_lps_mm[:3, :3], source.voxels
    for axis, width in enumerate(source.bins.tolist()):
        voxels = averaged(voxels, axis, width)
    spacing_mm = np.linalg.norm(axes, axis=0)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    image.SetOrigin([float(o) for o in source.affine_lps_mm[:3, 3]])
    image.SetDirection([float(d) for d in (axes / spacing_mm)[:, ::-1].ravel()])
    return image


def _bounds_lps_mm(volume: Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Box around all voxels, outer edges, as lower and upper x, y, z."""
    shape = np.array(volume.voxels.shape)
    corners = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in shape), indexing="ij")).reshape(3, -1)
    points = volume.affine_lps_mm[:3, :3] @ corners + volume.affine_lps_mm[:3, 3:]
    return points.min(axis=1), points.max(axis=1)
