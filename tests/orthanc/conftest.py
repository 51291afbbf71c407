"""An Orthanc of its own for the tests, on free ports, always stopped."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

START_S = 120.0


@dataclass
class Orthanc:
    """A running Orthanc and its REST API."""

    port: int

    def request(self, method: str, path: str, **keywords: Any) -> requests.Response:  # noqa: ANN401
        return requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=300, **keywords)

    def get(self, path: str) -> Any:  # noqa: ANN401 - any JSON
        answer = self.request("GET", path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, value: object) -> Any:  # noqa: ANN401 - any JSON
        answer = self.request("POST", path, json=value)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def start_orthanc(
    tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], str], find_port: Callable[[], int]
) -> Iterator[Callable[..., Orthanc]]:
    """Factory: an Orthanc that knows the node on a port as `pacsimile` and, by its other title, `similar`.

    With a `dicom_port` it listens there as ORTHANC.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def start(node_port: int, dicom_port: int | None = None) -> Orthanc:
        folder = tmp_path_factory.mktemp("orthanc")
        settings = {
            "Name": "TEST",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "HttpPort": find_port(),
            "RemoteAccessAllowed": False,
            "DicomServerEnabled": dicom_port is not None,
            "DicomAet": "ORTHANC",
            "DicomPort": dicom_port or 0,
            "DicomModalities": {
                "pacsimile": ["PACSIMILE", "127.0.0.1", node_port],
                "similar": ["SIMILAR", "127.0.0.1", node_port],
            },
            "OverwriteInstances": False,
            "ConcurrentJobs": 1,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [tool("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log, env={"TCP_NODELAY": "1"}
            )
        processes.append(process)
        orthanc = Orthanc(int(str(settings["HttpPort"])))
        deadline = time.monotonic() + START_S
        while not _answers(orthanc):
            assert process.poll() is None, Path(folder / "log").read_text()
            assert time.monotonic() < deadline, Path(folder / "log").read_text()
            time.sleep(0.1)
        return orthanc

    yield start
    for process in processes:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(orthanc: Orthanc) -> bool:
    try:
        return orthanc.request("GET", "/system").ok
    except requests.ConnectionError:
        return False
