"""Orthanc asks a node for storage commitment, and is told over an association that the node opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

Factory = Callable[..., Any]
Node = Orthanc = Any
"""Those of the conftests."""
REPORT_S = 30.0


@pytest.fixture(scope="module")
def orthanc_port(find_port: Callable[[], int]) -> int:
    """Where Orthanc will listen for reports."""
    return find_port()


@pytest.fixture(scope="module")
def start(start_shared_node: Factory, orthanc_port: int, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """Start, or start again, a node that knows Orthanc as its peer."""
    file = tmp_path_factory.mktemp("settings") / "node.toml"
    peer = f'[[peers]]\naet = "ORTHANC"\nhost = "127.0.0.1"\nport = {orthanc_port}\n'
    file.write_text(peer)
    return lambda: start_shared_node("commitment", PACSIMILE_CONFIG=str(file))


@pytest.fixture(scope="module")
def node(start: Factory) -> Node:
    return start()


@pytest.fixture(scope="module")
def orthanc(start_orthanc: Factory, node: Node, orthanc_port: int) -> Orthanc:
    return start_orthanc(node.dicom_port, orthanc_port)


@pytest.fixture(scope="module")
def sent(orthanc: Orthanc, make_series: Factory) -> list[Dataset]:
    """Headers of the instances of a series that Orthanc has sent to the node."""
    files = sorted(make_series(71).rglob("*.dcm"))
    for file in files:
        orthanc.request("POST", "/instances", data=file.read_bytes()).raise_for_status()
    stored = orthanc.post("/modalities/pacsimile/store", {"Resources": orthanc.get("/series"), "Synchronous": True})
    assert stored["FailedInstancesCount"] == 0
    return [dcmread(file, stop_before_pixels=True) for file in files]


def ask(orthanc: Orthanc, instances: list[tuple[str, str]]) -> str:
    """Ask for storage commitment; the path of the report that Orthanc keeps."""
    wanted = [list(pair) for pair in instances]
    path: str = orthanc.post("/modalities/pacsimile/storage-commitment", {"DicomInstances": wanted})["Path"]
    return path


def report(orthanc: Orthanc, path: str, wait_for: Factory) -> dict[str, Any]:
    """The report, once the node has delivered it."""

    def came() -> dict[str, Any] | None:
        known: dict[str, Any] = orthanc.get(path)
        return None if known["Status"] == "Pending" else known

    found: dict[str, Any] = wait_for(came, REPORT_S, "the node reports")
    return found


def pairs(headers: list[Dataset]) -> list[tuple[str, str]]:
    return [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in headers]


def codes(found: dict[str, Any]) -> dict[str, int]:
    return {one["SOPInstanceUID"]: one["FailureReason"] for one in found["Failures"]}


def test_success(orthanc: Orthanc, sent: list[Dataset], wait_for: Factory) -> None:
    found = report(orthanc, ask(orthanc, pairs(sent)), wait_for)
    assert found["Status"] == "Success"
    assert found["RemoteAET"] == "PACSIMILE"
    assert {one["SOPInstanceUID"] for one in found["Success"]} == {uid for _, uid in pairs(sent)}


def test_commitment_asked_for_together_with_sending(
    orthanc: Orthanc, sent: list[Dataset], wait_for: Factory
) -> None:
    job = orthanc.post(
        "/modalities/pacsimile/store",
        {"Resources": orthanc.get("/series"), "StorageCommitment": True, "Synchronous": False},
    )
    wait_for(lambda: orthanc.get(f"/jobs/{job['ID']}")["State"] == "Success", REPORT_S, "Orthanc has sent")
    transaction = orthanc.get(f"/jobs/{job['ID']}")["Content"]["StorageCommitmentTransactionUID"]
    found = report(orthanc, f"/storage-commitment/{transaction}", wait_for)
    assert found["Status"] == "Success"
    assert len(found["Success"]) == len(sent)


def test_an_instance_that_the_node_does_not_have(orthanc: Orthanc, sent: list[Dataset], wait_for: Factory) -> None:
    sop_class_uid, _ = pairs(sent)[0]
    found = report(orthanc, ask(orthanc, [*pairs(sent), (sop_class_uid, "1.2.3.4")]), wait_for)
    assert found["Status"] == "Failure"
    assert codes(found) == {"1.2.3.4": 0x0112}
    assert len(found["Success"]) == len(sent)


def test_a_file_that_was_damaged_on_the_disk(
    orthanc: Orthanc, node: Node, sent: list[Dataset], wait_for: Factory
) -> None:
    damaged = str(sent[0].SOPInstanceUID)
    with node.catalog() as catalog:
        file = Path(node.data_dir / "spool" / str(catalog.lookup.instance_path(damaged)))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = report(orthanc, ask(orthanc, pairs(sent)), wait_for)
    assert found["Status"] == "Failure"
    assert codes(found) == {damaged: 0x0110}
    orthanc.post("/modalities/pacsimile/store", {"Resources": orthanc.get("/series"), "Synchronous": True})
    assert report(orthanc, ask(orthanc, pairs(sent)), wait_for)["Status"] == "Success"


def test_the_node_stops_before_it_could_report(
    orthanc: Orthanc, node: Node, start: Factory, sent: list[Dataset], wait_for: Factory
) -> None:
    path = ask(orthanc, pairs(sent))
    assert node.stop() == 0
    assert orthanc.get(path)["Status"] == "Pending"
    start()
    assert report(orthanc, path, wait_for)["Status"] == "Success"
