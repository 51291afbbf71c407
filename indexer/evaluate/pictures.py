"""Small grey pictures of an item, as the report shows them: no name, no text, only pixels."""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.evaluate.items import SpanMm
from indexer.resample import PatientGrid

_LONGEST = 128
"""Pixels along the longer side."""
_CT_WINDOW_HU = (-1000.0, 600.0)
_MR_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with its true proportions.

    Attributes
    ----------
    pixels : (rows, columns) uint8
        As a radiologist expects it: the patient's right on the left, anterior or superior at the top.
    size_mm : tuple of float
        Height and width.
    """

    pixels: NDArray[np.uint8]
    size_mm: tuple[float, float]

    def data_uri(self) -> str:
        """The picture as a PNG within the page."""
        return "data:image/png;base64," + base64.b64encode(png(self.pixels)).decode("ascii")


def pictures(grid: PatientGrid, span_mm: SpanMm | None) -> tuple[Picture, Picture]:
    """Cut the axial plane in the middle of a slab, and the coronal one through the middle of the grid.

    Parameters
    ----------
    span_mm : SpanMm or None
        From the lower edge of the grid; None: all of it.
    """
    dz, dx, dy = grid.spacing_mm
    count = grid.voxels.shape[0]
    span = (0.0, count * dz) if span_mm is None else span_mm
    low, high = (int(np.clip(round(end / dz), 0, count)) for end in span)
    low, high = min(low, count - 1), max(high, min(low, count - 1) + 1)
    axial = grid.voxels[(low + high - 1) // 2, ::-1, ::-1].T
    coronal = grid.voxels[low:high][::-1, ::-1, grid.voxels.shape[2] // 2]
    window = _window(grid)
    return _picture(axial, (dy, dx), window), _picture(coronal, (dz, dx), window)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Write (rows, columns) uint8 as a grey PNG (ISO/IEC 15948), without any text in it."""
    rows, columns = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    lines = np.hstack([np.zeros((rows, 1), np.uint8), pixels]).tobytes()
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _window(grid: PatientGrid) -> tuple[float, float]:
    if grid.modality == "CT":
        return _CT_WINDOW_HU
    low, high = np.percentile(grid.voxels[grid.inside], _MR_PERCENTILES) if grid.inside.any() else (0.0, 1.0)
    return float(low), float(high)


def _picture(plane: NDArray[np.float32], spacing_mm: tuple[float, float], window: tuple[float, float]) -> Picture:
    size_mm = (plane.shape[0] * spacing_mm[0], plane.shape[1] * spacing_mm[1])
    step = max(1, -(-max(plane.shape) // _LONGEST))
    low, high = window
    scaled = np.clip((plane[::step, ::step] - low) / max(high - low, 1e-6), 0.0, 1.0)
    return Picture(np.asarray(np.round(scaled * 255), dtype=np.uint8), size_mm)
