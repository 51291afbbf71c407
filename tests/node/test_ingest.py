"""`pacsimile ingest`: taking in what lies on disks, whatever else lies there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import dcmread

Factory = Callable[..., Any]


def test_what_is_not_dicom_is_refused_by_name(pacsimile: Factory, make_series: Factory, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    shutil.copytree(make_series(1), folder / "a" / "b")
    files = sorted(folder.rglob("*.dcm"))
    whole = files[3].read_bytes()
    (folder / "notes.txt").write_text("no image")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "head.dcm").write_bytes(whole[:140])
    (folder / "torn.dcm").write_bytes(whole[: len(whole) - 1000])
    files[3].unlink()
    os.mkfifo(folder / "pipe.dcm")
    (folder / "dangling.dcm").symlink_to(folder / "nowhere")
    (folder / "circle").symlink_to(folder)
    done = pacsimile("ingest", folder, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--json")
    assert done.status == 0, done.err
    told = done.json
    assert told["stored"] == len(files) - 1
    assert {Path(name).name for name in told["refused"]} == {"notes.txt", "empty.dcm", "head.dcm", "torn.dcm"}
    assert all(told["refused"].values())
    assert told["status"]["series_by_state"] == {"INDEXED": 1}
    again = pacsimile("ingest", folder, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--json").json
    assert (again["stored"], again["known"]) == (0, len(files) - 1)
    assert again["status"] == told["status"]
    assert len(list((tmp_path / "data" / "spool").rglob("*.dcm"))) == len(files) - 1


def test_unreadable_files_and_folders(
    pacsimile: Factory, tool: Factory, make_series: Factory, tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    shutil.copytree(make_series(2), folder / "open")
    shutil.copytree(make_series(3), folder / "closed")
    secret = next((folder / "open").rglob("*.dcm"))
    secret.chmod(0)
    (folder / "closed").chmod(0)
    # Modes bind root as well once it has given up overriding them.
    bound = [tool("setpriv"), "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    call = ("ingest", folder, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--no-index", "--json")
    done = pacsimile(*call, prefix=bound)
    (folder / "closed").chmod(0o700)
    assert done.status == 0, done.err
    assert done.json["refused"][str(secret)] == "the file cannot be read: Permission denied"
    assert done.json["refused"][str(folder / "closed")] == "the folder cannot be listed: Permission denied"
    assert done.json["stored"] == len(list((folder / "open").rglob("*.dcm"))) - 1


def test_a_file_larger_than_allowed_is_not_read(pacsimile: Factory, tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(8 << 30)
    done = pacsimile(
        "ingest", tmp_path / "disk.img", "--data-dir", tmp_path / "data", "--bundle", "tiny", "--no-index", "--json"
    )
    assert done.status == 0, done.err
    assert "dicom.max_object_mib" in done.json["refused"][str(tmp_path / "disk.img")]


def test_while_a_node_runs(start_node: Factory, pacsimile: Factory, make_series: Factory) -> None:
    node = start_node()
    done = pacsimile("ingest", make_series(4), "--data-dir", node.data_dir, "--bundle", "tiny", "--json")
    assert done.status == 0, done.err
    assert "a node runs on" in done.err
    assert done.json["status"]["series_by_state"] == {"INDEXED": 1}
    assert node.wait_until_indexed()["series_by_state"] == {"INDEXED": 1}
    assert node.stop() == 0


def test_no_series_uid_is_quarantined(pacsimile: Factory, make_series: Factory, tmp_path: Path) -> None:
    folder = shutil.copytree(make_series(5), tmp_path / "disk")
    for file in folder.rglob("*.dcm"):
        dataset = dcmread(file)
        del dataset.SeriesInstanceUID
        dataset.save_as(file)
    told = pacsimile("ingest", folder, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--json").json
    number = len(list(folder.rglob("*.dcm")))
    assert (told["quarantined"], told["stored"]) == (number, 0)
    (reason,) = told["status"]["quarantine"]
    assert "Series Instance UID (0020,000E)" in reason["reason"]
    assert reason["instances"] == number
    assert told["status"]["series_by_state"] == {}
