"""Bringing frames that are shifted against each other in their plane onto one raster: gantry tilt, undone."""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray


def shifted(
    values: NDArray[np.float32], shape: tuple[int, int], shift_px: NDArray[np.float64], air: float
) -> NDArray[np.float32]:
    """Place a frame on a larger raster, by linear interpolation.

    Parameters
    ----------
    values : NDArray
        Shape (rows, columns).
    shape : tuple of int
        Rows and columns of the raster.
    shift_px : NDArray
        Shape (2,): row and column of the raster, in pixels, at which the frame's first pixel lies.
    air : float
        Value outside the frame.

    Returns
    -------
    NDArray
        Shape `shape`.
    """
    # SimpleITK's order is (x, y), that is, (column, row); its transform maps raster to frame.
    back = sitk.TranslationTransform(2, (-float(shift_px[1]), -float(shift_px[0])))
    raster = sitk.Resample(
        sitk.GetImageFromArray(values),
        (shape[1], shape[0]),
        back,
        sitk.sitkLinear,
        (0.0, 0.0),
        (1.0, 1.0),
        (1.0, 0.0, 0.0, 1.0),
        air,
        sitk.sitkFloat32,
    )
    moved: NDArray[np.float32] = sitk.GetArrayFromImage(raster)
    return moved
