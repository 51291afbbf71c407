"""Data sets that inflate, and that nest."""

import zlib

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicom_scp import parsing
from dicom_scp.contexts import supported_contexts
from indexer.errors import Refused

ONE_ELEMENT = b"\x08\x00\x60\x00CS\x02\x00CT"


def deflated(plain: bytes) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return squeezer.compress(plain) + squeezer.flush()


def test_a_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_MAX_INFLATED_BYTES", 1_000_000)
    assert parsing.parse(deflated(ONE_ELEMENT), DeflatedExplicitVRLittleEndian).Modality == "CT"
    bomb = deflated(b"\x09\x00\x10\x00OB\x00\x00\xff\xff\xff\x7f" + bytes(50_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(Refused, match="inflates to more than 1000000 bytes"):
        parsing.parse(bomb, DeflatedExplicitVRLittleEndian)


def test_nobody_may_send_deflated() -> None:
    accepted = {str(syntax) for context in supported_contexts() for syntax in context.transfer_syntax}
    assert ExplicitVRLittleEndian in accepted
    assert DeflatedExplicitVRLittleEndian not in accepted


def test_sequences_without_end_are_refused() -> None:
    begin = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    parsing.parse(ONE_ELEMENT + begin * 50 + end * 50, ExplicitVRLittleEndian)
    with pytest.raises(Refused):
        parsing.parse(ONE_ELEMENT + begin * 10_000 + end * 10_000, ExplicitVRLittleEndian)
