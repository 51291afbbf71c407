"""The private block by which a query names its seed and an answer its reasons (PS3.5 section 7.8).

Importing this module makes the block known to pydicom's private dictionary. `docs/private-dictionary.md` documents
the same table for people.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.datadict import add_private_dict_entries
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

GROUP = 0x0077
CREATOR = "PACSIMILE"
FIRST_BLOCK = 0x10
"""The block that the node's own answers reserve; a peer may reserve any of 10 to FF."""
_LAST_BLOCK = 0xFF


class Direction(StrEnum):
    """Who writes an element."""

    REQUEST = "request"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class PrivateElement:
    """One element of the block.

    Attributes
    ----------
    offset : int
        The last two hexadecimal digits of the element number.
    """

    offset: int
    vr: str
    vm: str
    keyword: str
    direction: Direction
    meaning: str

    def tag(self, block: int = FIRST_BLOCK) -> BaseTag:
        """The tag where `block` (10 to FF) is reserved."""
        return Tag(GROUP, (block << 8) | self.offset)


_ASK, _TELL = Direction.REQUEST, Direction.RESPONSE

SEED_STUDY = PrivateElement(0x01, "UI", "1", "SeedStudyInstanceUID", _ASK, "Study to compare with")
SEED_SERIES = PrivateElement(0x02, "UI", "1", "SeedSeriesInstanceUID", _ASK, "Series to compare with")
SEED_INSTANCES = PrivateElement(
    0x03, "UI", "1-n", "SeedSOPInstanceUID", _ASK, "Instances whose slices are the region to compare with"
)
SEED_REGION = PrivateElement(
    0x04,
    "DS",
    "6",
    "SeedRegion",
    _ASK,
    "Region to compare with: x0 y0 z0 x1 y1 z1 in mm, patient coordinates (LPS)",
)
QUERY_TEXT = PrivateElement(0x05, "LT", "1", "QueryText", _ASK, "Words to compare with; refused by this version")
MAXIMUM_RESULTS = PrivateElement(0x06, "US", "1", "MaximumNumberOfResults", _ASK, "At most so many studies, from 1")
SIMILARITY = PrivateElement(0x10, "FD", "1", "Similarity", _TELL, "0 to 1")
RANK = PrivateElement(0x11, "US", "1", "Rank", _TELL, "Place in the answer, from 1")
MATCHED_SERIES = PrivateElement(0x12, "UI", "1-n", "MatchedSeriesInstanceUID", _TELL, "Matching series, best first")
MATCHED_INSTANCES = PrivateElement(
    0x13, "UI", "1-n", "MatchedSOPInstanceUID", _TELL, "Instances there that match, best first"
)
QUERY_INSTANCES = PrivateElement(
    0x14, "UI", "1-n", "QuerySOPInstanceUID", _TELL, "Instances of the seed that they match"
)
ENCODER = PrivateElement(0x15, "LO", "1", "EncoderID", _TELL, "Which encoder compared")
COMPLETENESS = PrivateElement(
    0x16, "CS", "1", "Completeness", _TELL, "COMPLETE, or PROVISIONAL while instances are not yet compared"
)
RELATION = PrivateElement(
    0x17, "CS", "1", "Relation", _TELL, "ANALOGUE (another patient), PRIOR (the same patient) or DUPLICATE"
)

BLOCK = (
    SEED_STUDY, SEED_SERIES, SEED_INSTANCES, SEED_REGION, QUERY_TEXT, MAXIMUM_RESULTS,
    SIMILARITY, RANK, MATCHED_SERIES, MATCHED_INSTANCES, QUERY_INSTANCES, ENCODER, COMPLETENESS, RELATION,
)  # fmt: skip
"""Every element of the block, in order."""

_BY_OFFSET = {element.offset: element for element in BLOCK}

add_private_dict_entries(
    CREATOR, {int(element.tag()): (element.vr, element.vm, element.keyword, "") for element in BLOCK}
)


def values_of(dataset: Dataset) -> dict[PrivateElement, tuple[str, ...]] | None:
    """What a data set says in the block of this creator.

    Parameters
    ----------
    dataset : Dataset
        An identifier; elements of the block may be typed or, from a peer without the dictionary, of VR UN.

    Returns
    -------
    dict of PrivateElement to tuple of str, or None
        Elements asked for without a value have none; None if no block is reserved for the creator.

    Raises
    ------
    ValueError
        An element's bytes are no value of its VR.
    """
    blocks = [block for block in range(FIRST_BLOCK, _LAST_BLOCK + 1) if _reserved(dataset, block)]
    if not blocks:
        return None
    found: dict[PrivateElement, tuple[str, ...]] = {}
    for block in blocks:
        for offset, element in _BY_OFFSET.items():
            if (tag := Tag(GROUP, (block << 8) | offset)) in dataset:
                found[element] = _texts(element, dataset[tag])
    return found


def _reserved(dataset: Dataset, block: int) -> bool:
    tag = Tag(GROUP, block)
    if tag not in dataset:
        return False
    value = dataset[tag].value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.strip(" \0") == CREATOR


def _texts(element: PrivateElement, given: DataElement) -> tuple[str, ...]:
    """Values as text without padding; those of UN are read as the dictionary's VR, little endian (PS3.5 6.2.2)."""
    value = given.value
    if value is None or value == "" or value == b"":
        return ()
    if isinstance(value, bytes):
        value = _from_bytes(element.vr, value)
    several = value if isinstance(value, MultiValue | list | tuple) else [value]
    return tuple(text for one in several if (text := str(one).strip(" \0")))


def _from_bytes(vr: str, value: bytes) -> list[str]:
    if vr in ("US", "FD"):
        code, size = ("<H", 2) if vr == "US" else ("<d", 8)
        if len(value) % size:
            raise ValueError(f"expected a multiple of {size} bytes for VR {vr}, got {len(value)}")
        return [str(one) for (one,) in struct.iter_unpack(code, value)]
    text = value.decode("utf-8" if vr in ("LO", "LT") else "ascii")
    return [text] if vr == "LT" else text.split("\\")


def write_block(dataset: Dataset, values: Mapping[PrivateElement, object]) -> None:
    """Add the block with typed values to an answer; an empty list or None becomes an element without value."""
    dataset.add(DataElement(Tag(GROUP, FIRST_BLOCK), "LO", CREATOR))
    for element, value in sorted(values.items(), key=lambda one: one[0].offset):
        dataset.add(DataElement(element.tag(), element.vr, value, validation_mode=IGNORE))
