"""Forgetting: nothing is left in the tables or the file of the database; a tombstone says no more than it must."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from indexer.catalog import Catalog
from indexer.catalog.commitments import Reference
from indexer.catalog.embeddings import GLOBAL
from indexer.catalog.lookup import Level
from indexer.catalog.receipts import Receipt, StoredFile
from indexer.catalog.tombstones import REQUEST, ErasureKind, Removal, Target
from indexer.errors import Forgotten, Refused, Transient
from indexer.uids import EncoderId, SOPInstanceUID

Factory = Callable[..., Any]
Archive = Any
"""`Archive` of the conftest."""
ENCODER = EncoderId("encoder-a")
STUDY = Target(Level.STUDY, "2.25.1")


def image(uid: str) -> Target:
    return Target(Level.IMAGE, uid)


def rows(catalog: Catalog, table: str) -> int:
    with catalog._engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def erasures(catalog: Catalog) -> list[tuple[str, str]]:
    return [(one.kind.value, one.name) for one in catalog.tombstones.erasures()]


def test_a_study_goes_with_all_that_rests_on_it(archive: Archive) -> None:
    archive.indexed()
    archive.indexed("2.25.22", study="2.25.2", patient_id="P2")
    catalog = archive.catalog
    before = catalog.journal.last()
    expected = Removal(studies=1, series=1, instances=2, quarantined=0)
    assert catalog.tombstones.would_remove([STUDY]) == expected
    assert catalog.tombstones.forget([STUDY], REQUEST, refuse=False) == expected
    counts = {table: rows(catalog, table) for table in ("patient", "study", "series", "instance", "chunk")}
    assert counts == {"patient": 1, "study": 1, "series": 1, "instance": 2, "chunk": 2}
    assert catalog.embeddings.count(ENCODER) == 2
    entries = catalog.journal.after(before, ENCODER, GLOBAL, 10)
    assert [entry.added for entry in entries] == [False, False]
    added = [entry for entry in catalog.journal.after(0, ENCODER, GLOBAL, 10) if entry.added]
    assert not {entry.embedding_id for entry in added} & {entry.embedding_id for entry in entries}
    assert erasures(catalog) == [
        ("FILE", "2.25.11.0.dcm"), ("FILE", "2.25.11.1.dcm"), ("INDEX", ENCODER), ("PAGES", "")
    ]  # fmt: skip
    assert not list(catalog.tombstones.remains())


def test_part_of_a_series_is_embedded_again_from_the_rest(archive: Archive) -> None:
    archive.indexed()
    catalog = archive.catalog
    old = catalog.lookup.series_by_uid("2.25.11")
    removed = catalog.tombstones.forget([image("2.25.11.0")], "113001", refuse=False)
    assert removed == Removal(studies=0, series=0, instances=1, quarantined=0)
    new = catalog.lookup.series_by_uid("2.25.11")
    assert (new.state, new.study_instance_uid) == ("RECEIVING", old.study_instance_uid)
    assert new.series_pk != old.series_pk
    assert catalog.embeddings.count(ENCODER) == 0
    catalog.progress.settle(0.0)
    leased = catalog.progress.lease("w1", 60.0)
    assert [str(path) for path in leased.paths] == ["2.25.11.1.dcm"]


def test_a_worker_cannot_enter_embeddings_of_what_has_gone(archive: Archive, a_chunk: Factory) -> None:
    for uid in ("2.25.11.0", "2.25.11.1"):
        if uid.endswith("0"):
            leased = archive.leased()
        archive.catalog.tombstones.forget([image(uid)], REQUEST, refuse=False)
        with pytest.raises(Transient):
            archive.finish(leased, "w1", [a_chunk()])
        assert archive.catalog.embeddings.count(ENCODER) == 0
    assert archive.catalog.lookup.series_by_uid("2.25.11") is None


def test_what_comes_again_is_taken_and_its_tombstone_goes(archive: Archive) -> None:
    archive.settled()
    tombstones = archive.catalog.tombstones
    tombstones.forget([STUDY], REQUEST, refuse=False)
    assert tombstones.count() == 1
    assert archive.enter("2.25.11.0") is Receipt.STORED
    assert tombstones.count() == 0


@pytest.mark.parametrize(
    "target", [STUDY, Target(Level.SERIES, "2.25.11"), image("2.25.11.0")], ids=lambda one: one.level.name
)
def test_what_comes_again_is_refused(archive: Archive, target: Target) -> None:
    archive.settled()
    tombstones = archive.catalog.tombstones
    tombstones.forget([target], "113039", refuse=True)
    with pytest.raises(Forgotten):
        archive.enter("2.25.11.0")
    assert archive.enter("2.25.77.0", "2.25.77", study="2.25.7", patient_id="P7") is Receipt.STORED
    assert tombstones.lift(target.uid)
    assert not tombstones.lift(target.uid)
    assert archive.enter("2.25.11.0") is Receipt.STORED


def test_rejected_before_it_comes(archive: Archive) -> None:
    removed = archive.catalog.tombstones.forget([image("2.25.11.0")], "113037", refuse=True)
    assert removed.is_nothing
    assert erasures(archive.catalog) == []
    with pytest.raises(Forgotten):
        archive.enter("2.25.11.0")
    with pytest.raises(Forgotten):
        archive.catalog.receipts.quarantine("2.25.11.0", StoredFile("q.dcm", 1, "0" * 64), "no study")


def test_quarantine_conflicts_and_commitments_go_too(archive: Archive) -> None:
    archive.settled()
    archive.enter("2.25.11.0", content="other")
    catalog = archive.catalog
    catalog.receipts.quarantine("2.25.11.0", StoredFile("q.dcm", 1, "0" * 64), "no study")
    both = tuple(Reference("1.2.840.10008.5.1.4.1.1.2", SOPInstanceUID(uid)) for uid in ("2.25.11.0", "2.25.50.0"))
    assert catalog.commitments.request("2.25.900", "PEER", "PACSIMILE", both)
    assert catalog.commitments.request("2.25.901", "PEER", "PACSIMILE", both[:1])
    removed = catalog.tombstones.forget([image("2.25.11.0")], REQUEST, refuse=False)
    assert (removed.instances, removed.quarantined) == (1, 1)
    assert ("FILE", "q.dcm") in erasures(catalog)
    counts = {table: rows(catalog, table) for table in ("quarantine", "conflict", "commitment")}
    assert counts == {"quarantine": 0, "conflict": 0, "commitment": 1}
    with catalog._engine.connect() as connection:
        assert "2.25.11.0" not in str(connection.execute(text("SELECT referenced FROM commitment")).all())


def test_what_is_told_of_other_studies_names_nothing_forgotten(archive: Archive) -> None:
    archive.settled()
    archive.settled("2.25.22", study="2.25.2", patient_id="P2")
    catalog = archive.catalog
    catalog.outbox.request("2.25.2", "report", "PACS", {"sop_instance_uid": "2.25.11.0"})
    catalog.outbox.request("2.25.2", "report", "PACS", {"sop_instance_uid": "2.25.22.0"})
    catalog.outbox.request("2.25.2", "webhook", "url", {"hits": [{"study_instance_uid": "2.25.1"}]})
    with catalog._engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET rule = 'a rule' WHERE action = 'webhook'"))
    catalog.tombstones.forget([STUDY], REQUEST, refuse=False)
    with catalog._engine.connect() as connection:
        left = connection.execute(text("SELECT action, payload FROM delivery ORDER BY id")).all()
    assert [(row.action, row.payload is None) for row in left] == [("report", False), ("webhook", True)]


def test_scrubbing_says_that_it_is_done(archive: Archive) -> None:
    archive.settled()
    archive.catalog.tombstones.forget([STUDY], REQUEST, refuse=False)
    assert archive.catalog.tombstones.scrub()


def test_the_patient_with_an_issuer(archive: Archive) -> None:
    archive.enter("2.25.1.1", "2.25.101", study="2.25.1")
    tombstones = archive.catalog.tombstones
    assert tombstones.studies_of_patient("P1") == [STUDY]
    assert tombstones.studies_of_patient("P1", "") == [STUDY]
    assert tombstones.studies_of_patient("P1", "ELSEWHERE") == []
    with archive.catalog._engine.begin() as connection:
        connection.execute(text("UPDATE patient SET key = 'id:P1\nHERE'"))
    archive.enter("2.25.2.1", "2.25.201", study="2.25.2")
    with pytest.raises(Refused, match="2 patients"):
        tombstones.studies_of_patient("P1")
    assert tombstones.studies_of_patient("P1", "HERE") == [STUDY]


def test_a_tombstone_holds_no_uid_and_remains_are_found(archive: Archive) -> None:
    archive.settled()
    catalog = archive.catalog
    catalog.tombstones.forget([STUDY], REQUEST, refuse=False)
    with catalog._engine.connect() as connection:
        told = str(connection.execute(text("SELECT * FROM tombstone")).all())
    assert "2.25.1" not in told
    with catalog._engine.begin() as connection:  # as a backup of half the database would
        kept = connection.execute(text("SELECT level, digest, reason, at, refuses FROM tombstone")).one()
    archive.settled()
    with catalog._engine.begin() as connection:
        columns = "level, digest, reason, at, refuses"
        values = ":level, :digest, :reason, :at, :refuses"
        connection.execute(text(f"INSERT INTO tombstone ({columns}) VALUES ({values})"), kept._asdict())
    assert list(catalog.tombstones.remains()) == [STUDY]
    assert catalog.tombstones.remove_again([STUDY]).instances == 2
    assert not list(catalog.tombstones.remains())
    assert catalog.tombstones.count() == 1


def test_the_database_file_is_scrubbed(tmp_path: Path, archive: Archive, url: str) -> None:
    """Neither the database nor its log holds the planted values, though a reader kept the log open for a while."""
    if not url.startswith("sqlite"):
        pytest.skip("PostgreSQL frees its pages for reuse and does not overwrite them")
    catalog = archive.catalog
    for number in range(60):
        archive.enter(f"2.25.987654321.{number}", "2.25.876543219", study="2.25.765432198", patient_id="PLANTED")
        archive.enter(f"2.25.5.{number}", "2.25.55", study="2.25.555", patient_id="P5")
    planted = (b"PLANTED", b"2.25.987654321", b"2.25.876543219", b"2.25.765432198")
    assert all(one in _bytes(tmp_path) for one in planted)
    catalog.tombstones.forget([Target(Level.STUDY, "2.25.765432198")], REQUEST, refuse=False)
    catalog.tombstones.erased(catalog.tombstones.erasures(ErasureKind.FILE))
    reader = sqlite3.connect(tmp_path / "catalog.sqlite")
    reader.execute("BEGIN").execute("SELECT count(*) FROM instance").fetchone()
    assert not catalog.tombstones.scrub()
    reader.close()
    assert catalog.tombstones.scrub()
    catalog.tombstones.erased(catalog.tombstones.erasures())
    assert not [one for one in planted if one in _bytes(tmp_path)]
    assert b"2.25.555" in _bytes(tmp_path)
    assert catalog.tombstones.erasures(ErasureKind.FILE) == []


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
