"""Whether an encoded data set is whole: to a parser, a torn one is just shorter."""

import struct
from dataclasses import dataclass

UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs with a 32-bit length in Explicit VR (PS3.5 7.1.2)."""
_MAX_DEPTH = 64
_SHORTEST_ELEMENT = 8


class _TornError(Exception):
    """An element ends behind the end of the data set."""


class NotPlainError(Exception):
    """Something that is no element, or is out of the ordinary; other rules decide about it."""


@dataclass(frozen=True)
class _Encoding:
    data: bytes | memoryview
    implicit: bool
    order: str

    def element(self, at: int) -> tuple[int, int, int]:
        """Tag, begin of the value and length of the element at an offset (PS3.5 7.1)."""
        try:
            group, number = struct.unpack_from(self.order + "HH", self.data, at)
            tag = group << 16 | number
            if self.implicit or group == 0xFFFE:
                return tag, at + 8, struct.unpack_from(self.order + "L", self.data, at + 4)[0]
            vr = bytes(self.data[at + 4 : at + 6])
            if vr in LONG_VRS:
                return tag, at + 12, struct.unpack_from(self.order + "L", self.data, at + 8)[0]
            length = struct.unpack_from(self.order + "H", self.data, at + 6)[0]
        except struct.error:
            raise _TornError from None
        if not vr.isalpha() or not vr.isupper():
            raise NotPlainError
        return tag, at + 8, length


def is_torn(data: bytes | memoryview, *, implicit: bool, little: bool, start: int = 0) -> bool:
    """Whether a data set ends within an element, a sequence or encapsulated pixel data.

    Parameters
    ----------
    data : bytes or memoryview
        Encoded, not deflated.
    implicit, little : bool
        Of its transfer syntax.
    start : int
        Where to begin: at an element.
    """
    encoding = _Encoding(data, implicit, "<" if little else ">")
    at = start
    try:
        while at < len(data):
            if _is_padding(data, at):
                return False
            at = _after(encoding, at, 0)
    except _TornError:
        return True
    except NotPlainError:
        return False
    return False


def _is_padding(data: bytes | memoryview, at: int) -> bool:
    """Whether only zeros follow, and too many for the rest of a tag: some archives end files so."""
    return (
        len(data) - at >= _SHORTEST_ELEMENT
        and not bytes(data[at : at + 512]).strip(b"\0")
        and not bytes(data[at:]).strip(b"\0")
    )


def _after(encoding: _Encoding, at: int, depth: int) -> int:
    """Offset behind the element at `at`."""
    _, start, length = encoding.element(at)
    if length != UNDEFINED:
        if start + length > len(encoding.data):
            raise _TornError
        return start + length
    if depth > _MAX_DEPTH:
        raise NotPlainError
    return _after_items(encoding, start, depth)


def after_items(data: bytes | memoryview, at: int, implicit: bool) -> int:
    """Offset behind the items of a sequence of undefined length in a little endian data set.

    Parameters
    ----------
    at : int
        Where its first item is.

    Raises
    ------
    NotPlainError
        It is no such sequence, or does not end.
    """
    try:
        return _after_items(_Encoding(data, implicit, "<"), at, 0)
    except _TornError:
        raise NotPlainError from None


def _after_items(encoding: _Encoding, at: int, depth: int) -> int:
    """Offset behind the delimiter of items, of a sequence or of fragments (PS3.5 7.5.2, A.4)."""
    while True:
        tag, start, length = encoding.element(at)
        if tag == _SEQUENCE_END:
            return start
        if tag != _ITEM:
            raise NotPlainError
        if length == UNDEFINED:
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
