"""Reports by command and over HTTP: kept in the study, never embedded, taken by DCMTK, Orthanc and other nodes."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from indexer.catalog import SeriesState

Tool = Callable[[str], str]
Factory = Callable[..., Any]
Node = Any
"""`RunningNode` of the conftest."""
SHARED_INDEX = {"PACSIMILE_VECTORS_KIND": "hnsw"}
"""A Milvus Lite file can be opened by one process only, and here a command asks beside a node."""


@dataclass(frozen=True)
class Setting:
    """A running node that knows some peers, and what it holds."""

    node: Node
    config: Path
    ports: dict[str, int]
    studies: tuple[str, ...]

    def command(self, pacsimile: Factory, *arguments: object) -> Any:  # noqa: ANN401 - `Done` of the conftest
        options = ("--data-dir", self.node.data_dir, "--config", self.config)
        return pacsimile("report", *arguments, *options, variables=SHARED_INDEX)

    def post(self, path: str) -> requests.Response:
        return requests.post(f"http://127.0.0.1:{self.node.ports['http']}{path}", timeout=60)


@pytest.fixture(scope="module")
def setting(
    start_shared_node: Factory,
    pacsimile: Factory,
    phantom_archive: Path,
    find_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Setting:
    ports = {"PACS": find_port(), "ORTHANC": find_port(), "OLD": find_port()}
    peers = [f'[[peers]]\naet = "{aet}"\nhost = "127.0.0.1"\nport = {port}\n' for aet, port in ports.items()]
    retries = "[delivery]\nfirst_retry_s = 0.5\nlongest_retry_s = 1.0\n"
    config = tmp_path_factory.mktemp("config") / "node.toml"
    config.write_text("".join(peers) + retries)
    node = start_shared_node(PACSIMILE_CONFIG=str(config), **SHARED_INDEX)
    assert pacsimile("ingest", phantom_archive, "--data-dir", node.data_dir, "--bundle", "tiny").status == 0
    node.wait_until_indexed()
    files = sorted(phantom_archive.rglob("*.dcm"))
    studies = {str(dcmread(file, specific_tags=["StudyInstanceUID"]).StudyInstanceUID) for file in files}
    return Setting(node, config, ports, tuple(sorted(studies)))


@contextmanager
def storescp(program: str, folder: Path, port: int) -> Iterator[None]:
    """DCMTK's receiver."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([program, "-od", str(folder), str(port)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def report_series(setting: Setting, sop_instance_uid: str) -> Any:  # noqa: ANN401 - `SeriesInfo`
    with setting.node.catalog() as catalog:
        (info,) = catalog.lookup.series_of_instances([sop_instance_uid])
    return info


def test_the_command_writes_a_file_and_the_node_keeps_it(
    setting: Setting, pacsimile: Factory, tool: Tool, tmp_path: Path
) -> None:
    study = setting.studies[0]
    embeddings = setting.node.get("/status")["embeddings"]
    instances = setting.node.get("/status")["instances"]
    made = [
        setting.command(pacsimile, study, "--out", tmp_path / f"{n}.dcm", "--limit", "3", "--json") for n in (1, 2)
    ]
    assert [done.status for done in made] == [0, 0]
    assert made[0].json["sop_instance_uid"] == made[1].json["sop_instance_uid"]
    assert (tmp_path / "1.dcm").read_bytes() == (tmp_path / "2.dcm").read_bytes()
    report = dcmread(tmp_path / "1.dcm")
    assert report.SOPClassUID == Comprehensive3DSRStorage
    assert (report.StudyInstanceUID, report.SOPInstanceUID) == (study, made[0].json["sop_instance_uid"])
    said = subprocess.run(
        [tool("dciodvfy"), str(tmp_path / "1.dcm")], capture_output=True, text=True, timeout=60, check=False
    )
    assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
    info = report_series(setting, str(report.SOPInstanceUID))
    assert (info.state, info.modality, info.study_instance_uid) == (SeriesState.STORED, "SR", study)
    known = setting.node.wait_until_indexed()
    assert (known["embeddings"], known["instances"]) == (embeddings, instances + 1)


def test_it_says_what_the_answer_says_and_nothing_of_other_patients(
    setting: Setting, pacsimile: Factory, tmp_path: Path, phantom_archive: Path
) -> None:
    study = setting.studies[1]
    assert setting.command(pacsimile, study, "--out", tmp_path / "r.dcm", "--limit", "4").status == 0
    answer = setting.node.get(f"/studies/{study}/similar?limit=4")
    content = (tmp_path / "r.dcm").read_bytes()
    report = dcmread(BytesIO(content))
    found = [one.study_instance_uid for one in _results(report)]
    assert found == [hit["study_instance_uid"] for hit in answer["hits"]]
    assert found
    headers = [dcmread(file, stop_before_pixels=True) for file in phantom_archive.rglob("*.dcm")]
    others = {
        value
        for one in headers
        if one.PatientID != report.PatientID
        for value in (str(one.PatientID), str(one.PatientName))
    }
    assert others
    assert not [value for value in others if value.encode() in content]
    own = {str(one.SOPInstanceUID) for one in headers if one.StudyInstanceUID == study}
    evidence = report.CurrentRequestedProcedureEvidenceSequence
    referenced = {
        str(one.ReferencedSOPInstanceUID)
        for of_study in evidence
        for of_series in of_study.ReferencedSeriesSequence
        for one in of_series.ReferencedSOPSequence
    }
    assert referenced <= own
    assert [one.StudyInstanceUID for one in evidence] == [study]


@dataclass(frozen=True)
class Result:
    study_instance_uid: str


def _results(report: Dataset) -> list[Result]:
    return [
        Result(str(next(one.UID for one in item.ContentSequence if one.ValueType == "UIDREF")))
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Similar study"
    ]


def test_a_seed_may_be_a_series_or_an_instance(setting: Setting, pacsimile: Factory, phantom_archive: Path) -> None:
    header = dcmread(next(phantom_archive.rglob("*.dcm")), stop_before_pixels=True)
    uids = set()
    for uid in (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID):
        done = setting.command(pacsimile, uid, "--json")
        assert done.json["study_instance_uid"] == header.StudyInstanceUID
        uids.add(done.json["sop_instance_uid"])
    assert len(uids) == 3


def test_sending_says_what_went_wrong(setting: Setting, pacsimile: Factory) -> None:
    away = setting.command(pacsimile, setting.studies[0], "--send", "PACS", "--json")
    assert away.status == 1
    assert "no association with PACS" in away.json["problems"]["PACS"]
    unknown = setting.command(pacsimile, setting.studies[0], "--send", "NOBODY")
    assert unknown.status == 2
    assert "NOBODY" in unknown.err
    missing = setting.command(pacsimile, "1.2.3.404")
    assert missing.status == 1
    assert "1.2.3.404" in missing.err


def test_over_http_as_a_file(setting: Setting) -> None:
    answer = setting.post(f"/studies/{setting.studies[2]}/report?limit=2")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/dicom")
    report = dcmread(BytesIO(answer.content))
    assert report.StudyInstanceUID == setting.studies[2]
    assert setting.post("/studies/1.2.404/report").status_code == 404
    assert setting.post(f"/studies/{setting.studies[2]}/report?send=NOBODY").status_code == 422
    assert setting.post(f"/studies/{setting.studies[2]}/report?limit=0").status_code == 422


def test_over_http_to_a_receiver_that_is_away_at_first(
    setting: Setting, tool: Tool, tmp_path: Path, wait_for: Factory
) -> None:
    answer = setting.post(f"/studies/{setting.studies[0]}/report?send=PACS&send=PACS")
    assert answer.status_code == 202
    assert answer.json()["send"] == ["PACS"]
    program = tool("storescp")

    def problems() -> list[dict[str, Any]]:
        known: list[dict[str, Any]] = setting.node.get("/status")["delivery_problems"]
        return known

    tried = lambda: [one for one in problems() if one["state"] == "WAITING"]  # noqa: E731
    (problem,) = wait_for(tried, 20, "a failed try")
    assert problem["target"] == "PACS"
    with storescp(program, tmp_path, setting.ports["PACS"]):
        wait_for(lambda: not problems(), 30, "the delivery")
        (file,) = tmp_path.iterdir()
    received = dcmread(file)
    assert received.SOPInstanceUID == answer.json()["sop_instance_uid"]
    assert setting.node.get("/status")["deliveries"]["DONE"] == 1


def test_a_peer_that_takes_implicit_vr_only_and_one_that_takes_no_sr(setting: Setting, pacsimile: Factory) -> None:
    got: list[bytes] = []

    def store(event: Any) -> int:  # noqa: ANN401 - `pynetdicom.events.Event`
        got.append(event.request.DataSet.getvalue())
        return 0

    entity = AE("OLD")
    entity.add_supported_context(Comprehensive3DSRStorage, ImplicitVRLittleEndian)
    handlers = [(evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", setting.ports["OLD"]), block=False, evt_handlers=handlers)
    try:
        done = setting.command(pacsimile, setting.studies[0], "--send", "OLD", "--json")
    finally:
        server.shutdown()
    assert done.json["sent"] == ["OLD"]
    assert done.json["sop_instance_uid"].encode() in got[0]
    other = AE("OLD")
    other.add_supported_context("1.2.840.10008.1.1")
    server = other.start_server(("127.0.0.1", setting.ports["OLD"]), block=False)
    try:
        done = setting.command(pacsimile, setting.studies[0], "--send", "OLD", "--json")
    finally:
        server.shutdown()
    assert done.status == 1
    assert "OLD" in done.json["problems"]["OLD"]


def test_one_that_comes_back_is_known_and_elsewhere_it_is_stored_and_never_embedded(
    setting: Setting, pacsimile: Factory, start_node: Factory, send: Factory, tmp_path: Path
) -> None:
    file = tmp_path / "sr" / "report.dcm"
    file.parent.mkdir()
    assert setting.command(pacsimile, setting.studies[0], "--out", file).status == 0
    before = setting.node.get("/status")
    send(setting.node.dicom_port, file.parent, options=["-R"])
    assert setting.node.get("/status")["instances"] == before["instances"]
    other = start_node("other")
    send(other.dicom_port, file.parent, options=["-R"])
    known = other.wait_until_indexed(instances=1)
    assert known["series_by_state"] == {"STORED": 1}
    assert known["embeddings"] == 0


@pytest.mark.slow
def test_orthanc_takes_it_into_the_study(
    setting: Setting,
    pacsimile: Factory,
    tool: Tool,
    tmp_path: Path,
    find_port: Callable[[], int],
    wait_for: Factory,
) -> None:
    http = find_port()
    configuration = {
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "index"),
        "Plugins": [],
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "DicomAet": "ORTHANC",
        "DicomPort": setting.ports["ORTHANC"],
        "DicomAlwaysAllowStore": True,
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([tool("Orthanc"), str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        wait_for(lambda: _answers(http), 60, "Orthanc is there")
        done = setting.command(pacsimile, setting.studies[1], "--send", "ORTHANC", "--json")
        assert done.json["sent"] == ["ORTHANC"], (tmp_path / "log").read_text()
        (study,) = requests.get(f"http://127.0.0.1:{http}/studies?expand", timeout=60).json()
        assert study["MainDicomTags"]["StudyInstanceUID"] == setting.studies[1]
        (series,) = requests.get(f"http://127.0.0.1:{http}/series?expand", timeout=60).json()
        assert series["MainDicomTags"]["Modality"] == "SR"
        assert series["MainDicomTags"]["SeriesDescription"] == "Similar studies (not for diagnosis)"
    finally:
        process.terminate()
        process.wait(120)


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/system", timeout=60).ok
    except requests.ConnectionError:
        return False


def test_where_only_the_archive_has_the_files_the_catalog_knows_the_patient(
    pacsimile: Factory, phantom_archive: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    assert pacsimile("ingest", phantom_archive, "--data-dir", data_dir, "--bundle", "tiny").status == 0
    header = dcmread(next(phantom_archive.rglob("*.dcm")), stop_before_pixels=True)
    for file in (data_dir / "spool").rglob("*.dcm"):
        file.unlink()
    out = tmp_path / "r.dcm"
    assert pacsimile("report", header.StudyInstanceUID, "--data-dir", data_dir, "--out", out).status == 0
    report = dcmread(out)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "StudyDescription"):
        assert report[keyword].value == header[keyword].value
