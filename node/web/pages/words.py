"""Attributes as people read them: names, dates, ages, sizes. Nothing here trusts a value."""

import re
from datetime import date
from urllib.parse import quote

from pydicom.datadict import tag_for_keyword

from indexer.attributes import JsonObject, first_value

DASH = "–"
_SEXES = {"F": "female", "M": "male", "O": "other"}
_DAYS_A_MONTH, _DAYS_A_YEAR = 30.44, 365.25


def person(attributes: JsonObject) -> str:
    """Patient's Name (0010,0010): family, given; in ideographs behind, where there are any."""
    values = attributes.get(f"{tag_for_keyword('PatientName'):08X}", {}).get("Value") or [{}]
    groups = values[0] if isinstance(values[0], dict) else {"Alphabetic": values[0]}
    latin = _name(groups.get("Alphabetic"))
    ideographic = str(groups.get("Ideographic") or "").replace("^", " ").strip()
    if latin and ideographic:
        return f"{latin} ({ideographic})"
    return latin or ideographic or "Unnamed"


def day(text: str) -> str:
    """Show a date (VR DA) as 2020-03-05; what is none stays as it is."""
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", text)
    return "-".join(match.groups()) if match else text


def da(text: str) -> str:
    """Turn 2020-03-05 into a date of VR DA; empty for what is none."""
    match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", text)
    return "".join(match.groups()) if match else ""


def clock(text: str) -> str:
    """Show a time (VR TM) as 10:11; empty for what is none."""
    match = re.match(r"([01]\d|2[0-3])([0-5]\d)", text)
    return ":".join(match.groups()) if match else ""


def sex(text: str) -> str:
    """Patient's Sex (0010,0040) in a word."""
    return _SEXES.get(text, "")


def age(text: str) -> str:
    """Patient's Age (0010,1010), 063Y, as 63 y."""
    match = re.fullmatch(r"0*(\d+)([DWMY])", text)
    return f"{match[1]} {match[2].lower()}" if match else ""


def apart(text: str, other: str) -> str:
    """Say how far a date (VR DA) lies before or after another: 3 months earlier; empty where one is none."""
    first, second = _date(text), _date(other)
    if first is None or second is None:
        return ""
    days = (first - second).days
    if days == 0:
        return "same day"
    size, way = abs(days), "earlier" if days < 0 else "later"
    for length, unit in ((_DAYS_A_YEAR, "year"), (_DAYS_A_MONTH, "month"), (1.0, "day")):
        count = round(size / length)
        if size >= 2 * length or length == 1.0:
            return f"{count} {unit}{'s' * (count != 1)} {way}"
    raise AssertionError("the last unit fits all")


def level(here: str, there: str) -> str:
    """Name the levels of two matching parts: once where they agree; empty where one is not known."""
    if not here or not there:
        return ""
    return here if here == there else f"{here} – {there}"


def value(attributes: JsonObject, keyword: str) -> str:
    """First value of an attribute as text."""
    return first_value(attributes, keyword).strip()


def segment(text: str) -> str:
    """Text as one segment of a path, or as a value in a query."""
    return quote(text, safe="")


def _name(group: object) -> str:
    family, _, rest = str(group or "").partition("^")
    given = " ".join(part for part in rest.split("^") if part)
    return ", ".join(part.strip() for part in (family, given) if part.strip())


def _date(text: str) -> date | None:
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", text)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None
