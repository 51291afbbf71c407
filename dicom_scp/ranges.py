"""Dates and times as intervals: range matching and values of less than full precision (PS3.4 C.2.2.2.5).

Every value is normalised to text of one length, so that comparing text compares time: DA to ``YYYYMMDD``, TM to
``HHMMSS.FFFFFF``, DT to ``YYYYMMDDHHMMSS.FFFFFF``. A value of less precision covers all that it leaves open.
"""

import re
from dataclasses import dataclass

_EARLIEST = {"DA": "00000101", "TM": "000000.000000", "DT": "00000101000000.000000"}
_LATEST = {"DA": "99991231", "TM": "235960.999999", "DT": "99991231235960.999999"}
_DATE = r"\d{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_HOUR, _SIXTY, _SECOND = r"(?:[01]\d|2[0-3])", r"[0-5]\d", r"(?:[0-5]\d|60)"
_TIME = rf"{_HOUR}(?:{_SIXTY}(?:{_SECOND}(?:\.\d{{1,6}})?)?)?"
_PATTERN = {
    "DA": re.compile(_DATE),
    "TM": re.compile(_TIME),
    "DT": re.compile(rf"\d{{4}}(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12]\d|3[01])(?:{_TIME})?)?)?"),
}
_LEGACY = {"DA": ".", "TM": ":", "DT": ""}
"""Separators of ACR-NEMA that PS3.5 table 6.2-1 asks to be read."""
_OFFSET_FROM_UTC = re.compile(r"(.{4,}?)[+-](?:0\d|1[0-4])[0-5]\d")


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval of normalised text."""

    first: str
    last: str

    def __contains__(self, other: "Interval") -> bool:
        """Whether the beginning of another value lies within."""
        return self.first <= other.first <= self.last


def stored_interval(vr: str, text: str) -> Interval | None:
    """The interval of a stored value; None if it is no DA, TM or DT. An offset from UTC is left aside."""
    plain = text.strip()
    if vr == "DT" and (match := _OFFSET_FROM_UTC.fullmatch(plain)):
        plain = match[1]
    return _interval(vr, plain)


def asked_interval(vr: str, text: str) -> Interval | None:
    """The interval that a key asks for: a single value, or a range open on one side or closed.

    Parameters
    ----------
    vr : {"DA", "TM", "DT"}
    text : str
        Value of the key.

    Returns
    -------
    Interval or None
        None if the value is no such thing, or has an offset from UTC: that needs the negotiated timezone query
        adjustment (PS3.4 C.5.1.1), which is not offered.
    """
    if vr == "DT" and _OFFSET_FROM_UTC.fullmatch(text):
        return None
    before, hyphen, after = (part.strip() for part in text.partition("-"))
    if not hyphen:
        return _interval(vr, before)
    if not before and not after:
        return None
    first = _interval(vr, before) if before else Interval(_EARLIEST[vr], "")
    last = _interval(vr, after) if after else Interval("", _LATEST[vr])
    return Interval(first.first, last.last) if first and last else None


def _interval(vr: str, text: str) -> Interval | None:
    plain = text.replace(_LEGACY[vr], "") if _LEGACY[vr] and text.count(_LEGACY[vr]) == 2 else text
    if not _PATTERN[vr].fullmatch(plain):
        return None
    return Interval(plain + _EARLIEST[vr][len(plain) :], plain + _LATEST[vr][len(plain) :])
