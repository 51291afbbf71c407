"""Instances that are durable by their files alone: what is lost of their names and rows is made anew from these."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from dicom_scp import incoming as module
from dicom_scp.incoming import Incoming, recover
from dicom_scp.reception import Receiver, Verdict
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.lookup import Level
from indexer.catalog.tombstones import REQUEST, Target
from indexer.errors import Transient
from indexer.uids import SOPInstanceUID

pytestmark = pytest.mark.default_engines

_numbers = count(1)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as opened:
        yield opened


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def incoming(catalog: Catalog, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Incoming]:
    monkeypatch.setattr(module, "_SETTLE_S", 3600.0)
    made = Incoming(catalog, spool.incoming)
    yield made
    made.close()
    assert not [path for path in spool.incoming.iterdir() if not path.name.startswith("dead")]


@pytest.fixture
def receiver(catalog: Catalog, spool: Spool, incoming: Incoming) -> Receiver:
    receiver = Receiver(catalog, spool, "keep-first", incoming)
    assert receiver.receive(instance(), ExplicitVRLittleEndian).verdict is Verdict.STORED  # makes the series
    return receiver


def instance(number: int | None = None, **elements: str) -> bytes:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, f"2.25.{number or 1000 + next(_numbers)}"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.Modality = "2.25.1", "2.25.11", "CT"
    made.update(elements)
    return encode(made, False, True) or b""


def entered(catalog: Catalog) -> set[str]:
    return {path for path, _, _ in catalog.receipts.files()}


def files(spool: Spool) -> set[str]:
    return {str(path.relative_to(spool.folder)) for path in spool.folder.rglob("*.dcm")}


def written(spool: Spool) -> list[Path]:
    """First names of files that something was written to."""
    found = []
    for path in spool.incoming.glob("*/*"):
        with suppress(FileNotFoundError):
            found += [path] if path.stat().st_size else []
    return found


def of_a_dead_process(spool: Spool, first: Path) -> Path:
    """Give a file the first name that one had whose process has ended."""
    home = spool.incoming / f"dead-{next(_numbers)}"
    home.mkdir()
    (home / "0").hardlink_to(first)
    return home


def take_row(catalog: Catalog, uid: str) -> None:
    """What a power cut does to a row that is not durable yet."""
    with catalog.receipts._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM instance WHERE sop_instance_uid = ?", (uid,))


def test_what_a_power_cut_took_is_made_anew(receiver: Receiver, catalog: Catalog, spool: Spool) -> None:
    (before,) = written(spool)
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    (first,) = set(written(spool)) - {before}
    whole, content = entered(catalog), first.read_bytes()
    for takes_row, takes_name in ((True, False), (False, True), (True, True), (False, False)):
        home = of_a_dead_process(spool, first)
        if takes_row:
            take_row(catalog, "2.25.7")
        if takes_name:
            for path in spool.folder.rglob("*.dcm"):
                if path.samefile(first):
                    path.unlink()
        recover(catalog, spool)
        assert entered(catalog) == files(spool) == whole
        assert spool.path(str(catalog.lookup.instance_path(SOPInstanceUID("2.25.7")))).read_bytes() == content
        assert not home.exists()
    assert before.exists(), "its process lives"
    assert first.exists(), "its process lives"


def test_a_final_name_that_has_half_of_a_file(receiver: Receiver, catalog: Catalog, spool: Spool) -> None:
    (first,) = written(spool)
    of_a_dead_process(spool, first)
    (relative,) = files(spool)
    spool.path(relative).unlink()
    spool.path(relative).write_bytes(b"half")
    recover(catalog, spool)
    spool.read(relative)


def cut_short(content: bytes) -> bytes:
    return content[:-1]


def other_at_the_end(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def without_digest(content: bytes) -> bytes:
    header = len(content) - len(instance(7))
    return content[: header - 32] + bytes(32) + content[header:]


@pytest.mark.parametrize("harm", [cut_short, other_at_the_end, without_digest, lambda _: b"half", lambda _: b""])
def test_what_is_not_whole_goes(
    receiver: Receiver, catalog: Catalog, spool: Spool, harm: Callable[[bytes], bytes]
) -> None:
    before = entered(catalog)
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    content = max(written(spool), key=lambda path: path.stat().st_mtime_ns).read_bytes()
    receiver._catalog.tombstones.forget([Target(Level.IMAGE, "2.25.7")], REQUEST, refuse=False)
    catalog.tombstones.lift("2.25.7")
    (gone,) = files(spool) - before
    spool.path(gone).unlink()
    home = spool.incoming / "dead"
    home.mkdir()
    (home / "0").write_bytes(harm(content))
    recover(catalog, spool)
    assert entered(catalog) == files(spool) == before
    assert not home.exists()


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
def test_what_was_forgotten_since_stays_so(
    receiver: Receiver, catalog: Catalog, spool: Spool, level: Level
) -> None:
    """The power fails between the catalog's forgetting and the erasure of files, and after."""
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    first = next(path for path in written(spool) if dcmread(path).SOPInstanceUID == "2.25.7")
    of_a_dead_process(spool, first)
    uid = {Level.STUDY: "2.25.1", Level.SERIES: "2.25.11", Level.IMAGE: "2.25.7"}[level]
    catalog.tombstones.forget([Target(level, uid)], REQUEST, refuse=False)
    recover(catalog, spool)
    assert catalog.lookup.instance_path(SOPInstanceUID("2.25.7")) is None
    assert catalog.tombstones.count() == 1
    assert catalog.receipts.known(SOPInstanceUID("2.25.7")) is None
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.STORED


def test_erasing_leaves_no_name(receiver: Receiver, catalog: Catalog, spool: Spool) -> None:
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    path = str(catalog.lookup.instance_path(SOPInstanceUID("2.25.7")))
    (first,) = [one for one in written(spool) if one.samefile(spool.path(path))]
    dead = of_a_dead_process(spool, first)
    with first.open("rb") as held:
        spool.erase([path], lambda _: False)
        assert os.fstat(held.fileno()).st_nlink == 0
    assert list(dead.iterdir()) == []
    assert len(written(spool)) == 1


def test_other_content_that_came_since_stays(catalog: Catalog, spool: Spool, incoming: Incoming) -> None:
    receiver = Receiver(catalog, spool, "replace", incoming)
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    (first,) = written(spool)
    of_a_dead_process(spool, first)
    assert receiver.receive(instance(7, StudyID="2"), ExplicitVRLittleEndian).verdict is Verdict.REPLACED
    kept = entered(catalog)
    recover(catalog, spool)
    assert entered(catalog) == files(spool) == kept
    assert len(kept) == 1


def test_first_names_go_once_the_rest_is_durable(
    receiver: Receiver, catalog: Catalog, spool: Spool, incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    (relative,) = files(spool)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recording)
        incoming.settle()
    assert written(spool) == []
    assert {str(spool.path(relative).parent), f"{spool.folder.parent}/catalog.sqlite-wal"} <= set(synced)


def test_they_stay_while_the_disk_fails(
    receiver: Receiver, spool: Spool, incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("indexer.durable.os.fsync", fail)
        incoming.settle()
    assert len(written(spool)) == 1
    incoming.settle()
    assert written(spool) == []


def test_they_go_by_themselves(
    catalog: Catalog, spool: Spool, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.01)
    incoming = Incoming(catalog, spool.incoming)
    other = Receiver(catalog, spool, "keep-first", incoming)
    before = set(written(spool))
    for _ in range(3 * module._BATCH):
        assert other.receive(instance(), ExplicitVRLittleEndian).verdict is Verdict.STORED
    deadline = time.monotonic() + 60
    while set(written(spool)) != before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    incoming.close()
    assert incoming.blank() is None
    assert other.receive(instance(), ExplicitVRLittleEndian).verdict is Verdict.STORED, "slower"
    assert entered(catalog) == files(spool)


def test_a_reserve_is_made_when_nothing_comes_in(
    receiver: Receiver, spool: Spool, wait_for: Callable[..., Any]
) -> None:
    def empty() -> int:
        return len(list(spool.incoming.glob("*/*"))) - len(written(spool))

    wait_for(lambda: empty() > module._RESERVE - module._BATCH, 60, "the reserve is there")
    assert empty() <= module._RESERVE
    for _ in range(module._RESERVE + module._BATCH):
        assert receiver.receive(instance(), ExplicitVRLittleEndian).verdict is Verdict.STORED


def test_a_disk_that_fails(
    receiver: Receiver, catalog: Catalog, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = entered(catalog), written(spool)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("dicom_scp.draft.os.fsync", fail)
        with pytest.raises(Transient, match="cannot be stored: Input/output error"):
            receiver.receive(instance(7), ExplicitVRLittleEndian)
    assert entered(catalog) == files(spool) == before
    assert written(spool) == names
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.STORED
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.KNOWN
    assert len(written(spool)) == len(names) + 1


def test_a_cleared_spool(receiver: Receiver, catalog: Catalog, spool: Spool) -> None:
    for path in sorted(spool.folder.rglob("*"), reverse=True):
        if not {"locks", "tmp"} & {path.name, path.parent.name}:
            path.rmdir() if path.is_dir() else path.unlink()
    for number in (7, 8):
        assert receiver.receive(instance(number), ExplicitVRLittleEndian).verdict is Verdict.STORED
    assert len(files(spool)) == 2


def test_without_hard_links(
    receiver: Receiver, catalog: Catalog, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    names = written(spool)
    monkeypatch.setattr("dicom_scp.draft.os.link", refuse)
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.STORED
    assert entered(catalog) == files(spool)
    assert written(spool) == names


def test_a_file_that_is_half_there_is_replaced(receiver: Receiver, spool: Spool, catalog: Catalog) -> None:
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    path = spool.path(str(catalog.lookup.instance_path(SOPInstanceUID("2.25.7"))))
    whole = path.read_bytes()
    take_row(catalog, "2.25.7")
    path.unlink()
    path.write_bytes(whole[:100])
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.STORED
    assert path.read_bytes() == whole


def test_a_stored_file_is_readable_dicom_that_holds_its_digest(receiver: Receiver, spool: Spool) -> None:
    (relative,) = files(spool)
    meta = dcmread(spool.path(relative)).file_meta
    assert meta.PrivateInformation.hex() == spool.path(relative).stem
    assert meta.PrivateInformationCreatorUID == meta.ImplementationClassUID
