"""What peers send is read or refused, never anything else; `make fuzz` looks much longer."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_scp.identifier import Root, read_identifier
from dicom_scp.matching import matcher, prefilter_of, wild_card_match
from dicom_scp.part10 import split_file
from dicom_scp.pdata import fragments, store_command
from dicom_scp.private_dictionary import values_of
from dicom_scp.ranges import asked_interval, stored_interval
from dicom_scp.reception import Receiver
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import Parked, Refused
from indexer.volume import load_volume, plan_series

EXAMPLES = int(os.environ.get("PACSIMILE_FUZZ_EXAMPLES", "150"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES <= 150
)
SYNTAXES = st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian])
TAGS = st.sampled_from(
    [(0x0008, 0x0052), (0x0008, 0x0005), (0x0008, 0x0020), (0x0010, 0x0010), (0x0010, 0x0020), (0x0020, 0x000D),
     (0x0008, 0x1110), (0x0077, 0x0010), (0x0077, 0x1001), (0x0077, 0x1004), (0x0077, 0x1006), (0x0040, 0xA730),
     (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0x0002, 0x0010), (0x7FE0, 0x0010)]
)  # fmt: skip
VRS = st.sampled_from([b"UI", b"CS", b"DA", b"PN", b"LO", b"SQ", b"UN", b"DS", b"US", b"FD", b"LT", b"ZZ"])
VALUES = st.one_of(
    st.binary(max_size=24),
    st.sampled_from(
        [b"STUDY ", b"PACSIMILE ", b"1.2.3\0", b"*", b"20200101-", b"\xff\xff", b"1\\2\\3\\4\\5\\6", b"nan "]
    ),
)


@st.composite
def elements(draw: Callable[..., Any], explicit: bool = True) -> bytes:
    """Encoded elements, some of whose lengths lie."""
    encoded = b""
    for _ in range(draw(st.integers(0, 6))):
        group, number = draw(TAGS)
        value = draw(VALUES)
        length = draw(st.sampled_from([len(value), len(value) + 2, 0xFFFF, 0]))
        if explicit:
            vr = draw(VRS)
            long = vr in (b"SQ", b"UN")
            place = struct.pack("<HHL", 0, 0, draw(st.sampled_from([length, 0xFFFFFFFF])))[2:] if long else b""
            encoded += struct.pack("<HH2s", group, number, vr) + (place or struct.pack("<H", length)) + value
        else:
            encoded += struct.pack("<HHL", group, number, draw(st.sampled_from([length, 0xFFFFFFFF]))) + value
    return encoded


@fuzz
@given(data=st.data(), syntax=SYNTAXES, root=st.sampled_from(Root))
def test_identifiers(data: st.DataObject, syntax: str, root: Root) -> None:
    explicit = syntax == ExplicitVRLittleEndian
    level = b"\x08\x00\x52\x00" + (b"CS\x06\x00" if explicit else b"\x06\x00\x00\x00") + b"STUDY "
    encoded = data.draw(
        st.one_of(st.binary(max_size=200), elements(explicit), elements(explicit).map(level.__add__))
    )
    try:
        identifier = read_identifier(encoded, syntax, root)
    except Refused:
        return
    prefilter_of(identifier.keys.values())
    matcher(identifier.keys.values())(
        {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]}, "00080020": {"vr": "DA"}}
    )


LEVEL = b"\x08\x00\x52\x00CS\x06\x00STUDY "
NO_SUCH_VR = b"P[\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "encoded",
    [
        LEVEL + b"\x10\x00\x10\x00" + NO_SUCH_VR,
        b"\x08\x00\x05\x00" + NO_SUCH_VR + LEVEL,
        b"\x08\x00\x52\x00" + NO_SUCH_VR,
    ],
    ids=["key", "character set", "level"],
)
def test_what_the_guided_fuzzer_found_in_identifiers(encoded: bytes) -> None:
    with pytest.raises(Refused):
        read_identifier(encoded, ExplicitVRLittleEndian, Root.STUDY)


@fuzz
@given(vr=st.sampled_from(["DA", "TM", "DT"]), text=st.text(alphabet="0123456789-+.: \u0660", max_size=40))
@example(vr="DA", text="-")
@example(vr="DT", text="2020-0500")
def test_ranges(vr: str, text: str) -> None:
    asked, stored = asked_interval(vr, text), stored_interval(vr, text)
    for one in (asked, stored):
        assert one is None or text.strip()
    if stored is not None and asked is not None and "-" not in text:
        assert stored in asked


@fuzz
@given(pattern=st.text(alphabet="a*?^[\\", max_size=30), text=st.text(alphabet="a^[", max_size=60))
def test_wild_cards(pattern: str, text: str) -> None:
    assert wild_card_match("*", text)
    found = wild_card_match(pattern, text)
    assert not found or len(text) >= len(pattern.replace("*", ""))


@fuzz
@given(
    number=st.integers(0, 0xFF), vr=st.sampled_from(["UN", "UI", "DS", "US", "LT"]), value=st.binary(max_size=40)
)
def test_private_block(number: int, vr: str, value: bytes) -> None:
    dataset = Dataset()
    dataset.add_new(0x00770010, "LO", "PACSIMILE")
    dataset.add_new(0x00771000 | number, "UN" if vr != "UN" else vr, value)
    with suppress(ValueError):  # what it promises to raise
        values_of(dataset)


@fuzz
@given(pdu=st.binary(max_size=120))
@example(pdu=b"\x04\x00\x00\x00\x00\x06\xff\xff\xff\xff\x01\x03")
def test_pdata_and_commands(pdu: bytes) -> None:
    for one in fragments(memoryview(pdu)) or []:
        for part in one:
            if isinstance(part, memoryview):
                store_command(bytes(part))
    store_command(pdu)
    with suppress(Refused):
        split_file(b"\0" * 128 + b"DICM" + pdu)


def slices() -> list[bytes]:
    """Files of a small series."""
    found = []
    for number in range(6):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"2.25.9{number}"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.Modality = "2.25.1", "2.25.2", "CT"
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 5.0 * number], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness, one.InstanceNumber = [2, 2], 5, number + 1
        one.Rows = one.Columns = 8
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 1, 1
        one.PhotometricInterpretation, one.RescaleSlope, one.RescaleIntercept = "MONOCHROME2", 1, -1024
        one.PixelData = bytes(128)
        buffer = BytesIO()
        dcmwrite(buffer, one, enforce_file_format=True)
        found.append(buffer.getvalue())
    return found


SLICES = slices()


@settings(fuzz, max_examples=EXAMPLES // 5)
@given(
    which=st.integers(0, 5),
    changes=st.lists(st.tuples(st.integers(132, len(SLICES[0]) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.one_of(st.none(), st.integers(132, len(SLICES[0]))),
)
@pytest.mark.filterwarnings("ignore")
def test_volumes_of_mutated_headers(
    tmp_path_factory: pytest.TempPathFactory, which: int, changes: list[tuple[int, int]], cut: int | None
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    content = bytearray(SLICES[which])
    for place, value in changes:
        content[place] = value
    mutated = [bytes(content)[:cut] if number == which else one for number, one in enumerate(SLICES)]
    paths = [folder / f"{number}.dcm" for number in range(len(mutated))]
    for path, one in zip(paths, mutated, strict=True):
        path.write_bytes(one)
    with suppress(Parked, MemoryError, ValueError):  # the last: Series Instance UIDs that differ
        for stack in plan_series(paths).stacks:
            volume = load_volume(stack)
            assert volume.voxels.dtype == "float32"


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    return Spool(tmp_path_factory.mktemp("reception"))


@pytest.fixture(scope="module")
def receiver(spool: Spool) -> Iterator[Receiver]:
    with Catalog(f"sqlite:///{spool.folder.parent / 'reception.sqlite'}") as catalog:
        yield Receiver(catalog, spool, "keep-first")


@settings(fuzz, max_examples=EXAMPLES // 3)
@given(data=st.data(), syntax=SYNTAXES)
def test_reception(receiver: Receiver, spool: Spool, data: st.DataObject, syntax: str) -> None:
    encoded = data.draw(st.one_of(st.binary(max_size=200), elements(syntax == ExplicitVRLittleEndian)))
    before = len(list(spool.folder.glob("*/*/*.dcm")))
    try:
        receiver.receive(encoded, syntax)
    except Refused:
        assert len(list(spool.folder.glob("*/*/*.dcm"))) == before
    assert not list((spool.folder / "tmp").iterdir())
