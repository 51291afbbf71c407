"""What a series may do to its worker, and what the node does about it."""

import shutil
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

Factory = Callable[..., Any]


def is_indexing(node: Any) -> bool:  # noqa: ANN401 - the fixture's class
    return "INDEXING" in node.get("/status")["series_by_state"]


def test_a_series_that_kills_its_worker_is_blamed_and_parked(
    start_node: Factory, send: Factory, make_series: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    node = start_node(bundle=str(slow_bundle), PACSIMILE_INDEXING_MAX_ATTEMPTS="2")
    send(node.dicom_port, make_series(1))
    worker = None
    for _ in range(2):
        worker = node.wait_until_worker_runs(other_than=worker)
        wait_for(lambda: is_indexing(node), 30, "the series is being indexed")
        worker.kill()
        wait_for(lambda: not is_indexing(node), 10, "the series is freed")
    known = node.wait_until_indexed()
    assert known["series_by_state"] == {"PARKED": 1}
    (parked,) = known["parked"]
    assert parked["reason"] == "the worker process ended while indexing it, 2 times"
    assert "exit code -9" in node.log
    send(node.dicom_port, make_series(2))  # the node goes on
    node.wait_until_worker_runs()
    assert node.wait_until_indexed()["series_by_state"] == {"INDEXED": 1, "PARKED": 1}
    assert node.get("/health")["worker"]["runs_on"].startswith(("cpu, float32", "cpu, bfloat16 by A"))
    assert node.stop() == 0


def test_killed_once_is_not_lost(
    start_node: Factory, send: Factory, make_series: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    node = start_node(bundle=str(slow_bundle))
    send(node.dicom_port, make_series(1))
    worker = node.wait_until_worker_runs()
    wait_for(lambda: is_indexing(node), 30, "the series is being indexed")
    worker.kill()
    node.wait_until_worker_runs(other_than=worker)
    assert node.wait_until_indexed()["series_by_state"] == {"INDEXED": 1}


def test_a_worker_that_cannot_start(start_node: Factory, tmp_path: Path, wait_for: Factory) -> None:
    """Weights that are not those of the bundle: said in the log and under /health, tried again ever later."""
    shipped = resources.files("indexer").joinpath("bundles", "tiny.toml").read_text(encoding="utf-8")
    weights = f'source = "file"\nfile = "weights.pt"\nsha256 = "{"0" * 64}"\n'
    (tmp_path / "damaged.toml").write_text(shipped.replace('source = "random"\nseed = 20240229\n', weights, 1))
    (tmp_path / "weights.pt").write_bytes(b"not the weights")
    node = start_node(bundle=str(tmp_path / "damaged.toml"))
    wait_for(lambda: node.get("/health")["worker"]["state"] == "FAILED", 30, "the node says so")
    health = node.get("/health")
    assert not health["ready"]
    assert health["dicom"]
    assert "expected SHA-256 0000" in health["worker"]["problem"]
    assert "the worker cannot start" in node.log
    assert "expected SHA-256 0000" in node.log
    wait_for(lambda: node.log.count("worker cannot start") >= 2, 120, "it is tried again")
    time.sleep(3)
    assert node.log.count("worker cannot start") <= 4
    assert "Traceback" not in node.log
    assert node.stop() == 0


def test_a_series_that_needs_more_memory_than_allowed(
    start_node: Factory, send: Factory, make_series: Factory, slow_bundle: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge.toml"
    huge.write_text(slow_bundle.read_text().replace("[2.0, 1.0, 1.0]", "[1.0, 0.75, 0.75]"))
    node = start_node(bundle=str(huge), PACSIMILE_INDEXING_MEMORY_LIMIT_MIB="1200")
    send(node.dicom_port, make_series(1))
    known = node.wait_until_indexed()
    assert known["series_by_state"] == {"PARKED": 1}
    assert "memory" in known["parked"][0]["reason"], known["parked"]
    node.wait_until_worker_runs()
    assert node.get("/health")["ready"]
    assert node.stop() == 0


def test_files_that_vanish_are_no_end(start_node: Factory, send: Factory, make_series: Factory) -> None:
    """Files that vanish under the node: the series waits or is parked, the node serves on."""
    node = start_node()
    worker = node.wait_until_worker_runs()
    worker.suspend()
    send(node.dicom_port, make_series(1))
    for folder in (node.data_dir / "spool").iterdir():
        if len(folder.name) == 1:
            shutil.rmtree(folder)
    worker.resume()
    known = node.wait_until_indexed()
    assert known["series_by_state"] == {"PARKED": 1}
    assert known["parked"][0]["reason"]
    send(node.dicom_port, make_series(2))
    assert node.wait_until_indexed()["series_by_state"] == {"INDEXED": 1, "PARKED": 1}
