"""Entering instances: once each, whoever comes at the same moment, and what becomes of conflicts."""

import threading
import time
from collections.abc import Callable
from typing import Any

from indexer.catalog import Catalog, SeriesState
from indexer.catalog.lookup import Level
from indexer.catalog.receipts import KnownInstance, Receipt

Archive = Any
"""The shortcuts of conftest.py."""

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def test_an_instance_is_entered_once(archive: Archive, catalog: Catalog) -> None:
    assert catalog.receipts.known("2.25.5") is None
    assert archive.enter("2.25.5") is Receipt.STORED
    assert archive.enter("2.25.5") is Receipt.KNOWN
    assert catalog.receipts.known("2.25.5") == KnownInstance("2.25.5.dcm", "2.25.5".rjust(64, "0"))
    assert archive.state() == (SeriesState.RECEIVING, "")
    assert catalog.progress.counts().instances == 1


def test_the_hierarchy_is_made_once(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5")
    archive.enter("2.25.6", "2.25.12")
    archive.enter("2.25.7", "2.25.21", study="2.25.2")
    assert [len(list(catalog.lookup.entities(level))) for level in Level] == [1, 2, 3, 3]


def test_other_content_under_the_same_uid_is_not_taken(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5")
    for _ in range(2):
        assert archive.enter("2.25.5", content="x") is Receipt.KEPT_FIRST
    assert catalog.lookup.instance_path("2.25.5") == "2.25.5.dcm"
    assert catalog.progress.counts().conflicts == 1


def test_other_content_replaces_where_configured(archive: Archive, catalog: Catalog) -> None:
    archive.settled()
    revision = catalog.progress.lease("w", 60.0).revision
    assert archive.enter("2.25.11.0", content="x", on_conflict="replace") is Receipt.REPLACED
    assert catalog.lookup.instance_path("2.25.11.0") == "2.25.11.0x.dcm"
    assert archive.state() == (SeriesState.RECEIVING, "")
    catalog.progress.settle(0.0)
    assert catalog.progress.lease("w", 60.0).revision == revision + 1
    assert catalog.progress.counts().conflicts == 1


def test_an_instance_is_not_moved_to_another_series(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5")
    assert archive.enter("2.25.5", "2.25.12", content="x", on_conflict="replace") is Receipt.KEPT_FIRST
    assert catalog.lookup.series_by_uid("2.25.12") is None


def test_a_series_is_not_mixed_into_another_study(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5")
    for _ in range(2):
        assert archive.enter("2.25.6", study="2.25.2") is Receipt.QUARANTINED
    assert catalog.lookup.series_of_study("2.25.2") == []
    assert catalog.progress.quarantined() == [("its Series Instance UID belongs to another study", 1)]


def test_what_belongs_to_no_series_is_listed(catalog: Catalog, a_file: Callable[..., Any]) -> None:
    for _ in range(2):
        assert catalog.receipts.quarantine("x" * 70, a_file("a"), "no Study Instance UID") is Receipt.QUARANTINED
    assert catalog.progress.quarantined() == [("no Study Instance UID", 1)]
    assert catalog.progress.counts().quarantined == 1
    assert catalog.lookup.names_file("a.dcm")
    assert not catalog.lookup.names_file("b.dcm")


def test_every_file_is_listed(archive: Archive, catalog: Catalog, a_file: Callable[..., Any]) -> None:
    archive.enter("2.25.5")
    catalog.receipts.quarantine("2.25.6", a_file("2.25.6"), "a reason")
    assert [(path, size) for path, _, size in catalog.receipts.files()] == [
        ("2.25.5.dcm", 100),
        ("2.25.6.dcm", 100),
    ]


def test_without_patient_id_nobody_is_taken_for_somebody_else(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5", patient_id="")
    archive.enter("2.25.6", "2.25.21", study="2.25.2", patient_id="")
    archive.enter("2.25.7", "2.25.12", patient_id="")
    assert len(list(catalog.lookup.entities(Level.PATIENT))) == 2


def test_a_series_without_images_is_stored_and_never_worked_on(archive: Archive, catalog: Catalog) -> None:
    archive.enter("2.25.5", sop_class=SR, modality="SR")
    assert archive.state() == (SeriesState.STORED, "")
    assert catalog.progress.settle(0.0) == 0


def test_an_instance_that_is_no_image_leaves_an_indexed_series_as_it_is(archive: Archive, catalog: Catalog) -> None:
    leased = archive.indexed()
    archive.enter("2.25.5", sop_class=SR)
    assert archive.state() == (SeriesState.INDEXED, "")
    assert catalog.embeddings.revisions([leased.series_pk], "encoder-a") == {leased.series_pk: True}


def test_text_that_a_database_cannot_hold_does_not_lose_the_instance(archive: Archive, catalog: Catalog) -> None:
    assert archive.enter("2.25.5", patient_id="P\x001\ud800", **{"00080050": "A\x00B"}) is Receipt.STORED
    assert catalog.lookup.studies_by_accession("AB") == ["2.25.1"]


def test_at_the_same_moment(archive: Archive, catalog: Catalog) -> None:
    """Several associations bring instances of one new study: every one is entered, and nothing twice."""
    receipts: list[Receipt] = []
    barrier = threading.Barrier(4)

    def send(sender: int) -> None:
        for number in range(8):
            barrier.wait()
            series, study = f"2.25.11.{number}", f"2.25.1.{number // 2}"
            receipts.append(archive.enter(f"2.25.5.{number}", series, study=study))
            receipts.append(archive.enter(f"2.25.6.{sender}.{number}", series, study=study))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert receipts.count(Receipt.STORED) == 8 + 4 * 8
    assert receipts.count(Receipt.KNOWN) == 3 * 8
    assert [len(list(catalog.lookup.entities(level))) for level in Level] == [1, 4, 8, 40]


def test_times_are_of_now(archive: Archive, catalog: Catalog) -> None:
    before = time.time()
    archive.enter("2.25.5")
    assert catalog.progress.settle(time.time() - before + 1) == 0
    assert catalog.progress.settle(0.0) == 1


def test_revision_grows_with_every_image(archive: Archive, catalog: Catalog) -> None:
    archive.settled(instances=3)
    leased = catalog.progress.lease("w", 60.0)
    assert leased is not None
    assert leased.revision == 3
    assert [str(path) for path in leased.paths] == [f"2.25.11.{n}.dcm" for n in range(3)]
