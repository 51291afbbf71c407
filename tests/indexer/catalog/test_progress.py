"""From RECEIVING to INDEXED or PARKED: leases, late instances, workers that are gone."""

import threading
import time
from typing import Any

import pytest

from indexer.catalog import Catalog, SeriesState
from indexer.catalog.progress import LeasedSeries
from indexer.errors import NotFound

Archive = Any
"""The shortcuts of conftest.py."""

SERIES = "2.25.11"


def _lease(catalog: Catalog, owner: str = "w1", lease_s: float = 60.0) -> LeasedSeries:
    leased = catalog.progress.lease(owner, lease_s)
    assert leased is not None
    return leased


def test_a_series_settles_after_its_quiet_time(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5")
    assert catalog.progress.settle(30.0) == 0
    assert catalog.progress.settle(0.0, being_sent=[SERIES]) == 0
    assert catalog.progress.settle(0.0) == 1
    assert archive.state() == (SeriesState.SETTLED, "")
    assert catalog.progress.settle(0.0) == 0


def test_a_series_is_leased_to_one_worker(archive: Archive, catalog: Catalog) -> None:
    assert catalog.progress.lease("w1", 60.0) is None
    archive.settled(modality="MR")
    leased = _lease(catalog)
    assert (leased.series_instance_uid, leased.modality, leased.attempts) == (SERIES, "MR", 1)
    assert archive.state() == (SeriesState.INDEXING, "")
    assert catalog.progress.lease("w2", 60.0) is None


def test_the_one_that_waited_longest_comes_first(archive: Archive, catalog: Catalog) -> None:
    for number in range(3):
        archive.settled(f"2.25.11.{number}")
        time.sleep(0.002)
    order = [_lease(catalog).series_instance_uid for _ in range(3)]
    assert order == ["2.25.11.0", "2.25.11.1", "2.25.11.2"]


def test_many_workers_never_share_a_series(archive: Archive, catalog: Catalog) -> None:
    for number in range(12):
        archive.settled(f"2.25.11.{number}", instances=1)
    taken: list[str] = []

    def work(owner: str) -> None:
        while catalog.progress.counts().series_by_state.get(SeriesState.SETTLED):
            leased = catalog.progress.lease(owner, 60.0)
            if leased is not None:
                taken.append(leased.series_instance_uid)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"2.25.11.{n}" for n in range(12))


def test_a_lease_that_ran_out_goes_to_another_worker(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    first = _lease(catalog, "w1", lease_s=-1.0)
    second = _lease(catalog, "w2")
    assert (second.series_pk, second.attempts) == (first.series_pk, 2)
    catalog.progress.park(first, "w1", "too late to say")
    assert archive.state() == (SeriesState.INDEXING, "")
    catalog.progress.park(second, "w2", "its slices do not fit together")
    assert archive.state() == (SeriesState.PARKED, "its slices do not fit together")


def test_given_back_it_is_tried_again(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    catalog.progress.give_back(_lease(catalog), "w1", "a reason")
    assert archive.state() == (SeriesState.SETTLED, "a reason")
    again = _lease(catalog)
    assert again.attempts == 2
    catalog.progress.give_back(again, "w1", "not its fault", blame=False)
    assert _lease(catalog).attempts == 2


def test_given_back_with_a_pause_it_lets_others_pass(archive: Archive, catalog: Catalog) -> None:
    archive.settled("2.25.11.1")
    archive.settled("2.25.11.2")
    first = _lease(catalog)
    catalog.progress.give_back(first, "w1", "its file is away", pause_s=1.5)
    assert _lease(catalog).series_instance_uid == "2.25.11.2"
    assert catalog.progress.lease("w1", 60.0) is None
    time.sleep(1.6)
    assert _lease(catalog).series_instance_uid == "2.25.11.1"


def test_a_late_image_ends_the_pause_and_the_attempts(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    catalog.progress.give_back(_lease(catalog), "w1", "its file is away", pause_s=1000)
    archive.enter("2.25.5")
    catalog.progress.settle(0.0)
    assert _lease(catalog).attempts == 1


def test_a_late_image_ends_the_lease(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    leased = _lease(catalog)
    archive.enter("2.25.5")
    assert archive.state() == (SeriesState.RECEIVING, "")
    catalog.progress.park(leased, "w1", "said of fewer images")
    assert archive.state() == (SeriesState.RECEIVING, "")


def test_an_old_lease_of_the_same_worker_says_nothing_of_late_images(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    old = _lease(catalog)
    archive.enter("2.25.5")
    catalog.progress.settle(0.0)
    new = _lease(catalog)
    catalog.progress.park(old, "w1", "said of fewer images")
    assert archive.state() == (SeriesState.INDEXING, "")
    catalog.progress.park(new, "w1", "said of all")
    assert archive.state() == (SeriesState.PARKED, "said of all")


def test_a_parked_series_waits_until_an_image_comes(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    catalog.progress.park(_lease(catalog), "w1", "a reason")
    assert catalog.progress.lease("w1", 60.0) is None
    (parked,) = catalog.progress.parked()
    assert (parked.series_instance_uid, parked.instances, parked.reason) == (SERIES, 2, "a reason")
    archive.enter("2.25.5")
    assert archive.state() == (SeriesState.RECEIVING, "")


def test_a_stopped_node_frees_its_series_without_blame(archive: Archive, catalog: Catalog) -> None:
    archive.settled("2.25.11.1")
    archive.settled("2.25.11.2")
    _lease(catalog, "host_a:1")
    _lease(catalog, "hostXa:1")
    assert catalog.progress.release("host_a:", 3, blame=False) == 1
    assert _lease(catalog).attempts == 1
    assert archive.state("2.25.11.2")[0] == SeriesState.INDEXING


def test_a_series_that_ends_its_workers_is_parked(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    for _ in range(2):
        _lease(catalog)
        assert catalog.progress.release("w", 2, blame=True) == 1
    assert archive.state() == (SeriesState.PARKED, "the worker process ended while indexing it, 2 times")


def test_series_go_through_indexing_again(archive: Archive, catalog: Catalog) -> None:
    archive.indexed("2.25.11")
    archive.settled("2.25.21", study="2.25.2")
    catalog.progress.park(_lease(catalog), "w1", "a reason")
    archive.enter("2.25.7", "2.25.31", study="2.25.3")
    assert catalog.progress.settle_again(parked_only=True) == 1
    assert archive.state("2.25.21") == (SeriesState.SETTLED, "")
    assert catalog.progress.settle_again("2.25.1") == 1
    assert archive.state("2.25.11") == (SeriesState.SETTLED, "")
    assert catalog.progress.settle_again() == 0
    with pytest.raises(NotFound):
        catalog.progress.settle_again("2.25.99")


def test_counts(archive: Archive, catalog: Catalog) -> None:
    archive.indexed("2.25.11")
    archive.settled("2.25.21", study="2.25.2")
    archive.enter("2.25.7", "2.25.31", study="2.25.3")
    counts = catalog.progress.counts()
    assert (counts.studies, counts.instances, counts.quarantined, counts.conflicts) == (3, 5, 0, 0)
    assert counts.series_by_state == {SeriesState.INDEXED: 1, SeriesState.SETTLED: 1, SeriesState.RECEIVING: 1}
    assert catalog.progress.outstanding() == 2


def test_what_an_encoder_has_not_seen(archive: Archive, catalog: Catalog) -> None:
    first = archive.indexed("2.25.11")
    archive.indexed("2.25.12")
    archive.settled("2.25.13")
    uids = [one.series_instance_uid for one in catalog.progress.not_yet_by("encoder-b", 9)]
    assert uids == ["2.25.11", "2.25.12"]
    assert catalog.progress.not_yet_by("encoder-a", 9) == []
    archive.finish(first, None, [], "encoder-b")
    uids = [one.series_instance_uid for one in catalog.progress.not_yet_by("encoder-b", 9)]
    assert uids == ["2.25.12"]


def test_a_person_has_one_parked_series_tried_again(archive: Archive, catalog: Catalog) -> None:
    for series in (SERIES, "2.25.12"):
        catalog.progress.park(archive.leased(series), "w1", "no volume")
    assert catalog.progress.retry(SERIES)
    assert archive.state() == (SeriesState.SETTLED, "")
    assert archive.state("2.25.12") == (SeriesState.PARKED, "no volume")
    assert _lease(catalog).attempts == 1
    assert not catalog.progress.retry(SERIES)
    assert not catalog.progress.retry("2.25.404")
