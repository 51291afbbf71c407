"""The DICOM File Format around a data set that is never touched (PS3.10 section 7.1)."""

import re
import struct

from pydicom.uid import UID

from indexer.errors import Refused

IMPLEMENTATION_CLASS_UID = UID("2.25.304512884739146377301253370826141870293")
"""Names this node as the writer (PS3.7 D.3.3.2)."""
IMPLEMENTATION_VERSION_NAME = "PACSIMILE_0_1"

_PREFIX = b"\0" * 128 + b"DICM"
_TRANSFER_SYNTAX_UID = 0x00020010
DIGEST_BYTES = 32
_DIGEST_ELEMENT = struct.pack("<HH2sHL", 0x0002, 0x0102, b"OB", 0, DIGEST_BYTES)
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})
_MAX_META_BYTES = 1 << 20
_LEGAL_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")


def file_header(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str,
    *,
    with_digest: bool = False,
) -> bytes:
    """Preamble, prefix and File Meta Information for a received data set.

    Parameters
    ----------
    source_ae_title : str
        Who sent it; left out if it is no AE title.
    with_digest : bool
        End with `DIGEST_BYTES` of zero, as Private Information (0002,0102), for a digest of what follows.
    """
    source = source_ae_title.strip()
    no_digest = _short(0x0100, b"UI", IMPLEMENTATION_CLASS_UID) + _DIGEST_ELEMENT + bytes(DIGEST_BYTES)
    elements = b"".join(
        (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1",
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x0016, b"AE", source) if _LEGAL_AE_TITLE.fullmatch(source) else b"",
            no_digest if with_digest else b"",
        )
    )
    return _PREFIX + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _short(number: int, vr: bytes, text: str) -> bytes:
    """An element of group 0002 with a 16-bit length, padded to even length (PS3.5 6.2)."""
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


def held_digest(content: bytes) -> bytes:
    """The digest that `file_header` left room for; empty if a file has none.

    Raises
    ------
    Refused
        It is no DICOM file.
    """
    dataset = split_file(content)[1]
    header = content[: len(content) - len(dataset)]
    element, digest = header[:-DIGEST_BYTES], header[-DIGEST_BYTES:]
    return digest if element.endswith(_DIGEST_ELEMENT) else b""


def split_file(content: bytes) -> tuple[str, bytes]:
    """Transfer Syntax UID and encoded data set of a DICOM file.

    Raises
    ------
    Refused
        It is no DICOM file, or says no transfer syntax.
    """
    if content[128:132] != b"DICM":
        raise Refused("expected a DICOM file (PS3.10 section 7.1), got none: the prefix DICM is missing")
    offset, transfer_syntax = len(_PREFIX), b""
    while content[offset : offset + 2] == b"\x02\x00":
        tag, start, end = _element(content, offset)
        if tag == _TRANSFER_SYNTAX_UID:
            transfer_syntax = content[start:end]
        if end > min(len(content), _MAX_META_BYTES):
            raise Refused("the File Meta Information (PS3.10 section 7.1) is longer than the file or 1 MiB")
        offset = end
    uid = transfer_syntax.rstrip(b" \0").decode("ascii", "replace")
    if not uid:
        raise Refused("the File Meta Information has no Transfer Syntax UID (0002,0010)")
    return uid, content[offset:]


def _element(content: bytes, offset: int) -> tuple[int, int, int]:
    """Tag, begin and end of the value at `offset`; always explicit VR little endian (PS3.10 section 7.1)."""
    try:
        group, number, vr, short = struct.unpack_from("<HH2sH", content, offset)
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<L", content, offset + 8)
            return group << 16 | number, offset + 12, offset + 12 + length
    except struct.error as error:
        raise Refused("the file ends within its File Meta Information (PS3.10 section 7.1)") from error
    return group << 16 | number, offset + 8, offset + 8 + short
