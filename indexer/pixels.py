"""From stored pixel data to Hounsfield units (CT) or arbitrary units (MR), frame by frame.

Steps, with sections of PS3.3: decoding (PS3.5 annex A), unused bits (PS3.5 8.1.1), padding (C.7.5.1.1.2), Modality
LUT or Rescale (C.11.1). VOI and presentation are for viewers and are not applied.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import RLELossless

from indexer import jpeg_ls
from indexer.codestream import frame_size
from indexer.errors import Parked, Transient
from indexer.frames import Frame
from indexer.headers import quiet, read_dataset
from indexer.pixel_format import PixelFormat

CT_AIR_HU = -1024.0
"""Padding becomes this, and nothing is lower: what scanners write outside the reconstruction is no density."""
FASTEST_PLUGIN = dict.fromkeys(jpeg_ls.DECODER_DEPENDENCIES, jpeg_ls.PLUGIN)
"""Decoders to prefer where the one that pydicom tries first takes several times longer, or halts other threads."""
jpeg_ls.register()
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def frame_values(dataset: Dataset, frame: Frame) -> NDArray[np.float32]:
    """Values of one frame.

    Parameters
    ----------
    dataset : Dataset
        The whole instance, with pixel data.
    frame : Frame
        Which frame of it.

    Returns
    -------
    NDArray
        Shape (rows, columns); Hounsfield units for CT, not below `CT_AIR_HU`; for MR rescaled values. Padding is
        `CT_AIR_HU` in CT and NaN in MR, where the value of air depends on the whole volume.

    Raises
    ------
    Parked
        The pixel data are missing, truncated, of other dimensions than claimed, or cannot be decoded.
    """
    try:
        with quiet():
            stored = stored_values(dataset, frame)
            values = _modality_values(dataset, frame, stored)
    except Parked:
        raise
    except Exception as error:
        raise Parked(f"the pixel data cannot be decoded ({type(error).__name__})") from error
    air = np.float32(CT_AIR_HU if frame.modality == "CT" else np.nan)
    if stored.dtype.kind == "f":
        values[~np.isfinite(values)] = air
    if frame.format.padding is not None:
        first, last = frame.format.padding
        values[(stored >= first) & (stored <= last)] = air
    return np.maximum(values, air, out=values) if frame.modality == "CT" else values


def stored_values(dataset: Dataset, frame: Frame) -> NDArray[Any]:
    """Decode one frame; shape (rows, columns), of the data's own type, unused bits cleared or sign-extended."""
    _demand_pixels(dataset, frame)
    syntax = frame.format.transfer_syntax_uid
    stored, _ = get_decoder(syntax).as_array(
        dataset,
        index=frame.index or 0,
        raw=True,
        validate=False,
        decoding_plugin=FASTEST_PLUGIN.get(syntax, ""),
        correct_unused_bits=not _is_bitwise(frame.format),  # type: ignore[arg-type]  # pydicom types its options wrongly
    )
    if stored.shape != (frame.format.rows, frame.format.columns):
        raise Parked(f"pixel data: expected {frame.format.rows} x {frame.format.columns}, got {stored.shape}")
    return _used_bits(stored, frame.format) if _is_bitwise(frame.format) else stored


def same_pixels(a: Frame, b: Frame) -> bool:
    """Whether two frames hold the same pixels; frames that cannot be read are not the same as any other."""
    try:
        encoded = a.format == b.format
        return _digest(a, encoded=encoded) == _digest(b, encoded=encoded)
    except (Parked, Transient):
        return False


def _digest(frame: Frame, *, encoded: bool) -> bytes:
    """Digest of the stored bytes, or of the decoded values where two frames are encoded differently."""
    with quiet():
        dataset = read_dataset(frame.path, with_pixels=True)
        try:
            data = _encoded_frame(dataset, frame) if encoded else stored_values(dataset, frame).tobytes()
        except Exception as error:
            raise Parked("the pixel data cannot be read") from error
    return hashlib.blake2b(data).digest()


def _demand_pixels(dataset: Dataset, frame: Frame) -> None:
    """Compare what the header claims with what is there, before a decoder believes it."""
    keyword = next((keyword for keyword in PIXEL_KEYWORDS if dataset.get(keyword)), None)
    if keyword is None:
        raise Parked("no pixel data")
    expected = frame.format
    if not expected.transfer_syntax_uid.is_encapsulated:
        length = len(dataset[keyword].value)
        if length < expected.native_bytes:
            raise Parked(f"pixel data: expected {expected.native_bytes} bytes, got {length}")
        return
    size = frame_size(_encoded_frame(dataset, frame))
    if size not in (None, (expected.rows, expected.columns)):
        raise Parked(
            f"pixel data: expected {expected.rows} x {expected.columns}, the compressed frame claims {size}"
        )


def _encoded_frame(dataset: Dataset, frame: Frame) -> bytes:
    """Bytes of one frame as stored."""
    index = frame.index or 0
    if frame.format.transfer_syntax_uid.is_encapsulated:
        return get_frame(dataset.PixelData, index, number_of_frames=frame.format.frames)
    length = frame.format.native_bytes // frame.format.frames
    return bytes(dataset.PixelData[index * length : (index + 1) * length])


def _is_bitwise(pixel_format: PixelFormat) -> bool:
    """Whether stored words come out of decoding bit by bit, with whatever the unused bits hold."""
    return not pixel_format.transfer_syntax_uid.is_encapsulated or pixel_format.transfer_syntax_uid == RLELossless


def _used_bits(stored: NDArray[Any], pixel_format: PixelFormat) -> NDArray[Any]:
    """Cut the used bits out of each word: older images keep overlays in the others (PS3.5 8.1.2)."""
    above = pixel_format.bits_allocated - 1 - pixel_format.high_bit
    unused = pixel_format.bits_allocated - pixel_format.bits_stored
    if unused == 0 or stored.dtype.kind not in "iu":
        return stored
    # Shifting left drops what lies above the high bit; shifting right then extends the sign of signed words.
    words: NDArray[Any] = np.right_shift(np.left_shift(stored, above), unused)
    return words


def _modality_values(dataset: Dataset, frame: Frame, stored: NDArray[Any]) -> NDArray[np.float32]:
    if frame.rescale is None:
        return apply_modality_lut(stored, dataset).astype(np.float32)
    values = stored.astype(np.float32)
    if frame.rescale.slope != 1:
        values *= np.float32(frame.rescale.slope)
    if frame.rescale.intercept != 0:
        values += np.float32(frame.rescale.intercept)
    return values
