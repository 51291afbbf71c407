"""Dimensions that a compressed frame itself claims, read before a decoder allocates memory for them.

JPEG and JPEG-LS: start of frame marker (ISO/IEC 10918-1 B.2.2, ISO/IEC 14495-1 C.2.2); JPEG 2000 and HTJ2K: SIZ
(ISO/IEC 15444-1 A.5.1).
"""

import struct

SOF_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Start of frame, without the three other markers of that range (DHT, JPG, DAC)."""
JPEG_START = b"\xff\xd8"
J2K_START = b"\xff\x4f\xff\x51"
JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


def frame_size(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a compressed frame claims.

    Parameters
    ----------
    codestream : bytes
        One encoded frame.

    Returns
    -------
    tuple of int or None
        Rows and columns; None where the format has no header of its own (RLE) or it is damaged.
    """
    try:
        if codestream.startswith(JPEG_START):
            return _jpeg_size(codestream)
        if codestream.startswith(JP2_SIGNATURE):
            codestream = codestream[codestream.index(J2K_START) :]
        if codestream.startswith(J2K_START):
            right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
            return bottom - top, right - left
    except (struct.error, ValueError):
        return None
    return None


def _jpeg_size(codestream: bytes) -> tuple[int, int] | None:
    """Walk the marker segments to the start of frame."""
    offset = len(JPEG_START)
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", codestream, offset)
        if prefix != 0xFF:
            return None
        if marker == 0xFF:  # fill bytes may precede a marker
            offset += 1
        elif marker in SOF_MARKERS:
            rows, columns = struct.unpack_from(">HH", codestream, offset + 5)
            return rows, columns
        else:
            offset += 2 + length
