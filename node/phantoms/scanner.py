"""From a body to stored pixels: couch, noise, field of view, bias field, rescaling."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.phantoms.body import Grid, Orientation, voxels
from node.phantoms.exam import Exam, Region
from node.phantoms.solids import Floats

_NOISE_HU = 27.0
"""Standard deviation before the kernel; a soft one leaves three eighths of it."""
_HEAD_NOISE = 0.35
"""Share of the noise in heads, which are thin and get more dose."""
_COUCH_HU = (-880.0, -180.0)
"""Foam and shell of the couch."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """Pixels as they are stored.

    Attributes
    ----------
    stored : NDArray of uint16 or int16, shape (slices, rows, columns)
        Slices in the order of the grid.
    bits : int
        Bits Stored.
    padding : int, optional
        Stored value of pixels that hold no image.
    """

    stored: NDArray[Any]
    bits: int
    padding: int | None


def acquire(exam: Exam) -> Acquired:
    """Scan the exam's patient."""
    grid = exam.grid()
    image = voxels(exam.patient, grid, exam.sequence, exam.contrast)
    return _ct(exam, grid, image) if exam.modality == "CT" else _mr(exam, image)


def _ct(exam: Exam, grid: Grid, image: Floats) -> Acquired:
    vendor = exam.vendor
    if exam.orientation is Orientation.AXIAL:
        _put_on_couch(image, grid)
    noise = exam.rng("quantum").standard_normal(image.shape, dtype=np.float32)
    image += np.float32(_NOISE_HU * (_HEAD_NOISE if exam.region is Region.HEAD else 1.0)) * noise
    if not exam.sharp:
        image = _blurred(image)
    low, high = (0, 2**vendor.ct_bits - 1)
    if vendor.ct_signed:
        low, high = -(2 ** (vendor.ct_bits - 1)), 2 ** (vendor.ct_bits - 1) - 1
    hounsfield = np.clip(np.rint(image), -1024, 3071)
    stored = np.clip(hounsfield - vendor.ct_intercept, low, high)
    if vendor.ct_padding is not None:
        stored[:, ~_circle(exam.matrix)] = vendor.ct_padding
    kind = np.int16 if vendor.ct_signed else np.uint16
    return Acquired(stored.astype(kind), vendor.ct_bits, vendor.ct_padding)


def _put_on_couch(image: Floats, grid: Grid) -> None:
    """Lay the patient on a curved couch: a shell around foam, nowhere denser than what is there already."""
    x, y, _ = grid.axes()
    rows = np.flatnonzero((image > -400).any(axis=(0, 2)))
    top = y[rows[-1]] + 4 - 24 * (x / 200) ** 2
    below = y[:, None] - top[None, :]
    inside = (below > 0) & (below < 26) & (np.abs(x) < 205)[None, :]
    shell = inside & ((below < 3) | (below > 23))
    couch = np.where(shell, _COUCH_HU[1], np.where(inside, _COUCH_HU[0], -1000)).astype(np.float32)
    np.maximum(image, couch[None], out=image)


def _circle(matrix: int) -> NDArray[np.bool_]:
    """Return the circular field of view, shape (rows, columns)."""
    at = np.arange(matrix) - (matrix - 1) / 2
    return np.asarray(at[:, None] ** 2 + at[None, :] ** 2 <= (matrix / 2) ** 2)


def _blurred(image: Floats) -> Floats:
    """Average neighbours in the plane with weights 1 2 1, as a soft kernel does."""
    for axis in (1, 2):
        image = 0.5 * image + 0.25 * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    return image


def _mr(exam: Exam, image: Floats) -> Acquired:
    """Weight by the coils' sensitivity, then take the magnitude of a complex signal with noise (Rician)."""
    rng = exam.rng("thermal")
    bias = np.ones(image.shape, dtype=np.float32)
    for axis, (tilt, bow) in enumerate(rng.uniform((-0.12, -0.18), (0.12, 0.05), (3, 2))):
        at = np.linspace(-1, 1, image.shape[axis], dtype=np.float32)
        shape = [1, 1, 1]
        shape[axis] = -1
        bias *= np.float32(1) + (np.float32(tilt) * at + np.float32(bow) * at**2).reshape(shape)
    real, imaginary = np.float32(0.025) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    magnitude = np.hypot(image * bias + real, imaginary)
    stored = np.clip(np.rint(exam.vendor.mr_scale * magnitude), 0, 4095)
    return Acquired(stored.astype(np.uint16), 12, None)
