"""Orthanc with every real series: it sends, asks for commitment, finds, and has all sent back by C-MOVE."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from indexer.catalog.lookup import Level

Factory = Callable[..., Any]
Node = Orthanc = Any
"""Those of the conftests."""
REPORT_S = 240.0


def upload(orthanc: Orthanc, files: list[Path]) -> dict[str, Path]:
    """Give files to Orthanc; its identifier of each instance that it takes, which has to have its UIDs."""
    taken = {}
    for file in files:
        answer = orthanc.request("POST", "/instances", data=file.read_bytes())
        if answer.ok:
            taken[answer.json()["ID"]] = file
    return taken


def pixels(dataset: Dataset) -> tuple[str, bytes]:
    return str(dataset.file_meta.TransferSyntaxUID), dataset.PixelData


def everything(shared_dicom: Path) -> dict[str, tuple[str, bytes]]:
    """SOP Instance UID of each real instance that names its series to transfer syntax and pixel data."""
    datasets = [dcmread(file) for file in sorted(shared_dicom.rglob("*.dcm"))]
    return {str(one.SOPInstanceUID): pixels(one) for one in datasets if one.get("SeriesInstanceUID")}


@pytest.mark.slow
def test_there_and_back(
    start_node: Factory,
    start_orthanc: Factory,
    find_port: Callable[[], int],
    shared_dicom: Path,
    tmp_path: Path,
    wait_for: Factory,
) -> None:
    port = find_port()
    settings = tmp_path / "node.toml"
    settings.write_text(f'[[peers]]\naet = "ORTHANC"\nhost = "127.0.0.1"\nport = {port}\n')
    node = start_node(PACSIMILE_CONFIG=str(settings))
    orthanc = start_orthanc(node.dicom_port, port)
    wanted = everything(shared_dicom)
    send_all(orthanc, node, shared_dicom, set(wanted))
    commit_all(orthanc, set(wanted), wait_for)
    orthanc.request("POST", "/tools/bulk-delete", json={"Resources": orthanc.get("/patients")}).raise_for_status()
    assert orthanc.get("/statistics")["CountInstances"] == 0
    move_all(orthanc, set(wanted))
    for one in orthanc.get("/instances?expand"):
        file = tmp_path / "came.dcm"
        file.write_bytes(orthanc.request("GET", f"/instances/{one['ID']}/file").content)
        came = dcmread(file)
        assert pixels(came) == wanted.pop(str(came.SOPInstanceUID))
    assert not wanted
    assert node.stop() == 0


def send_all(orthanc: Orthanc, node: Node, shared_dicom: Path, wanted: set[str]) -> None:
    """C-STORE, and the states that the node's series come to."""
    taken: dict[str, Path] = {}
    for folder in sorted(shared_dicom.iterdir()):
        of_folder = upload(orthanc, sorted(folder.glob("*.dcm")))
        sent = orthanc.post("/modalities/pacsimile/store", {"Resources": list(of_folder), "Synchronous": True})
        assert sent["FailedInstancesCount"] == 0, folder.name
        taken |= of_folder
    known = node.wait_until_indexed()
    assert known["instances"] + known["quarantined_instances"] == len(taken)
    assert not set(known["series_by_state"]) - {"INDEXED", "PARKED"}
    with node.catalog() as catalog:
        entered = {one.attributes["00080018"]["Value"][0] for one in catalog.lookup.entities(Level.IMAGE)}
    assert entered == wanted


def commit_all(orthanc: Orthanc, wanted: set[str], wait_for: Factory) -> None:
    """Storage commitment of every instance at once."""
    everything_in = [
        one["ID"] for one in orthanc.get("/instances?expand") if one["MainDicomTags"]["SOPInstanceUID"] in wanted
    ]
    path = orthanc.post("/modalities/pacsimile/storage-commitment", {"Resources": everything_in})["Path"]
    wait_for(lambda: orthanc.get(path)["Status"] != "Pending", REPORT_S, "the node reports")
    report = orthanc.get(path)
    assert report["Status"] == "Success", report["Failures"][:3]
    assert {one["SOPInstanceUID"] for one in report["Success"]} == wanted


def move_all(orthanc: Orthanc, wanted: set[str]) -> None:
    """C-FIND for every study and its series, then C-MOVE of all that was found."""
    asked = {"StudyInstanceUID": "", "PatientID": "", "NumberOfStudyRelatedInstances": ""}
    query = orthanc.post("/modalities/pacsimile/query", {"Level": "Study", "Query": asked})
    studies = orthanc.get(f"/queries/{query['ID']}/answers?expand&simplify")
    assert sum(int(one["NumberOfStudyRelatedInstances"]) for one in studies) == len(wanted)
    done = orthanc.request(
        "POST", f"/queries/{query['ID']}/retrieve", json={"TargetAet": "ORTHANC", "Synchronous": True}
    )
    assert done.ok, done.text
