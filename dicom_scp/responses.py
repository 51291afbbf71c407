"""The Identifier of a C-FIND response: what was asked for and is known, in a repertoire that the asker reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.charset import decode_bytes, encode_string, python_encoding
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PN_DELIMS, format_number_as_ds

from dicom_scp.identifier import Identifier, Key
from dicom_scp.matching import MATCHED_VRS
from dicom_scp.parsing import quiet
from indexer.attributes import (
    INSTANCE_KEYWORDS,
    PATIENT_KEYWORDS,
    SERIES_KEYWORDS,
    STUDY_KEYWORDS,
    JsonObject,
)
from indexer.catalog.lookup import Level, Summary

UTF_8 = "ISO_IR 192"
_ONLINE = "ONLINE"
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""VRs that Specific Character Set extends (PS3.5 6.1.2.3)."""

_RETRIEVE_AE_TITLE = Tag(0x0008, 0x0054)
_INSTANCE_AVAILABILITY = Tag(0x0008, 0x0056)
_MODALITIES_IN_STUDY = Tag(0x0008, 0x0061)
_SOP_CLASSES_IN_STUDY = Tag(0x0008, 0x0062)

_DEFAULT_REPERTOIRE = python_encoding["ISO_IR 6"]

COMPUTED: Mapping[BaseTag, tuple[Level, str]] = {
    _MODALITIES_IN_STUDY: (Level.STUDY, "modalities"),
    _SOP_CLASSES_IN_STUDY: (Level.STUDY, "sop_classes"),
    Tag(0x0020, 0x1200): (Level.PATIENT, "studies"),
    Tag(0x0020, 0x1202): (Level.PATIENT, "series"),
    Tag(0x0020, 0x1204): (Level.PATIENT, "instances"),
    Tag(0x0020, 0x1206): (Level.STUDY, "series"),
    Tag(0x0020, 0x1208): (Level.STUDY, "instances"),
    Tag(0x0020, 0x1209): (Level.SERIES, "instances"),
}
"""Additional query attributes (PS3.4 C.3.4): the level they belong to, and the field of its summary."""

MATCHED_COMPUTED = frozenset({_MODALITIES_IN_STUDY, _SOP_CLASSES_IN_STUDY})
"""Those of them that can be matching keys; counts are only returned."""
_ANSWERED_BY_THE_NODE = frozenset({_RETRIEVE_AE_TITLE, _INSTANCE_AVAILABILITY})

_KEYWORDS = (PATIENT_KEYWORDS, STUDY_KEYWORDS, SERIES_KEYWORDS, INSTANCE_KEYWORDS)
LEVEL_OF: Mapping[BaseTag, Level] = {
    Tag(tag): Level(level)
    for level, keywords in enumerate(_KEYWORDS)
    for keyword in keywords
    if (tag := tag_for_keyword(keyword)) is not None
} | {tag: level for tag, (level, _) in COMPUTED.items()}
"""The level of every attribute that is kept or computed."""


def is_supported(key: Key, level: Level) -> bool:
    """Whether a key is kept at a level or above it and, unless universal, of a kind that is matched."""
    if key.tag in _ANSWERED_BY_THE_NODE:
        return key.is_universal
    if key.tag not in LEVEL_OF or LEVEL_OF[key.tag] > level:
        return False
    return key.is_universal or (key.vr in MATCHED_VRS and (key.tag not in COMPUTED or key.tag in MATCHED_COMPUTED))


def computed_attributes(level: Level, summary: Summary) -> JsonObject:
    """The computed attributes of one entity of a level, in the DICOM JSON Model."""
    found: JsonObject = {}
    for tag, (owner, name) in COMPUTED.items():
        if owner == level:
            value = getattr(summary, name)
            values = list(value) if isinstance(value, tuple) else [value]
            found[f"{tag:08X}"] = {"vr": dictionary_VR(tag), "Value": values}
    return found


def response(identifier: Identifier, attributes: JsonObject, retrieve_ae_title: str) -> Dataset:
    """The identifier of one response.

    Parameters
    ----------
    attributes : JsonObject
        The found entity's own, its parents' and computed attributes.
    retrieve_ae_title : str
        From where the instances can be retrieved (PS3.4 C.4.1.1.3.2).

    Returns
    -------
    Dataset
        Query/Retrieve Level, Retrieve AE Title, and the supported attributes that were asked for; without value
        where the entity has none.
    """
    found = Dataset()
    for key in identifier.keys.values():
        if key.tag in LEVEL_OF and LEVEL_OF[key.tag] <= identifier.level:
            found.add(_element(key, attributes.get(f"{key.tag:08X}", {})))
    if _INSTANCE_AVAILABILITY in identifier.keys:
        found.InstanceAvailability = _ONLINE
    found.QueryRetrieveLevel = identifier.level.name
    found.RetrieveAETitle = retrieve_ae_title
    with quiet():
        return in_repertoire(found, identifier.character_sets)


def _element(key: Key, stored: Mapping[str, Any]) -> DataElement:
    vr = str(stored.get("vr") or dictionary_VR(key.tag))
    values = list(stored.get("Value", ()))
    if vr == "SQ":
        return DataElement(key.tag, vr, [_item(key.items, one) for one in values if isinstance(one, dict)])
    plain = [_value(vr, one) for one in values]
    value = (plain[0] if len(plain) == 1 else plain) if plain else None
    return DataElement(key.tag, vr, value, validation_mode=IGNORE)


def _value(vr: str, value: Any) -> Any:  # noqa: ANN401 - any JSON value to any DICOM value
    if isinstance(value, dict):
        groups = [str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    if value is None:
        return ""
    if vr == "DS":
        return format_number_as_ds(float(value))
    return value


def _item(asked: Sequence[Sequence[Key]], stored: JsonObject) -> Dataset:
    """An item with the attributes that were asked for, or all if none were named."""
    item = Dataset()
    keys = asked[0] if asked and asked[0] else None
    if keys is None:
        keys = [Key(Tag(int(tag, 16)), str(one.get("vr", "UN"))) for tag, one in stored.items()]
    for key in keys:
        if not key.tag.is_private:
            item.add(_element(key, stored.get(f"{key.tag:08X}", {})))
    return item


def in_repertoire(dataset: Dataset, asked: Sequence[str]) -> Dataset:
    """Set Specific Character Set (0008,0005) where values need it.

    None for values of the default repertoire; else the asker's own, if it can express all values; else UTF-8.
    """
    texts = list(_texts(dataset))
    if all(text.isascii() for text in texts):
        return dataset
    own = list(asked)
    chosen = own if own and all(_expresses(own, text) for text in texts) else [UTF_8]
    dataset.SpecificCharacterSet = chosen if len(chosen) > 1 else chosen[0]
    return dataset


def _texts(dataset: Dataset) -> Sequence[str]:
    found: list[str] = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                found += _texts(item)
        elif element.VR in _TEXT_VRS and element.value:
            several = element.value if element.VM > 1 else [element.value]
            found += [str(one) for one in several]
    return found


def _expresses(character_sets: Sequence[str], text: str) -> bool:
    try:
        encodings = [python_encoding[name] for name in character_sets]
        if encodings[0] == _DEFAULT_REPERTOIRE and any("\x80" <= character <= "\xff" for character in text):
            return False  # pydicom would write these as Latin 1, which nobody announced
        parts = text.replace("=", "^").split("^")
        return all(decode_bytes(encode_string(part, encodings), encodings, PN_DELIMS) == part for part in parts)
    except Exception:  # an unknown name, or a character that the repertoire lacks
        return False
