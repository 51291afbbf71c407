"""Stored instances as objects: two machines' spools on one bucket."""

import time
from collections.abc import Callable, Iterator
from os import utime
from pathlib import Path

import pytest
from engines import catalog_url
from pydicom.uid import ExplicitVRLittleEndian
from s3 import Bucket

from config.errors import ConfigError
from config.load import load_settings
from dicom_scp.object_spool import ObjectSpool
from dicom_scp.part10 import file_header
from indexer.catalog import Catalog
from indexer.catalog.receipts import StoredFile
from indexer.errors import Damaged, Transient
from indexer.objects import ObjectStore
from indexer.sealing import Vault
from node.backup import back_up, restore
from node.conversion import seal
from node.copies import CopyKeeper

SYNTAX = str(ExplicitVRLittleEndian)
Opened = Callable[..., ObjectSpool]


@pytest.fixture(scope="module")
def bucket(find_port: Callable[[], int]) -> Iterator[Bucket]:
    made = Bucket(find_port())
    yield made
    made.close()


@pytest.fixture
def opened(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The spool of a machine of some name."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)

    def run(name: str, vault: Vault | None = None) -> ObjectSpool:
        return ObjectSpool(tmp_path / name, ObjectStore(bucket.url), vault=vault)

    return run


def keep(spool: ObjectSpool, dataset: bytes) -> StoredFile:
    draft = spool.draft(file_header("1.2", "1.2.3", SYNTAX, "SENDER"), SYNTAX)
    draft.append([dataset])
    try:
        return spool.keep(draft)
    finally:
        draft.discard()


@pytest.mark.parametrize("vault", [None, Vault(bytes(32))], ids=["plain", "sealed"])
def test_what_one_machine_keeps_another_reads(opened: Opened, bucket: Bucket, vault: Vault | None) -> None:
    here, there = opened("here", vault), opened("there", vault)
    dataset = b"\x10\x00\x10\x00PN\x04\x00ABCD" * 10_000
    file = keep(here, dataset)
    assert (b"ABCD" in bucket.content(file.path)) == (vault is None)
    assert there.read(file.path) == here.read_kept(file.path) == (SYNTAX, dataset)
    assert there.file(file.path).read_bytes().endswith(dataset)
    assert not list((here.folder / "tmp").iterdir())
    assert not list((there.folder / "tmp").iterdir())

    copy = there.path(file.path)
    copy.write_bytes(b"rotten")
    assert there.read(file.path) == (SYNTAX, dataset)  # the store has it
    again = keep(there, dataset)
    assert again.path != file.path
    assert again.sha256 == file.sha256
    there.remove(again.path)
    assert here.holds(file.path)
    assert not here.holds(again.path)

    bucket.put(file.path, bucket.content(file.path)[:-1] + b"!")
    with pytest.raises(Damaged):
        here.read(file.path)
    with pytest.raises(Damaged):
        here.file(file.path)
    with pytest.raises(Damaged):
        there.read_kept(file.path)
    assert not here.path(file.path).exists()
    here.set_aside(file.path)
    assert not here.holds(file.path)
    here.restore(keep(here, dataset).path, file.path)
    assert there.read(file.path) == (SYNTAX, dataset)

    there.erase([file.path], lambda name: True)
    assert here.holds(file.path)
    here.file(file.path)
    here.erase([file.path], lambda name: False)
    assert bucket.names == []
    assert not list(here.folder.glob("?/?/*"))
    with pytest.raises(Damaged, match="cannot be read"):
        here.read(file.path)
    assert not here.file(file.path).exists()


def test_a_store_that_is_away_is_no_loss(opened: Opened, bucket: Bucket) -> None:
    spool = opened("here")
    file = keep(spool, b"before")
    bucket.stop()
    try:
        for ask in (spool.read, spool.read_kept, spool.holds, spool.remove):
            with pytest.raises(Transient):
                ask(file.path)
        with pytest.raises(Transient):
            keep(spool, b"meanwhile")
    finally:
        bucket.start()
    assert bucket.names == [file.path]
    assert spool.read(file.path) == (SYNTAX, b"before")
    spool.remove(file.path)


def test_a_bucket_that_is_not_there_is_no_loss(opened: Opened, tmp_path: Path) -> None:
    opened("here")
    spool = ObjectSpool(tmp_path / "elsewhere", ObjectStore("s3://other/archive"))
    for ask in (spool.read, spool.read_kept, spool.holds):
        with pytest.raises(Transient, match="bucket"):
            ask("a/b/c/d.dcm")
    with pytest.raises(Transient, match="bucket"):
        keep(spool, b"there")


def test_copies_stay_while_there_is_room(opened: Opened, bucket: Bucket, tmp_path: Path) -> None:
    spool = opened("data/spool")
    files = [keep(spool, bytes([number]) * 400_000).path for number in range(4)]
    moved = f"{files[1][:4]}{Path(files[1]).name}"  # as it is where a folder of instances was copied to the bucket
    bucket.put(moved, bucket.content(files[1]))
    spool.remove(files[1])
    files[1] = moved
    variables = {
        "PACSIMILE_DATA_DIR": str(tmp_path / "data"),
        "PACSIMILE_CATALOG_URL": "postgresql://nobody@localhost/none",
        "PACSIMILE_STORAGE_OBJECT_STORE": bucket.url,
        "PACSIMILE_STORAGE_CACHE_GIB": str(900_000 / (1 << 30)),
    }
    settings = load_settings(environ=variables)
    with Catalog(catalog_url(tmp_path)) as catalog:
        for number, name in enumerate(files):
            spool.file(name)
            catalog.receipts.quarantine(f"1.2.{number}", StoredFile(name, 400_000, Path(name).stem), "a test")
        CopyKeeper(settings, catalog).work_off()
        assert all(spool.path(name).exists() for name in files)  # of the last minutes
        for age, name in enumerate(files):
            utime(spool.path(name), (time.time() - 3000 - age,) * 2)
        spool.file(files[3])
        CopyKeeper(settings, catalog).work_off()
        assert [spool.path(name).exists() for name in files] == [True, False, False, True]
        spool.file(keep(spool, b"of no instance").path)
        CopyKeeper(settings, catalog).work_off()
    assert len(list(spool.folder.glob("?/?/**/*.dcm"))) == 2
    for name in [*files, *bucket.names]:
        spool.remove(name)


@pytest.mark.parametrize("url", ["https://bucket/prefix", "s3://", "s3://bucket/", "s3://key:secret@bucket/prefix"])
def test_what_is_no_bucket(url: str) -> None:
    variables = {"PACSIMILE_CATALOG_URL": "postgresql://a@b/c", "PACSIMILE_STORAGE_OBJECT_STORE": url}
    with pytest.raises(ConfigError, match=r"storage\.object_store"):
        load_settings(environ=variables)


def test_what_needs_files_says_so(tmp_path: Path) -> None:
    variables = {"PACSIMILE_STORAGE_OBJECT_STORE": "s3://bucket/prefix", "PACSIMILE_DATA_DIR": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"needs catalog\.url"):
        load_settings(environ=variables)
    settings = load_settings(environ={**variables, "PACSIMILE_CATALOG_URL": "postgresql://a@b/c"})
    with Catalog(catalog_url(tmp_path)) as catalog:
        for run in (
            lambda: back_up(settings, catalog, tmp_path / "backup", link=False, track=lambda _, items: items),
            lambda: restore(settings, tmp_path / "backup", lambda _, items: items),
            lambda: seal(settings, lambda _, items: items),
        ):
            with pytest.raises(ConfigError, match="works on files"):
                run()
