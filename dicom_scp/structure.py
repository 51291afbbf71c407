"""Whether an encoded data set is whole: to a parser, a torn one is just shorter."""

import struct
from dataclasses import dataclass

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs with a 32-bit length in Explicit VR (PS3.5 7.1.2)."""
_MAX_DEPTH = 64
_SHORTEST_ELEMENT = 8


class _TornError(Exception):
    """An element ends behind the end of the data set."""


class _OddError(Exception):
    """Something that is no element; other rules decide about it."""


@dataclass(frozen=True)
class _Encoding:
    data: bytes
    implicit: bool
    order: str

    def element(self, at: int) -> tuple[int, int, int]:
        """Tag, begin of the value and length of the element at an offset (PS3.5 7.1)."""
        try:
            group, number = struct.unpack_from(self.order + "HH", self.data, at)
            tag = group << 16 | number
            if self.implicit or group == 0xFFFE:
                return tag, at + 8, struct.unpack_from(self.order + "L", self.data, at + 4)[0]
            vr = self.data[at + 4 : at + 6]
            if vr in _LONG_VRS:
                return tag, at + 12, struct.unpack_from(self.order + "L", self.data, at + 8)[0]
            length = struct.unpack_from(self.order + "H", self.data, at + 6)[0]
        except struct.error:
            raise _TornError from None
        if not vr.isalpha() or not vr.isupper():
            raise _OddError
        return tag, at + 8, length


def is_torn(data: bytes, *, implicit: bool, little: bool) -> bool:
    """Whether a data set ends within an element, a sequence or encapsulated pixel data.

    Parameters
    ----------
    data : bytes
        Encoded, not deflated.
    implicit, little : bool
        Of its transfer syntax.
    """
    encoding = _Encoding(data, implicit, "<" if little else ">")
    at = 0
    try:
        while at < len(data):
            if _is_padding(data, at):
                return False
            at = _after(encoding, at, 0)
    except _TornError:
        return True
    except _OddError:
        return False
    return False


def _is_padding(data: bytes, at: int) -> bool:
    """Whether only zeros follow, and too many for the rest of a tag: some archives end files so."""
    return (
        len(data) - at >= _SHORTEST_ELEMENT and not data[at : at + 512].strip(b"\0") and not data[at:].strip(b"\0")
    )


def _after(encoding: _Encoding, at: int, depth: int) -> int:
    """Offset behind the element at `at`."""
    _, start, length = encoding.element(at)
    if length != _UNDEFINED:
        if start + length > len(encoding.data):
            raise _TornError
        return start + length
    if depth > _MAX_DEPTH:
        raise _OddError
    return _after_items(encoding, start, depth)


def _after_items(encoding: _Encoding, at: int, depth: int) -> int:
    """Offset behind the delimiter of items, of a sequence or of fragments (PS3.5 7.5.2, A.4)."""
    while True:
        tag, start, length = encoding.element(at)
        if tag == _SEQUENCE_END:
            return start
        if tag != _ITEM:
            raise _OddError
        if length == _UNDEFINED:
            at = _after_item(encoding, start, depth)
        elif start + length > len(encoding.data):
            raise _TornError
        else:
            at = start + length


def _after_item(encoding: _Encoding, at: int, depth: int) -> int:
    """Offset behind the delimiter of an item of undefined length."""
    while True:
        tag, start, _ = encoding.element(at)
        if tag == _ITEM_END:
            return start
        at = _after(encoding, at, depth + 1)
