"""Forgetting on a whole node: nothing of the forgotten is left in any file, whatever was running or killed."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import catalog_url, copy_data
from pydicom import Dataset, dcmread

from indexer.catalog import Catalog

Factory = Callable[..., Any]
KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from config.load import load_settings
from dicom_scp.forgetting import Forgetter
from dicom_scp.spool import Spool
from indexer.catalog import Catalog

settings = load_settings(overrides={"data_dir": sys.argv[1]})
spool = Spool(settings.spool_dir)
spool.erase = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with Catalog(settings.catalog_url) as catalog:
    forgetter = Forgetter(settings.forgetting, catalog, spool)
    forgetter.forget(forgetter.targets_of_uid(sys.argv[2]))
"""


def headers(folder: Path) -> list[Dataset]:
    return [dcmread(file, stop_before_pixels=True) for file in sorted(folder.rglob("*.dcm"))]


def planted(folder: Path) -> set[bytes]:
    """Name, ID and UIDs of the instances below a folder, as they are written in files, and vectors' neighbours."""
    found: set[str] = set()
    for one in headers(folder):
        found |= {str(one.PatientName), str(one.PatientID)}
        found |= {str(one.StudyInstanceUID), str(one.SeriesInstanceUID), str(one.SOPInstanceUID)}
    return {value.encode() for value in found}


def left(data: Path, values: set[bytes]) -> dict[str, list[bytes]]:
    """File to which of the values it holds, in any file of a data folder; a node may remove some meanwhile."""
    found = {}
    for folder, _, names in os.walk(data):
        for file in (Path(folder, name) for name in names):
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                continue
            if held := sorted(value for value in values if value in content):
                found[str(file.relative_to(data))] = held
    return found


@pytest.fixture(scope="module")
def folders(make_series: Factory) -> tuple[Path, Path]:
    """Series of two patients."""
    return make_series(1), make_series(2)


@pytest.fixture(scope="module")
def filled(start_shared_node: Factory, send: Factory, folders: tuple[Path, Path]) -> Path:
    """Data folder of a node that received both and was stopped."""
    node = start_shared_node("filled")
    send(node.dicom_port, *folders)
    node.wait_until_indexed()
    assert node.stop() == 0
    data: Path = node.data_dir
    return data


@pytest.fixture
def data(filled: Path, tmp_path: Path) -> Path:
    return copy_data(filled, tmp_path / "data")


@pytest.fixture
def findings(pacsimile: Factory) -> Callable[[Path], list[str]]:
    """What `pacsimile verify` finds wrong."""
    return lambda data: [one["what"] for one in pacsimile("verify", "--data-dir", data, "--json").json["findings"]]


@pytest.mark.default_engines  # whose files a second process opens
def test_a_patient_beside_a_running_node(
    data: Path, folders: tuple[Path, Path], start_node: Factory, pacsimile: Factory, findings: Factory
) -> None:
    gone, stays = folders
    node = start_node(data.name)
    vectors = _vectors(data, headers(gone)[0].SeriesInstanceUID)
    assert planted(gone) <= set().union(*left(data, planted(gone)).values())
    assert left(data / "index", vectors)
    done = pacsimile("forget", "--patient", headers(gone)[0].PatientID, "--yes", "--data-dir", data, "--json")
    assert done.status == 0, done.err
    assert (done.json["studies"], done.json["instances"]) == (1, len(headers(gone)))
    assert done.json["erased"]
    assert left(data, planted(gone) | vectors) == {}
    assert node.get("/health")["index_size"] == node.get("/status")["embeddings"] > 0
    assert node.get("/status")["studies"] == 1
    assert findings(data) == []
    assert node.stop() == 0
    assert left(data, planted(gone) | vectors) == {}
    assert left(data, planted(stays))
    assert findings(data) == []


def _vectors(data: Path, series_uid: str) -> set[bytes]:
    """A series' embeddings as the index snapshot holds them: float32."""
    with Catalog(catalog_url(data)) as catalog:
        active = catalog.embeddings.active_encoder()
        info = catalog.lookup.series_by_uid(series_uid)
        assert active is not None
        assert info is not None
        (sequence,) = catalog.embeddings.sequences([info.series_pk], active).values()
    return {row.tobytes() for row in sequence.vectors}


def test_without_a_node_and_only_after_asking(
    data: Path, folders: tuple[Path, Path], pacsimile: Factory, findings: Factory, start_node: Factory
) -> None:
    gone, _ = folders
    study = headers(gone)[0].StudyInstanceUID
    asked = pacsimile("forget", study, "--data-dir", data)
    assert asked.status == 1
    assert f"1 study, 1 series, {len(headers(gone))} instances" in asked.err
    assert left(data, planted(gone))
    done = pacsimile("forget", study, "--yes", "--data-dir", data)
    assert (done.status, done.out.strip()) == (0, f"Removed 1 study, 1 series, {len(headers(gone))} instances.")
    assert left(data, planted(gone)) == {}
    assert findings(data) == []
    again = pacsimile("forget", study, "--yes", "--data-dir", data)
    assert again.status == 1
    assert "is held" in again.err
    node = start_node(data.name)
    assert node.get("/health")["index_size"] == node.get("/status")["embeddings"] > 0


@pytest.mark.default_engines
def test_killed_halfway_the_next_start_finishes(
    data: Path,
    folders: tuple[Path, Path],
    start_node: Factory,
    findings: Factory,
    pacsimile: Factory,
    wait_for: Factory,
) -> None:
    gone, _ = folders
    study = headers(gone)[0].StudyInstanceUID
    killed = subprocess.run([sys.executable, "-P", "-c", KILLED_HALFWAY, data, study], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert left(data / "spool", planted(gone))
    assert set(findings(data)) == {"something that was forgotten is not erased yet"}
    pacsimile("verify", "--repair", "--data-dir", data)
    assert pacsimile("status", "--data-dir", data, "--json").json["studies"] == 1
    node = start_node(data.name)
    wait_for(lambda: not left(data, planted(gone)), 30, "the node erases what was forgotten")
    wait_for(lambda: not findings(data), 30, "the node strikes it off")
    assert node.get("/status")["studies"] == 1


@pytest.mark.default_engines  # whose files a second process opens
def test_one_instance_over_the_rest_is_embedded_again(
    data: Path, folders: tuple[Path, Path], pacsimile: Factory, start_node: Factory, findings: Factory
) -> None:
    gone, _ = folders
    series = headers(gone)
    uid = series[len(series) // 2].SOPInstanceUID
    node = start_node(data.name)
    assert pacsimile("forget", uid, "--yes", "--data-dir", data).status == 0
    assert left(data, {uid.encode() + b"\0", b'"' + uid.encode() + b'"'}) == {}
    node.wait_until_indexed(2 * len(series) - 1)
    with node.catalog() as catalog:
        chunks = catalog.embeddings.chunks([catalog.lookup.series_by_uid(series[0].SeriesInstanceUID).series_pk],
                                           catalog.embeddings.active_encoder())  # fmt: skip
        slices = {ref.sop_instance_uid for chunk in chunks for ref in chunk.slices}
    assert slices
    assert uid not in slices
    assert findings(data) == []


def test_over_http_and_sent_again(
    data: Path, folders: tuple[Path, Path], start_node: Factory, send: Factory, pacsimile: Factory
) -> None:
    gone, _ = folders
    study = headers(gone)[0].StudyInstanceUID
    node = start_node(data.name, PACSIMILE_FORGETTING_REFUSE_AGAIN="REQUEST")

    def delete() -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{node.ports['http']}/studies/{study}", method="DELETE")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)

    assert delete() == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        delete()
    assert left(data / "spool", planted(gone)) == {}
    refused = send(node.dicom_port, gone, check=False)
    assert refused.returncode != 0
    assert node.get("/status")["studies"] == 1
    assert pacsimile("forget", study, "--allow", "--data-dir", data).status == 0
    send(node.dicom_port, gone)
    assert node.get("/status")["studies"] == 2
