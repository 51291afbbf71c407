"""Orthanc retrieves from a node, is fetched from, and has the node's instances where the node keeps none."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

Factory = Callable[..., Any]
ORTHANC = Any
"""`Orthanc` of the conftest."""
PATIENCE_S = 240.0


@dataclass
class Pair:
    """A node and an Orthanc that know each other, and the port where a third one called DEST may listen."""

    node: Any
    orthanc: Any
    dest_port: int


@pytest.fixture(scope="module")
def start_pair(
    start_shared_node: Factory,
    start_orthanc: Factory,
    find_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Pair]:
    """Factory: further settings of the node are TOML."""

    def start(name: str, settings: str = "") -> Pair:
        orthanc_port, dest_port = find_port(), find_port()
        file = tmp_path_factory.mktemp("settings") / "node.toml"
        peers = [
            f'[[peers]]\naet = "{aet}"\nhost = "127.0.0.1"\nport = {port}\n'
            for aet, port in (("ORTHANC", orthanc_port), ("DEST", dest_port))
        ]
        file.write_text("".join(peers) + settings)
        node = start_shared_node(name, PACSIMILE_CONFIG=str(file))
        orthanc = start_orthanc(node.dicom_port, orthanc_port)
        dest = {"AET": "DEST", "Host": "127.0.0.1", "Port": dest_port}
        orthanc.request("PUT", "/modalities/dest", json=dest).raise_for_status()
        return Pair(node, orthanc, dest_port)

    return start


@pytest.fixture(scope="module")
def by_move(start_pair: Factory) -> Pair:
    """The node fetches by C-MOVE, and keeps what it fetched."""
    return start_pair("by-move", '[fetch]\nsource_aet = "ORTHANC"\n[indexing]\nquiet_time_s = 300.0\n')


@pytest.fixture(scope="module")
def by_get(start_pair: Factory) -> Pair:
    """The node fetches by C-GET, and forgets what it fetched."""
    return start_pair(
        "by-get",
        '[fetch]\nsource_aet = "ORTHANC"\nmethod = "c-get"\nkeep = "none"\nforget_after_minutes = 0.1\n',
    )


@pytest.fixture(scope="module")
def index_only(start_pair: Factory) -> Pair:
    """The node keeps no files; Orthanc has them."""
    return start_pair(
        "index-only", '[storage]\nkeep = "none"\nretrieve_aet = "ORTHANC"\nrelease_after_minutes = 0.0\n'
    )


@pytest.fixture
def dest(tool: Factory, tmp_path: Path) -> Iterator[Callable[[Pair], Path]]:
    """Start DCMTK's storescp as DEST; the folder that it writes to."""
    processes = []

    def start(pair: Pair) -> Path:
        folder = tmp_path / "dest"
        folder.mkdir()
        command = [tool("storescp"), "-aet", "DEST", "-od", str(folder), "-uf", "+xa", str(pair.dest_port)]
        processes.append(subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"}))
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", pair.dest_port), 1).close()
                return folder
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield start
    for process in processes:
        process.kill()
        process.wait()


def stored(node: Any) -> list[str]:  # noqa: ANN401 - a running node
    """Names of the instances that a node keeps; it may be removing some."""
    return [name for *_, names in os.walk(node.data_dir / "spool") for name in names if name.endswith(".dcm")]


def upload(orthanc: ORTHANC, folder: Path) -> list[Dataset]:
    """Give the files of a folder to Orthanc; their headers."""
    files = sorted(folder.rglob("*.dcm"))
    for file in files:
        orthanc.request("POST", "/instances", data=file.read_bytes()).raise_for_status()
    return [dcmread(file, stop_before_pixels=True) for file in files]


def dcmtk(tool: Factory, name: str, node: Any, called: str, *arguments: str) -> tuple[int, str]:  # noqa: ANN401
    command = [tool(name), "-v", "-S", "-aec", called, "127.0.0.1", str(node.dicom_port), *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def ask(tool: Factory, node: Any, *keys: str) -> str:  # noqa: ANN401 - the fixture's class
    """Ask SIMILAR; what findscu said."""
    arguments = [part for key in ("QueryRetrieveLevel=STUDY", "RetrieveAETitle", *keys) for part in ("-k", key)]
    return dcmtk(tool, "findscu", node, "SIMILAR", *arguments)[1]


def uids(folder: Path) -> set[str]:
    return {str(dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in folder.iterdir()}


def test_orthanc_retrieves_what_it_found(by_move: Pair, make_series: Factory, send: Factory) -> None:
    node, orthanc = by_move.node, by_move.orthanc
    folder = make_series(81)
    send(node.dicom_port, folder)
    sent = [dcmread(file, stop_before_pixels=True) for file in sorted(folder.rglob("*.dcm"))]
    for level, keys in (
        ("Series", {"StudyInstanceUID": str(sent[0].StudyInstanceUID), "SeriesInstanceUID": ""}),
        ("Study", {"StudyInstanceUID": str(sent[0].StudyInstanceUID)}),
    ):
        query = orthanc.post("/modalities/pacsimile/query", {"Level": level, "Query": keys})
        assert len(orthanc.get(f"/queries/{query['ID']}/answers")) == 1
        done = orthanc.request(
            "POST", f"/queries/{query['ID']}/retrieve", json={"TargetAet": "ORTHANC", "Synchronous": True}
        )
        assert done.ok, (level, done.text, node.log[-1000:])
        assert len(orthanc.get("/instances")) == len(sent)
        for instance in orthanc.get("/instances"):
            orthanc.request("DELETE", f"/instances/{instance}").raise_for_status()


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("Patient", ("PatientID",)),
        ("Study", ("StudyInstanceUID",)),
        ("Series", ("StudyInstanceUID", "SeriesInstanceUID")),
        ("Instance", ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")),
    ],
)
def test_orthanc_moves_at_every_level(
    by_move: Pair, make_series: Factory, send: Factory, level: str, keys: tuple[str, ...]
) -> None:
    """Orthanc asks in the Study Root model, for a patient as well."""
    node, orthanc = by_move.node, by_move.orthanc
    folder = make_series(81)
    send(node.dicom_port, folder)
    sent = [dcmread(file, stop_before_pixels=True) for file in sorted(folder.rglob("*.dcm"))]
    wanted = {str(one.SOPInstanceUID) for one in sent[: 1 if level == "Instance" else None]}
    asked = {keyword: str(sent[0][keyword].value) for keyword in keys}
    done = orthanc.request(
        "POST",
        "/modalities/pacsimile/move",
        json={"Level": level, "Resources": [asked], "TargetAet": "ORTHANC", "Synchronous": True},
    )
    assert done.ok, (done.text, node.log[-1000:])
    came = orthanc.get("/instances?expand")
    assert {one["MainDicomTags"]["SOPInstanceUID"] for one in came} == wanted
    for one in came:
        orthanc.request("DELETE", f"/instances/{one['ID']}").raise_for_status()


@pytest.mark.slow
def test_a_study_that_the_node_does_not_have_is_fetched(by_move: Pair, make_series: Factory, tool: Factory) -> None:
    """Settling takes 300 s on this node, unless somebody waits."""
    node, orthanc = by_move.node, by_move.orthanc
    first, second = upload(orthanc, make_series(82)), upload(orthanc, make_series(83))
    before = time.monotonic()
    said = ask(tool, node, f"StudyInstanceUID={first[0].StudyInstanceUID}")
    took_s = time.monotonic() - before
    assert "Received Final Find Response (Success)" in said, said + node.log[-2000:]
    said = ask(tool, node, f"AccessionNumber={second[0].AccessionNumber}", "StudyInstanceUID")
    assert str(first[0].StudyInstanceUID) in said, said + node.log[-2000:]
    known = node.get("/status")
    assert known["series_by_state"]["INDEXED"] >= 2
    assert took_s < PATIENCE_S


def test_send_then_list_without_a_pause(by_move: Pair, make_series: Factory, send: Factory, tool: Factory) -> None:
    """Settling takes 300 s on this node, unless somebody waits."""
    folder = make_series(84)
    send(by_move.node.dicom_port, folder, called="SIMILAR")
    said = dcmtk(tool, "findscu", by_move.node, "SIMILAR", "-aet", "STORESCU", "-k", "QueryRetrieveLevel=STUDY")[1]
    assert "Received Final Find Response (Success)" in said, said + by_move.node.log[-2000:]
    file = next(folder.rglob("*.dcm"))
    assert by_move.node.get(f"/studies/{dcmread(file).StudyInstanceUID}/similar") is not None


def test_what_nobody_has_is_not_known(by_move: Pair, tool: Factory) -> None:
    said = ask(tool, by_move.node, "StudyInstanceUID=2.25.404")
    assert "(Failed: UnableToProcess)" in said
    assert "ORTHANC sent nothing" in by_move.node.log


@pytest.mark.slow
def test_fetched_by_get_and_forgotten(by_get: Pair, make_series: Factory, tool: Factory, wait_for: Factory) -> None:
    node, orthanc = by_get.node, by_get.orthanc
    sent = upload(orthanc, make_series(85))
    with ThreadPoolExecutor(1) as asker:
        asked = asker.submit(ask, tool, node, f"StudyInstanceUID={sent[0].StudyInstanceUID}")
        wait_for(lambda: node.get("/status")["instances"] == len(sent), PATIENCE_S, "the study is fetched")
        said = asked.result()
    assert "Received Final Find Response (Success)" in said, said + node.log[-2000:]
    wait_for(lambda: node.get("/status")["studies"] == 0, PATIENCE_S, "the study is forgotten")
    wait_for(lambda: not stored(node), PATIENCE_S, "its files are gone")
    wait_for(lambda: node.get("/health")["index_size"] == 0, PATIENCE_S, "its embeddings leave the index")
    said = ask(tool, node, f"StudyInstanceUID={sent[0].StudyInstanceUID}")
    assert "Received Final Find Response (Success)" in said, said + node.log[-2000:]


@pytest.mark.slow
def test_a_fetched_study_that_is_sent_stays(
    by_get: Pair, make_series: Factory, send: Factory, tool: Factory, wait_for: Factory
) -> None:
    """One that is fetched after it, and not sent, is forgotten; by then its own time would be over as well."""
    folder, node = make_series(86), by_get.node
    stays, goes = (str(upload(by_get.orthanc, one)[0].StudyInstanceUID) for one in (folder, make_series(91)))
    ask(tool, node, f"StudyInstanceUID={stays}")
    send(node.dicom_port, folder)
    ask(tool, node, f"StudyInstanceUID={goes}")
    with node.catalog() as catalog:
        wait_for(lambda: not catalog.lookup.series_of_study(goes), PATIENCE_S, "the other is forgotten")
        assert catalog.lookup.series_of_study(stays)


@pytest.mark.slow
@pytest.mark.default_engines  # whose files a second process opens
def test_a_node_that_keeps_no_files(
    index_only: Pair,
    make_series: Factory,
    tool: Factory,
    send: Factory,
    dest: Factory,
    pacsimile: Factory,
    wait_for: Factory,
) -> None:
    node, orthanc = index_only.node, index_only.orthanc
    folders = [make_series(87), make_series(88)]
    headers = [upload(orthanc, folder)[0] for folder in folders]
    instances = {str(dcmread(f).SOPInstanceUID) for f in folders[0].rglob("*.dcm")}
    send(node.dicom_port, *folders)
    node.wait_until_indexed()
    wait_for(lambda: not stored(node), PATIENCE_S, "the files are gone")

    said = ask(tool, node, f"StudyInstanceUID={headers[0].StudyInstanceUID}")
    assert str(headers[1].StudyInstanceUID) in said
    assert "AE [ORTHANC" in said
    folder = dest(index_only)
    study = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={headers[0].StudyInstanceUID}")
    code, said = dcmtk(tool, "movescu", node, "PACSIMILE", "-aem", "DEST", *study)
    assert code == 0, said + node.log[-2000:]
    assert said.count("(Pending)") >= 1
    assert uids(folder) == instances
    code, said = dcmtk(tool, "movescu", node, "PACSIMILE", "-aem", "UNHEARD", *study)
    assert code != 0
    assert "Received Final Move Response (Success)" not in said
    code, said = dcmtk(tool, "getscu", node, "PACSIMILE", "-od", str(folder), *study)
    assert "OutOfResourcesSubOperations" in said

    send(node.dicom_port, *folders)
    node.wait_until_indexed()
    assert not stored(node)
    done = pacsimile("verify", "--data-dir", node.data_dir, "--json")
    assert (done.status, done.json) == (0, {"findings": []})
    done = pacsimile("reindex", "--data-dir", node.data_dir, "--bundle", "tiny", "--all")
    assert "given up" in done.err
    assert node.get("/status")["series_by_state"] == {"INDEXED": 2}


def test_what_comes_later_to_a_series_without_files_is_parked(
    index_only: Pair, make_series: Factory, send: Factory, tmp_path: Path, wait_for: Factory
) -> None:
    node = index_only.node
    files = sorted(make_series(89).rglob("*.dcm"))
    (tmp_path / "late").mkdir()
    late = files.pop().rename(tmp_path / "late" / "late.dcm")
    send(node.dicom_port, *files)
    node.wait_until_indexed()
    wait_for(lambda: not stored(node), PATIENCE_S, "the files are gone")
    send(node.dicom_port, late)
    node.wait_until_indexed()
    with node.catalog() as catalog:
        (parked,) = catalog.progress.parked()
        assert f"{len(files)} of its files were given up" in parked.reason
        assert catalog.progress.settle_again() == 0


def test_another_bundle_is_refused_where_files_were_given_up(
    index_only: Pair, make_series: Factory, send: Factory, pacsimile: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    node = index_only.node
    send(node.dicom_port, make_series(90))
    node.wait_until_indexed()
    with node.catalog() as catalog:
        wait_for(catalog.holdings.released_series, PATIENCE_S, "files are given up")
    assert node.stop() == 0
    ports = ("--dicom-port", "0", "--http-port", "0")
    done = pacsimile("serve", "--data-dir", node.data_dir, "--bundle", slow_bundle, *ports)
    assert done.status != 0
    assert "another encoder cannot embed them" in " ".join(done.err.split())
