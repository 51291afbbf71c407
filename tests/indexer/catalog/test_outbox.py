"""The outbox: which studies have come to rest, deliveries that are entered once and worked off."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from indexer.catalog import Catalog
from indexer.catalog import outbox as outbox_module
from indexer.catalog.outbox import REQUESTED, DeliveryState, NewDelivery, RestingStudy
from indexer.errors import NotFound

Archive = Any
"""`Archive` of the conftest."""
WANTED = [NewDelivery("to the PACS", "report", "PACS"), NewDelivery("hook", "webhook", "")]


@pytest.fixture(autouse=True)
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_LAG_S", 0.0)


def studies(resting: Sequence[RestingStudy]) -> list[tuple[str, int]]:
    return [(one.study_instance_uid, one.revision) for one in resting]


def entered(catalog: Catalog) -> RestingStudy:
    """Enter what is wanted for the only study at rest."""
    catalog.outbox.watch()
    (resting,) = catalog.outbox.resting(0.0)
    assert catalog.outbox.enter(resting, WANTED, 0.0) == len(WANTED)
    return resting


def test_the_archive_of_before_is_not_awaited(archive: Archive, catalog: Catalog) -> None:
    archive.indexed("2.25.11")
    assert catalog.outbox.watch() == 0
    archive.indexed("2.25.21", study="2.25.2")
    assert catalog.outbox.watch() == 2
    assert studies(catalog.outbox.resting(0.0)) == [("2.25.2", 2)]


def test_without_rules_what_arrives_meanwhile_is_nobodys(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    catalog.outbox.watch()
    catalog.outbox.forget_watch()
    archive.indexed("2.25.12", study="2.25.2")
    assert catalog.outbox.watch() == 0
    assert catalog.outbox.resting(0.0) == []


def test_a_study_rests_when_all_its_series_do(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    archive.enter("2.25.12.1", "2.25.12")
    catalog.outbox.watch()
    assert catalog.outbox.resting(0.0) == []
    catalog.progress.settle(0.0)
    assert catalog.outbox.resting(0.0) == []
    leased = catalog.progress.lease("w1", 60.0)
    assert leased is not None
    assert catalog.outbox.resting(0.0) == []
    catalog.progress.park(leased, "w1", "unreadable")
    assert studies(catalog.outbox.resting(0.0)) == [("2.25.1", 3)]
    assert catalog.outbox.resting(60.0) == []


def test_one_delivery_for_a_target_however_often_it_is_wanted(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    for number in range(5):
        archive.indexed(f"2.25.1{number}")
    resting = entered(catalog)
    assert catalog.outbox.resting(0.0) == []
    assert catalog.outbox.enter(resting, WANTED, 0.0) == 0
    assert catalog.outbox.counts() == {DeliveryState.WAITING: 2}


def test_indexing_again_tells_nothing_and_a_new_image_does(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    entered(catalog)
    catalog.progress.settle_again()
    leased = catalog.progress.lease("w1", 60.0)
    archive.finish(leased, "w1", [])
    catalog.outbox.watch()
    assert catalog.outbox.resting(0.0) == []
    archive.enter("2.25.11.late")
    catalog.outbox.watch()
    catalog.progress.settle(0.0)
    archive.finish(catalog.progress.lease("w1", 60.0), "w1", [])
    assert entered(catalog).revision == 3
    assert catalog.outbox.counts() == {DeliveryState.WAITING: 4}


def test_a_document_of_the_study_is_no_news(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    entered(catalog)
    archive.enter("2.25.19.1", "2.25.19", modality="SR", sop_class="1.2.840.10008.5.1.4.1.1.88.34")
    assert catalog.outbox.watch() == 1
    assert catalog.outbox.resting(0.0) == []


def test_what_moved_meanwhile_is_entered_later(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    catalog.outbox.watch()
    (resting,) = catalog.outbox.resting(0.0)
    archive.enter("2.25.11.late")
    assert catalog.outbox.enter(resting, WANTED, 0.0) == 0
    assert catalog.outbox.counts() == {}
    catalog.progress.settle(0.0)
    archive.finish(catalog.progress.lease("w1", 60.0), "w1", [])
    assert studies(catalog.outbox.resting(0.0)) == [("2.25.1", 3)]


def test_young_instances_wait_for_those_before_them(
    archive: Archive, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    monkeypatch.setattr(outbox_module, "_LAG_S", 60.0)
    assert catalog.outbox.watch() == 0
    monkeypatch.setattr(outbox_module, "_LAG_S", 0.0)
    assert catalog.outbox.watch() == 2


def test_a_delivery_is_taken_by_one_and_by_another_after_its_lease(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    entered(catalog)
    with ThreadPoolExecutor(8) as threads:
        taken = [one for one in threads.map(lambda _: catalog.outbox.take(1.5), range(8)) if one]
    assert sorted(one.target for one in taken) == ["", "PACS"]
    assert catalog.outbox.take(60.0) is None
    time.sleep(1.6)
    assert {one.pk for _ in range(2) if (one := catalog.outbox.take(60.0))} == {one.pk for one in taken}


def test_from_waiting_to_done_or_failed(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    entered(catalog)
    first, second = catalog.outbox.take(60.0), catalog.outbox.take(60.0)
    assert first is not None
    assert second is not None
    catalog.outbox.postpone(first, time.time() - 1, "nobody answers")
    (problem,) = catalog.outbox.problems()
    assert (problem.rule, problem.target, problem.attempts, problem.note) == (
        "to the PACS", "PACS", 1, "nobody answers",
    )  # fmt: skip
    again = catalog.outbox.take(60.0)
    assert again is not None
    assert (again.pk, again.attempts, again.study_instance_uid) == (first.pk, 1, "2.25.1")
    catalog.outbox.done(again)
    catalog.outbox.fail(second, "not wanted")
    assert [(one.state, one.note) for one in catalog.outbox.problems()] == [(DeliveryState.FAILED, "not wanted")]
    assert catalog.outbox.counts() == {DeliveryState.DONE: 1, DeliveryState.FAILED: 1}
    assert catalog.outbox.take(60.0) is None


def test_every_target_of_a_rule_is_told_the_same(archive: Archive, catalog: Catalog) -> None:
    catalog.outbox.watch()
    archive.indexed("2.25.11")
    catalog.outbox.watch()
    (resting,) = catalog.outbox.resting(0.0)
    wanted = [
        NewDelivery("r", "report", "ONE"),
        NewDelivery("r", "report", "TWO"),
        NewDelivery("s", "report", "ONE"),
    ]
    catalog.outbox.enter(resting, wanted, 0.0)
    taken = [one for _ in range(3) if (one := catalog.outbox.take(60.0))]
    catalog.outbox.prepared(taken[0], {"sop_instance_uid": "2.25.9"})
    assert [catalog.outbox.payload_of(one) for one in taken] == [
        {"sop_instance_uid": "2.25.9"}, {"sop_instance_uid": "2.25.9"}, None,
    ]  # fmt: skip


def test_requests_are_entered_every_time(archive: Archive, catalog: Catalog) -> None:
    archive.indexed("2.25.11")
    for _ in range(2):
        catalog.outbox.request("2.25.1", "report", "PACS", {"sop_instance_uid": "2.25.9"})
    taken = catalog.outbox.take(60.0)
    assert taken is not None
    assert (taken.rule, taken.payload) == (REQUESTED, {"sop_instance_uid": "2.25.9"})
    assert catalog.outbox.counts() == {DeliveryState.WAITING: 2}
    with pytest.raises(NotFound):
        catalog.outbox.request("2.25.404", "report", "PACS", {})


def test_the_archive_is_the_same_one_after_every_start(url: str) -> None:
    uids = set()
    for _ in range(2):
        with Catalog(url) as catalog:
            uids.add(catalog.outbox.device_uid())
    (uid,) = uids
    assert uid.startswith("2.25.")
