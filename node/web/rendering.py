"""One frame as a picture for people: grey values of a window (PS3.3 C.11.2), square pixels, PNG or JPEG."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from dicom_scp.parsing import quiet
from dicom_scp.spool import Spool
from indexer.errors import Refused
from indexer.headers import Attributes, coded, lenient_number, lenient_numbers, whole
from node.web.decoding import TranscoderPool
from node.web.images import Samples, StoredImage

MOST_PIXELS_A_SIDE = 8192
_CACHE_BYTES = 256 << 20
_PERCENTILES = (1.0, 99.5)
_LEAST_WIDTH = 1e-6
_MOST_ASPECT = 20.0
_JPEG_QUALITY = 90


class WindowShape(StrEnum):
    """How a window maps values to grey (PS3.3 C.11.2.1.2, C.11.2.1.3; names of PS3.18 8.3.5.1.4)."""

    LINEAR = "linear"
    LINEAR_EXACT = "linear-exact"
    SIGMOID = "sigmoid"


@dataclass(frozen=True)
class Window:
    """Which values are shown as grey: those below are black, those above white."""

    center: float
    width: float
    shape: WindowShape = WindowShape.LINEAR


_CT_WINDOW = Window(40.0, 400.0)
_EIGHT_BITS = Window(128.0, 256.0)


class PictureType(StrEnum):
    """Media types that frames are rendered to."""

    PNG = "image/png"
    JPEG = "image/jpeg"


@dataclass(frozen=True)
class Presentation:
    """How a frame is to be shown.

    Attributes
    ----------
    window : Window, optional
        Otherwise the instance's own, or one for its modality.
    viewport : tuple of int, optional
        Width and height that the picture has to fit in; otherwise one pixel a sample or more, none of them lost.
    quality : int
        Of JPEG, 1 to 100.
    """

    window: Window | None = None
    viewport: tuple[int, int] | None = None
    media_type: PictureType = PictureType.PNG
    quality: int = _JPEG_QUALITY


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded frame with what showing it takes.

    Attributes
    ----------
    values : NDArray
        (rows, columns) float32 in the units of the modality, NaN for padding; or (rows, columns, 3) uint8 of RGB.
    window : Window
        What is shown unless another is asked for.
    pixel_mm : tuple of float
        Height and width of a pixel; (1, 1) where unknown.
    is_inverted : bool
        Whether low values are white (MONOCHROME1).
    voi : NDArray, optional
        (rows, columns) uint8: shown unless a window is asked for, where the instance has a VOI LUT and no window.
    """

    values: NDArray[Any]
    window: Window
    pixel_mm: tuple[float, float]
    is_inverted: bool
    voi: NDArray[np.uint8] | None = None

    @property
    def is_colour(self) -> bool:
        """Whether windows mean nothing to it."""
        return self.values.ndim == 3

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return int(self.values.nbytes) + (0 if self.voi is None else int(self.voi.nbytes))


class Pictures:
    """Decodes frames, and remembers the latest; safe to share among threads.

    Parameters
    ----------
    spool : Spool
        Where the files are.
    transcoders : TranscoderPool
        Who decodes compressed frames.
    """

    def __init__(self, spool: Spool, transcoders: TranscoderPool) -> None:
        self._spool = spool
        self._transcoders = transcoders
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Picture] = OrderedDict()
        self._bytes = 0

    def picture(self, path: str, frame_number: int | None = None) -> Picture:
        """Decode one frame.

        Parameters
        ----------
        path : str
            Of the file, relative to the spool folder.
        frame_number : int, optional
            From 1; otherwise the one in the middle, which stands for the instance.

        Raises
        ------
        NotFound
            No such file or frame.
        Refused
            It is no image, or cannot be decoded.
        """
        key = (path, frame_number or 0)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = StoredImage(self._spool.file(path))
        index = image.frames // 2 if frame_number is None else frame_number - 1
        found = picture_of(image, index, image.samples(index, self._transcoders))
        self._keep(key, found)
        return found

    def rendered(self, path: str, frame_number: int | None, presentation: Presentation) -> bytes:
        """Render one frame; raises as `picture`."""
        picture = self.picture(path, frame_number)
        return encoded(grey(picture, presentation.window), presentation, picture.pixel_mm)

    def _keep(self, key: tuple[str, int], found: Picture) -> None:
        with self._lock:
            if key in self._kept or found.bytes > _CACHE_BYTES:
                return
            self._kept[key] = found
            self._bytes += found.bytes
            while self._bytes > _CACHE_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].bytes


def picture_of(image: StoredImage, index: int, samples: Samples) -> Picture:
    """Turn stored values into those of the modality, and find out how they are to be shown.

    Raises
    ------
    Refused
        The values cannot be made sense of.
    """
    try:
        with quiet():
            return _picture(image, index, samples)
    except Refused:
        raise
    except Exception as error:  # a hostile header raises anything at all
        raise Refused(f"the frame cannot be shown: {type(error).__name__}") from error


def _picture(image: StoredImage, index: int, samples: Samples) -> Picture:
    source = image.attributes(index)
    pixel_mm = _pixel_mm(source)
    if samples.photometric == "PALETTE COLOR":
        colours = apply_color_lut(samples.values, image.header)
        return Picture(_eight_bits(colours, 8 * colours.itemsize), _EIGHT_BITS, pixel_mm, False)
    if samples.values.ndim == 3:
        bits = whole(image.header, "BitsStored") or 8
        return Picture(_eight_bits(samples.values, bits), _EIGHT_BITS, pixel_mm, False)
    values = _modality_values(image, source, samples.values)
    inverted = samples.photometric == "MONOCHROME1"
    own = _own_window(source)
    voi = None
    if own is None and "VOILUTSequence" in image.header:
        table = image.header.VOILUTSequence[0]
        bits = int(table.LUTDescriptor[2])
        shown = apply_voi(np.rint(np.nan_to_num(values)).astype(np.int32), image.header) * (255.0 / (2**bits - 1))
        voi = np.clip(shown, 0, 255).astype(np.uint8)
    return Picture(values, own or _usual_window(source, values), pixel_mm, inverted, voi)


def _modality_values(image: StoredImage, source: Attributes, stored: NDArray[Any]) -> NDArray[np.float32]:
    """Values in the units of the modality (PS3.3 C.11.1); NaN for padding."""
    if "ModalityLUTSequence" in image.header:
        values = apply_modality_lut(stored, image.header).astype(np.float32)
    else:
        slope = lenient_number(source, "RescaleSlope")
        intercept = lenient_number(source, "RescaleIntercept")
        values = stored.astype(np.float32) * np.float32(slope or 1.0) + np.float32(intercept or 0.0)
    bounds = [
        value
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if (value := lenient_number(image.header, keyword)) is not None
    ]
    if bounds:
        values[(stored >= min(bounds)) & (stored <= max(bounds))] = np.nan
    return values


def _own_window(source: Attributes) -> Window | None:
    """The first window that the instance names (PS3.3 C.11.2, C.7.6.16.2.10)."""
    centers, widths = lenient_numbers(source, "WindowCenter"), lenient_numbers(source, "WindowWidth")
    if not centers or not widths or widths[0] <= 0:
        return None
    name = next(iter(coded(source, "VOILUTFunction")), "").lower().replace("_", "-")
    shape = WindowShape(name) if name in set(WindowShape) else WindowShape.LINEAR
    return Window(centers[0], max(widths[0], 1.0) if shape is WindowShape.LINEAR else widths[0], shape)


def _usual_window(source: Attributes, values: NDArray[np.float32]) -> Window:
    if coded(source, "Modality") == ("CT",):
        return _CT_WINDOW
    known = values[np.isfinite(values)]
    if not known.size:
        return Window(0.0, 1.0, WindowShape.LINEAR_EXACT)
    low, high = (float(value) for value in np.percentile(known, _PERCENTILES))
    return Window((low + high) / 2, max(high - low, _LEAST_WIDTH), WindowShape.LINEAR_EXACT)


def grey(picture: Picture, window: Window | None = None) -> NDArray[np.uint8]:
    """Show a picture through a window: (rows, columns) uint8; a colour picture stays (rows, columns, 3)."""
    if picture.is_colour:
        return picture.values
    if window is None and picture.voi is not None:
        shown = picture.voi
    else:
        shares = _shares(picture.values, window or picture.window)
        shown = np.rint(255.0 * np.nan_to_num(shares)).astype(np.uint8)
    if picture.is_inverted:
        shown = np.where(np.isfinite(picture.values), 255 - shown, 0).astype(np.uint8)
    return shown


def _shares(values: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """Brightness of every value, 0 to 1; NaN stays."""
    center, width = np.float32(window.center), np.float32(max(window.width, _LEAST_WIDTH))
    if window.shape is WindowShape.SIGMOID:
        exponents = np.clip(-4 * (values - center) / width, -80, 80)
        bright: NDArray[np.float32] = 1 / (1 + np.exp(exponents))
        return bright
    if window.shape is WindowShape.LINEAR:
        center, width = center - np.float32(0.5), max(width - np.float32(1), np.float32(_LEAST_WIDTH))
    shares: NDArray[np.float32] = np.clip((values - center) / width + np.float32(0.5), 0, 1)
    return shares


def encoded(shown: NDArray[np.uint8], presentation: Presentation, pixel_mm: tuple[float, float]) -> bytes:
    """Scale to square pixels and to the viewport, and encode."""
    image = Image.fromarray(np.ascontiguousarray(shown))
    size = _size(image.size, pixel_mm, presentation.viewport)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = BytesIO()
    if presentation.media_type is PictureType.JPEG:
        image.save(buffer, "JPEG", quality=presentation.quality)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _size(
    samples: tuple[int, int], pixel_mm: tuple[float, float], viewport: tuple[int, int] | None
) -> tuple[int, int]:
    """Width and height in square pixels."""
    least = min(pixel_mm)
    width, height = samples[0] * pixel_mm[1] / least, samples[1] * pixel_mm[0] / least
    room = viewport or (MOST_PIXELS_A_SIDE, MOST_PIXELS_A_SIDE)
    scale = min(room[0] / width, room[1] / height)
    if viewport is None:
        scale = min(scale, 1.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _pixel_mm(source: Attributes) -> tuple[float, float]:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        values = lenient_numbers(source, keyword)
        if len(values) == 2 and min(values) > 0 and max(values) / min(values) <= _MOST_ASPECT:
            return values[0], values[1]
    return 1.0, 1.0


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    return np.right_shift(values.astype(np.uint32), max(bits - 8, 0)).astype(np.uint8)
