"""`pacsimile orthanc sync`: all of an Orthanc, whoever is killed meanwhile, nothing fetched twice; reports back."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from engines import catalog_url
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from indexer.catalog import Catalog

Factory = Callable[..., Any]
Node = Orthanc = Any
"""Those of the conftests."""
WAIT_S = 300.0


class Gate:
    """Between the node and an Orthanc: counts which paths were asked for, and lets only so many files through."""

    def __init__(self, orthanc: Orthanc) -> None:
        self.asked: Counter[str] = Counter()
        self.files = 0
        self.open = threading.Event()
        self.limit = 10**9
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gate.asked[self.path] += 1
                if self.path.endswith("/file"):
                    gate.files += 1
                    if gate.files > gate.limit:
                        gate.open.wait(WAIT_S)
                connection = HTTPConnection("127.0.0.1", orthanc.port, timeout=WAIT_S)
                connection.request(self.command, self.path, body)
                answered = connection.getresponse()
                content = answered.read()
                connection.close()
                self.send_response(answered.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = answer  # noqa: N815 - names that the library calls

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with suppress(OSError):  # who asked was killed
                    super().handle()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def orthanc(start_orthanc: Factory) -> Iterator[Orthanc]:
    started = start_orthanc(StableAge=1)
    yield started
    started.stop()


@pytest.fixture
def gate(orthanc: Orthanc) -> Iterator[Gate]:
    made = Gate(orthanc)
    yield made
    made.close()


@pytest.fixture
def full(orthanc: Orthanc, make_series: Factory, wait_for: Factory) -> dict[str, Path]:
    """Three series of three patients in Orthanc; the file of each instance."""
    files: dict[str, Path] = orthanc.upload(*(make_series(number) for number in (121, 122, 123)))
    wait_for(lambda: all(one["IsStable"] for one in orthanc.get("/studies?expand")), WAIT_S, "all is stable")
    return files


def sync(pacsimile: Factory, gate: Gate, data_dir: Path) -> Any:  # noqa: ANN401 - what it did
    return pacsimile("orthanc", "sync", "--url", gate.url, "--data-dir", data_dir, "--bundle", "tiny", "--json")


def count(data_dir: Path) -> int:
    if not data_dir.exists():
        return 0
    with Catalog(catalog_url(data_dir)) as catalog:
        return int(catalog.progress.counts().instances)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_sync_goes_on_where_it_was_interrupted(
    gate: Gate,
    full: dict[str, Path],
    pacsimile: Factory,
    start_command: Factory,
    wait_for: Factory,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    data_dir, half = tmp_path / "data", len(full) // 2
    gate.limit = half
    process = start_command("orthanc", "sync", "--url", gate.url, "--data-dir", data_dir, "--bundle", "tiny")
    wait_for(lambda: gate.files > half and count(data_dir) >= half, WAIT_S, "half of it is there")
    process.send_signal(number)
    if number is signal.SIGINT:
        gate.open.set()  # what is under way is finished
    said = process.communicate(timeout=WAIT_S)[1]
    gate.open.set()
    assert process.returncode == (130 if number is signal.SIGINT else -number)
    assert "Traceback" not in said
    present = count(data_dir)
    assert half <= present < len(full)
    gate.limit, gate.files = 10**9, 0
    done = sync(pacsimile, gate, data_dir)
    assert done.status == 0, done.err
    assert gate.files == len(full) - present
    assert done.json["instances"] == {"stored": len(full) - present}
    assert done.json["taken_over"] == 3
    assert done.json["status"]["series_by_state"] == {"INDEXED": 3}
    with Catalog(catalog_url(data_dir)) as catalog:
        for uid, file in full.items():
            assert dcmread(data_dir / "spool" / str(catalog.lookup.instance_path(uid))) == dcmread(file)

    gate.asked.clear()
    assert done.json["status"]["orthanc"] == [{"waiting": 0, "taken_over": 3, "problems": []}]
    again = sync(pacsimile, gate, data_dir)
    assert (again.status, again.json["studies"], again.json["instances"]) == (0, 0, {})
    assert set(gate.asked) <= {"/changes?last", "/studies", "/tools/bulk-content"}


@pytest.mark.slow
def test_sync_while_a_node_runs_that_does_not_follow(
    gate: Gate, full: dict[str, Path], start_node: Factory, pacsimile: Factory
) -> None:
    node = start_node(PACSIMILE_ORTHANC_URL=gate.url, PACSIMILE_ORTHANC_FOLLOW="false")
    done = sync(pacsimile, gate, node.data_dir)
    assert done.status == 0, done.err
    assert "a node runs on" in done.err
    assert done.json["instances"] == {"stored": len(full)}
    assert done.json["status"]["series_by_state"] == {"INDEXED": 3}
    assert node.stop() == 0


def held(node: Any) -> dict[str, object]:  # noqa: ANN401 - `Node` of the conftest
    """What the node holds, whatever of the Orthanc is still to be looked at."""
    return {key: value for key, value in node.get("/status").items() if key != "orthanc"}


@pytest.mark.slow
def test_reports_are_filed_in_orthanc_once(
    orthanc: Orthanc, start_node: Factory, make_series: Factory, wait_for: Factory, tmp_path: Path
) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text(
        f"""
        delivery = {{study_quiet_s = 0.5, first_retry_s = 0.2}}
        orthanc = {{url = "http://127.0.0.1:{orthanc.port}", poll_s = 0.2, first_retry_s = 0.2}}
        rules = [{{name = "file it", do = "report", peers = ["ORTHANC"]}}]
        """
    )
    node = start_node(PACSIMILE_CONFIG=str(settings))
    reports: dict[str, str] = {}
    for number in (124, 125):
        files = orthanc.upload(make_series(number))
        header = dcmread(next(iter(files.values())), stop_before_pixels=True)
        query = {"Modality": "SR", "StudyInstanceUID": str(header.StudyInstanceUID)}
        found = wait_for(
            lambda: orthanc.post("/tools/find", {"Level": "Instance", "Query": query}),  # noqa: B023 - called now
            WAIT_S,
            "the report is in Orthanc",
        )
        reports[str(header.StudyInstanceUID)] = found[0]
        report = dcmread(BytesIO(orthanc.request("GET", f"/instances/{found[0]}/file").content))
        assert report.SOPClassUID == Comprehensive3DSRStorage
        assert (report.PatientID, report.StudyInstanceUID) == (header.PatientID, header.StudyInstanceUID)
    assert next(iter(reports)) in str(report)  # what was found for the second one
    wait_for(lambda: node.get("/status")["deliveries"] == {"DONE": 2}, WAIT_S, "both reports are delivered")
    known = held(node)

    def has_come_to_rest() -> bool:
        changes = orthanc.get("/changes?limit=1000")["Changes"]
        stable = [one for one in changes if one["ChangeType"] == "StableStudy"][-1]
        with node.catalog() as catalog:
            (server,) = catalog.orthanc_studies.servers()
            cursor, waiting = catalog.orthanc_studies.cursor(server), catalog.orthanc_studies.waiting(server)
        news = [one["Seq"] for one in changes if one["ChangeType"] == "NewInstance"]
        return stable["Seq"] > max(news) and cursor.sequence >= stable["Seq"] and waiting == 0

    wait_for(has_come_to_rest, WAIT_S, "the studies with their reports were looked at again")
    assert held(node) == known
    listed = orthanc.post("/tools/find", {"Level": "Instance", "Query": {"Modality": "SR"}})
    assert sorted(listed) == sorted(reports.values())
    assert node.stop() == 0


def test_without_an_address_it_says_what_is_missing(pacsimile: Factory, tmp_path: Path, find_port: Factory) -> None:
    done = pacsimile("orthanc", "sync", "--data-dir", tmp_path, "--bundle", "tiny")
    assert done.status == 2
    assert "orthanc.url" in done.err
    at_once = {"PACSIMILE_ORTHANC_RETRIES": "0"}
    nobody = f"http://127.0.0.1:{find_port()}"
    call = ("orthanc", "sync", "--data-dir", tmp_path, "--bundle", "tiny", "--url", nobody)
    done = pacsimile(*call, variables=at_once)
    assert done.status == 1
    assert "Orthanc does not answer" in done.err


def test_a_peer_that_has_the_name_of_the_orthanc_is_a_mistake(pacsimile: Factory, tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text(
        """
        peers = [{aet = "ORTHANC", host = "127.0.0.1", port = 104}]
        orthanc = {url = "http://127.0.0.1:8042"}
        """
    )
    done = pacsimile("config", "check", "--config", settings)
    assert done.status == 2
    assert "orthanc.name" in done.err
