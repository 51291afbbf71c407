"""What is skimmed off a data set is what parsing it says."""

import json
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from dicom_scp.parsing import parse, quiet
from dicom_scp.part10 import split_file
from dicom_scp.plain_values import plain_value
from dicom_scp.skimming import Skimmer
from indexer.attributes import CATALOGUED_TAGS, InstanceHeader, attribute, header_of

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def parsed(encoded: bytes, syntax: str) -> InstanceHeader:
    with quiet():
        return header_of(parse(encoded, syntax, CATALOGUED_TAGS), syntax)


def build() -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, "2.25.5"
    made.StudyInstanceUID, made.SeriesInstanceUID = "2.25.1", "2.25.11"
    made.PatientName, made.PatientID, made.Modality = "Müller^Jürgen", "P1", "CT"
    made.ImagePositionPatient, made.InstanceNumber = [0, -1.5, 7], 12
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "DCM", "Würfel"
    made.ProcedureCodeSequence = Sequence([code])
    made.PixelData = bytes(64)
    made["PixelData"].VR = "OW"
    return made


def test_every_real_instance() -> None:
    if not REAL.is_dir():
        pytest.skip(f"real CT and MR series are not there: {REAL}")
    skimmer, skimmed = Skimmer(), 0
    files = [file for folder in sorted(REAL.iterdir()) for file in sorted(folder.glob("*.dcm"))[::7]]
    for file in files:
        syntax, encoded = split_file(file.read_bytes())
        if (header := skimmer.header(memoryview(encoded), syntax)) is not None:
            skimmed += 1
            assert header == parsed(encoded, syntax), file.parent.name
    assert skimmed > 0.9 * len(files)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("undefined", [True, False])
def test_values_of_every_kind(syntax: str, undefined: bool) -> None:
    dataset, skimmer = build(), Skimmer()
    dataset["ProcedureCodeSequence"].is_undefined_length = undefined
    for number in (12, 13):
        dataset.InstanceNumber = number
        encoded = encode(dataset, syntax == ImplicitVRLittleEndian, True) or b""
        assert skimmer.header(encoded, syntax) == parsed(encoded, syntax)


def test_the_same_bytes_in_another_character_set_are_another_name() -> None:
    skimmer, dataset = Skimmer(), build()
    names = []
    for character_set in ("ISO_IR 100", "ISO_IR 144"):
        dataset.SpecificCharacterSet = "ISO_IR 100"
        encoded = (encode(dataset, False, True) or b"").replace(b"ISO_IR 100", character_set.encode())
        header = skimmer.header(encoded, ExplicitVRLittleEndian)
        assert header == parsed(encoded, ExplicitVRLittleEndian)
        assert header is not None
        names.append(header.patient["00100010"])
    assert names[0] != names[1]


def _without(keyword: str) -> bytes:
    dataset = build()
    delattr(dataset, keyword)
    return encode(dataset, False, True) or b""


@pytest.mark.parametrize(
    ("what", "syntax"),
    [
        (lambda: (encode(build(), False, True) or b"")[:-1], ExplicitVRLittleEndian),
        (lambda: (encode(build(), False, True) or b"")[:100], ExplicitVRLittleEndian),
        (lambda: encode(build(), False, True) or b"", ImplicitVRLittleEndian),
        (lambda: encode(build(), True, True) or b"", ExplicitVRLittleEndian),
        (lambda: encode(build(), False, False) or b"", ExplicitVRBigEndian),
        (lambda: _without("StudyInstanceUID"), ExplicitVRLittleEndian),
        (lambda: _without("SOPInstanceUID"), ExplicitVRLittleEndian),
        (lambda: b"\xff" * 300, ExplicitVRLittleEndian),
        (lambda: 2 * (encode(build(), False, True) or b"")[:30], ExplicitVRLittleEndian),
        (lambda: struct.pack("<HHL", 8, 0x16, 0xFFFFFFFF), ImplicitVRLittleEndian),
        (lambda: b"", ExplicitVRLittleEndian),
    ],
    ids=["torn pixels", "torn header", "really explicit", "really implicit", "big endian", "no study",
         "no instance", "noise", "twice the same", "does not end", "nothing"],
)  # fmt: skip
def test_what_is_out_of_the_ordinary_is_left_to_the_parser(what: Callable[[], bytes], syntax: str) -> None:
    assert Skimmer().header(what(), syntax) is None


NUMBERS = ["", " ", "0", "12", "-7", "+7", " 7", "7 ", "7  ", "007", "1\\2", "1\\", "\\1", "1.5", "1.50\\-.5",
           "1e3", "-0", "9" * 16, "1\0", "x", "2147483648", "1 \\ 2", "0.1\\0.2\\0.3 "]  # fmt: skip
OTHERS = {
    0x00080023: (b"DA", ["", "20200101", "2020.01.01", "20200101 ", "20200101\\20200102", "2020"]),
    0x00080033: (b"TM", ["", "10", "101112.5", "101112.500000", "10:11:12", "10-11", "101112 ", "10\\11"]),
    0x00200052: (b"UI", ["", "1.2", "1.2\0", "1.2 ", "1.2\\1.3", "1.02", "a.b"]),
    0x00200013: (b"IS", NUMBERS),
    0x00201041: (b"DS", NUMBERS),
    0x00200032: (b"DS", NUMBERS),
}


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("tag", OTHERS, ids=hex)
def test_a_plain_value_is_what_the_library_says(tag: int, implicit: bool) -> None:
    vr, values = OTHERS[tag]
    plain = 0
    for value in values:
        text = value.encode("ascii")
        length = struct.pack("<L", len(text)) if implicit else vr + struct.pack("<H", len(text))
        encoded = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + length + text
        found = plain_value(tag, encoded, implicit)
        if found is None:
            continue
        plain += 1
        with quiet():
            said = attribute(read_dataset(BytesIO(encoded), implicit, True), tag)
        assert json.dumps(found) == json.dumps(said), value
    assert plain


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_beginning_is_enough_where_pixels_alone_follow(syntax: str) -> None:
    made = build()
    made.PixelData = bytes(5000)
    whole = encode(made, syntax == ImplicitVRLittleEndian, True) or b""
    skimmer = Skimmer()
    assert skimmer.header(whole[:4096], syntax, len(whole)) == skimmer.header(whole, syntax) is not None
    made.add_new(0xFFFCFFFC, "OB", bytes(10))
    longer = encode(made, syntax == ImplicitVRLittleEndian, True) or b""
    for beginning, length in (
        (whole[:4096], len(whole) - 2),  # torn
        (whole[:4096], len(whole) + 8),
        (whole[:40], len(whole)),
        (whole[: whole.index(b"\xe0\x7f\x10\x00")], len(whole)),
        (longer[:4096], len(longer)),  # what follows the pixels is not there to be looked at
    ):
        assert skimmer.header(beginning, syntax, length) is None
