"""The Identifier of a C-FIND request, decoded and checked (PS3.4 C.4.1.1.3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.tag import BaseTag, Tag

from dicom_scp import private_dictionary
from dicom_scp.errors import Mismatched
from dicom_scp.parsing import parse, quiet
from dicom_scp.private_dictionary import PrivateElement
from indexer.catalog.lookup import Level
from indexer.errors import Refused

MAX_IDENTIFIER_BYTES = 1 << 20
_MAX_ELEMENTS = 4096
_MAX_DEPTH = 8

_SPECIFIC_CHARACTER_SET = Tag(0x0008, 0x0005)
_QUERY_RETRIEVE_LEVEL = Tag(0x0008, 0x0052)
_TIMEZONE_OFFSET = Tag(0x0008, 0x0201)
_NO_KEYS = frozenset({_SPECIFIC_CHARACTER_SET, _QUERY_RETRIEVE_LEVEL, _TIMEZONE_OFFSET})

_FILE_META = 0x0002

PATIENT_ID = Tag(0x0010, 0x0020)
STUDY_INSTANCE_UID = Tag(0x0020, 0x000D)
SERIES_INSTANCE_UID = Tag(0x0020, 0x000E)
SOP_INSTANCE_UID = Tag(0x0008, 0x0018)

UNIQUE_KEYS = {
    Level.PATIENT: PATIENT_ID,
    Level.STUDY: STUDY_INSTANCE_UID,
    Level.SERIES: SERIES_INSTANCE_UID,
    Level.IMAGE: SOP_INSTANCE_UID,
}
"""PS3.4 tables C.6-1 to C.6-4."""


class Root(Enum):
    """The information model of a query; its value is the highest level (PS3.4 C.6.1, C.6.2)."""

    PATIENT = Level.PATIENT
    STUDY = Level.STUDY


@dataclass(frozen=True)
class Key:
    """One key attribute of an identifier.

    Attributes
    ----------
    values : tuple of str
        Without padding; none for universal matching (PS3.4 C.2.2.2.3). Of a person name, all component groups.
    items : tuple of tuple of Key
        The items of a sequence.
    """

    tag: BaseTag
    vr: str
    values: tuple[str, ...] = ()
    items: tuple[tuple["Key", ...], ...] = ()

    @property
    def is_universal(self) -> bool:
        """Whether it matches everything and only asks for the value."""
        if self.vr == "SQ":
            return all(key.is_universal for item in self.items for key in item)
        return self.values in ((), ("*",))


@dataclass(frozen=True)
class Identifier:
    """A checked identifier.

    Attributes
    ----------
    keys : mapping of BaseTag to Key
        Standard attributes only, in the order of their tags.
    character_sets : tuple of str
        Specific Character Set (0008,0005) as the asker gave it.
    block : mapping of PrivateElement to tuple of str, optional
        The private block; None if it has none.
    unsupported : bool
        Whether it has attributes that are no keys here at all (private ones of others, repeating groups).
    """

    root: Root
    level: Level
    keys: Mapping[BaseTag, Key]
    character_sets: tuple[str, ...] = ()
    block: Mapping[PrivateElement, tuple[str, ...]] | None = None
    unsupported: bool = False


def read_identifier(
    encoded: bytes, transfer_syntax_uid: str, root: Root, highest: Level | None = None
) -> Identifier:
    """Decode an identifier.

    Parameters
    ----------
    highest : Level, optional
        The highest level to take, where that is not the model's own.

    Raises
    ------
    Refused
        It cannot be decoded, or is too large to be meant.
    Mismatched
        Its Query/Retrieve Level is missing or not of this model, or a value does not fit its VR.
    """
    if len(encoded) > MAX_IDENTIFIER_BYTES:
        raise Refused(f"identifier of {len(encoded)} bytes, longest {MAX_IDENTIFIER_BYTES}")
    dataset = parse(encoded, transfer_syntax_uid)
    with quiet():
        level = _level(dataset, root.value if highest is None else highest)
        block = _block(dataset)
        keys = {key.tag: key for key in _keys(dataset, 0, [0])}
        character_sets = tuple(_texts(dataset, _SPECIFIC_CHARACTER_SET))
    known = {tag: key for tag, key in keys.items() if _is_key(tag)}
    foreign = any(tag.is_private and tag.group != private_dictionary.GROUP for tag in keys)
    return Identifier(root, level, known, character_sets, block, unsupported=foreign)


def check_hierarchy(identifier: Identifier) -> None:
    """Check the unique keys above the level: each there, with a single value (PS3.4 C.4.1.2.1, C.4.1.3.1.1).

    Raises
    ------
    Mismatched
        One is missing, empty, a list, or has wild cards.
    """
    for level in range(identifier.root.value, identifier.level):
        tag = UNIQUE_KEYS[Level(level)]
        key = identifier.keys.get(tag)
        if key is None or len(key.values) != 1 or any(c in key.values[0] for c in "*?"):
            raise Mismatched(f"{identifier.level.name} level needs a single value of {_named(tag)}")


def _is_key(tag: BaseTag) -> bool:
    """Whether an attribute can be a key: File Meta Information (PS3.10 7.1), which Orthanc sends, is none."""
    return not tag.is_private and tag.group != _FILE_META and tag not in _NO_KEYS


def _level(dataset: Dataset, highest: Level) -> Level:
    names = [level.name for level in Level if level >= highest]
    given = _texts(dataset, _QUERY_RETRIEVE_LEVEL)
    if len(given) != 1 or given[0] not in names:
        raise Mismatched(f"{_named(_QUERY_RETRIEVE_LEVEL)}: expected one of {', '.join(names)}")
    return Level[given[0]]


def _block(dataset: Dataset) -> dict[PrivateElement, tuple[str, ...]] | None:
    try:
        return private_dictionary.values_of(dataset)
    except Exception as error:  # a hostile value raises anything at all
        raise Mismatched("a value of the private block does not fit its VR") from error


def _keys(dataset: Dataset, depth: int, count: list[int]) -> list[Key]:
    if depth > _MAX_DEPTH:
        raise Refused(f"identifier with sequences nested more than {_MAX_DEPTH} deep")
    keys = []
    for tag in sorted(dataset.keys()):
        count[0] += 1
        if count[0] > _MAX_ELEMENTS:
            raise Refused(f"identifier with more than {_MAX_ELEMENTS} elements")
        if tag.element != 0:
            keys.append(_key(dataset, tag, depth, count))
    return keys


def _key(dataset: Dataset, tag: BaseTag, depth: int, count: list[int]) -> Key:
    try:
        raw = getattr(dataset.get_item(tag), "value", None)
        if isinstance(raw, bytes) and raw.strip(b" \0") == b"*":
            return Key(tag, "UN", ("*",))
        element = dataset[tag]
        if not tag.is_private and dictionary_has_tag(tag) and element.VR not in dictionary_VR(tag):
            raise Mismatched(f"{_named(tag)}: expected VR {dictionary_VR(tag)}, got {element.VR}")
        if element.VR != "SQ":
            return Key(tag, element.VR, tuple(_texts(dataset, tag)))
        items = list(element.value)
    except Mismatched:
        raise
    except Exception as error:  # a hostile value raises anything at all
        raise Mismatched(f"{_named(tag)}: the value does not fit its VR") from error
    return Key(tag, "SQ", items=tuple(tuple(_keys(item, depth + 1, count)) for item in items))


def _texts(dataset: Dataset, tag: BaseTag) -> list[str]:
    """Values of an element as text without padding; none if it is absent or empty."""
    if tag not in dataset:
        return []
    try:
        element = dataset[tag]
    except Exception as error:  # a hostile value raises anything at all
        raise Mismatched(f"{_named(tag)}: the value does not fit its VR") from error
    value: Any = element.value
    if value is None or isinstance(value, bytes):
        return [value.hex()] if value else []
    several = value if element.VM > 1 else [value]
    texts = [str(one).strip(" \0") for one in several]
    return texts if any(texts) else []


def _named(tag: BaseTag) -> str:
    return f"({tag.group:04X},{tag.element:04X})"
