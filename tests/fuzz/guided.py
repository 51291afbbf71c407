"""Parsers of what peers send under a fuzzer guided by coverage (atheris): `guided.py TARGET [libFuzzer options]`.

Without a target it lists them. What makes a target fail is left in the present folder as ``crash-…``; a crash that
was mended becomes a test of its own. Seeds are made here, none are kept.
"""

import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dicom_scp", "indexer"]):
    from dicom_scp.errors import Mismatched
    from dicom_scp.identifier import Root, read_identifier
    from dicom_scp.matching import matcher, prefilter_of
    from dicom_scp.parsing import parse
    from dicom_scp.pdata import fragments, store_command
    from indexer.errors import Parked, Refused
    from indexer.volume import load_volume, plan_series

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


def encoded(dataset: Dataset, explicit: bool) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=not explicit, little_endian=True)
    return buffer.getvalue()


def image(number: int) -> Dataset:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, f"2.25.9{number}"
    one.StudyInstanceUID, one.SeriesInstanceUID, one.Modality = "2.25.1", "2.25.2", "CT"
    one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 5.0 * number], [1, 0, 0, 0, 1, 0]
    one.PixelSpacing, one.SliceThickness, one.InstanceNumber = [2, 2], 5, number + 1
    one.Rows = one.Columns = 8
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 1, 1
    one.PhotometricInterpretation, one.RescaleSlope, one.RescaleIntercept = "MONOCHROME2", 1, -1024
    one.PixelData = bytes(128)
    return one


def file(number: int) -> bytes:
    one, buffer = image(number), BytesIO()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
        CTImageStorage,
        f"2.25.9{number}",
    )
    dcmwrite(buffer, one, enforce_file_format=True)
    return buffer.getvalue()


def question() -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID, asked.StudyDate = "STUDY", "2.25.1", "20200101-"
    asked.PatientName, asked.ModalitiesInStudy = "DOE*", ["CT", "MR"]
    asked.add_new(0x00770010, "LO", "PACSIMILE")
    asked.add_new(0x00771001, "UI", "2.25.1")
    asked.add_new(0x00771006, "US", 5)
    return asked


def identifiers(data: bytes) -> None:
    """Identifiers of C-FIND with the private block in them, and their keys."""
    with suppress(Refused):
        identifier = read_identifier(data[1:], SYNTAXES[data[0] & 1], list(Root)[data[0] >> 1 & 1])
        prefilter_of(identifier.keys.values())
        matcher(identifier.keys.values())(
            {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]}, "00080020": {"vr": "DA"}}
        )


def pdus(data: bytes) -> None:
    """Presentation data values, and the command sets in them."""
    for found in fragments(memoryview(data)) or []:
        store_command(bytes(found.data))
    store_command(data)


def datasets(data: bytes) -> None:
    """Data sets of C-STORE: whole or torn, and every value in them."""
    with suppress(Refused, Mismatched):
        parse(data[1:], SYNTAXES[data[0] & 1])


def volumes(data: bytes) -> None:
    """A series of which one file is anything at all."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.dcm" for number in range(4)]
        for number, path in enumerate(paths):
            path.write_bytes(FILES[number] if number else data)
        with suppress(Parked, MemoryError, ValueError), warnings.catch_warnings():  # as tests/fuzz/test_parsers.py
            warnings.simplefilter("ignore")
            for stack in plan_series(paths).stacks:
                load_volume(stack)


FILES = [file(number) for number in range(4)]
COMMAND = b"".join(
    struct.pack("<HHL", 0, number, len(value)) + value
    for number, value in (
        (0x0002, b"1.2.840.10008.5.1.4.1.1.2\0"), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0700, b"\0\0"),
        (0x0800, b"\1\0"), (0x1000, b"2.25.9\0\0"),
    )
)  # fmt: skip
PDV = struct.pack(">LBB", len(COMMAND) + 2, 1, 3) + COMMAND
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "identifiers": (identifiers, [bytes([number]) + encoded(question(), number & 1 == 1) for number in range(4)]),
    "pdus": (pdus, [struct.pack(">BxL", 4, len(PDV)) + PDV, COMMAND]),
    "datasets": (datasets, [bytes([number]) + encoded(image(0), number == 1) for number in range(2)]),
    "volumes": (volumes, FILES[:1]),
}


def main() -> None:
    if len(sys.argv) < 2:
        print(*TARGETS)
        return
    name, *options = sys.argv[1:]
    target, seeds = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], corpus, "-max_len=4096", *options], lambda data: target(data) if data else None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
