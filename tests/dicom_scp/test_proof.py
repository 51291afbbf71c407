"""Rows committed before their files are durable: nothing is left of them where that never comes."""

import os
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from dicom_scp.proof import Mark, prove
from dicom_scp.reception import Receiver, Verdict
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
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
def mark(catalog: Catalog, spool: Spool) -> Mark:
    return Mark(catalog, spool.marks)


@pytest.fixture
def receiver(catalog: Catalog, spool: Spool, mark: Mark) -> Receiver:
    receiver = Receiver(catalog, spool, "keep-first", mark)
    assert receiver.receive(instance(), ExplicitVRLittleEndian).verdict is Verdict.STORED  # makes the series
    return receiver


def instance(number: int | None = None) -> bytes:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, f"2.25.{number or 1000 + next(_numbers)}"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.Modality = "2.25.1", "2.25.11", "CT"
    return encode(made, False, True) or b""


def entered(catalog: Catalog) -> set[str]:
    return {path for path, _, _ in catalog.receipts.files()}


def files(spool: Spool) -> set[str]:
    return {str(path.relative_to(spool.folder)) for path in spool.folder.rglob("*.dcm")}


def test_a_row_is_there_while_its_file_is_flushed(
    receiver: Receiver, catalog: Catalog, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is gone, with the file, where the power fails then: a copy of that moment is what a start finds."""
    before, reached, go_on = entered(catalog), threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        if threading.current_thread().name.startswith("flush"):
            reached.set()
            assert go_on.wait(60)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("dicom_scp.draft.os.fsync", slow)
        sending = threading.Thread(target=receiver.receive, args=(instance(7), ExplicitVRLittleEndian))
        sending.start()
        assert reached.wait(60)
        while entered(catalog) == before:
            assert sending.is_alive()
        (unproven,) = entered(catalog) - before
        prove(catalog, spool)
        assert unproven in entered(catalog), "its process lives"
        for path in spool.marks.iterdir():  # the power fails: the lock is gone, and half of the file
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
        os.truncate(spool.path(unproven), 100)
        prove(catalog, spool)
        assert entered(catalog) == files(spool) == before
        go_on.set()
        sending.join()
    assert not list(spool.marks.iterdir())


@pytest.mark.parametrize("content", [b"", b"half of a numb", b"0" * 20])
def test_what_is_whole_stays(receiver: Receiver, catalog: Catalog, spool: Spool, content: bytes) -> None:
    receiver.receive(instance(), ExplicitVRLittleEndian)
    (spool.marks / "of-a-dead-process").write_bytes(content)
    before = entered(catalog)
    prove(catalog, spool)
    assert entered(catalog) == before
    assert len(list(spool.marks.iterdir())) == 1  # of the process that lives


def test_a_disk_that_fails(
    receiver: Receiver, catalog: Catalog, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = entered(catalog)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("dicom_scp.draft.os.fsync", fail)
        with pytest.raises(Transient, match="cannot be stored: Input/output error"):
            receiver.receive(instance(7), ExplicitVRLittleEndian)
    assert entered(catalog) == files(spool) == before
    assert not list((spool.folder / "tmp").iterdir())
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.STORED
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.KNOWN
    assert not list((spool.folder / "tmp").iterdir())


def test_the_mark_moves_on_and_goes(
    receiver: Receiver, catalog: Catalog, spool: Spool, mark: Mark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_scp.proof._MOVE_ON_S", 0.0)
    (path,) = spool.marks.iterdir()
    assert int(path.read_bytes()) == 0
    mark._move_on_at = 0.0
    with mark.unproven():  # one that takes long holds the mark
        for _ in range(6):
            receiver.receive(instance(), ExplicitVRLittleEndian)
        assert int(path.read_bytes()) <= 1
    for _ in range(6):
        receiver.receive(instance(), ExplicitVRLittleEndian)
    assert 1 < int(path.read_bytes()) < catalog.receipts.last_key()
    mark.close()
    assert not path.exists()


def test_a_file_that_is_half_there_is_replaced(spool: Spool, catalog: Catalog) -> None:
    receiver = Receiver(catalog, spool, "keep-first")
    receiver.receive(instance(7), ExplicitVRLittleEndian)
    (path,) = spool.folder.rglob("*.dcm")
    whole = path.read_bytes()
    catalog.receipts.withdraw(SOPInstanceUID("2.25.7"), str(path.relative_to(spool.folder)))
    path.write_bytes(whole[:100])
    assert receiver.receive(instance(7), ExplicitVRLittleEndian).verdict is Verdict.STORED
    assert path.read_bytes() == whole
