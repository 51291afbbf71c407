"""Matching of key attributes (PS3.4 C.2.2.2): pure, on attributes in the DICOM JSON Model.

What is implemented: single value, list of UID, universal, wild card, range and sequence matching. A key of another
VR with several values matches if one of them does. Person names match without regard to case; a key with one
component group matches any group of the name, a key with several matches group by group.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydicom.tag import BaseTag

from dicom_scp.errors import Mismatched
from dicom_scp.identifier import PATIENT_ID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, Key
from dicom_scp.ranges import asked_interval, stored_interval
from indexer.attributes import JsonObject
from indexer.catalog.lookup import Prefilter

Matcher = Callable[[JsonObject], bool]
"""Whether attributes match an identifier's keys."""
_ValueMatcher = Callable[[Sequence[Any]], bool]

WILD_CARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
"""PS3.4 C.2.2.2.4."""
_EXACT_VRS = frozenset({"AS", "UI"})
_NUMBER_VRS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_TIME_VRS = frozenset({"DA", "DT", "TM"})
MATCHED_VRS = WILD_CARD_VRS | _EXACT_VRS | _NUMBER_VRS | _TIME_VRS | {"SQ"}

_ACCESSION_NUMBER = 0x00080050
_MODALITY = 0x00080060
_STUDY_DATE = 0x00080020
_MAX_LISTED = 500
_PN_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def matcher(keys: Iterable[Key]) -> Matcher:
    """Prepare the matching of keys; universal ones are left out.

    Raises
    ------
    Mismatched
        A value cannot be meant: no date where one is due, several items in a sequence, wild cards in a number.
    """
    tests = [(f"{key.tag:08X}", _value_matcher(key)) for key in keys if not key.is_universal]

    def matches(attributes: JsonObject) -> bool:
        return all(test(attributes.get(tag, {}).get("Value", ())) for tag, test in tests)

    return matches


def matches(keys: Iterable[Key], attributes: JsonObject) -> bool:
    """Whether attributes match keys; see `matcher`, which prepares the keys once for many entities."""
    return matcher(keys)(attributes)


def prefilter_of(keys: Iterable[Key]) -> Prefilter:
    """What the database can narrow the search by; lets through all that `matcher` would, and more."""
    by_tag = {key.tag: key for key in keys if not key.is_universal}
    dates = asked_interval("DA", by_tag[_date].values[0]) if (_date := BaseTag(_STUDY_DATE)) in by_tag else None
    return Prefilter(
        patient_id=_literals(by_tag.get(PATIENT_ID)),
        study_instance_uid=_literals(by_tag.get(STUDY_INSTANCE_UID)),
        accession_number=_literals(by_tag.get(BaseTag(_ACCESSION_NUMBER))),
        series_instance_uid=_literals(by_tag.get(SERIES_INSTANCE_UID)),
        modality=_literals(by_tag.get(BaseTag(_MODALITY))),
        sop_instance_uid=_literals(by_tag.get(SOP_INSTANCE_UID)),
        study_date_from=dates.first if dates else None,
        study_date_to=dates.last if dates else None,
    )


def _literals(key: Key | None) -> tuple[str, ...] | None:
    if key is None or len(key.values) > _MAX_LISTED or any(c in text for text in key.values for c in "*?"):
        return None
    return key.values


def _value_matcher(key: Key) -> _ValueMatcher:
    if key.vr == "SQ":
        return _sequence_matcher(key)
    if key.vr == "PN":
        return _any_of([_name_test(text) for text in key.values])
    if key.vr in _TIME_VRS:
        return _any_of([_time_test(key, text) for text in key.values])
    if key.vr in WILD_CARD_VRS:
        return _any_of([_text_test(text) for text in key.values])
    if key.vr in _EXACT_VRS:
        wanted = frozenset(key.values)
        return lambda stored: any(str(one).strip() in wanted for one in stored)
    if key.vr in _NUMBER_VRS:
        return _any_of([_number_test(key, text) for text in key.values])
    return lambda stored: True  # not a VR that is matched; the answer says so (FF01)


def _any_of(tests: Sequence[Callable[[Any], bool]]) -> _ValueMatcher:
    return lambda stored: any(test(one) for one in stored if one not in (None, "") for test in tests)


def _sequence_matcher(key: Key) -> _ValueMatcher:
    """PS3.4 C.2.2.2.6: one item of the stored sequence has to match all keys of the item."""
    if len(key.items) > 1:
        raise Mismatched(f"({key.tag.group:04X},{key.tag.element:04X}): expected one item, got {len(key.items)}")
    item_matches = matcher(key.items[0])
    return lambda stored: any(item_matches(item) for item in stored if isinstance(item, dict))


def _text_test(wanted: str) -> Callable[[Any], bool]:
    if "*" in wanted or "?" in wanted:
        return lambda stored: wild_card_match(wanted, str(stored).strip())
    return lambda stored: str(stored).strip() == wanted


def _number_test(key: Key, wanted: str) -> Callable[[Any], bool]:
    try:
        number = float(wanted)
    except ValueError:
        raise Mismatched(f"({key.tag.group:04X},{key.tag.element:04X}): expected a number") from None

    def test(stored: Any) -> bool:  # noqa: ANN401 - any JSON value
        try:
            return float(stored) == number
        except (TypeError, ValueError):
            return False

    return test


def _time_test(key: Key, wanted: str) -> Callable[[Any], bool]:
    asked = asked_interval(key.vr, wanted)
    if asked is None:
        name = f"({key.tag.group:04X},{key.tag.element:04X})"
        raise Mismatched(f"{name}: expected a single value or range of VR {key.vr}, without UTC offset")

    def test(stored: Any) -> bool:  # noqa: ANN401 - any JSON value
        value = stored_interval(key.vr, str(stored))
        return value is not None and value in asked

    return test


def _name_test(wanted: str) -> Callable[[Any], bool]:
    groups = [_plain_name(group) for group in wanted.split("=")]

    def test(stored: Any) -> bool:  # noqa: ANN401 - a person name of the JSON Model (PS3.18 F.2.2)
        names = [_plain_name(str(stored.get(group) or "")) for group in _PN_GROUPS]
        if len(groups) == 1:
            return any(name and wild_card_match(groups[0], name) for name in names)
        return all(not group or wild_card_match(group, name) for group, name in zip(groups, names, strict=False))

    return lambda stored: isinstance(stored, dict) and test(stored)


def _plain_name(group: str) -> str:
    """A component group without case, trailing separators and padding of components (PS3.5 6.2.1)."""
    folded = unicodedata.normalize("NFC", group).casefold()
    return "^".join(component.strip() for component in folded.split("^")).rstrip("^ ")


def wild_card_match(pattern: str, text: str) -> bool:
    """Whether all of `text` matches `pattern`, where * stands for any characters and ? for one.

    Takes at most the product of the lengths in steps, whatever the pattern.
    """
    at, place, star, restart = 0, 0, -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, restart, at = at, place, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            restart += 1
            at, place = star + 1, restart
        else:
            return False
    return pattern[at:].strip("*") == ""
