"""An Orthanc of its own for the tests, on free ports, always stopped."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread

START_S = 120.0


@dataclass
class Orthanc:
    """An Orthanc on a folder and a port of its own, and its REST API."""

    folder: Path
    program: str
    port: int
    auth: tuple[bytes, bytes] | None = None
    process: "subprocess.Popen[bytes] | None" = None

    def request(self, method: str, path: str, **keywords: Any) -> requests.Response:  # noqa: ANN401
        url = f"http://127.0.0.1:{self.port}{path}"
        return requests.request(method, url, timeout=300, auth=self.auth, **keywords)

    def get(self, path: str) -> Any:  # noqa: ANN401 - any JSON
        answer = self.request("GET", path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, value: object) -> Any:  # noqa: ANN401 - any JSON
        answer = self.request("POST", path, json=value)
        answer.raise_for_status()
        return answer.json()

    def upload(self, *folders: Path) -> dict[str, Path]:
        """Give it the files below some folders; the file of each SOP Instance UID."""
        files = [file for folder in folders for file in sorted(folder.rglob("*.dcm"))]
        for file in files:
            self.request("POST", "/instances", data=file.read_bytes()).raise_for_status()
        return {str(dcmread(file, stop_before_pixels=True).SOPInstanceUID): file for file in files}

    def start(self) -> None:
        """Start, or start again on the same folder; returns once it answers."""
        with (self.folder / "log").open("ab") as log:
            command = [self.program, str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={"TCP_NODELAY": "1"})
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def start_orthanc(
    tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], str], find_port: Callable[[], int]
) -> Iterator[Callable[..., Orthanc]]:
    """Factory: an Orthanc that knows the node on a port as `pacsimile` and, by its other title, `similar`.

    With a `dicom_port` it listens there as ORTHANC. Further keywords are settings of it.
    """
    started: list[Orthanc] = []

    def start(node_port: int = 11112, dicom_port: int | None = None, **more: object) -> Orthanc:
        folder = tmp_path_factory.mktemp("orthanc")
        settings: dict[str, Any] = {
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
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        orthanc = Orthanc(folder, tool("Orthanc"), int(settings["HttpPort"]))
        for user, password in settings.get("RegisteredUsers", {}).items():
            orthanc.auth = (user.encode(), password.encode())
        started.append(orthanc)
        orthanc.start()
        return orthanc

    yield start
    for orthanc in started:
        orthanc.stop()
