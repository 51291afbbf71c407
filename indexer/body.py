"""Where in a grid the patient is: air, table and coils left out, lungs and bowel gas kept in."""

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from indexer.errors import Parked
from indexer.resample import PatientGrid

CT_BODY_HU = -400.0
"""Denser than this is body or table."""
MR_BODY_FRACTION = 0.55
"""Of Otsu's threshold between the square roots of the intensities: brighter than this is body."""
_BINS = 128
"""Of the histogram that the threshold is found in."""
_THINNING = 2
"""The mask is found on every second voxel in-plane: features are coarser by far."""
_LEAST_PART = 0.1
_OPEN_AIR_HU = -950.0
"""Lung is denser than this where it is averaged over a few voxels."""
_LEAST_LUNG = 0.005
"""Of the body found so far: less of what may be lung is clothes, foam, or the blurred edge of the skin."""
_REACH, _MARGIN = 2, 5
"""Voxels around the body's box: what may be lung, and what tells whether it lies in open air."""
_MOST_OPEN = 0.2
"""Share of its surroundings in open air from which on what may be lung is not: foam, blankets."""

Mask = NDArray[np.bool_]


def body_mask(grid: PatientGrid) -> Mask:
    """Mark the patient's body, (Z, X, Y).

    Threshold (CT: fixed; MR: a share of Otsu's between roots, as fat near a coil outshines muscle by far), an
    opening that lets go of the table, the components of at least a tenth of the largest, holes filled in every
    slice. In CT a lung is kept that the edge of the field of view opens to the air outside.

    Raises
    ------
    Parked
        Nothing of the volume is denser (CT) or brighter (MR) than air.
    """
    rows, columns = (slice(None), slice(None, None, _THINNING)), (..., slice(None, None, _THINNING))
    voxels, inside = grid.voxels[rows][columns], grid.inside[rows][columns]
    least = CT_BODY_HU if grid.modality == "CT" else _mr_threshold(voxels[inside])
    dense = (grid.voxels[rows] > np.float32(least))[columns] & inside  # quicker than to pick single voxels first
    if not dense.any():
        raise Parked(f"no body in the volume: no voxel exceeds {least:g}")
    found = _filled_by_slice(_largest_parts(dense))
    if grid.modality == "CT":
        near = around(found, _MARGIN)
        lungs = _cut_lungs(voxels[near], inside[near], found[near])
        if lungs.any():
            found[near] |= lungs
            found = _filled_by_slice(found)
    _, across, deep = grid.voxels.shape
    return found.repeat(_THINNING, axis=2)[:, :, :deep].repeat(_THINNING, axis=1)[:, :across]


def _mr_threshold(values: NDArray[np.float32]) -> float:
    darkest, brightest = np.percentile(values, (0.5, 99.0))
    if darkest == brightest:
        return float(values.min())
    roots = np.sqrt(np.clip(values, darkest, brightest) - darkest)
    return float(darkest + (MR_BODY_FRACTION * _otsu(roots)) ** 2)


def _otsu(values: NDArray[np.float32]) -> float:
    """Otsu's threshold between two classes, from a histogram: where their means lie farthest apart."""
    least, greatest = float(values.min()), float(values.max())
    edges = np.linspace(least, greatest, _BINS + 1)
    scaled = (values - np.float32(least)) * np.float32(_BINS / max(greatest - least, 1e-30))
    counts = np.bincount(np.minimum(scaled.astype(np.int16), _BINS - 1), minlength=_BINS)
    below = np.cumsum(counts)[:-1].astype(np.float64)
    middles = (edges[:-1] + edges[1:]) / 2
    total, sums = float(counts.sum()), np.cumsum(counts * middles)
    between = (sums[-1] * below - total * sums[:-1]) ** 2 / np.maximum(below * (total - below), 1.0)
    return float(edges[1 + int(between.argmax())])


def _largest_parts(dense: Mask) -> Mask:
    opened = _opened(dense)
    if not opened.any():
        return dense
    near, found = around(opened), np.zeros_like(dense)
    labels, sizes = parts(opened[near])
    kept = np.concatenate([[False], sizes >= _LEAST_PART * sizes.max()])
    found[near] = labels == kept.argmax() if kept.sum() == 1 else kept[labels]
    return found


def _opened(mask: Mask) -> Mask:
    """Erosion, then dilation, by a cross of five voxels in-plane; beyond the edge of the grid the body goes on."""
    return _with_neighbours(~_with_neighbours(~mask))


def _with_neighbours(mask: Mask) -> Mask:
    grown = mask.copy()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    grown[:, :, 1:] |= mask[:, :, :-1]
    grown[:, :, :-1] |= mask[:, :, 1:]
    return grown


def _filled_by_slice(mask: Mask) -> Mask:
    """Fill what each axial slice encloses: lungs, trachea, bowel."""
    near, found = around(mask, 1), mask.copy()
    found[near] = filled(mask[near])
    return found


def filled(mask: Mask) -> Mask:
    """Fill what is apart from the edges of its axial slice.

    Slices lie one after the other in one image, each with a rim that belongs to the outside.
    """
    open_air = np.pad(~mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels = _labelled(open_air.reshape(-1, open_air.shape[2])).reshape(open_air.shape)
    return np.asarray(labels[:, 1:-1, 1:-1] != labels[0, 0, 0])


def around(body: Mask, margin: int = 0) -> tuple[slice, slice, slice]:
    """The body's box in-plane with some voxels around it, and all of z."""
    shadow = np.asarray(body.any(axis=0))
    bounds = [np.flatnonzero(shadow.any(axis=axis)) for axis in (1, 0)]
    xs, ys = (slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin) for at in bounds)
    return slice(None), xs, ys


def _cut_lungs(voxels: NDArray[np.float32], inside: Mask, body: Mask) -> Mask:
    """Lungs that the field of view cuts: denser than open air, and with body nearly all around within it."""
    reached, may_be = around(body, _REACH), np.zeros_like(body)
    may_be[reached] = (_averaged(np.clip(voxels, -1024.0, CT_BODY_HU)) > _OPEN_AIR_HU)[reached]
    may_be &= inside & ~body
    open_air = inside & ~body & ~may_be
    found, thick, least = np.zeros_like(body), _opened(may_be), _LEAST_LUNG * np.count_nonzero(body)
    if np.count_nonzero(thick) < least:
        return found
    labels, sizes = parts(thick)
    for label in (np.flatnonzero(sizes >= least) + 1).tolist():
        part = labels == label
        beside = _with_neighbours(_with_neighbours(part)) & inside & ~part
        if (beside & open_air).sum() <= _MOST_OPEN * max(beside.sum(), 1):
            found |= part
    return found


def _averaged(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over 3 x 3 voxels in-plane."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    along = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return np.asarray((along[:, :, :-2] + along[:, :, 1:-1] + along[:, :, 2:]) / 9, dtype=np.float32)


def parts(mask: Mask) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """Labels from 1 of the parts that hang together by faces, and the number of voxels of each."""
    labels = _labelled(mask)
    sizes: NDArray[np.intp] = torch.bincount(torch.from_numpy(labels.view(np.int32)).ravel()).numpy()
    return labels, sizes[1:]


def _labelled(mask: Mask) -> NDArray[np.uint32]:
    found = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.view(np.uint8)))
    labels: NDArray[np.uint32] = sitk.GetArrayFromImage(found)
    return labels
