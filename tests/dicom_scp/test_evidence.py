"""The evidence report, judged by dicom3tools' dciodvfy, DCMTK's dsrdump and highdicom's reader."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicom_scp.evidence import (
    NOTICE,
    SERIES_NUMBER,
    Device,
    DocumentIdentity,
    Query,
    QueryImage,
    ReferenceDatabase,
    evidence_report,
    named_query_images,
)
from dicom_scp.evidence_codes import SCHEME, SCHEME_UID
from dicom_scp.inheritance import inherited
from dicom_scp.part10 import split_file
from indexer.answer import Answer, ChunkMatch, Completeness, Relation, Seed, SeriesHit, StudyHit
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

Tool = Callable[[str], str]
LONG = "CT des Schädels und der Halswirbelsäule ohne Kontrast, 頭部"
"""Of 64 bytes: dciodvfy counts those, where PS3.5 6.2 counts characters."""
OWN = [SliceRef(SOPInstanceUID(f"2.25.1.1.{n}"), None) for n in range(1, 40)]


def source(**attributes: object) -> Dataset:
    """An image of the query's study, as an archive would hold it."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "2.25.1.1.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.1", "2.25.1.1"
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Müller^Jürgen=山田^太郎", "P-1", "M"
    dataset.PatientBirthDate, dataset.StudyDate, dataset.StudyTime = "19500101", "20200305", "101112"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "A1", "Weiß^A"
    dataset.StudyDescription = LONG
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    content = buffer.getvalue()
    return split_file(content)[1] if content[128:132] == b"DICM" else content


def match(number: int, frames: bool = False) -> ChunkMatch:
    found = tuple(SliceRef(SOPInstanceUID(f"2.25.{number}.1.{n}"), n if frames else None) for n in range(1, 33))
    levels = ("upper abdomen", "mid thorax") if frames else ("", "")
    own = tuple(OWN[:32])
    return ChunkMatch(SeriesInstanceUID("2.25.1.1"), own, (-10.0, 86.0), found, (1.0 / 3, 96.25), 0.9, *levels)


def hit(rank: int, frames: bool = False) -> StudyHit:
    number = rank + 1
    series = tuple(
        SeriesHit(number, SeriesInstanceUID(f"2.25.{number}.{n}"), 0.9 - n / 100, (match(number, frames),) * 4)
        for n in range(1, 5)
    )
    relation = (Relation.ANALOGUE, Relation.PRIOR, Relation.DUPLICATE)[rank % 3]
    completeness = (Completeness.COMPLETE, Completeness.PROVISIONAL)[rank % 2]
    return StudyHit(
        number, StudyInstanceUID(f"2.25.{number}"), rank, 1 / (1 + rank / 7), relation, completeness, series
    )


def written(answer: Answer, seed: Seed | None = None, header: Dataset | None = None) -> Dataset:
    asked = seed or Seed(study_instance_uid=StudyInstanceUID("2.25.1"))
    series = SeriesInstanceUID("2.25.1.1")
    uids = named_query_images(answer, asked) or [SOPInstanceUID("2.25.1.1.1")]
    query = Query(
        StudyInstanceUID("2.25.1"),
        asked,
        (series,),
        {uid: QueryImage(CTImageStorage, uid, series) for uid in uids},
        "2.25.99",
    )
    database = ReferenceDatabase(101, 250, 12345, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    identity = DocumentIdentity(SeriesInstanceUID("2.25.1.7700"), SOPInstanceUID("2.25.1.7700.1"), 1)
    origin = inherited(encoded(header or source()), ExplicitVRLittleEndian)
    return evidence_report(origin, query, answer, database, Device("2.25.42", "PACSIMILE", "0.1.0"), identity)


def an_answer(hits: int, frames: bool = False) -> Answer:
    return Answer(EncoderId("tiny-0123456789abcdef"), tuple(hit(rank, frames) for rank in range(1, hits + 1)))


REGION = Seed(
    StudyInstanceUID("2.25.1"),
    SeriesInstanceUID("2.25.1.1"),
    (SOPInstanceUID("2.25.1.1.7"),),
    (-10.0, -20.0, -30.0, 10.0, 20.0, 30.0),
)
CASES = {
    "one": (an_answer(1), None),
    "none": (an_answer(0), None),
    "frames": (an_answer(2, frames=True), None),
    "region": (an_answer(3), REGION),
    "hundred": (an_answer(100), None),
}


@pytest.fixture(scope="module", params=CASES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = written(*CASES[request.param])
    path = tmp_path_factory.mktemp("sr") / f"{request.param}.dcm"
    report.save_as(path, enforce_file_format=True)
    return path


def walk(dataset: Dataset) -> Iterator[Dataset]:
    """Every content item below one."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from walk(item)


def concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def test_dciodvfy_finds_no_error(file: Path, tool: Tool) -> None:
    done = subprocess.run([tool("dciodvfy"), str(file)], capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert not [line for line in said.splitlines() if line.startswith("Error")]
    assert "Comprehensive3DSR" in said
    assert done.returncode == 0


def test_dsrdump_shows_it(file: Path, tool: Tool) -> None:
    done = subprocess.run(
        [tool("dsrdump"), "+Pl", str(file)],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    said = (done.stdout + done.stderr).decode("utf-8")
    assert done.returncode == 0, said
    assert "Comprehensive 3D SR" in said
    assert "Similar studies (not for diagnosis)" in said
    assert not [line for line in said.splitlines() if line.startswith(("E:", "F:"))]


def test_highdicom_reads_it_back(file: Path) -> None:
    report = Comprehensive3DSR.from_dataset(dcmread(file))
    assert report.Modality == "SR"
    assert report.content is not None


def test_it_is_filed_in_the_study_of_the_query(file: Path) -> None:
    report = dcmread(file)
    assert str(report.PatientName) == "Müller^Jürgen=山田^太郎"
    assert (report.PatientID, report.PatientSex, report.PatientBirthDate) == ("P-1", "M", "19500101")
    assert (report.StudyInstanceUID, report.AccessionNumber, report.StudyDate) == ("2.25.1", "A1", "20200305")
    assert report.StudyDescription == LONG
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert (report.SeriesNumber, report.Manufacturer, report.SoftwareVersions) == (
        SERIES_NUMBER, "Pacsimile", "0.1.0",
    )  # fmt: skip
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_only_the_query_is_evidence(file: Path) -> None:
    report = dcmread(file)
    evidence = report.CurrentRequestedProcedureEvidenceSequence
    assert [item.StudyInstanceUID for item in evidence] == ["2.25.1"]
    assert "PertinentOtherEvidenceSequence" not in report
    instances = [one for series in evidence[0].ReferencedSeriesSequence for one in series.ReferencedSOPSequence]
    known = {one.ReferencedSOPInstanceUID for one in instances}
    images = [item for item in walk(report) if item.ValueType in ("IMAGE", "COMPOSITE")]
    referenced = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images}
    assert referenced <= known
    assert all(uid.startswith("2.25.1.1.") for uid in known)


def test_private_codes_are_declared(file: Path) -> None:
    report = dcmread(file)
    schemes = {item.CodingSchemeDesignator: item for item in report.CodingSchemeIdentificationSequence}
    assert schemes[SCHEME].CodingSchemeUID == SCHEME_UID
    items = [report, *walk(report)]
    concepts = [item.ConceptNameCodeSequence[0] for item in items]
    concepts += [item.ConceptCodeSequence[0] for item in items if "ConceptCodeSequence" in item]
    assert {c.CodingSchemeDesignator for c in concepts} <= {SCHEME, "DCM", "RFC5646"}
    own = {c.CodeValue: c.CodeMeaning for c in concepts if c.CodingSchemeDesignator == SCHEME}
    assert all(len(value) <= 16 and len(meaning) <= 64 for value, meaning in own.items())
    assert len(set(own.values())) == len(own)


def test_every_result_is_told_whole() -> None:
    answer = an_answer(3, frames=True)
    report = written(answer)
    results = [item for item in walk(report) if concept(item) == "Similar study"]
    assert len(results) == 3
    for told, found in zip(results, answer.hits, strict=True):
        direct = {concept(item): item for item in told.ContentSequence}
        assert direct["Rank, 1 is the most similar"].MeasuredValueSequence[0].NumericValue == found.rank
        similarity = direct["Similarity, 0 to 1"].MeasuredValueSequence[0].NumericValue
        assert similarity == pytest.approx(found.similarity, abs=1e-6)
        assert direct["Relation to the query"].ConceptCodeSequence[0].CodeValue == found.relation.lower()
        completeness = direct["Completeness of the index entry"].ConceptCodeSequence[0]
        assert completeness.CodeValue == found.completeness.lower()
        uids = [item.UID for item in walk(told) if item.ValueType == "UIDREF"]
        assert uids[0] == found.study_instance_uid
        assert uids[1:5] == [
            found.series[0].series_instance_uid,
            *(found.series[0].matches[0].found_slices[n].sop_instance_uid for n in (0, 16, 31)),
        ]
        match_of = next(item for item in walk(told) if concept(item) == "Matching parts")
        numbers = {
            concept(item): item.MeasuredValueSequence[0].NumericValue
            for item in match_of.ContentSequence
            if item.ValueType == "NUM"
        }
        assert (numbers["Query from z, LPS"], numbers["Query to z, LPS"]) == (-10, 86)
        assert (numbers["Found from z, LPS"], numbers["Found to z, LPS"]) == (pytest.approx(0.333), 96.25)
        assert numbers["Found frame, middle slice"] == 17
        texts = {concept(item): item.TextValue for item in match_of.ContentSequence if item.ValueType == "TEXT"}
        assert texts["Query, estimated level of the body"] == "upper abdomen"
        assert texts["Found, estimated level of the body"] == "mid thorax"


def test_a_level_that_is_not_known_is_not_told() -> None:
    assert not [item for item in walk(written(an_answer(1))) if "level" in concept(item)]


def test_system_query_and_archive_are_told() -> None:
    report = written(an_answer(1), REGION)
    texts = {concept(item): item.TextValue for item in walk(report) if item.ValueType == "TEXT"}
    assert texts["Comment"] == NOTICE
    assert texts["Algorithm Name"] == texts["Device Observer Manufacturer"] == "Pacsimile"
    assert texts["Algorithm Version"] == "0.1.0"
    assert texts["Encoder and its digest"] == "tiny-0123456789abcdef"
    assert texts["Region asked about, LPS mm"] == "-10.0 -20.0 -30.0 10.0 20.0 30.0"
    numbers = {concept(i): i.MeasuredValueSequence[0].NumericValue for i in walk(report) if i.ValueType == "NUM"}
    assert numbers["Number of studies"] == 101
    assert numbers["Number of embeddings"] == 12345
    (region,) = [item for item in walk(report) if item.ValueType == "SCOORD3D"]
    assert region.ReferencedFrameOfReferenceUID == "2.25.99"
    assert len(region.GraphicData) == 24
    when = next(item for item in walk(report) if item.ValueType == "DATETIME")
    local = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone()
    assert str(when.DateTime) == local.strftime("%Y%m%d%H%M%S")


def test_values_that_break_their_vr_stay_as_the_archive_knows_them() -> None:
    odd = encoded(source())
    for right, wrong in ((b"19500101", b"1950.1.1"), (b"20200305", b"20205555")):
        assert right in odd
        odd = odd.replace(right, wrong)
    kept = inherited(odd, ExplicitVRLittleEndian)
    assert (kept.PatientBirthDate, kept.StudyDate) == ("1950.1.1", "20205555")
    answer = an_answer(1)
    query = Query(
        StudyInstanceUID("2.25.1"),
        Seed(study_instance_uid=StudyInstanceUID("2.25.1")),
        (),
        {
            uid: QueryImage(CTImageStorage, uid, SeriesInstanceUID("2.25.1.1"))
            for uid in named_query_images(answer, Seed())
        },
    )
    identity = DocumentIdentity(SeriesInstanceUID("2.25.2"), SOPInstanceUID("2.25.3"), 1)
    database = ReferenceDatabase(1, 1, 1, datetime.now().astimezone())
    report = evidence_report(kept, query, answer, database, Device("2.25.42", "NODE", "1"), identity)
    assert b"1950.1.1" in encoded(report)


def test_missing_identity_is_empty_and_other_character_sets_become_unicode() -> None:
    latin = source(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^J", StudyDescription="Schädel")
    for keyword in ("PatientID", "StudyTime", "AccessionNumber"):
        delattr(latin, keyword)
    report = written(an_answer(1), header=latin)
    again = dcmread(BytesIO(_file(report)))
    assert (str(again.PatientName), again.StudyDescription) == ("Müller^J", "Schädel")
    assert not again.PatientID
    assert "AccessionNumber" in again
    assert "SpecificCharacterSet" not in inherited(encoded(latin), ExplicitVRLittleEndian)


def _file(report: Dataset) -> bytes:
    buffer = BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_nobody_elses_identity_is_in_it() -> None:
    """All that a report holds of what was found are UIDs, numbers and codes."""
    report = written(an_answer(5))
    for result in (item for item in walk(report) if concept(item) == "Similar study"):
        kinds = {item.ValueType for item in walk(result)}
        assert kinds <= {"UIDREF", "NUM", "CODE", "CONTAINER", "IMAGE"}
    assert not replace(an_answer(0)).hits
