"""Which instances are here, which only their archive has, which for a while."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from indexer.catalog import Catalog, SeriesState
from indexer.catalog.engine import BLOCK
from indexer.catalog.lookup import Level
from indexer.catalog.receipts import Receipt
from indexer.uids import EncoderId, StudyInstanceUID

Archive = Any
"""The shortcuts of conftest.py."""
ENCODER = EncoderId("encoder-a")


def uids(catalog: Catalog, limit: int = 100, **keys: Any) -> list[str]:  # noqa: ANN401 - lists of str by level
    wanted = {Level[name]: values for name, values in keys.items()}
    return [one.sop_instance_uid for one in catalog.holdings.instances(wanted, limit)]


def test_instances_below_unique_keys(archive: Archive, catalog: Catalog) -> None:
    for sop, series, study, patient in (
        ("2.25.5", "2.25.11", "2.25.1", "P1"),
        ("2.25.4", "2.25.12", "2.25.1", "P1"),
        ("2.25.6", "2.25.21", "2.25.2", "P2"),
        ("2.25.7", "2.25.31", "2.25.3", "P1"),
    ):
        archive.enter(sop, series, study=study, patient_id=patient)
    assert uids(catalog, PATIENT=["P1"]) == ["2.25.5", "2.25.4", "2.25.7"]
    assert uids(catalog, PATIENT=["P2"], STUDY=["2.25.1", "2.25.2"]) == ["2.25.6"]
    assert uids(catalog, STUDY=["2.25.1"], SERIES=["2.25.12", "2.25.21"]) == ["2.25.4"]
    assert uids(catalog, STUDY=["2.25.1"], SERIES=["2.25.11"], IMAGE=["2.25.5", "2.25.4"]) == ["2.25.5"]
    assert uids(catalog, STUDY=["2.25.404"]) == []
    assert uids(catalog, limit=2, PATIENT=["P1"]) == ["2.25.5", "2.25.4"]


def test_long_lists_of_uids(archive: Archive, catalog: Catalog) -> None:
    archive.settled(instances=3)
    many = [f"2.25.9.{n}" for n in range(BLOCK + 10)]
    asked = [*many, "2.25.11.1", "2.25.11.0", "2.25.11.1"]
    assert sorted(uids(catalog, STUDY=["2.25.1"], SERIES=["2.25.11"], IMAGE=asked)) == ["2.25.11.0", "2.25.11.1"]


def test_files_are_given_up_once_a_series_is_indexed(archive: Archive, catalog: Catalog) -> None:
    holdings = catalog.holdings
    archive.indexed("2.25.11")
    archive.settled("2.25.12")
    assert holdings.release(ENCODER, idle_s=3600.0, limit=10) == 0
    assert holdings.release(EncoderId("encoder-b"), idle_s=0.0, limit=10) == 0
    assert holdings.release(ENCODER, idle_s=0.0, limit=10) == 1
    assert holdings.release(ENCODER, idle_s=0.0, limit=10) == 0
    is_here = {one.sop_instance_uid: one.is_here for one in holdings.instances({Level.STUDY: ["2.25.1"]}, 100)}
    assert is_here == {"2.25.11.0": False, "2.25.11.1": False, "2.25.12.0": True, "2.25.12.1": True}
    assert holdings.is_released("2.25.11.0")
    assert not holdings.is_released("2.25.12.0")
    assert not holdings.is_released("2.25.404")
    assert holdings.released_paths() == {"2.25.11.0.dcm", "2.25.11.1.dcm"}
    assert holdings.released_series() == 1
    ((series_pk, files),) = holdings.unswept(10).items()
    assert files == [("2.25.11.0", "2.25.11.0.dcm"), ("2.25.11.1", "2.25.11.1.dcm")]
    assert holdings.released_instances(series_pk) == 2
    holdings.swept([series_pk])
    assert holdings.unswept(10) == {}
    assert holdings.is_released("2.25.11.0")


def test_what_comes_later_is_here(archive: Archive, catalog: Catalog) -> None:
    leased = archive.indexed("2.25.11")
    assert catalog.holdings.release(ENCODER, idle_s=0.0, limit=10) == 1
    assert archive.enter("2.25.11.9") is Receipt.STORED
    assert archive.state() == (SeriesState.RECEIVING, "")
    assert not catalog.holdings.is_released("2.25.11.9")
    assert catalog.holdings.released_instances(leased.series_pk) == 2


def test_a_series_without_files_is_not_sent_through_indexing_again(archive: Archive, catalog: Catalog) -> None:
    archive.indexed("2.25.11")
    archive.indexed("2.25.21", study="2.25.2")
    assert catalog.holdings.release(ENCODER, idle_s=0.0, limit=1) == 1
    assert catalog.progress.settle_again() == 1
    assert archive.state("2.25.11")[0] == SeriesState.INDEXED
    assert archive.state("2.25.21")[0] == SeriesState.SETTLED


def test_a_series_that_somebody_waits_for_goes_first(archive: Archive, catalog: Catalog) -> None:
    for n in (1, 2, 3):
        archive.settled(f"2.25.1{n}")
    info = catalog.lookup.series_by_uid("2.25.13")
    assert info is not None
    catalog.progress.hurry([info.series_pk])
    order = [catalog.progress.lease("w", 60.0) for _ in range(3)]
    assert [one.series_instance_uid for one in order if one] == ["2.25.13", "2.25.11", "2.25.12"]


def test_only_some_series_settle(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5", "2.25.11")
    archive.enter("2.25.6", "2.25.12")
    info = catalog.lookup.series_by_uid("2.25.12")
    assert info is not None
    assert catalog.progress.settle(0.0, only=[info.series_pk]) == 1
    assert archive.state("2.25.11")[0] == SeriesState.RECEIVING
    assert archive.state("2.25.12")[0] == SeriesState.SETTLED


@pytest.fixture
def fetch(archive: Archive, catalog: Catalog) -> Callable[[str], StudyInstanceUID]:
    """A study that was fetched and indexed."""

    def build(number: str) -> StudyInstanceUID:
        uid = StudyInstanceUID(f"2.25.{number}")
        archive.indexed(f"2.25.{number}1", study=uid, patient_id=f"P{number}")
        catalog.holdings.asked_about_fetched(uid, is_new=True)
        return uid

    return build


def test_a_fetched_study_is_dropped_whole(
    archive: Archive, catalog: Catalog, fetch: Callable[[str], StudyInstanceUID]
) -> None:
    archive.indexed("2.25.11")
    uid = fetch("2")
    assert catalog.holdings.fetched_studies() == [uid]
    assert catalog.holdings.fetched_studies(idle_s=3600.0) == []
    before = catalog.journal.last()
    assert catalog.holdings.drop(uid) == [("2.25.21.0", "2.25.21.0.dcm"), ("2.25.21.1", "2.25.21.1.dcm")]
    assert [len(list(catalog.lookup.entities(level))) for level in Level] == [1, 1, 1, 2]
    gone = catalog.journal.after(before, ENCODER, "GLOBAL", 100)
    assert [entry.added for entry in gone] == [False, False]
    assert catalog.holdings.fetched_studies() == []
    assert archive.enter("2.25.21.0", "2.25.21", study=uid, patient_id="P2") is Receipt.STORED


def test_only_fetched_studies_are_dropped(
    archive: Archive, catalog: Catalog, fetch: Callable[[str], StudyInstanceUID]
) -> None:
    archive.indexed("2.25.11")
    assert catalog.holdings.drop(StudyInstanceUID("2.25.1")) == []
    catalog.holdings.asked_about_fetched(StudyInstanceUID("2.25.1"), is_new=False)
    catalog.holdings.asked_about_fetched(StudyInstanceUID("2.25.404"), is_new=True)
    uid = fetch("3")
    catalog.holdings.keep_fetched(uid)
    assert catalog.holdings.fetched_studies() == []
    assert catalog.holdings.drop(uid) == []
    assert len(list(catalog.lookup.entities(Level.STUDY))) == 2


def test_a_question_prolongs_the_stay(catalog: Catalog, fetch: Callable[[str], StudyInstanceUID]) -> None:
    uid = fetch("2")
    time.sleep(1.6)
    assert catalog.holdings.fetched_studies(idle_s=1.5) == [uid]
    catalog.holdings.asked_about_fetched(uid, is_new=False)
    assert catalog.holdings.fetched_studies(idle_s=1.5) == []
