"""JPEG-LS (ISO/IEC 14495-1) for pydicom, by imagecodecs: its decoder lets other threads run meanwhile.

A plugin as `Decoder.add_plugin` of pydicom wants it. Grey images only: volumes are made of nothing else.
"""

from importlib.util import find_spec

import imagecodecs
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import JPEGLSLossless, JPEGLSNearLossless

PLUGIN = "imagecodecs"
DECODER_DEPENDENCIES = {JPEGLSLossless: ("imagecodecs",), JPEGLSNearLossless: ("imagecodecs",)}


def is_available(uid: str) -> bool:
    """Whether the transfer syntax is one of JPEG-LS and the library is there."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def register() -> None:
    """Make the plugin known to pydicom's decoders; they are shared by the whole process."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(uid)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "_decode_frame"))


def _decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    values = imagecodecs.jpegls_decode(src)
    runner.set_option("bits_allocated", 8 * values.itemsize)
    return bytearray(values.data.cast("B"))
