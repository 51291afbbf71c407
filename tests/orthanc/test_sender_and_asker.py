"""Orthanc sends to a node and asks it, as a PACS would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from indexer.catalog.lookup import Level

Factory = Callable[..., Any]


def upload(orthanc: Any, files: list[Path]) -> dict[str, str]:  # noqa: ANN401 - the fixture's class
    """Give files to Orthanc; its identifier of each instance to the SOP Instance UID."""
    taken = {}
    for file in files:
        answer = orthanc.request("POST", "/instances", data=file.read_bytes())
        if answer.ok:
            taken[answer.json()["ID"]] = str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)
    return taken


def held(node: Any) -> set[str]:  # noqa: ANN401 - the fixture's class
    with node.catalog() as catalog:
        return {one.attributes["00080018"]["Value"][0] for one in catalog.lookup.entities(Level.IMAGE)}


@pytest.fixture(scope="module")
def node(start_shared_node: Factory) -> Any:  # noqa: ANN401
    return start_shared_node("orthanc")


@pytest.fixture(scope="module")
def orthanc(start_orthanc: Factory, node: Any) -> Any:  # noqa: ANN401
    return start_orthanc(node.dicom_port)


def test_send_then_ask(node: Any, orthanc: Any, phantom_archive: Path) -> None:  # noqa: ANN401
    assert orthanc.post("/modalities/pacsimile/echo", {}) == {}
    taken = upload(orthanc, sorted(phantom_archive.rglob("*.dcm")))
    sent = orthanc.post("/modalities/pacsimile/store", {"Resources": list(taken), "Synchronous": True})
    assert sent["FailedInstancesCount"] == 0
    known = node.wait_until_indexed(len(taken))
    assert held(node) == set(taken.values())
    assert known["series_by_state"] == {"INDEXED": 7}
    again = orthanc.post("/modalities/pacsimile/store", {"Resources": list(taken), "Synchronous": True})
    assert again["FailedInstancesCount"] == 0
    assert node.wait_until_indexed() == known

    header = dcmread(next(phantom_archive.rglob("*.dcm")), stop_before_pixels=True)
    over_http = node.get(f"/studies/{header.StudyInstanceUID}/similar")["hits"]
    seed = {"StudyInstanceUID": str(header.StudyInstanceUID), "PatientID": "", "StudyDescription": ""}
    query = orthanc.post("/modalities/similar/query", {"Level": "Study", "Query": seed})
    answers = orthanc.get(f"/queries/{query['ID']}/answers?expand&simplify")
    listed = [one["StudyInstanceUID"] for one in answers]
    assert listed == [one["study_instance_uid"] for one in over_http]
    assert listed
    assert str(header.StudyInstanceUID) not in listed
    assert all(one["PatientID"] for one in answers)

    study = orthanc.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": seed["StudyInstanceUID"]}})
    orthanc.post("/modalities/similar/store", {"Resources": study, "Synchronous": True})
    query = orthanc.post("/modalities/similar/query", {"Level": "Study", "Query": {"PatientID": ""}})
    by_sending = orthanc.get(f"/queries/{query['ID']}/answers?expand&simplify")
    assert [one["StudyInstanceUID"] for one in by_sending] == listed

    plain = orthanc.post("/modalities/pacsimile/query", {"Level": "Study", "Query": seed})
    (same,) = orthanc.get(f"/queries/{plain['ID']}/answers?expand&simplify")
    assert same["StudyInstanceUID"] == seed["StudyInstanceUID"]
