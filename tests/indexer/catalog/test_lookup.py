"""Reading the hierarchy: what a prefilter lets through, and what lies below."""

from typing import Any

import pytest

from indexer.catalog import Catalog, SeriesState
from indexer.catalog import lookup as lookup_module
from indexer.catalog.lookup import Level, Prefilter, Summary

Archive = Any
"""The shortcuts of conftest.py."""
DATE, ACCESSION = "00080020", "00080050"
CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture(autouse=True)
def _three_studies(archive: Archive) -> None:
    archive.enter("2.25.5", "2.25.11", study="2.25.1", patient_id="P1", **{DATE: "20240101", ACCESSION: "A1"})
    archive.enter("2.25.6", "2.25.11", study="2.25.1", patient_id="P1")
    archive.enter("2.25.7", "2.25.12", study="2.25.1", patient_id="P1", sop_class=SR, modality="SR")
    archive.enter("2.25.8", "2.25.21", study="2.25.2", patient_id="P1", modality="MR", **{DATE: "20250101"})
    archive.enter("2.25.9", "2.25.31", study="2.25.3", patient_id="P2", **{ACCESSION: "A1"})


def _uids(catalog: Catalog, level: Level, prefilter: Prefilter) -> list[str]:
    tag = {Level.PATIENT: "00100020", Level.STUDY: "0020000D", Level.SERIES: "0020000E", Level.IMAGE: "00080018"}
    return [one.attributes[tag[level]]["Value"][0] for one in catalog.lookup.entities(level, prefilter)]


@pytest.mark.parametrize(
    ("level", "prefilter", "expected"),
    [
        (Level.PATIENT, Prefilter(), ["P1", "P2"]),
        (Level.PATIENT, Prefilter(patient_id=["P2"]), ["P2"]),
        (Level.STUDY, Prefilter(patient_id=["P1"]), ["2.25.1", "2.25.2"]),
        (Level.STUDY, Prefilter(study_instance_uid=["2.25.2", "2.25.3"]), ["2.25.2", "2.25.3"]),
        (Level.STUDY, Prefilter(study_instance_uid=[]), []),
        (Level.STUDY, Prefilter(accession_number=["A1"]), ["2.25.1", "2.25.3"]),
        (Level.STUDY, Prefilter(study_date_from="20240601"), ["2.25.2"]),
        (Level.STUDY, Prefilter(study_date_to="20240601"), ["2.25.1"]),
        (Level.STUDY, Prefilter(modality=["MR"]), ["2.25.1", "2.25.2", "2.25.3"]),
        (Level.SERIES, Prefilter(modality=["SR", "MR"]), ["2.25.12", "2.25.21"]),
        (Level.SERIES, Prefilter(series_instance_uid=["2.25.11"]), ["2.25.11"]),
        (Level.IMAGE, Prefilter(sop_instance_uid=["2.25.6"], patient_id=["P1"]), ["2.25.6"]),
        (Level.IMAGE, Prefilter(sop_instance_uid=["2.25.6"], patient_id=["P2"]), []),
        (Level.IMAGE, Prefilter(sop_instance_uid=[f"2.25.{n}" for n in range(5000)], modality=["MR"]), ["2.25.8"]),
    ],
)
def test_the_prefilter_narrows(catalog: Catalog, level: Level, prefilter: Prefilter, expected: list[str]) -> None:
    assert _uids(catalog, level, prefilter) == expected


def test_entities_know_everything_above_them(catalog: Catalog) -> None:
    (image,) = catalog.lookup.entities(Level.IMAGE, Prefilter(sop_instance_uid=["2.25.8"]))
    assert image.attributes["00100020"]["Value"] == ["P1"]
    assert image.attributes["0020000D"]["Value"] == ["2.25.2"]
    (study,) = catalog.lookup.entities(Level.STUDY, Prefilter(study_instance_uid=["2.25.2"]))
    assert (study.patient_pk, study.study_pk) == (image.patient_pk, image.study_pk)
    assert (study.series_pk, study.instance_pk) == (0, 0)
    assert image.instance_pk > 0


@pytest.mark.parametrize("level", Level)
def test_blocks_leave_nothing_out(catalog: Catalog, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _uids(catalog, level, Prefilter())
    monkeypatch.setattr(lookup_module, "_BLOCK", 1)
    assert _uids(catalog, level, Prefilter()) == whole


def test_what_lies_below(catalog: Catalog) -> None:
    by_uid = {one.attributes["0020000D"]["Value"][0]: one for one in catalog.lookup.entities(Level.STUDY)}
    pks = [one.study_pk for one in by_uid.values()]
    found = catalog.lookup.summaries(Level.STUDY, [*pks, 999])
    assert sorted(found) == sorted(pks)
    assert found[by_uid["2.25.1"].study_pk] == Summary(1, 2, 3, ("CT", "SR"), tuple(sorted([CT, SR])))
    patient_pk = by_uid["2.25.1"].patient_pk
    assert catalog.lookup.summaries(Level.PATIENT, [patient_pk])[patient_pk].studies == 2


def test_series_by_every_name(catalog: Catalog) -> None:
    lookup = catalog.lookup
    info = lookup.series_by_uid("2.25.21")
    assert info is not None
    assert (info.study_instance_uid, info.modality, info.state) == ("2.25.2", "MR", SeriesState.RECEIVING)
    assert lookup.series_info([info.series_pk, 999]) == {info.series_pk: info}
    assert lookup.series_by_uid("2.25.99") is None
    assert [one.series_instance_uid for one in lookup.series_of_study("2.25.1")] == ["2.25.11", "2.25.12"]
    assert lookup.series_of_study("2.25.99") == []
    assert [one.series_instance_uid for one in lookup.series_of_patient(info.patient_pk)] == [
        "2.25.11",
        "2.25.12",
        "2.25.21",
    ]
    of_instances = lookup.series_of_instances(["2.25.8", "2.25.5", "2.25.6", "2.25.99"])
    assert [one.series_instance_uid for one in of_instances] == ["2.25.11", "2.25.21"]
    assert lookup.studies_by_accession("A1") == ["2.25.1", "2.25.3"]
    assert lookup.instance_path("2.25.5") == "2.25.5.dcm"
    assert lookup.instance_path("2.25.99") is None
