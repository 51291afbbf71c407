"""Requests for storage commitment in the catalog: each once, taken by one at a time, never lost."""

import threading
import time
from typing import Any

from indexer.catalog import Catalog
from indexer.catalog.commitments import Commitment, CommitmentState, Reference
from indexer.catalog.lookup import Level
from indexer.catalog.tombstones import REQUEST, Target
from indexer.uids import SOPInstanceUID, StudyInstanceUID

Archive = Any
"""Of the conftest."""
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
REFERENCES = (Reference(CT, SOPInstanceUID("2.25.5")), Reference(MR, SOPInstanceUID("2.25.6")))
REQUESTED, CHECKED = CommitmentState.REQUESTED, CommitmentState.CHECKED


def requested(catalog: Catalog, uid: str = "2.25.100") -> bool:
    return catalog.commitments.request(uid, "MODALITY", "PACSIMILE", REFERENCES)


def taken(catalog: Catalog, state: CommitmentState, lease_s: float = 60.0) -> Commitment:
    found = catalog.commitments.take(state, lease_s)
    assert found is not None
    return found


def test_a_request_is_kept_as_it_came_and_once(catalog: Catalog) -> None:
    assert requested(catalog)
    assert not requested(catalog)
    assert catalog.commitments.state_of("2.25.100") is REQUESTED
    assert catalog.commitments.state_of("2.25.101") is None
    found = taken(catalog, REQUESTED)
    assert (found.transaction_uid, found.requester, found.called) == ("2.25.100", "MODALITY", "PACSIMILE")
    assert found.references == REFERENCES
    assert found.reasons == ()
    assert abs(found.requested_at - time.time()) < 60


def test_a_request_goes_from_state_to_state(catalog: Catalog) -> None:
    requested(catalog)
    catalog.commitments.checked(taken(catalog, REQUESTED), [0, 0x0112], time.time())
    assert catalog.commitments.take(REQUESTED, 60.0) is None
    found = taken(catalog, CHECKED)
    assert found.reasons == (0, 0x0112)
    catalog.commitments.postpone(found, time.time(), "nobody is there")
    again = taken(catalog, CHECKED)
    assert (again.attempts, again.reasons) == (1, (0, 0x0112))
    catalog.commitments.reported(again)
    assert catalog.commitments.state_of("2.25.100") is CommitmentState.REPORTED
    assert catalog.commitments.take(CHECKED, 60.0) is None
    assert not requested(catalog)  # a Transaction UID is never used again


def test_nobody_takes_what_is_not_due(catalog: Catalog) -> None:
    requested(catalog)
    catalog.commitments.checked(taken(catalog, REQUESTED), [0, 0], time.time() + 3600)
    assert catalog.commitments.take(CHECKED, 60.0) is None


def test_what_was_taken_is_due_again_when_its_time_is_over(catalog: Catalog) -> None:
    requested(catalog)
    first = taken(catalog, REQUESTED, lease_s=1.5)
    assert catalog.commitments.take(REQUESTED, 60.0) is None
    time.sleep(1.6)
    assert taken(catalog, REQUESTED).pk == first.pk
    assert catalog.commitments.take(REQUESTED, 60.0) is None
    catalog.commitments.keep(first, 0.0)
    assert taken(catalog, REQUESTED).pk == first.pk


def test_many_that_take_at_once_take_each_request_once(catalog: Catalog) -> None:
    for number in range(20):
        requested(catalog, f"2.25.{number}")
    found: list[str] = []

    def take_all() -> None:
        misses = 0
        while misses < 3:
            one = catalog.commitments.take(REQUESTED, 60.0)
            misses = 0 if one else misses + 1
            found.extend([one.transaction_uid] if one else [])

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"2.25.{number}" for number in range(20))


def test_only_what_stays_is_held(catalog: Catalog, archive: Archive) -> None:
    archive.enter("2.25.5")
    archive.enter("2.25.6", series="2.25.12", study="2.25.2")
    both = [SOPInstanceUID("2.25.5"), SOPInstanceUID("2.25.6"), SOPInstanceUID("2.25.7")]
    held = catalog.commitments.held(both)
    assert set(held) == {"2.25.5", "2.25.6"}
    assert (held["2.25.5"].sop_class_uid, held["2.25.5"].path) == (CT, "2.25.5.dcm")
    catalog.holdings.asked_about_fetched(StudyInstanceUID("2.25.2"), is_new=True)
    assert set(catalog.commitments.held(both)) == {"2.25.5"}
    catalog.holdings.keep_fetched(StudyInstanceUID("2.25.2"))
    assert set(catalog.commitments.held(both)) == {"2.25.5", "2.25.6"}


def test_what_is_forgotten_while_it_is_checked_is_left_out(catalog: Catalog, archive: Archive) -> None:
    archive.enter("2.25.5")
    archive.enter("2.25.6", series="2.25.12", study="2.25.2")
    assert requested(catalog)
    found = taken(catalog, REQUESTED)
    catalog.tombstones.forget([Target(Level.STUDY, "2.25.2")], REQUEST, refuse=False)
    catalog.commitments.checked(found, [0, 0x0112], time.time())
    left = taken(catalog, CHECKED)
    assert (left.references, left.reasons) == (REFERENCES[:1], (0,))
    catalog.tombstones.forget([Target(Level.STUDY, "2.25.1")], REQUEST, refuse=False)
    catalog.commitments.checked(found, [0, 0x0112], time.time())
    assert catalog.commitments.state_of("2.25.100") is None
