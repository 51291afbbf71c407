import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from dicom_scp.errors import Mismatched
from dicom_scp.identifier import Key
from dicom_scp.matching import matcher, matches, prefilter_of, wild_card_match
from indexer.attributes import JsonObject


def key(keyword: str, *values: str, items: tuple[tuple[Key, ...], ...] = ()) -> Key:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return Key(Tag(tag), dictionary_VR(tag), values, items)


def attributes(**given_values: object) -> JsonObject:
    found: JsonObject = {}
    for keyword, value in given_values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        values = value if isinstance(value, list) else [value]
        found[f"{tag:08X}"] = {"vr": dictionary_VR(tag), "Value": values}
    return found


SINGLE_VALUE, LIST_OF_UID, UNIVERSAL, WILD_CARD, RANGE = (f"PS3.4 C.2.2.2.{n}" for n in range(1, 6))
YAMADA = {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}


@pytest.mark.parametrize(
    ("section", "wanted", "stored", "expected"),
    [
        (SINGLE_VALUE, key("PatientName", "YAMADA^TAROU"), attributes(PatientName=YAMADA), True),
        (WILD_CARD, key("PatientName", "山田*"), attributes(PatientName=YAMADA), True),
        (WILD_CARD, key("PatientName", "Yamada*=山田*"), attributes(PatientName=YAMADA), True),
        (WILD_CARD, key("PatientName", "Yamada*=佐藤*"), attributes(PatientName=YAMADA), False),
        (WILD_CARD, key("PatientName", "==やまだ*"), attributes(PatientName=YAMADA), True),
        (WILD_CARD, key("PatientName", "=Yamada*"), attributes(PatientName=YAMADA), False),
        (SINGLE_VALUE, key("PatientName", "yamada ^tarou^^"), attributes(PatientName=YAMADA), True),
        (UNIVERSAL, key("PatientName", "*"), {}, True),
        (WILD_CARD, key("PatientName", "?*"), {}, False),
        (SINGLE_VALUE, key("Modality", "ct"), attributes(Modality="CT"), False),
        (SINGLE_VALUE, key("Modality", "CT", "MR"), attributes(Modality="MR"), True),
        (SINGLE_VALUE, key("ImageType", "AXIAL"), attributes(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]), True),
        (SINGLE_VALUE, key("SeriesNumber", "007"), attributes(SeriesNumber=7), True),
        (SINGLE_VALUE, key("SliceThickness", "2.50"), attributes(SliceThickness=2.5), True),
        (SINGLE_VALUE, key("SliceThickness", "2.5"), attributes(SliceThickness=None), False),
        (RANGE, key("StudyDate", "20200101-20200131"), attributes(StudyDate="2020.01.15"), True),
        (RANGE, key("StudyDate", "20200101-20200131"), attributes(StudyDate=""), False),
        (SINGLE_VALUE, key("StudyDate", "2020.01.15"), attributes(StudyDate="20200115"), True),
        (RANGE, key("StudyTime", "10-11"), attributes(StudyTime="115959.9"), True),
        (RANGE, key("StudyTime", "10-11"), attributes(StudyTime="120000"), False),
        (RANGE, key("StudyTime", "-0959"), attributes(StudyTime="095959.999999"), True),
        (SINGLE_VALUE, key("StudyTime", "10:11:12"), attributes(StudyTime="101112.5"), True),
        (RANGE, key("AcquisitionDateTime", "2020-2021"), attributes(AcquisitionDateTime="20211231235959"), True),
        (
            RANGE,
            key("AcquisitionDateTime", "2020-2021"),
            attributes(AcquisitionDateTime="20211231235959.1+0100"),
            True,
        ),
        (
            SINGLE_VALUE,
            key("AcquisitionDateTime", "20200101120000"),
            attributes(AcquisitionDateTime="20200101120001"),
            False,
        ),
        (LIST_OF_UID, key("StudyInstanceUID", "1.2", "1.3"), attributes(StudyInstanceUID="1.3"), True),
        (SINGLE_VALUE, key("StudyInstanceUID", "1.*"), attributes(StudyInstanceUID="1.3"), False),
        (SINGLE_VALUE, key("PatientAge", "050Y"), attributes(PatientAge="050Y"), True),
    ],
)
def test_matching(section: str, wanted: Key, stored: JsonObject, expected: bool) -> None:
    assert matches([wanted], stored) is expected, section


def test_sequence_keys_have_to_match_within_one_item() -> None:
    """PS3.4 C.2.2.2.6."""
    item = (key("CodeValue", "A"), key("CodingSchemeDesignator", "S1"))
    wanted = key("ProcedureCodeSequence", items=(item,))
    apart = [
        attributes(CodeValue="A", CodingSchemeDesignator="S2"),
        attributes(CodeValue="B", CodingSchemeDesignator="S1"),
    ]
    together = [*apart, attributes(CodeValue="A", CodingSchemeDesignator="S1")]
    assert not matches([wanted], attributes(ProcedureCodeSequence=apart))
    assert matches([wanted], attributes(ProcedureCodeSequence=together))
    assert matches([key("ProcedureCodeSequence", items=((key("CodeValue"),),))], {})


@pytest.mark.parametrize(
    "wanted",
    [
        key("StudyDate", "20200101-20200102-20200103"),
        key("StudyDate", "-"),
        key("StudyDate", "202001"),
        key("StudyDate", "20200230x"),
        key("StudyTime", "24"),
        key("StudyTime", "1200-12:61"),
        key("AcquisitionDateTime", "20200101+0100"),
        key("SeriesNumber", "1*"),
        key("ProcedureCodeSequence", items=((key("CodeValue", "A"),), (key("CodeValue", "B"),))),
    ],
)
def test_values_that_cannot_be_meant(wanted: Key) -> None:
    with pytest.raises(Mismatched):
        matcher([wanted])


def test_the_prefilter_narrows_by_literal_values_only() -> None:
    found = prefilter_of(
        [
            key("PatientID", "P1"),
            key("AccessionNumber", "A*"),
            key("StudyDate", "20200101-"),
            key("Modality", "CT", "MR"),
        ]
    )
    assert (found.patient_id, found.accession_number, found.modality) == (("P1",), None, ("CT", "MR"))
    assert (found.study_date_from, found.study_date_to) == ("20200101", "99991231")
    assert prefilter_of([key("StudyInstanceUID", *(f"1.{n}" for n in range(1000)))]).study_instance_uid is None


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=8))
def test_wild_cards_are_those_of_regular_expressions(pattern: str, text: str) -> None:
    import re

    expression = "".join({"*": ".*", "?": "."}.get(c, c) for c in pattern)
    assert wild_card_match(pattern, text) is (re.fullmatch(expression, text) is not None)


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not wild_card_match("*a" * 2000 + "b", "a" * 4000)
