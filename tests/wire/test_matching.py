"""Attribute matching of PS3.4 over associations: every type, at every level, in both information models.

Each case names the section that it shows. What is expected are the last components of the unique keys found.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
Keys = dict[str, Any]

SINGLE_VALUE, LIST_OF_UID, UNIVERSAL = "C.2.2.2.1", "C.2.2.2.2", "C.2.2.2.3"
WILD_CARD, RANGE, SEQUENCE = "C.2.2.2.4", "C.2.2.2.5", "C.2.2.2.6"
SCU, HIERARCHICAL, LEVELS = "C.4.1.2.1", "C.4.1.3.1.1", "C.6"
UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
PATIENTS = ("P1", "P2", "P3")
ABOVE: dict[str, Keys] = {
    "PATIENT": {},
    "STUDY": {},
    "SERIES": {"StudyInstanceUID": "2.25.1"},
    "IMAGE": {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.11"},
}
"""Unique keys above the level, where a case does not say otherwise."""
REPORT = {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.12"}


def item(**attributes: str) -> list[Dataset]:
    """One item of a sequence."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return [dataset]


def code(value: str, scheme: str) -> list[Dataset]:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning="a code")


@pytest.fixture(scope="module")
def archive(shared_node: Node, peer: Factory, instance: Factory) -> Node:
    """Three patients, four studies; the first study has three series, its first series three images."""
    chest = code("RPID24", "RADLEX")
    number = count(1)

    def image(study: int, series: int, n: int, **attributes: Any) -> Dataset:  # noqa: ANN401 - any attribute
        uids = {"StudyInstanceUID": f"2.25.{study}", "SeriesInstanceUID": f"2.25.{series}"}
        numbers = {"SOPInstanceUID": f"2.25.{n}", "InstanceNumber": n % 10, "pixel_level": 100 + next(number)}
        return instance(**{**uids, **numbers, **attributes})  # type: ignore[no-any-return]

    first = {
        "ProcedureCodeSequence": chest, "SeriesDescription": "Thorax 5.0", "SeriesDate": "20200305",
        "PatientBirthDate": "19500102", "PerformedProcedureStepStartDate": "20200305",
        "PerformedProcedureStepStartTime": "101500",
        "RequestAttributesSequence": item(ScheduledProcedureStepID="S1", RequestedProcedureID="R1"),
    }  # fmt: skip
    second = {"PatientID": "P2", "PatientName": "Müller^Jörg", "PatientSex": "M", "PatientBirthDate": "19691231"}
    third = {"PatientID": "P3", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientBirthDate": ""}
    datasets = [
        image(1, 11, 111, AcquisitionDateTime="20200305101700", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
              **first),
        image(1, 11, 112, AcquisitionDateTime="20200305101800", ContentDate="20200306", ContentTime="2359"),
        image(1, 11, 113, AcquisitionDateTime="20200305101900.5", ContentDate="20200307", ContentTime="000001"),
        image(1, 12, 121, Modality="SR", SeriesNumber=2, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11",
              SeriesDate="20200310", ConceptNameCodeSequence=code("126000", "DCM"), SeriesDescription="Findings"),
        image(1, 13, 131, Modality="MR", SeriesNumber=3, SOPClassUID="1.2.840.10008.5.1.4.1.1.4", SeriesDate="",
              SeriesDescription="Thorax [T1]"),
        image(2, 21, 211, StudyDate="20210101", StudyTime="0930", AccessionNumber="A2", StudyDescription="Thorax"),
        image(3, 31, 311, StudyDate="20191231", AccessionNumber="A3", SpecificCharacterSet="ISO_IR 100", **second),
        image(4, 41, 411, StudyDate="", AccessionNumber="A4", SpecificCharacterSet=["", "ISO 2022 IR 87"], **third),
    ]  # fmt: skip
    assert [status.Status for status in peer(shared_node).send(*datasets)] == [0] * len(datasets)
    return shared_node


CASES: list[tuple[str, str, Keys, str]] = [
    (SINGLE_VALUE, "PATIENT", {"PatientID": "P1"}, "P1"),
    (SINGLE_VALUE, "PATIENT", {"PatientID": "p1"}, ""),
    (SINGLE_VALUE, "PATIENT", {"PatientSex": "M"}, "P2"),
    (SINGLE_VALUE, "PATIENT", {"PatientName": "doe^JANE"}, "P1"),
    (SINGLE_VALUE, "PATIENT", {"PatientName": "Doe"}, ""),
    (SINGLE_VALUE, "PATIENT", {"PatientName": "Doe^Jane^^"}, "P1"),
    (SINGLE_VALUE, "PATIENT", {"PatientName": "山田^太郎", "SpecificCharacterSet": "ISO_IR 192"}, "P3"),
    (SINGLE_VALUE, "PATIENT", {"PatientBirthDate": "19500102"}, "P1"),
    (SINGLE_VALUE, "STUDY", {"StudyDate": "20200305"}, "1"),
    (SINGLE_VALUE, "STUDY", {"StudyTime": "10"}, "1 3 4"),
    (SINGLE_VALUE, "STUDY", {"AccessionNumber": "A3"}, "3"),
    (SINGLE_VALUE, "STUDY", {"AccessionNumber": ["A1", "A3"]}, "1 3"),
    (SINGLE_VALUE, "STUDY", {"StudyInstanceUID": "2.25.2"}, "2"),
    (SINGLE_VALUE, "STUDY", {"ModalitiesInStudy": "SR"}, "1"),
    (SINGLE_VALUE, "STUDY", {"ModalitiesInStudy": "PT"}, ""),
    (SINGLE_VALUE, "STUDY", {"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.88.11"}, "1"),
    (SINGLE_VALUE, "SERIES", {"Modality": "SR"}, "12"),
    (SINGLE_VALUE, "SERIES", {"Modality": "sr"}, ""),
    (SINGLE_VALUE, "SERIES", {"SeriesNumber": "03"}, "13"),
    (SINGLE_VALUE, "SERIES", {"SeriesDate": "20200310"}, "12"),
    (SINGLE_VALUE, "IMAGE", {"InstanceNumber": "2"}, "112"),
    (SINGLE_VALUE, "IMAGE", {"ImageType": "AXIAL"}, "111"),
    (SINGLE_VALUE, "IMAGE", {"Rows": 8, "InstanceNumber": "3"}, "113"),
    (SINGLE_VALUE, "IMAGE", {"SOPInstanceUID": "2.25.113"}, "113"),
    (LIST_OF_UID, "STUDY", {"StudyInstanceUID": ["2.25.1", "2.25.4", "2.25.9"]}, "1 4"),
    (LIST_OF_UID, "SERIES", {"SeriesInstanceUID": ["2.25.12", "2.25.11", "2.25.21"]}, "11 12"),
    (LIST_OF_UID, "IMAGE", {"SOPInstanceUID": ["2.25.113", "2.25.111", "2.25.121"]}, "111 113"),
    (LIST_OF_UID, "IMAGE", {"SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2", "1.2.3"]}, "111 112 113"),
    (UNIVERSAL, "PATIENT", {"PatientName": "", "PatientBirthDate": ""}, "P1 P2 P3"),
    (UNIVERSAL, "PATIENT", {"PatientBirthDate": "*"}, "P1 P2 P3"),
    (UNIVERSAL, "STUDY", {"StudyDescription": "", "ProcedureCodeSequence": []}, "1 2 3 4"),
    (UNIVERSAL, "STUDY", {"StudyDescription": "*", "StudyDate": "*"}, "1 2 3 4"),
    (UNIVERSAL, "SERIES", {"SeriesDate": "", "BodyPartExamined": ""}, "11 12 13"),
    (UNIVERSAL, "IMAGE", {"AcquisitionNumber": "", "ContentDate": "*"}, "111 112 113"),
    (WILD_CARD, "PATIENT", {"PatientID": "P?"}, "P1 P2 P3"),
    (WILD_CARD, "PATIENT", {"PatientID": "P?*?"}, ""),
    (WILD_CARD, "PATIENT", {"PatientName": "DOE*"}, "P1"),
    (WILD_CARD, "PATIENT", {"PatientName": "m?ller*", "SpecificCharacterSet": "ISO_IR 192"}, "P2"),
    (WILD_CARD, "PATIENT", {"PatientName": "*=山田*", "SpecificCharacterSet": "ISO_IR 192"}, "P3"),
    (WILD_CARD, "STUDY", {"AccessionNumber": "A?"}, "1 2 3 4"),
    (WILD_CARD, "STUDY", {"AccessionNumber": "A*3"}, "3"),
    (WILD_CARD, "STUDY", {"ModalitiesInStudy": "S*"}, "1"),
    (WILD_CARD, "STUDY", {"StudyDescription": "Th*"}, "2"),
    (WILD_CARD, "STUDY", {"StudyInstanceUID": "2.25.*"}, ""),  # no wild cards in a VR of UI
    (WILD_CARD, "SERIES", {"SeriesDescription": "Thorax*"}, "11 13"),
    (WILD_CARD, "SERIES", {"SeriesDescription": "*[T?]"}, "13"),  # brackets mean nothing
    (WILD_CARD, "SERIES", {"Modality": "?R"}, "12 13"),
    (WILD_CARD, "IMAGE", {"ImageType": "AX*"}, "111"),
    (RANGE, "PATIENT", {"PatientBirthDate": "19500101-19691231"}, "P1 P2"),
    (RANGE, "PATIENT", {"PatientBirthDate": "-19601231"}, "P1"),
    (RANGE, "STUDY", {"StudyDate": "20200305-20210101"}, "1 2"),
    (RANGE, "STUDY", {"StudyDate": "-20200305"}, "1 3"),
    (RANGE, "STUDY", {"StudyDate": "20200306-"}, "2"),
    (RANGE, "STUDY", {"StudyDate": "20210101-20200101"}, ""),
    (RANGE, "STUDY", {"StudyTime": "0900-0930"}, "2"),
    (RANGE, "STUDY", {"StudyTime": "101112.000001-"}, ""),
    (RANGE, "STUDY", {"StudyDate": "20191231-20200305", "StudyTime": "10-11"}, "1 3"),
    (RANGE, "SERIES", {"SeriesDate": "20200301-20200309"}, "11"),
    (RANGE, "SERIES", {"PerformedProcedureStepStartTime": "-1015"}, "11"),
    (RANGE, "IMAGE", {"ContentDate": "20200307-"}, "113"),
    (RANGE, "IMAGE", {"ContentTime": "235900-"}, "112"),
    (RANGE, "IMAGE", {"AcquisitionDateTime": "202003051018-20200305101859"}, "112"),
    (RANGE, "IMAGE", {"AcquisitionDateTime": "20200305101800-2020"}, "112 113"),
    (SEQUENCE, "STUDY", {"ProcedureCodeSequence": code("RPID24", "RADLEX")}, "1"),
    (SEQUENCE, "STUDY", {"ProcedureCodeSequence": code("RPID24", "DCM")}, ""),
    (SEQUENCE, "STUDY", {"ProcedureCodeSequence": item(CodeValue="RPID*", CodeMeaning="")}, "1"),
    (SEQUENCE, "STUDY", {"ProcedureCodeSequence": item(CodeValue="", CodeMeaning="")}, "1 2 3 4"),
    (SEQUENCE, "SERIES", {"RequestAttributesSequence": item(RequestedProcedureID="R1")}, "11"),
    (SEQUENCE, "SERIES", {"RequestAttributesSequence": item(RequestedProcedureID="R2")}, ""),
    (SEQUENCE, "IMAGE", {"ConceptNameCodeSequence": code("126000", "DCM"), **REPORT}, "121"),
    (SEQUENCE, "IMAGE", {"ConceptNameCodeSequence": code("126001", "DCM"), **REPORT}, ""),
    (HIERARCHICAL, "STUDY", {}, "1 2 3 4"),
    (HIERARCHICAL, "SERIES", {"StudyInstanceUID": "2.25.2"}, "21"),
    (HIERARCHICAL, "SERIES", {"StudyInstanceUID": "2.25.404"}, ""),
    (HIERARCHICAL, "IMAGE", {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.13"}, "131"),
    (HIERARCHICAL, "IMAGE", {"StudyInstanceUID": "2.25.2", "SeriesInstanceUID": "2.25.13"}, ""),
]
"""Section, level, keys, what is found. Names match without regard to case, which PS3.4 C.2.2.2.1 leaves open."""

REFUSED: list[tuple[str, str, str | None, Keys, str]] = [
    (LEVELS, "Study Root", None, {"StudyInstanceUID": ""}, "(0008,0052)"),
    (LEVELS, "Study Root", "SLICE", {}, "(0008,0052)"),
    (LEVELS, "Study Root", "PATIENT", {"PatientID": ""}, "(0008,0052)"),
    (LEVELS, "Patient Root", None, {"PatientID": ""}, "(0008,0052)"),
    (SCU, "Patient Root", "STUDY", {"StudyInstanceUID": ""}, "(0010,0020)"),
    (SCU, "Patient Root", "STUDY", {"PatientID": "", "StudyInstanceUID": ""}, "(0010,0020)"),
    (SCU, "Patient Root", "STUDY", {"PatientID": "P*"}, "(0010,0020)"),
    (SCU, "Patient Root", "SERIES", {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": ""}, "(0010,0020)"),
    (SCU, "Study Root", "SERIES", {"SeriesInstanceUID": ""}, "(0020,000D)"),
    (SCU, "Study Root", "SERIES", {"StudyInstanceUID": ["2.25.1", "2.25.2"]}, "(0020,000D)"),
    (SCU, "Study Root", "SERIES", {"StudyInstanceUID": "2.25.*"}, "(0020,000D)"),
    (SCU, "Study Root", "IMAGE", {"StudyInstanceUID": "2.25.1"}, "(0020,000E)"),
    (SCU, "Study Root", "IMAGE", {"SeriesInstanceUID": "2.25.11"}, "(0020,000D)"),
    (SCU, "Patient Root", "IMAGE", {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.11"}, "(0010,0020)"),
    (RANGE, "Study Root", "STUDY", {"StudyDate": "yesterday"}, "(0008,0020)"),
    (RANGE, "Study Root", "STUDY", {"StudyDate": "20200101-20200202-20200303"}, "(0008,0020)"),
    (RANGE, "Study Root", "STUDY", {"StudyDate": "20201399"}, "(0008,0020)"),
    (RANGE, "Study Root", "STUDY", {"StudyTime": "2560"}, "(0008,0030)"),
    (SEQUENCE, "Study Root", "STUDY", {"ProcedureCodeSequence": [*code("A", "B"), *code("C", "D")]}, "(0008,1032)"),
]
"""Section, model, level, keys, the attribute that the error comment names."""


def case_id(value: object) -> str:
    if not isinstance(value, dict):
        return str(value).replace(" ", "+")
    return "&".join(f"{keyword}={'item' if 'Sequence' in keyword else given}" for keyword, given in value.items())


@pytest.mark.usefixtures("_unchecked_keys")
@pytest.mark.parametrize(("section", "level", "keys", "expected"), CASES, ids=case_id)
def test_matching_in_both_models(
    archive: Node,
    peer: Factory,
    query: Factory,
    patient_root: str,
    section: str,
    level: str,
    keys: Keys,
    expected: str,
) -> None:
    asked = {UNIQUE[level]: "", **ABOVE[level], **keys}
    models = [] if level == "PATIENT" else [(StudyRoot, [asked])]
    whose = [asked] if level == "PATIENT" else [{**asked, "PatientID": patient} for patient in PATIENTS]
    models.append((patient_root, whose))
    for model, questions in models:
        found = []
        for question in questions:
            pending, last = peer(archive).find(query(level, **question), model=model)
            assert last.Status == 0
            assert {status for status, _ in pending} <= {0xFF00}, section
            found += [str(answer[UNIQUE[level]].value).split(".")[-1] for _, answer in pending]
        assert " ".join(found) == expected, (section, model)


@pytest.mark.usefixtures("_unchecked_keys")
@pytest.mark.parametrize(("section", "model", "level", "keys", "named"), REFUSED, ids=case_id)
def test_identifiers_that_break_the_rules(
    archive: Node,
    peer: Factory,
    query: Factory,
    patient_root: str,
    section: str,
    model: str,
    level: str | None,
    keys: Keys,
    named: str,
) -> None:
    root = patient_root if model == "Patient Root" else StudyRoot
    pending, last = peer(archive).find(query(level, **keys), model=root)
    assert (len(pending), last.Status) == (0, 0xA900), section
    assert named in last.ErrorComment
