"""Leafing through the studies: which a filter allows, in what order, page by page."""

from dataclasses import replace
from typing import Any

import pytest

from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog, SeriesState
from indexer.catalog.browse import StudyFilter

Factory = Any

STUDIES = (
    # study, patient's ID, name, Study Date, Accession Number, modality, body part
    ("2.25.1", "P1", "Müller^Jörg", "20200101", "A100", "CT", "CHEST"),
    ("2.25.2", "P1", "Müller^Jörg", "20210101", "A200", "MR", "BRAIN"),
    ("2.25.3", "P2", "DOE^JANE", "20190101", "B100", "CT", "ABDOMEN"),
    ("2.25.4", "P_3", "100%^Odd", "", "", "US", ""),
)


def _value(vr: str, value: object) -> dict[str, object]:
    return {"vr": vr, "Value": [value]} if value else {"vr": vr}


@pytest.fixture
def filled(catalog: Catalog, a_header: Factory, a_file: Factory) -> Catalog:
    for study, patient_id, name, date, accession, modality, body_part in STUDIES:
        for number in range(2):
            sop = f"{study}.1.{number}"
            header: InstanceHeader = a_header(sop, f"{study}.1", study, patient_id, modality)
            header.patient["00100010"] = _value("PN", {"Alphabetic": name, "Ideographic": "田中^由紀"})
            header.study["00080020"] = _value("DA", date)
            header.study["00080050"] = _value("SH", accession)
            header.series["00180015"] = _value("CS", body_part)
            catalog.receipts.enter(replace(header), a_file(sop), "keep-first")
    return catalog


FILTERS = (
    (StudyFilter(), ["2.25.2", "2.25.1", "2.25.3", "2.25.4"]),
    (StudyFilter(patient="doe"), ["2.25.3"]),
    (StudyFilter(patient="Jane, Doe"), ["2.25.3"]),
    (StudyFilter(patient="MÜLLER"), ["2.25.2", "2.25.1"]),
    (StudyFilter(patient="müller jörg p1"), ["2.25.2", "2.25.1"]),
    (StudyFilter(patient="由紀 p2"), ["2.25.3"]),
    (StudyFilter(patient="müller doe"), []),
    (StudyFilter(patient="%"), ["2.25.4"]),
    (StudyFilter(patient="P_"), ["2.25.4"]),
    (StudyFilter(accession_number="a"), ["2.25.2", "2.25.1"]),
    (StudyFilter(modality="CT"), ["2.25.1", "2.25.3"]),
    (StudyFilter(body_part="che", modality="CT"), ["2.25.1"]),
    (StudyFilter(body_part="chest", modality="MR"), []),
    (StudyFilter(study_date_from="20200101"), ["2.25.2", "2.25.1"]),
    (StudyFilter(study_date_to="20200101"), ["2.25.1", "2.25.3"]),
)


def test_a_filter_allows(filled: Catalog) -> None:
    for chosen, expected in FILTERS:
        found = filled.browse.studies(chosen, first=0, limit=10)
        assert [one.study_instance_uid for one in found] == expected, chosen


def test_pages_follow_each_other(filled: Catalog) -> None:
    pages = [filled.browse.studies(StudyFilter(), first=first, limit=3) for first in (0, 3, 6)]
    assert [[one.study_instance_uid for one in page] for page in pages] == [
        ["2.25.2", "2.25.1", "2.25.3"],
        ["2.25.4"],
        [],
    ]


def test_a_study_is_listed_with_its_series(filled: Catalog) -> None:
    found = filled.browse.by_uid(["2.25.2", "2.25.404"])
    assert list(found) == ["2.25.2"]
    study = found["2.25.2"]
    (series,) = study.series
    assert (series.modality, series.instances, study.instances) == ("MR", 2, 2)
    assert study.states == {SeriesState.RECEIVING: 1}
    assert study.attributes["00100020"]["Value"] == ["P1"]
    assert filled.browse.modalities() == ["CT", "MR", "US"]
