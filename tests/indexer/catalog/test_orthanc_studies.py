"""Studies of an Orthanc: entered with the cursor, taken by one at a time, waiting again where there was news."""

import time
from typing import Any

import pytest

from indexer.catalog import Catalog
from indexer.catalog.lookup import Level
from indexer.catalog.orthanc_studies import Cursor, News, WaitingStudy
from indexer.catalog.tombstones import REQUEST, Target
from indexer.uids import StudyInstanceUID

SERVER = "0123456789abcdef"
LEASE_S = 600.0
Archive = Any
"""`Archive` of the conftest."""


def take(catalog: Catalog, server: str = SERVER) -> WaitingStudy:
    taken = catalog.orthanc_studies.take(server, LEASE_S)
    assert taken is not None
    return taken


def test_the_cursor_moves_with_what_was_read(catalog: Catalog) -> None:
    studies = catalog.orthanc_studies
    assert studies.cursor(SERVER) is None
    studies.enter(SERVER, [News("a", 0.0), News("b", 1.0)], Cursor(7, "StableStudy a"))
    assert studies.cursor(SERVER) == Cursor(7, "StableStudy a")
    assert studies.cursor("another address.") is None
    assert studies.waiting(SERVER) == 2
    assert studies.waiting("another address.") == 0


def test_a_study_is_taken_by_one_and_again_when_that_one_died(catalog: Catalog) -> None:
    studies = catalog.orthanc_studies
    studies.enter(
        SERVER, [News("later", 20.0), News("first", 10.0), News("not yet", time.time() + 600)], Cursor(1, "")
    )
    first = take(catalog)
    assert first.public_id == "first"
    assert take(catalog).public_id == "later"
    assert studies.take(SERVER, LEASE_S) is None
    studies.keep(first, 0.0)
    assert take(catalog).public_id == "first"


def test_what_was_taken_over_waits_again_only_if_it_changed(catalog: Catalog) -> None:
    studies = catalog.orthanc_studies
    studies.enter(SERVER, [News("a", 0.0, "20260101T120000")], Cursor(1, ""))
    studies.done(take(catalog), None, "20260101T120000")
    assert (studies.waiting(SERVER), studies.taken_over(SERVER)) == (0, 1)
    studies.enter(SERVER, [News("a", 0.0, "20260101T120000")], Cursor(1, ""))
    assert studies.waiting(SERVER) == 0
    studies.enter(SERVER, [News("a", 0.0, "20260101T120001")], Cursor(1, ""))
    assert studies.waiting(SERVER) == 1
    studies.done(take(catalog), None, "20260101T120001")
    studies.enter(SERVER, [News("a", 0.0)], Cursor(2, ""))
    assert studies.waiting(SERVER) == 1


@pytest.mark.parametrize("end", ["done", "gone"])
def test_news_that_come_meanwhile_are_not_lost(catalog: Catalog, end: str) -> None:
    studies = catalog.orthanc_studies
    studies.enter(SERVER, [News("a", 0.0)], Cursor(1, ""))
    taken = take(catalog)
    studies.enter(SERVER, [News("a", 0.0)], Cursor(2, ""))
    if end == "done":
        studies.done(taken, None, "20260101T120000")
    else:
        studies.gone(taken)
    again = take(catalog)
    assert again.revision == taken.revision + 1
    studies.gone(again)
    assert (studies.waiting(SERVER), studies.taken_over(SERVER)) == (0, 0)


def test_of_two_times_the_earlier_one_counts(catalog: Catalog) -> None:
    studies, soon = catalog.orthanc_studies, time.time() + 600
    studies.enter(SERVER, [News("a", soon), News("b", soon), News("b", 0.0)], Cursor(1, ""))
    studies.enter(SERVER, [News("a", 0.0)], Cursor(2, ""))
    studies.enter(SERVER, [News("a", soon)], Cursor(3, ""))
    assert {take(catalog).public_id, take(catalog).public_id} == {"a", "b"}


def test_failures_are_told_and_counted_and_waiting_is_none(catalog: Catalog) -> None:
    studies = catalog.orthanc_studies
    studies.enter(SERVER, [News("a", 0.0)], Cursor(1, ""))
    studies.postpone(take(catalog), 0.0)
    assert studies.problems(SERVER) == []
    studies.postpone(take(catalog), 0.0, "Orthanc answered 500")
    (problem,) = studies.problems(SERVER)
    assert (problem.public_id, problem.attempts, problem.note) == ("a", 1, "Orthanc answered 500")
    assert take(catalog).attempts == 1


def test_only_what_was_entered_until_a_time_is_waited_for(catalog: Catalog) -> None:
    studies = catalog.orthanc_studies
    studies.enter(SERVER, [News("a", 0.0)], Cursor(1, ""))
    now = time.time()
    while time.time() <= now:
        pass
    studies.enter(SERVER, [News("b", 0.0)], Cursor(2, ""))
    assert (studies.waiting(SERVER), studies.waiting(SERVER, now)) == (2, 1)


def test_forgetting_a_study_forgets_that_it_was_taken_over(archive: Archive) -> None:
    archive.enter("2.25.100", study="2.25.1")
    catalog = archive.catalog
    studies = catalog.orthanc_studies
    studies.enter(SERVER, [News("a", 0.0, "20260101T120000")], Cursor(1, ""))
    studies.done(take(catalog), StudyInstanceUID("2.25.1"), "20260101T120000")
    catalog.tombstones.forget([Target(Level.STUDY, "2.25.1")], REQUEST, refuse=False)
    assert studies.taken_over(SERVER) == 0
    studies.enter(SERVER, [News("a", 0.0, "20260101T120000")], Cursor(1, ""))
    assert studies.waiting(SERVER) == 1
