from collections.abc import Callable
from pathlib import Path

import pytest

from config.errors import ConfigError
from indexer.evaluate.items import match, subject_of
from indexer.evaluate.labels import read_labels


def test_the_last_column_holds_the_labels(a_table: Callable[..., Path]) -> None:
    table = read_labels(
        a_table(
            ("series", "centre_mm_from_inferior_end", "level"),
            ("one", 48, "pelvis"),
            ("one", 144, "abdomen/liver; abdomen/spleen"),
            ("two", "", ""),
        )
    )
    assert table.column == "level"
    assert table.unlabelled == 1
    assert [(row.series, row.centre_mm) for row in table.rows] == [("one", 48.0), ("one", 144.0)]
    assert table.rows[1].labels == {("abdomen", "liver"), ("abdomen", "spleen")}


def test_columns_joined_are_a_hierarchy(a_table: Callable[..., Path]) -> None:
    path = a_table(("study", "modality", "part", "note"), ("2.25.1", "CT", "HEAD", "-"), name="labels.csv")
    table = read_labels(path, "part/modality")
    assert table.rows[0].labels == {("HEAD", "CT")}
    assert table.rows[0].study == "2.25.1"
    assert read_labels(path, "part/modality", depth=1).rows[0].labels == {("HEAD",)}


def test_rows_of_one_place_are_joined(a_table: Callable[..., Path]) -> None:
    table = read_labels(
        a_table(("series", "relevance", "finding"), ("a", "", "nodule"), ("a", 2, "effusion"), ("b", 0.5, "nodule"))
    )
    assert [(row.series, len(row.labels), row.relevance) for row in table.rows] == [("a", 2, 2.0), ("b", 1, 0.5)]


def test_every_problem_is_named_at_once(a_table: Callable[..., Path]) -> None:
    path = a_table(
        ("series", "centre_mm_from_inferior_end", "relevance", "level"),
        ("", 48, "", "x"),
        ("a", "high", "", "x"),
        ("a", "nan", "", "x"),
        ("a", 48, 0, "x"),
    )
    with pytest.raises(ConfigError) as caught:
        read_labels(path)
    assert [problem.split(":")[0].split()[-1] for problem in caught.value.problems] == ["2", "3", "4", "5"]


@pytest.mark.parametrize("column", ["organ", "level/organ", "series"])
def test_an_unknown_or_reserved_column_is_refused(a_table: Callable[..., Path], column: str) -> None:
    with pytest.raises(ConfigError, match="no label column"):
        read_labels(a_table(("series", "level"), ("a", "x")), column)


def test_a_table_must_say_what_is_labelled(a_table: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`series` or `study`"):
        read_labels(a_table(("scan", "level"), ("a", "x")))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path / "absent.tsv")
    with pytest.raises(ConfigError, match="got none"):
        read_labels(a_table(("series", "level"), ("a", "")))


def subject(name: str = "", patient: str = "", **attributes: str):  # noqa: ANN201
    return subject_of(lambda keyword: attributes.get(keyword, ""), name, patient)


def test_rows_find_series_by_folder_series_and_study(a_table: Callable[..., Path]) -> None:
    subjects = [
        subject("one", SeriesInstanceUID="2.25.11", StudyInstanceUID="2.25.1"),
        subject("two", SeriesInstanceUID="2.25.12", StudyInstanceUID="2.25.1"),
    ]
    rows = read_labels(
        a_table(
            ("series", "study", "label"),
            ("one", "", "x"),
            ("2.25.12", "", "x"),
            ("", "2.25.1", "x"),
            ("other", "", "x"),
        )
    ).rows
    wanted, unmatched = match(rows, subjects)
    assert [one.subjects for one in wanted] == [(0,), (1,), (0, 1)]
    assert unmatched == 1


def test_without_a_patient_id_the_study_is_the_patient() -> None:
    first = subject("a", StudyInstanceUID="2.25.1", SeriesInstanceUID="2.25.11")
    second = subject("b", StudyInstanceUID="2.25.1", SeriesInstanceUID="2.25.12", PatientID="  ")
    other = subject("c", StudyInstanceUID="2.25.2")
    known = subject("d", StudyInstanceUID="2.25.2", PatientID="7")
    assert first.patient == second.patient
    assert len({first.patient, other.patient, known.patient}) == 3
    assert known.patient == subject("e", StudyInstanceUID="2.25.3", PatientID="7 ").patient
    assert known.patient != subject("f", PatientID="7", IssuerOfPatientID="elsewhere").patient


@pytest.mark.parametrize(
    ("attributes", "age"),
    [
        ({"PatientAge": "049Y"}, "40-59"),
        ({"PatientAge": "011M"}, "0-17"),
        ({"PatientAge": "080Y"}, "80 and older"),
        ({"PatientBirthDate": "19500601", "StudyDate": "20200531"}, "60-79"),
        ({"PatientBirthDate": "20210101", "StudyDate": "20200101"}, "unknown"),
        ({"PatientAge": "49"}, "unknown"),
        ({"PatientAge": "None", "PatientBirthDate": "19501399", "StudyDate": "20200101"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_age_groups(attributes: dict[str, str], age: str) -> None:
    assert subject(**attributes).group.age == age


def test_groups_of_what_headers_hold() -> None:
    group = subject(
        Manufacturer="GE MEDICAL SYSTEMS", PatientSex="f", SliceThickness="5.000000", Modality="CT"
    ).group
    assert (group.manufacturer, group.sex, group.slice_thickness, group.modality) == ("GE", "F", "3 to 5 mm", "CT")
    empty = subject(Manufacturer="  ", PatientSex="None", SliceThickness="thick").group
    assert {empty.manufacturer, empty.sex, empty.slice_thickness, empty.modality} == {"unknown"}
