"""A drill: the archive is backed up while it receives, destroyed, and put back."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.load import load_settings
from config.model import Settings
from dicom_scp.forgetting import Forgetter
from dicom_scp.part10 import split_file
from dicom_scp.reception import Receiver
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import Damaged, Refused
from node.backup import back_up, restore

pytestmark = pytest.mark.default_engines
Factory = Callable[..., Any]


def plain(_what: str, items: Sequence[str]) -> Iterable[str]:
    return items


@pytest.fixture
def files(make_series: Factory) -> list[Path]:
    return sorted(file for number in (1, 2) for file in make_series(number).rglob("*.dcm"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a data folder with a secret among them."""
    return load_settings(overrides={"data_dir": str(tmp_path / "data"), "orthanc.user": "me",
                                    "orthanc.password": "hush-hush"})  # fmt: skip


def take(settings: Settings, files: list[Path]) -> None:
    with Catalog(settings.catalog_url) as catalog:
        receiver = Receiver(catalog, Spool(settings.spool_dir), "keep-first")
        for file in files:
            receiver.take_file(file)


def compare(settings: Settings, files: list[Path]) -> int:
    """How many instances the catalog holds; each of them is what was sent, byte for byte."""
    sent = {file.stem: split_file(file.read_bytes()) for file in files}
    with Catalog(settings.catalog_url) as catalog:
        paths = [path for path, _, _ in catalog.receipts.files()]
        for path in paths:
            syntax, dataset = Spool(settings.spool_dir).read(path)
            assert (syntax, dataset) in sent.values()
    return len(paths)


def settings_at(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"data_dir": folder})


def test_while_instances_come_and_go(settings: Settings, files: list[Path], tmp_path: Path) -> None:
    take(settings, files[:3])
    ended = threading.Event()

    def come_and_go() -> None:
        with Catalog(settings.catalog_url) as catalog:
            receiver = Receiver(catalog, Spool(settings.spool_dir), "keep-first")
            for file in files[3:]:
                receiver.take_file(file)
        ended.set()

    with Catalog(settings.catalog_url) as catalog:
        coming = threading.Thread(target=come_and_go)

        def slowly(_what: str, items: Sequence[str]) -> Iterable[str]:
            if not coming.ident:
                coming.start()
            for number, item in enumerate(items):
                yield item
                if number == 1:
                    coming.join()

        outcome = back_up(settings, catalog, tmp_path / "backup", link=False, track=slowly)
    assert ended.is_set()
    assert outcome.problems == {}
    assert outcome.files == 3  # those of the moment the catalog was copied at
    shutil.rmtree(settings.data_dir)
    restore(settings, tmp_path / "backup", plain)
    assert compare(settings, files) == 3
    take(settings, files)
    assert compare(settings, files) == len(files)


@pytest.mark.parametrize("link", [False, True])
def test_what_goes_meanwhile_is_not_in_it(
    settings: Settings, files: list[Path], tmp_path: Path, link: bool
) -> None:
    take(settings, files)
    with Catalog(settings.catalog_url) as catalog:
        spool = Spool(settings.spool_dir)
        forgetter = Forgetter(settings.forgetting, catalog, spool)

        def meanwhile(_what: str, items: Sequence[str]) -> Iterable[str]:
            if len(items) == len(files):
                yield from items[:-2]
                last = dcmread(spool.path(items[-1]), stop_before_pixels=True).SOPInstanceUID
                forgetter.forget(forgetter.targets_of_uid(last))
                forgetter.erase_files()
                items = items[-2:]
            yield from items

        outcome = back_up(settings, catalog, tmp_path / "backup", link=link, track=meanwhile)
        held = {path for path, _, _ in catalog.receipts.files()}
    assert outcome.problems == {}
    copied = {str(file.relative_to(tmp_path / "backup/spool")) for file in (tmp_path / "backup").rglob("*.dcm")}
    assert copied == held
    assert len(held) == len(files) - 1
    restored = settings_at(settings, tmp_path / "restored")
    restore(restored, tmp_path / "backup", plain)
    assert compare(restored, files) == len(files) - 1


def test_no_secrets_and_sums_that_others_can_check(settings: Settings, files: list[Path], tmp_path: Path) -> None:
    take(settings, files[:2])
    with Catalog(settings.catalog_url) as catalog:
        back_up(settings, catalog, tmp_path / "backup", link=False, track=plain)
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0
    for file in (tmp_path / "backup").rglob("*"):
        assert file.is_dir() or b"hush-hush" not in file.read_bytes()
    assert json.loads((tmp_path / "backup/settings.json").read_text())["orthanc"]["user"] == "me"
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "backup", check=False)
    assert done.returncode == 0
    with Catalog(settings.catalog_url) as catalog, pytest.raises(Refused, match="expected an empty folder"):
        back_up(settings, catalog, tmp_path / "backup", link=False, track=plain)


def test_a_lost_file_is_told_and_the_rest_is_kept(settings: Settings, files: list[Path], tmp_path: Path) -> None:
    take(settings, files[:4])
    lost, damaged = sorted(settings.spool_dir.rglob("*.dcm"))[:2]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"xx")
    with Catalog(settings.catalog_url) as catalog:
        outcome = back_up(settings, catalog, tmp_path / "backup", link=False, track=plain)
    assert outcome.files == 2
    assert {Path(name).name: why for name, why in outcome.problems.items()} == {
        lost.name: "it is missing", damaged.name: "it is not what was stored"}  # fmt: skip


def test_a_damaged_backup_is_not_restored(settings: Settings, files: list[Path], tmp_path: Path) -> None:
    take(settings, files[:2])
    with Catalog(settings.catalog_url) as catalog:
        back_up(settings, catalog, tmp_path / "sound", link=False, track=plain)
    names = [file.relative_to(tmp_path / "sound") for file in (tmp_path / "sound").rglob("*") if file.is_file()]
    assert len(names) == 6
    for number, name in enumerate(names):
        broken = shutil.copytree(tmp_path / "sound", tmp_path / f"broken{number}")
        content = bytearray((broken / name).read_bytes())
        content[len(content) // 2] ^= 1
        (broken / name).write_bytes(content)
        target = settings_at(settings, tmp_path / f"data{number}")
        if name.name == "backup.json":
            continue  # it vouches for the others; what a flipped bit there changes is seen or of no weight
        with pytest.raises(Damaged):
            restore(target, broken, plain)
        assert not (target.data_dir / "catalog.sqlite").exists()
        (broken / name).unlink()
        with pytest.raises(Refused if name.name == "backup.json" else Damaged):
            restore(settings_at(settings, tmp_path / f"again{number}"), broken, plain)


def test_nothing_is_overwritten(settings: Settings, files: list[Path], tmp_path: Path) -> None:
    take(settings, files[:2])
    with Catalog(settings.catalog_url) as catalog:
        back_up(settings, catalog, tmp_path / "backup", link=False, track=plain)
    with pytest.raises(Refused, match="expected an empty data folder"):
        restore(settings, tmp_path / "backup", plain)
    with Catalog(settings.catalog_url) as catalog, pytest.raises(Refused, match="outside the data folder"):
        back_up(settings, catalog, settings.data_dir / "backup", link=False, track=plain)
    with pytest.raises(Refused, match="expected a backup"):
        restore(settings_at(settings, tmp_path / "new"), tmp_path, plain)
    assert compare(settings, files) == 2


@pytest.mark.slow
def test_a_drill_with_a_running_node(
    start_node: Factory, send: Factory, make_series: Factory, pacsimile: Factory, tmp_path: Path
) -> None:
    folders = [make_series(number) for number in (1, 2, 3)]
    node = start_node()
    send(node.dicom_port, *folders[:2])
    known = node.wait_until_indexed()
    with node.catalog() as catalog:
        seed = catalog.lookup.series_by_uid(next(folders[0].iterdir()).name).study_instance_uid
    answer = node.get(f"/studies/{seed}/similar")
    quiet = pacsimile("backup", tmp_path / "quiet", "--data-dir", node.data_dir, "--json")
    assert (quiet.status, quiet.json["files"]) == (0, known["instances"])
    sending = threading.Thread(target=send, args=(node.dicom_port, folders[2]))
    sending.start()
    busy = pacsimile("backup", tmp_path / "busy", "--data-dir", node.data_dir, "--link", "--json")
    sending.join()
    assert busy.status == 0, busy.err
    assert known["instances"] <= busy.json["files"] <= len([file for one in folders for file in one.rglob("*.dcm")])
    assert node.stop() == 0
    shutil.rmtree(node.data_dir)  # the disaster
    restored = pacsimile("restore", tmp_path / "quiet", "--data-dir", node.data_dir, "--json")
    assert (restored.status, restored.json) == (0, {"findings": []}), restored.err
    again = start_node()
    assert again.get(f"/studies/{seed}/similar") == answer
    assert again.get("/status")["studies"] == known["studies"]
    assert again.get("/health")["index_size"] == known["embeddings"]
    assert again.stop() == 0
    other = load_settings(overrides={"data_dir": str(tmp_path / "other")})
    restore(other, tmp_path / "busy", plain)
    assert compare(other, [file for one in folders for file in one.rglob("*.dcm")]) == busy.json["files"]
