"""The catalogued attributes of an encoded data set, found by stepping over all others.

pydicom reads the values, and each only once: most values of an instance are those of the instance before.
"""

import re
import struct
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicom_scp.parsing import FIRST_BULK_TAG, encoding_of, quiet
from dicom_scp.plain_values import plain_value
from dicom_scp.structure import LONG_VRS, UNDEFINED, NotPlainError, after_items, is_torn
from indexer.attributes import LEVEL_OF_TAG, InstanceHeader, JsonObject, attribute
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

_CHARACTER_SET = 0x00080005
_WANTED = frozenset({*LEVEL_OF_TAG, _CHARACTER_SET})
_UIDS = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
"""SOP Class, SOP Instance, Study Instance and Series Instance UID."""
_UID = re.compile(rb"([0-9.]{1,64})\0?")
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_MAX_VALUE_BYTES = 0x4000
"""From 0x4141 on a length in implicit VR looks like an explicit VR."""
_MAX_REMEMBERED = 16384

_Found = dict[int, bytes]
"""Elements as encoded, tag and length included, by tag."""
_Key = tuple[bool, bytes, bytes]


class Glance(NamedTuple):
    """What the beginning of a data set tells.

    Attributes
    ----------
    header : InstanceHeader
        True if the data set goes on as it begins.
    bulk_at : int
        Where the bulk data begin, or the beginning ends.
    dataset_bytes : int or None
        How long the data set is if nothing follows but the one element that begins there; None if none does.
    """

    header: InstanceHeader
    bulk_at: int
    dataset_bytes: int | None


class Skimmer:
    """Reads headers, and remembers the values it has read; safe to share among threads."""

    def __init__(self) -> None:
        self._remembered: dict[_Key, JsonObject | None] = {}

    def header(
        self,
        dataset: bytes | memoryview,
        transfer_syntax_uid: str,
        length: int | None = None,
        glance: Glance | None = None,
    ) -> InstanceHeader | None:
        """What the catalog needs to know of an instance.

        Parameters
        ----------
        dataset : bytes or memoryview
            Encoded, without File Meta Information.
        length : int, optional
            Of the whole data set, if only its beginning is given: that is enough where what follows is one element.
        glance : Glance, optional
            At this beginning, if there was one.

        Returns
        -------
        InstanceHeader or None
            None if something about it is out of the ordinary, torn or without its UIDs: then it has to be parsed.
        """
        if (seen := glance or self.glance(dataset, transfer_syntax_uid)) is None:
            return None
        if length is None or length == len(dataset):
            implicit = _syntax(transfer_syntax_uid)[1][0]
            is_whole = not is_torn(dataset, implicit=implicit, little=True, start=seen.bulk_at)
        else:
            is_whole = length == seen.dataset_bytes
        return seen.header if is_whole else None

    def glance(self, beginning: bytes | memoryview, transfer_syntax_uid: str) -> Glance | None:
        """What the beginning of a data set tells; None if it has to be parsed."""
        syntax, (implicit, little, deflated) = _syntax(transfer_syntax_uid)
        if not little or deflated:
            return None
        try:
            found, end = _skim(beginning, implicit)
        except (NotPlainError, struct.error):
            return None
        uids = [_uid(found, tag, implicit) for tag in _UIDS]
        if not all(uids):
            return None
        levels: tuple[JsonObject, ...] = ({}, {}, {}, {})
        for tag, value in self._values(found, implicit).items():
            if value is not None:
                levels[LEVEL_OF_TAG[tag]][f"{tag:08X}"] = value
        sop_class, sop_instance, study, series = uids
        header = InstanceHeader(
            SOPInstanceUID(sop_instance),
            _known_uid(sop_class),
            syntax,
            SeriesInstanceUID(series),
            StudyInstanceUID(study),
            *levels,
        )
        return Glance(header, end, _end_of_element(beginning, implicit, end))

    def _values(self, found: _Found, implicit: bool) -> dict[int, JsonObject | None]:
        character_set = found.pop(_CHARACTER_SET, b"")
        values: dict[int, JsonObject | None] = {}
        unknown: dict[int, _Key] = {}
        for tag, encoded in found.items():
            key = (implicit, character_set, encoded)
            try:
                values[tag] = self._remembered[key]
            except KeyError:
                values[tag] = plain_value(tag, encoded, implicit)
                if values[tag] is None:
                    unknown[tag] = key
        if unknown:
            if len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.clear()
            together = b"".join((character_set, *(found[tag] for tag in unknown)))
            with quiet():
                parsed = read_dataset(BytesIO(together), implicit, True)
                for tag, key in unknown.items():
                    values[tag] = self._remembered[key] = attribute(parsed, tag)
        return values


def _skim(data: bytes | memoryview, implicit: bool) -> tuple[_Found, int]:
    """The wanted elements, and where the bulk data or the end is; no data set out of the ordinary gets through."""
    found: _Found = {}
    at, end, last = 0, len(data), 0x0007FFFF
    while at < end:
        tag, start, length = _element(data, at, implicit)
        if tag <= last:
            raise NotPlainError
        if tag >= FIRST_BULK_TAG:
            break
        last = tag
        after = after_items(data, start, implicit) if length == UNDEFINED else start + length
        if after > end:
            raise NotPlainError
        if tag in _WANTED:
            if after - at > _MAX_VALUE_BYTES:
                raise NotPlainError
            found[tag] = bytes(data[at:after])
        at = after
    return found, at


def _end_of_element(data: bytes | memoryview, implicit: bool, at: int) -> int | None:
    """Where the element ends that begins at an offset; None if there is none, or it does not say."""
    try:
        _, start, length = _element(data, at, implicit)
    except (NotPlainError, struct.error):
        return None
    return start + length if length != UNDEFINED else None


@lru_cache(maxsize=256)
def _syntax(transfer_syntax_uid: str) -> tuple[UID, tuple[bool, bool, bool]]:
    return UID(transfer_syntax_uid), encoding_of(transfer_syntax_uid)


_known_uid = lru_cache(maxsize=1024)(UID)
_implicit_element = struct.Struct("<HHL").unpack_from
_explicit_element = struct.Struct("<HH2sH").unpack_from
_long_length = struct.Struct("<L").unpack_from


def _element(data: bytes | memoryview, at: int, implicit: bool) -> tuple[int, int, int]:
    """Tag, begin of the value and length of the element at an offset (PS3.5 7.1)."""
    if implicit:
        group, number, length = _implicit_element(data, at)
        return group << 16 | number, at + 8, length
    group, number, vr, length = _explicit_element(data, at)
    if vr in _SHORT_VRS:
        return group << 16 | number, at + 8, length
    if vr in LONG_VRS:
        return group << 16 | number, at + 12, _long_length(data, at + 8)[0]
    raise NotPlainError


def _uid(found: _Found, tag: int, implicit: bool) -> str:
    """The value of a UID; empty if it is missing or not what it should be."""
    encoded = found.get(tag, b"")
    matched = _UID.fullmatch(encoded, 8) if implicit or encoded[4:6] == b"UI" else None
    return matched[1].decode("ascii") if matched else ""
