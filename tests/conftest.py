"""What many tests share: real nodes as processes of their own, small series, DCMTK, the folder of real series."""

import contextlib
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import engines
import psutil
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from indexer.catalog import Catalog
from indexer.catalog.schema import patient, study
from node.phantoms import Exam, Patient, Region, archive, datasets

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
PACSIMILE = [sys.executable, "-P", "-c", "from node.cli import main; main()"]
C_LIBRARY, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
SHORTEST_NAME = 4
"""Shorter values of a patient's attributes (a sex, a number) are in any log by chance."""
SHORT = frozenset({"config", "dicom_scp", "indexer", "catalog", "evaluate", "vectors"})
"""Folders of tests that are soon done, but for those marked as slow."""
START_S, INDEXING_S, LEAST_PATIENCE_S = 60.0, 240.0, 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    waited_for = {item.path for item in items if item.get_closest_marker("slow")}
    # The longest first, then those that talk to nodes: nobody waits for them at the end.
    items.sort(key=lambda item: (item.path not in waited_for, item.path.parent.name in SHORT))
    if engines.CHOSEN:
        skip = pytest.mark.skip(reason="it is about SQLite's or hnswlib's own files")
        for item in items:
            if item.get_closest_marker("default_engines"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    """Folder of the real CT and MR series, one folder a series."""
    folder = SHARED_DATA / "dicom"
    if not folder.is_dir():
        pytest.skip(f"real CT and MR series are not there: {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def responses_reach_who_waits() -> Iterator[None]:
    """Clients of the tests lose no response to the library's own thread; see `RequestorDimse`."""
    from pynetdicom import association

    from dicom_scp.calling import RequestorDimse

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(association, "DIMSEServiceProvider", RequestorDimse)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[engines.Server]:
    """A PostgreSQL server without durability: what it promises of power cuts is not ours to test."""
    with engines.running_server() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def chosen_engines(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have all tests use PostgreSQL where the environment says so."""
    if engines.POSTGRESQL not in engines.CHOSEN:
        yield
        return
    with engines.every_catalog_on(request.getfixturevalue("postgresql")):
        yield


@pytest.fixture(scope="session")
def pretrained() -> str:
    """Name of the bundle with trained weights."""
    from indexer.bundle import read_bundle

    try:
        read_bundle("ct-astra").weight_files()
    except Exception as error:
        pytest.skip(f"trained weights are not there: {error}")
    return "ct-astra"


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Full path of a program that the system provides, such as DCMTK's storescu."""

    def find(name: str) -> str:
        if (found := shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")) is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:  # noqa: ANN401 - what it returned
    """Wait for a condition; fails, naming it, if it does not come true; patient, as machines are slow at times."""
    seconds = max(seconds, LEAST_PATIENCE_S)
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)
    return value


def as_child() -> None:
    """In a child process: hear SIGINT, which a test run in the background ignores; end when the tests do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        C_LIBRARY.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """Wait for a condition: `wait_for(condition, seconds, what)`."""
    return until


@pytest.fixture(scope="session")
def find_port() -> Callable[[], int]:
    """Find a port below those that the system hands out by itself: no outgoing connection takes it meanwhile."""

    def find() -> int:
        for port in random.sample(range(20_000, 32_000), 100):
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port
        raise OSError("no free port")

    return find


@dataclass
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACSIMILE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "TCP_NODELAY": "1", "COLUMNS": "200", "NO_COLOR": "1", **more}


@pytest.fixture(scope="session")
def pacsimile() -> Callable[..., Done]:
    """Run `pacsimile` with arguments, in a process of its own."""

    def run(
        *arguments: object,
        variables: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> Done:
        words, given = [str(one) for one in arguments], variables or {}
        done = subprocess.run(
            [*prefix, *PACSIMILE, *words],
            env=environment(**given, **engines.variables_for(words, given)),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INDEXING_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@dataclass
class RunningNode:
    """A node in a process of its own: `pacsimile serve` on ports that the system chose."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    log_file: Path
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def dicom_port(self) -> int:
        return self.ports["dicom"]

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log
            return "Pacsimile is ready" in self.log and "Not for diagnosis" in self.log

        until(is_ready, START_S, "the node is ready")
        for name, pattern in (("dicom", r"localhost (\d+)\b"), ("http", r"http://localhost:(\d+)/")):
            if found := re.search(pattern, self.log):  # not every node has every face
                self.ports[name] = int(found[1])

    def get(self, path: str) -> Any:  # noqa: ANN401 - any JSON
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}{path}", timeout=30) as answer:
            return json.load(answer)

    def catalog(self) -> contextlib.AbstractContextManager[Catalog]:
        return Catalog(engines.catalog_url(self.data_dir))

    def workers(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [one for one in found if one.is_running() and "-m" in _command_line(one)]

    def wait_until_worker_runs(self, other_than: psutil.Process | None = None) -> psutil.Process:
        def running() -> psutil.Process | None:
            found = [one for one in self.workers() if one != other_than and _is_alive(one)]
            return found[0] if found and self.get("/health")["worker"]["state"] == "RUNNING" else None

        worker: psutil.Process = until(running, START_S, "the worker runs")
        return worker

    def wait_until_indexed(self, instances: int | None = None, seconds: float = INDEXING_S) -> dict[str, Any]:
        """Wait until nothing is on its way any more; what `pacsimile status` then knows."""

        def is_done() -> dict[str, Any] | None:
            known = self.get("/status")
            waiting = {"RECEIVING", "SETTLED", "INDEXING"} & set(known["series_by_state"])
            return known if not waiting and instances in (None, known["instances"]) else None

        known: dict[str, Any] = until(is_done, seconds, f"all is indexed\n{self.log[-3000:]}")
        until(lambda: self.get("/health")["index_size"] == known["embeddings"], 10, "the index follows")
        return known

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 120.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@pytest.fixture
def start_command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `pacsimile` with arguments, and do not wait for its end; at the end of the test it is ended."""
    with contextlib.ExitStack() as started:

        def start(*arguments: object) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen(
                    [*PACSIMILE, *map(str, arguments)],
                    env=environment(**engines.variables_for([str(one) for one in arguments], {})),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    preexec_fn=as_child,
                )
            )
            started.callback(process.kill)
            return process

        yield start


def persons_told(data_dir: Path, log: str) -> list[str]:
    """Names, numbers and birth dates of a catalog's patients, and accession numbers, that a log tells as words."""
    values = set(_persons_of(data_dir))
    return sorted(value for value in values if re.search(rf"(?<![\w.-]){re.escape(value)}(?![\w.-])", log))


def _persons_of(data_dir: Path) -> Iterator[str]:
    with engines.looking_at(data_dir) as connection:
        if connection is None:
            return
        for patient_id, attributes in connection.execute(select(patient.c.patient_id, patient.c.attributes)):
            for value in (patient_id, *_texts_in(attributes)):
                yield from (one for one in (value, *re.split(r"[\^=]", value)) if len(one) >= SHORTEST_NAME)
        for (number,) in connection.execute(select(study.c.accession_number)):
            yield from [number] if len(number) >= SHORTEST_NAME else []


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)


StartNode = Callable[..., RunningNode]


@contextlib.contextmanager
def starter(folder: Path) -> Iterator[StartNode]:
    """Start nodes on data folders below one folder; all are stopped at the end, whatever happens."""
    nodes: list[RunningNode] = []

    def start(name: str = "data", *, wait: bool = True, bundle: str = "tiny", **variables: str) -> RunningNode:
        data_dir = folder / name
        log_file = folder / f"{name}-{len(nodes)}.log"
        arguments = (
            "serve",
            "--data-dir",
            str(data_dir),
            "--dicom-port",
            "0",
            "--http-port",
            "0",
            "--bundle",
            bundle,
        )
        quick = {"PACSIMILE_INDEXING_QUIET_TIME_S": "0.5", "PACSIMILE_INDEXING_THREADS": "1"}
        quick |= {"PACSIMILE_DICOM_RECEIVERS": "1"}  # on however many cores
        quick |= {"PACSIMILE_INDEXING_NICENESS": "0", **variables}  # other tests use all cores
        quick |= engines.variables_for(arguments, variables)
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [*PACSIMILE, *arguments],
                env=environment(**quick),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=as_child,
            )
        node = RunningNode(data_dir, process, log_file)
        nodes.append(node)
        if wait:
            node.wait_until_ready()
        return node

    try:
        yield start
        for node in nodes:
            assert not persons_told(node.data_dir, node.log), f"persons of the catalog in {node.log_file}"
    finally:
        for node in nodes:
            if node.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(node.process.pid, signal.SIGKILL)
                node.process.wait()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Factory of running nodes, for one test."""
    with starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNode]:
    """Factory of running nodes that the tests of a module share."""
    with starter(tmp_path_factory.mktemp("node")) as start:
        yield start


@pytest.fixture(scope="session")
def send(tool: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Send files or folders with DCMTK's storescu."""

    def run(
        port: int, *paths: Path, called: str = "PACSIMILE", options: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [
            tool("storescu"),
            "-aec",
            called,
            "+sd",
            "+r",
            *options,
            "127.0.0.1",
            str(port),
            *map(str, paths),
        ]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=check)

    return run


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle file like `tiny` that sees far more voxels: a small series takes it seconds."""
    shipped = resources.files("indexer").joinpath("bundles", "tiny.toml").read_text(encoding="utf-8")
    text = shipped.replace("spacing_mm = [6.0, 3.0, 3.0]", "spacing_mm = [2.0, 1.0, 1.0]")
    assert text != shipped
    file = tmp_path_factory.mktemp("bundles") / "slow.toml"
    file.write_text(text.replace('name = "tiny"', 'name = "slow"'))
    return file


def small(exam: Exam, matrix: int = 48, spacing_mm: float = 12.0) -> Exam:
    """Plan the same exam with few voxels."""
    return replace(exam, matrix=matrix, spacing_mm=spacing_mm)


def write(folder: Path, instances: Sequence[Dataset]) -> list[Path]:
    """Write instances as DICOM files, one folder a series."""
    files = []
    for one in instances:
        file = folder / str(one.SeriesInstanceUID) / f"{one.SOPInstanceUID}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        one.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


@pytest.fixture(scope="session")
def phantom_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small procedural archive: three patients, seven series of few voxels."""
    folder = tmp_path_factory.mktemp("phantoms")
    for exam in archive(3):
        write(folder, list(datasets(small(exam))))
    return folder


@pytest.fixture(scope="session")
def make_series(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of single procedural series: a number says whose; keywords change the plan of the exam."""

    def make(number: int, region: Region = Region.CHEST, **plan: object) -> Path:
        exam = replace(small(Exam(Patient.from_seed(number, number), region)), **plan)
        folder = tmp_path_factory.mktemp(f"series{number}")
        write(folder, list(datasets(exam)))
        return folder

    return make


def headers_below(*folders: Path) -> dict[str, list[Dataset]]:
    """SOP Instance UID to the headers of the DICOM files below some folders that have it."""
    found: dict[str, list[Dataset]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.dcm")):
            header = dcmread(file, stop_before_pixels=True)
            found.setdefault(str(header.SOPInstanceUID), []).append(header)
    return found
