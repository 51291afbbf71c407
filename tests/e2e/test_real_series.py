"""Every real series on the ways into a node: what is on the disk is in the catalog, and indexed or said why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless

Factory = Callable[..., Any]
OFFERS = {JPEGLSLossless: "-xt", JPEGLSNearLossless: "-xu", JPEG2000Lossless: "-xv", JPEG2000: "-xw"}


def offer(folder: Path) -> list[str]:
    """Say which transfer syntax storescu is to propose for a folder."""
    syntax = dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).file_meta.TransferSyntaxUID
    return [OFFERS[syntax]] if syntax in OFFERS else []


@pytest.fixture(scope="module")
def named(shared_dicom: Path) -> dict[Path, bool]:
    """Every file, and whether it says which instance it is."""
    files = sorted(shared_dicom.rglob("*.dcm"))
    return {file: bool(dcmread(file, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")) for file in files}


def judge(held: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Every series came to its end, and most can be searched."""
    states = held["states"]
    parked = {uid: one.reason for uid, one in states.items() if one.state == "PARKED"}
    assert {one.state for one in states.values()} <= {"INDEXED", "PARKED", "STORED"}
    assert all(parked.values())
    with capsys.disabled():
        print(f"\n{len(states)} series, parked: {list(parked.values())}, quarantined: {held['quarantined']}")
    assert len(parked) <= len(states) / 10
    assert all("Series Instance UID (0020,000E)" in reason for reason in held["quarantined"])


@pytest.mark.slow
def test_storescu(
    start_node: Factory,
    send: Factory,
    shared_dicom: Path,
    named: dict[Path, bool],
    compare: Factory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = start_node()
    for folder in sorted(shared_dicom.iterdir()):
        are_named = all(named[file] for file in folder.glob("*.dcm"))
        sent = send(node.dicom_port, folder, options=offer(folder), check=are_named)
        assert (sent.returncode == 0) == are_named, folder.name
    node.wait_until_indexed()
    assert node.stop() == 0
    judge(compare(node.data_dir, [file for file, has_name in named.items() if has_name]), capsys)


@pytest.mark.slow
def test_ingest(
    pacsimile: Factory,
    tmp_path: Path,
    shared_dicom: Path,
    named: dict[Path, bool],
    compare: Factory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ("ingest", shared_dicom, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--json")
    first = pacsimile(*call)
    assert first.status == 0, first.err
    assert set(first.json["refused"]) == {str(file) for file, has_name in named.items() if not has_name}
    assert all("SOP Instance UID (0008,0018)" in reason for reason in first.json["refused"].values())
    judge(compare(tmp_path / "data", [file for file, has_name in named.items() if has_name]), capsys)
    again = pacsimile(*call, "--no-index").json
    assert again["stored"] == 0
    assert again["status"] == first.json["status"]
    assert pacsimile("verify", "--data-dir", tmp_path / "data", "--json").json == {"findings": []}
