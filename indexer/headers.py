"""Reading attributes that may hold anything: numbers, coded strings and times, checked, never trusted.

Messages name attributes and numbers only; a text value is never repeated, since it may hold patient data.
"""

import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from typing import Any, Protocol

from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue

from indexer.errors import Parked, Transient
from indexer.sealing import StoredPath

CODED_STRING = re.compile(r"[A-Z0-9 _]{1,16}")
"""The characters and the length of VR CS (PS3.5 table 6.2-1)."""
SECONDS_A_DAY = 86_400.0


class Attributes(Protocol):
    """The attributes of one frame, wherever the instance keeps them.

    `get` takes the keyword that the classic single-frame IODs use and returns the value, or None if there is none.
    """

    def get(self, keyword: str, /) -> object:
        """Value of an attribute, or None."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom about values: what matters is checked here and reported as a reason.

    Its warnings and its log repeat values, which may be patient data. Holds for the whole process meanwhile: until
    the last of the threads that are in here has left.
    """
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()


class _Silence:
    """pydicom's log and all warnings off while anyone is in; both belong to the process, not to a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                logger = logging.getLogger("pydicom")
                self._undo.callback(_hand_on, logger, logger.handlers, logger.propagate)
                _hand_on(logger, [logging.NullHandler()], False)
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


_SILENCE = _Silence()


def _hand_on(logger: logging.Logger, handlers: list[logging.Handler], propagate: bool) -> None:
    logger.handlers, logger.propagate = handlers, propagate


def read_dataset(path: StoredPath, *, with_pixels: bool) -> Dataset:
    """Parse a stored instance.

    Raises
    ------
    Parked
        The file is not a DICOM file, or is damaged beyond parsing.
    Transient
        The operating system cannot read the file now.
    """
    try:
        with path.open("rb") as file:
            return dcmread(file, stop_before_pixels=not with_pixels)
    except Exception as error:
        # pydicom raises OSError itself for contents it cannot make sense of, without an error number.
        if isinstance(error, OSError) and error.errno is not None:
            raise Transient(f"an instance cannot be read: {error.strerror}") from error
        raise Parked(f"expected a DICOM file, parsing it failed with {type(error).__name__}") from error


def numbers(source: Attributes, keyword: str, count: int) -> tuple[float, ...] | None:
    """Value of a numeric attribute that must be sound where it is present.

    Parameters
    ----------
    source : Attributes
        Where to look.
    keyword : str
        Which attribute.
    count : int
        Its value multiplicity.

    Returns
    -------
    tuple of float or None
        `count` finite numbers; None if the attribute is absent or empty.

    Raises
    ------
    Parked
        The value is no number, not finite, or of another multiplicity.
    """
    try:
        values = tuple(float(value) for value in _values(source.get(keyword)))
    except Exception as error:
        raise Parked(f"{keyword}: expected {count} number(s), got a value that is none") from error
    if not values:
        return None
    if len(values) != count:
        raise Parked(f"{keyword}: expected {count} number(s), got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise Parked(f"{keyword}: expected finite numbers, got {', '.join(f'{value:g}' for value in values)}")
    return values


def whole(source: Attributes, keyword: str) -> int | None:
    """Value of an attribute that must be one whole number; None if absent; raises `Parked` otherwise."""
    values = numbers(source, keyword, 1)
    if values is None:
        return None
    if values[0] != int(values[0]):
        raise Parked(f"{keyword}: expected a whole number, got {values[0]:g}")
    return int(values[0])


def lenient_numbers(source: Attributes, keyword: str) -> tuple[float, ...]:
    """Finite numbers of an attribute that only helps to tell frames apart: nothing where it is unsound."""
    try:
        values = tuple(round(float(value), 4) for value in _values(source.get(keyword)))
    except Exception:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def lenient_number(source: Attributes, keyword: str) -> float | None:
    """First number of an attribute that only helps to tell frames apart, or None."""
    return next(iter(lenient_numbers(source, keyword)), None)


def coded(source: Attributes, keyword: str) -> tuple[str, ...]:
    """Coded strings of an attribute in upper case; what is no coded string (VR CS) becomes "OTHER"."""
    try:
        values = [str(value).strip().upper() for value in _values(source.get(keyword))]
    except Exception:
        return ()
    return tuple(value if not value or CODED_STRING.fullmatch(value) else "OTHER" for value in values)


def text(source: Attributes, keyword: str) -> str:
    """One line of text, "" if absent or unsound; to compare with, never to show."""
    try:
        value = source.get(keyword)
        return "" if value is None else str(value).strip()
    except Exception:
        return ""


def moment_s(source: Attributes, date_time: str | None, day: str, time: str) -> float | None:
    """Seconds since a fixed moment, from an attribute of VR DT or a pair of VR DA and TM (PS3.5 table 6.2-1).

    Returns
    -------
    float or None
        Only differences mean anything; None where there is no time of day.
    """
    stamp = text(source, date_time) if date_time else ""
    digits = stamp if len(stamp) >= 14 else text(source, day).replace(".", "") + text(source, time).replace(":", "")
    if re.fullmatch(r"\d{6}(\.\d*)?", digits):  # a time of day without a date
        digits = "20000101" + digits
    match = re.match(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d(?:\.\d{1,6})?)", digits)
    if match is None:
        return None
    year, month, day_of_month, hours, minutes = (int(part) for part in match.groups()[:5])
    try:
        days = date(year, month, day_of_month).toordinal()
    except ValueError:
        return None
    return days * SECONDS_A_DAY + hours * 3600 + minutes * 60 + float(match.group(6))


def _values(value: object) -> list[Any]:
    """Values of an attribute one by one, none for an empty one."""
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return []
    if isinstance(value, MultiValue | list | tuple):
        return list(value)
    return [value]
