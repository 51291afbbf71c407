"""Reading encoded data sets of strangers: bounded, and silent about values that break the rules."""

import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import SEEK_CUR, SEEK_SET, BufferedReader, BytesIO, RawIOBase
from typing import Any

from pydicom import Dataset, config
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_scp.structure import is_torn
from indexer.errors import Refused

_MAX_INFLATED_BYTES = 1 << 30
FIRST_BULK_TAG = 0x7FE00001
"""Extended Offset Table and after it all kinds of pixel data (PS3.3 C.7.6.3)."""

_pydicom_settings = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Let pydicom read values that their VR does not allow, without a word.

    Archives hold many; they are kept as they came. Its warnings would also carry the values, that is, patient
    data, into logs. The library's settings are one for all threads, so that one thread at a time is in here.
    """
    with _pydicom_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.IGNORE
        try:
            yield
        finally:
            config.settings.reading_validation_mode = before


def encoding_of(transfer_syntax_uid: str) -> tuple[bool, bool, bool]:
    """Whether a transfer syntax has implicit VR, is little endian, is deflated (PS3.5 annex A).

    Raises
    ------
    Refused
        It is no transfer syntax that the standard knows.
    """
    uid = UID(transfer_syntax_uid)
    if not uid.is_transfer_syntax or uid.is_private:
        raise Refused("expected a transfer syntax of the standard, got a private or unknown one")
    return uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated


def parse(
    dataset: bytes | memoryview, transfer_syntax_uid: str, tags: Sequence[BaseTag | int] | None = None
) -> Dataset:
    """Parse an encoded data set.

    Values are converted only when they are asked for: do that within `quiet`.

    Parameters
    ----------
    dataset : bytes or memoryview
        Without File Meta Information.
    tags : sequence of int, optional
        Read only these and nothing from the pixel data on.

    Raises
    ------
    Refused
        The bytes are no data set in this transfer syntax, or not a whole one.
    """
    implicit, little, deflated = encoding_of(transfer_syntax_uid)
    if deflated:
        dataset = _inflated(dataset)
    if is_torn(dataset, implicit=implicit, little=little):
        raise Refused(f"the data set ends before its time, after {len(dataset)} bytes")
    stop = None if tags is None else _is_bulk
    try:
        with quiet():
            parsed = read_dataset(
                BytesIO(dataset) if isinstance(dataset, bytes) else BufferedReader(_View(dataset)),
                implicit,
                little,
                stop_when=stop,
                specific_tags=None if tags is None else list(tags),
            )
    except Exception as error:  # the parser of hostile bytes raises anything at all
        raise Refused(f"the data set cannot be parsed as {UID(transfer_syntax_uid).name}") from error
    return parsed


def _is_bulk(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >= FIRST_BULK_TAG


class _View(RawIOBase):
    """A file over bytes that stay where they are, such as those of a file mapped into memory."""

    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:  # noqa: ANN401 - any writable buffer
        part = self._view[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        base = {SEEK_SET: 0, SEEK_CUR: self._at}.get(whence, len(self._view))
        self._at = base + offset
        return self._at


def _inflated(deflated: bytes | memoryview) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(deflated, _MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise Refused(f"the data set cannot be parsed as {DeflatedExplicitVRLittleEndian.name}") from error
    if inflater.unconsumed_tail:
        raise Refused(f"the data set inflates to more than {_MAX_INFLATED_BYTES} bytes")
    return plain
