"""Values of numbers, dates, times and UIDs as plain as nearly all are, in the DICOM JSON Model (PS3.18 annex F)."""

import re
import struct

from pydicom.datadict import dictionary_VR

from indexer.attributes import CATALOGUED_TAGS, JsonObject

_PLAIN = {
    b"UI": re.compile(rb"([0-9.]{1,64})\0?"),
    b"IS": re.compile(rb"(-?[0-9]{1,9}(?:\\-?[0-9]{1,9})*) ?"),
    b"DS": re.compile(rb"(-?[0-9]{1,7}(?:\.[0-9]{1,8})?(?:\\-?[0-9]{1,7}(?:\.[0-9]{1,8})?)*) ?"),
    b"DA": re.compile(rb"([0-9]{8})"),
    b"TM": re.compile(rb"([0-9]{2,6}(?:\.[0-9]{1,6})?) ?"),
}
"""What needs no look at the character set and no rule about padding (PS3.5 6.2)."""
_NUMBER = {b"IS": int, b"DS": float}
_VR_OF_TAG = {
    tag: vr for tag in CATALOGUED_TAGS if (vr := dictionary_VR(tag).encode("ascii")) in _PLAIN
}  # fmt: skip
_explicit = struct.Struct("<4x2sH").unpack_from
_HEADER_BYTES = 8


def plain_value(tag: int, encoded: bytes, implicit: bool) -> JsonObject | None:
    """One element in the DICOM JSON Model, as pydicom would say it.

    Parameters
    ----------
    tag : int
        One of `indexer.attributes.CATALOGUED_TAGS`.
    encoded : bytes
        The whole element, little endian.

    Returns
    -------
    JsonObject or None
        None if it is not that plain: then pydicom has to read it.
    """
    vr = _VR_OF_TAG.get(tag) if implicit else _explicit(encoded)[0]
    if vr is None or (pattern := _PLAIN.get(vr)) is None:
        return None
    if (matched := pattern.fullmatch(encoded, _HEADER_BYTES)) is None:
        return None
    text = matched[1].decode("ascii")
    number = _NUMBER.get(vr)
    values = [text] if number is None else [number(one) for one in text.split("\\")]
    return {"vr": vr.decode("ascii"), "Value": values}
