"""The script for Orthanc's Python plugin, in a real Orthanc: it asks the node, and sends it studies."""

import json
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread

Factory = Callable[..., Any]
Node = Orthanc = Any
"""Those of the conftests."""
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPython.so")
SCRIPT = Path(__file__).parents[2] / "docker" / "orthanc" / "pacsimile.py"
TOKEN = "a-token-of-more-than-16-characters"
WAIT_S = 300.0


@pytest.fixture(scope="module")
def node(start_shared_node: Factory) -> Node:
    return start_shared_node("plugin", PACSIMILE_HTTP_TOKENS=TOKEN)


@pytest.fixture(scope="module")
def orthanc(start_orthanc: Factory, node: Node, find_port: Factory, tmp_path_factory: Factory) -> Orthanc:
    """One that sends what became stable to the node, asks it, and holds the small archive."""
    if not PLUGIN.exists():
        pytest.skip("Orthanc's Python plugin (Debian: orthanc-python) is not installed")
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(TOKEN + "\n")
    section = {
        "Url": f"http://127.0.0.1:{node.ports['http']}",
        "TokenFile": str(token_file),
        "SendStableTo": "pacsimile",
        "AnswerFind": True,
    }
    return start_orthanc(
        node.dicom_port,
        find_port(),
        StableAge=1,
        Plugins=[str(PLUGIN)],
        PythonScript=str(SCRIPT),
        PythonVerbose=False,
        DicomAlwaysAllowFind=True,
        Pacsimile=section,
    )


@pytest.fixture(scope="module")
def indexed(orthanc: Orthanc, node: Node, phantom_archive: Path, wait_for: Factory) -> dict[str, Path]:
    """The archive: given to Orthanc, sent by it, indexed by the node."""
    files: dict[str, Path] = orthanc.upload(phantom_archive)
    wait_for(lambda: status(node)["instances"] == len(files), WAIT_S, "Orthanc has sent what became stable")
    wait_for(lambda: status(node)["series_by_state"] == {"INDEXED": 7}, WAIT_S, "all is indexed")
    wait_for(lambda: ask(node, "/health")["index_size"] == status(node)["embeddings"], WAIT_S, "the index follows")
    return files


def ask(node: Node, path: str) -> Any:  # noqa: ANN401 - any JSON
    answer = requests.get(
        f"http://127.0.0.1:{node.ports['http']}{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    answer.raise_for_status()
    return answer.json()


def status(node: Node) -> Any:  # noqa: ANN401 - any JSON
    return ask(node, "/status")


def test_similar_to_a_study_and_to_a_series(orthanc: Orthanc, node: Node, indexed: dict[str, Path]) -> None:
    assert indexed
    for plural, uid_name in (("studies", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
        for one in orthanc.get(f"/{plural}?expand"):
            told = orthanc.get(f"/{plural}/{one['ID']}/similar?limit=2")
            expected = ask(node, f"/{plural}/{one['MainDicomTags'][uid_name]}/similar?limit=2")
            assert expected["hits"]
            ids = [hit.pop("orthanc_id") for hit in told["hits"]]
            assert told == expected
            found = [orthanc.get(f"/studies/{one}")["MainDicomTags"]["StudyInstanceUID"] for one in ids]
            assert found == [hit["study_instance_uid"] for hit in expected["hits"]]


def test_what_cannot_be_answered(orthanc: Orthanc, indexed: dict[str, Path], make_series: Factory) -> None:
    study = orthanc.get("/studies")[0]
    assert orthanc.request("GET", "/studies/nonesuch/similar").status_code == 404
    assert orthanc.request("POST", f"/studies/{study}/similar").status_code == 405
    wrong = orthanc.request("GET", f"/studies/{study}/similar?limit=none")
    assert wrong.status_code in (400, 422)
    assert "limit" in wrong.text
    one = dcmread(next(iter(indexed.values())))
    one.StudyInstanceUID = one.SeriesInstanceUID = "2.25.4712"
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = "2.25.4713"
    buffer = BytesIO()
    one.save_as(buffer)
    unknown = orthanc.request("POST", "/instances", data=buffer.getvalue()).json()
    assert orthanc.request("GET", f"/studies/{unknown['ParentStudy']}/similar").status_code in (404, 503)
    orthanc.request("DELETE", f"/studies/{unknown['ParentStudy']}")


def find(orthanc: Orthanc, tool: Factory, called: str, folder: Path, *keys: str, level: str = "STUDY") -> Any:  # noqa: ANN401
    """Ask by C-FIND with DCMTK; the answers in order, and what findscu said."""
    folder.mkdir()
    port = str(json.loads((orthanc.folder / "orthanc.json").read_text())["DicomPort"])
    options = [option for key in (f"QueryRetrieveLevel={level}", *keys) for option in ("-k", key)]
    command = [tool("findscu"), "-v", "-S", "-X", "-od", str(folder), "-aec", called, *options, "127.0.0.1", port]
    done = subprocess.run(
        command, env={"TCP_NODELAY": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    return [dcmread(file, force=True) for file in sorted(folder.glob("*.dcm"))], done.stderr + done.stdout


def test_find_at_the_title_for_similar_studies(
    orthanc: Orthanc, node: Node, indexed: dict[str, Path], tool: Factory, tmp_path: Path
) -> None:
    query = dcmread(next(iter(indexed.values())), stop_before_pixels=True)
    wanted = ("PatientID", "StudyDate", "ModalitiesInStudy", "StudyDescription")
    expected = ask(node, f"/similar/{query.StudyInstanceUID}/studies")
    listed = [one["0020000D"]["Value"][0] for one in expected]
    assert listed
    seed = f"StudyInstanceUID={query.StudyInstanceUID}"
    by_uid, _ = find(orthanc, tool, "SIMILAR", tmp_path / "1", seed, *wanted)
    assert [str(one.StudyInstanceUID) for one in by_uid] == listed
    for one, row in zip(by_uid, expected, strict=True):
        assert one.PatientID == row["00100020"]["Value"][0]
        assert one.ModalitiesInStudy == row["00080061"]["Value"][0]
        assert one.StudyDate == row["00080020"]["Value"][0]
    modality = by_uid[0].ModalitiesInStudy
    keys = (seed, f"ModalitiesInStudy={modality}", "PatientName")
    filtered, _ = find(orthanc, tool, "SIMILAR", tmp_path / "2", *keys)
    assert [str(one.StudyInstanceUID) for one in filtered] == [
        str(one.StudyInstanceUID) for one in by_uid if one.ModalitiesInStudy == modality
    ]
    nothing, said = find(orthanc, tool, "SIMILAR", tmp_path / "3", "PatientID", "StudyInstanceUID")
    assert nothing == []
    assert "Failed" in said


def test_find_at_any_other_title_is_orthancs_own(
    orthanc: Orthanc, indexed: dict[str, Path], tool: Factory, tmp_path: Path
) -> None:
    headers = [dcmread(file, stop_before_pixels=True) for file in indexed.values()]
    one = headers[0]
    study = [header for header in headers if header.StudyInstanceUID == one.StudyInstanceUID]
    keys = ("StudyInstanceUID", f"PatientID={one.PatientID}", "NumberOfStudyRelatedInstances", "ModalitiesInStudy")
    found, _ = find(orthanc, tool, "ORTHANC", tmp_path / "1", *keys)
    assert {str(row.StudyInstanceUID) for row in found} == {
        str(header.StudyInstanceUID) for header in headers if header.PatientID == one.PatientID
    }
    (mine,) = [row for row in found if row.StudyInstanceUID == one.StudyInstanceUID]
    assert mine.NumberOfStudyRelatedInstances == len(study)
    assert mine.ModalitiesInStudy == one.Modality
    keys = (f"SeriesInstanceUID={one.SeriesInstanceUID}", "SOPInstanceUID", "PatientID", "Rows")
    images, _ = find(orthanc, tool, "ORTHANC", tmp_path / "2", *keys, level="IMAGE")
    assert {str(row.SOPInstanceUID) for row in images} == {
        str(header.SOPInstanceUID) for header in headers if header.SeriesInstanceUID == one.SeriesInstanceUID
    }
    assert {(row.PatientID, row.Rows) for row in images} == {(one.PatientID, one.Rows)}
