"""Nothing that says whom an instance is of is left: planted values of every VR, everywhere, and real series."""

import itertools
import re
import subprocess
from collections.abc import Callable
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, SecondaryCaptureImageStorage

from indexer.deidentification.instance import deidentified
from indexer.deidentification.profile import Options
from indexer.deidentification.pseudonyms import Pseudonyms
from indexer.errors import Refused

SERIES = ("mr-abdomen-ts", "ct-chest-rider0109", "mr-brain-vol-adc", "ct-phantom-head-5mm", "mr-breast-uta4p1")
OPTIONS = (Options(), Options(keep_patient_characteristics=True))
PSEUDONYMS = Pseudonyms(bytes(32))
NESTING = {"ReferencedImageSequence", "SourceImageSequence", "RequestAttributesSequence", "ReferencedStudySequence"}
CHARACTERISTICS = frozenset(
    {"PatientAge", "PatientSize", "PatientWeight", "SmokingStatus", "PregnancyStatus", "PatientSex"}
)
NUMBERS = itertools.count(100_000)


@pytest.fixture(scope="module", params=SERIES)
def original(request: pytest.FixtureRequest, shared_dicom: Path) -> Path:
    files = sorted((shared_dicom / request.param).glob("*.dcm"))
    return files[len(files) // 2]


def planted(vr: str) -> str | bytes | None:
    """A value of a VR that is nowhere else, and is what the VR allows (PS3.5 table 6.2-1)."""
    number = next(NUMBERS)
    match vr:
        case "DA":
            return f"209901{number % 28 + 1:02d}"  # no other one, once it is shifted
        case "TM":
            return f"1{number % 10}3{number // 10 % 10}4{number // 100 % 10}.{number}"
        case "DT":
            return f"209901{number % 28 + 1:02d}123456.{number}"
        case "AS":
            return f"{number % 1000:03d}W"
        case "UI":
            return f"1.2.777.{number}.4711"
        case "DS" | "IS":
            return str(number * 7919)
        case "CS" | "SH" | "AE":
            return f"PLANTED {number}"
        case "PN":
            return f"Planted{number}^Wörthe"
        case "OB" | "OW" | "UN" | "OF" | "OD" | "OL" | "OV":
            return f"planted {number}".encode() + b"0123456789abcdef"[: 16 - len(f"planted {number}") % 8]
        case "UR":
            return f"urn:planted:{number}"
        case "US" | "SS" | "UL" | "SL" | "FD" | "FL" | "AT" | "SQ":
            return None
        case _:
            return f"Planted {number} Wörthe"


def plant(dataset: Dataset, left: frozenset[str], depth: int = 0) -> set[bytes]:
    """Plant values wherever the profile's table names an attribute, and in more text; what was planted, encoded."""
    found: set[bytes] = set()
    table = dicom_anonymization_database_selector("dicomfields_2026c")
    pairs = {tuple(pair) for name, pairs in table.items() for pair in pairs if len(pair) == 2}
    more = {(0x0018, 0x1400), (0x0028, 0x1055), (0x0040, 0x0310), (0x0054, 0x0400), (0x0020, 0x3406)}
    for group, element in sorted(pairs | more):
        tag = group << 16 | element
        if not keyword_for_tag(tag) or keyword_for_tag(tag) in left | {"SOPInstanceUID", "DataSetTrailingPadding"}:
            continue
        vr = dictionary_VR(tag).split(" or ")[0]
        if vr == "SQ" and depth < 1 and keyword_for_tag(tag) in NESTING:
            item = Dataset()
            found |= plant(item, left, depth + 1)
            dataset.add(DataElement(tag, "SQ", Sequence([item])))
        elif (value := planted(vr)) is not None:
            dataset.add(DataElement(tag, vr, value))
            found.add(value if isinstance(value, bytes) else value.encode())
    block = dataset.private_block(0x0099, "PLANTED CREATOR", create=True)
    for offset, vr in enumerate(("LO", "PN", "UN", "DA", "UI", "OB", "UT")):
        value = planted(vr)
        block.add_new(offset, vr, value)
        found.add(value if isinstance(value, bytes) else value.encode())
    overlay = planted("LO")
    dataset.add_new(0x60003000, "OW", overlay.encode() * 4)
    dataset.add_new(0x60001500, "LO", overlay)
    dataset.add_new(0x50000010, "LO", overlay)
    return found | {overlay.encode(), b"PLANTED CREATOR"}


def written(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def tokens(dataset: Dataset) -> set[bytes]:
    """What of a real header says who, where or when."""
    keywords = (
        "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate",
        "StudyTime", "SeriesTime", "AcquisitionTime", "AccessionNumber", "StudyDescription", "SeriesDescription",
        "InstitutionName", "StationName", "ProtocolName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
        "FrameOfReferenceUID",
    )  # fmt: skip
    values = (str(dataset.get(keyword) or "") for keyword in keywords)
    return {value.encode() for value in values if len(value) > 5} - {one.encode() for one in dataset.ImageType}


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_that_was_planted_is_left(original: Path, options: Options) -> None:
    dataset = dcmread(original)
    pixels = dcmread(original)
    pixels.decompress(generate_instance_uid=False) if pixels.file_meta.TransferSyntaxUID.is_compressed else None
    known = tokens(dataset)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    left = CHARACTERISTICS if options.keep_patient_characteristics else frozenset()
    traces = plant(dataset, left)
    dataset.BurnedInAnnotation, dataset.preamble = "NO", b"planted preamble".ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = "PLANTED_AE"
    nested = Dataset()
    traces |= plant(nested, left)
    dataset.AnatomicRegionSequence = Sequence([nested])  # no sequence that the table names
    made = deidentified(dataset, PSEUDONYMS, options)
    content = written(made).replace(made.PixelData, b"")
    kept = {b"PLANTED"} - traces
    assert len(traces) > 1000
    assert not {trace for trace in traces | known | kept | {b"planted preamble"} if trace in content}
    assert made.PixelData == pixels.PixelData
    again = dcmread(BytesIO(written(made)))
    assert (again.PatientIdentityRemoved, again.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    codes = [item.CodeValue for item in again.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", *(["113108"] if options.keep_patient_characteristics else [])]
    assert not [element for element in again.iterall() if element.tag.is_private]
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID


def faults(file: Path, program: str) -> set[str]:
    """What dciodvfy says is wrong, without the values that it repeats."""
    done = subprocess.run([program, str(file)], capture_output=True, text=True, errors="replace", check=False)
    lines = (line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error"))
    return {re.sub(r"= <[^>]*>|\[[^]]*\]|<[^>]*>", "", line) for line in lines}


def test_real_series_stay_what_they_are(original: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    program = tool("dciodvfy")
    dataset = dcmread(original)
    known = tokens(dataset)
    made = deidentified(dcmread(original), PSEUDONYMS, OPTIONS[1])
    made.save_as(tmp_path / "made.dcm", enforce_file_format=True)
    assert faults(tmp_path / "made.dcm", program) <= faults(original, program)
    content = written(made).replace(made.PixelData, b"")
    assert not {one for one in known if one in content}
    for keyword in (
        "Modality",
        "Rows",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "InstanceNumber",
    ):
        assert made.get(keyword) == dataset.get(keyword)
    for keyword in ("RescaleSlope", "Manufacturer", "ConvolutionKernel", "SliceThickness", "PatientSex"):
        assert made.get(keyword) == dataset.get(keyword)


def test_references_and_distances_in_time_hold(shared_dicom: Path) -> None:
    first, second = [dcmread(file) for file in sorted((shared_dicom / "mr-abdomen-ts").glob("*.dcm"))[:2]]
    first.StudyDate, second.StudyDate = "20200229", "20210301"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = first.SOPClassUID, first.SOPInstanceUID
    second.ReferencedImageSequence = Sequence([reference])
    one, two = (deidentified(instance, PSEUDONYMS, OPTIONS[0]) for instance in (first, second))
    assert two.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert two.ReferencedImageSequence[0].ReferencedSOPClassUID == first.SOPClassUID
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert (one.PatientID, one.PatientName) == (two.PatientID, two.PatientID)
    days = [int(PSEUDONYMS.shifted("a", day) == PSEUDONYMS.shifted("b", day)) for day in ("20200229", "19990101")]
    assert sum(days) < 2
    assert (as_days(two.StudyDate) - as_days(one.StudyDate)) == 366
    other = deidentified(
        dcmread(sorted((shared_dicom / "mr-abdomen-ts").glob("*.dcm"))[0]), Pseudonyms(b"1" * 32), OPTIONS[0]
    )
    assert other.SOPInstanceUID != one.SOPInstanceUID
    assert other.PatientID != one.PatientID


def as_days(day: str) -> int:
    return date(int(day[:4]), int(day[4:6]), int(day[6:])).toordinal()


def test_ages_over_89_are_one(shared_dicom: Path) -> None:
    file = sorted((shared_dicom / "mr-abdomen-ts").glob("*.dcm"))[0]
    for age, shown in (("103Y", "090Y"), ("089Y", "089Y"), ("about 50", None)):
        dataset = dcmread(file)
        dataset.add(DataElement("PatientAge", "AS", age, validation_mode=0))
        assert deidentified(dataset, PSEUDONYMS, OPTIONS[1]).get("PatientAge") == shown
    assert "PatientAge" not in deidentified(dcmread(file), PSEUDONYMS, OPTIONS[0])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "Burned In"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "SOP class"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"ConversionType": "WSD"}, "secondary capture"),
    ],
)
def test_what_may_have_a_name_in_its_pixels_is_refused(
    shared_dicom: Path, changed: dict[str, Any], why: str
) -> None:
    dataset = dcmread(sorted((shared_dicom / "mr-abdomen-ts").glob("*.dcm"))[0])
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    with pytest.raises(Refused, match=why):
        deidentified(dataset, PSEUDONYMS, OPTIONS[0])


def test_every_frame_keeps_its_item(shared_dicom: Path) -> None:
    dataset = dcmread(sorted((shared_dicom / "ct-phantom-head-5mm").glob("*.dcm"))[0])
    dataset.SOPClassUID = EnhancedCTImageStorage
    items = [Dataset(), Dataset()]
    items[1].PatientComments = "gone"
    dataset.PerFrameFunctionalGroupsSequence = Sequence(items)
    assert len(deidentified(dataset, PSEUDONYMS, OPTIONS[0]).PerFrameFunctionalGroupsSequence) == 2
