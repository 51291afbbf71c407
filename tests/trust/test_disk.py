"""The disk is nearly full, or full: nothing half stays, queries are answered, and it recovers by itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_scp.disk import Reserve
from dicom_scp.part10 import file_header
from dicom_scp.spool import Spool
from indexer.catalog.receipts import StoredFile
from indexer.errors import Transient

Factory = Callable[..., Any]
REFUSED, STORED = "Refused: OutOfResources", "Success"


def test_the_reserve_is_left(tmp_path: Path) -> None:
    free_mib = shutil.disk_usage(tmp_path).free >> 20
    with pytest.raises(Transient, match=r"MiB would be left on the disk \(storage.reserve_mib\)"):
        keep(Spool(tmp_path / "spool", 10 * free_mib))
    assert not [file for file in (tmp_path / "spool").rglob("*") if file.is_file()]
    spool = Spool(tmp_path / "spool")
    assert spool.holds(keep(spool).path)
    keep(Spool(tmp_path / "spool", 10 * free_mib))  # it is here already, and needs no room
    reserve = Reserve(tmp_path, 10 * free_mib)
    assert reserve.is_used_up
    assert not Reserve(tmp_path, 0).is_used_up
    with pytest.raises(Transient, match="cannot be asked"):
        Reserve(tmp_path / "nowhere", 1).demand(1)


def keep(spool: Spool) -> StoredFile:
    syntax = "1.2.840.10008.1.2"
    draft = spool.draft(file_header("1.2", "1.2.3", syntax, ""), syntax)
    try:
        draft.append([b"x" * 1000])
        return spool.keep(draft)
    finally:
        draft.discard()


@pytest.mark.default_engines
@pytest.mark.slow
def test_a_full_disk(
    start_node: Factory,
    send: Factory,
    make_series: Factory,
    pacsimile: Factory,
    wait_for: Factory,
    disk_shim: Path,
    tmp_path: Path,
) -> None:
    """Each place in turn refuses to be written while one node runs."""
    control = tmp_path / "full"
    node = start_node(
        LD_PRELOAD=str(disk_shim), TRUST_ROOT=str(tmp_path), TRUST_CONTROL=str(control),
        PACSIMILE_VECTORS_SNAPSHOT_INTERVAL_S="0.5",
    )  # fmt: skip
    one, two, three, four = (make_series(number) for number in (1, 2, 3, 4))
    send(node.dicom_port, one)
    known = node.wait_until_indexed()
    study = study_of(node, one)
    answer = node.get(f"/studies/{study}/similar")

    for piece in ("/spool/", "catalog.sqlite"):
        before = stored(node)
        control.write_text(piece)
        refused = send(node.dicom_port, two, options=["-v"], check=False)
        assert REFUSED in refused.stdout + refused.stderr, piece
        assert STORED not in refused.stdout + refused.stderr, piece
        assert node.get("/status")["instances"] == known["instances"], piece
        assert node.get(f"/studies/{study}/similar") == answer, piece
        control.unlink()
        assert stored(node) == before, piece  # neither an orphan nor half a file
        wait_for(lambda: not list((node.data_dir / "spool" / "tmp").iterdir()), 60, "nothing half is left")
    send(node.dicom_port, two)
    wait_for(lambda: node.get("/status")["series_by_state"] == {"INDEXED": 2}, 60, "it recovered")

    known = node.wait_until_indexed()
    wait_for(lambda: counted(node) == [known["embeddings"]], 60, "the snapshot has all")
    sound = snapshot(node)
    control.write_text("/index/")
    send(node.dicom_port, three)
    wait_for(lambda: node.get("/status")["series_by_state"] == {"INDEXED": 3}, 60, "indexed without a snapshot")
    wait_for(lambda: "the snapshot could not be written" in node.log, 60, "the log says so")
    assert snapshot(node) == sound, "the last snapshot is not touched"
    assert node.get(f"/studies/{study}/similar")["hits"]

    control.write_text(node.log_file.name)
    said = len(node.log)
    send(node.dicom_port, four)
    wait_for(lambda: node.get("/status")["series_by_state"] == {"INDEXED": 4}, 60, "indexed without a log")
    assert len(node.log) == said
    control.unlink()
    wait_for(lambda: snapshot(node) != sound, 60, "a snapshot is written")
    known = node.wait_until_indexed()
    assert node.get("/health")["index_size"] == known["embeddings"]
    assert node.stop() == 0
    assert pacsimile("verify", "--data-dir", node.data_dir, "--json").json == {"findings": []}


@pytest.mark.slow
def test_a_nearly_full_disk(start_node: Factory, send: Factory, make_series: Factory) -> None:
    node = start_node(PACSIMILE_STORAGE_RESERVE_MIB=str(10 * (shutil.disk_usage("/").total >> 20)))
    refused = send(node.dicom_port, make_series(1), options=["-v"], check=False)
    assert REFUSED in refused.stdout + refused.stderr
    health = node.get("/health")
    assert health["dicom"]
    assert health["disk"]["is_full"]
    assert 0 < health["disk"]["free_mib"] < health["disk"]["reserve_mib"]
    assert node.get("/status")["instances"] == 0
    assert stored(node) == []
    assert "instances are refused and index snapshots wait" in node.log
    assert node.stop() == 0


def stored(node: Any) -> list[Path]:  # noqa: ANN401 - a running node
    return sorted(node.data_dir.glob("spool/*/*/*.dcm"))


def snapshot(node: Any) -> list[bytes]:  # noqa: ANN401 - a running node
    return [file.read_bytes() for file in sorted(node.data_dir.glob("index/*/manifest.json"))]


def counted(node: Any) -> list[int]:  # noqa: ANN401 - a running node
    return [json.loads(content)["manifest"]["count"] for content in snapshot(node)]


def study_of(node: Any, folder: Path) -> str:  # noqa: ANN401 - a running node
    with node.catalog() as catalog:
        return str(catalog.lookup.series_by_uid(next(folder.iterdir()).name).study_instance_uid)
