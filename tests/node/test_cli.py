"""The command line: help that teaches, JSON that parses, errors of a few lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from indexer.bundle import EMBEDDING_DIM

Factory = Callable[..., Any]
INDEXING = ("serve", "ingest", "reindex", "demo")
COMMANDS = (*INDEXING, "similar", "status", "verify", "export", "fit", "evaluate", "orthanc", "config")


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory, pacsimile: Factory, phantom_archive: Path) -> Path:
    """Data folder with the small archive, indexed."""
    folder = tmp_path_factory.mktemp("archived") / "data"
    done = pacsimile("ingest", phantom_archive, "--data-dir", folder, "--bundle", "tiny", "--json")
    assert done.status == 0, done.err
    assert done.json["stored"] == done.json["files"] == len(list(phantom_archive.rglob("*.dcm")))
    assert done.json["status"]["series_by_state"] == {"INDEXED": 7}
    return folder


def test_help_teaches(pacsimile: Factory) -> None:
    overview = pacsimile("--help").out
    for command in COMMANDS:
        assert command in overview
        told = pacsimile(command, "--help").out
        assert "Usage:" in told
        sentences = [line for line in told.splitlines() if line.strip().endswith(".")]
        assert sentences, f"{command} says nothing of itself"
    assert "--resume" in pacsimile("reindex", "--help").out
    assert "box_lps_mm" in pacsimile("export", "--help").out


def test_a_wrong_call_is_told_how(pacsimile: Factory, tmp_path: Path) -> None:
    for call in (
        ("reindex",),
        ("reindex", "--all", "--parked"),
        ("similar",),
        ("nonesuch",),
        ("ingest", "--wrong"),
    ):
        done = pacsimile(*call)
        assert done.status == 2, call
        assert "Usage" in done.err or "give one of" in done.err
    missing = pacsimile("ingest", tmp_path / "nowhere", "--data-dir", tmp_path / "data", "--bundle", "tiny")
    assert missing.status == 2
    assert "no such file or folder" in missing.err.replace("\n", " ")


@pytest.mark.default_engines
@pytest.mark.parametrize(
    "call", [("status",), ("similar", "1.2.3"), ("verify",), ("reindex", "--all"), ("export", "--out", "out.npz")]
)
def test_a_folder_without_data(pacsimile: Factory, tmp_path: Path, call: tuple[str, ...]) -> None:
    done = pacsimile(*call, "--data-dir", tmp_path / "none", cwd=tmp_path)
    assert done.status == 1
    assert [line for line in done.err.splitlines() if line] == [
        f"✗ no node's data in {tmp_path / 'none'}: give --data-dir, or send it something first"
    ]
    assert not (tmp_path / "none").exists()


def test_status(pacsimile: Factory, archived: Path) -> None:
    known = pacsimile("status", "--data-dir", archived, "--json").json
    assert known["node_running"] is False
    assert known["encoder_id"].startswith("tiny-")
    assert known["series_by_state"] == {"INDEXED": 7}
    table = pacsimile("status", "--data-dir", archived).out
    assert "INDEXED" in table
    assert str(known["instances"]) in table


def test_similar(pacsimile: Factory, archived: Path, phantom_archive: Path) -> None:
    series_uid = sorted(phantom_archive.iterdir())[0].name
    answer = pacsimile("similar", series_uid, "--data-dir", archived, "--json", "--limit", 3).json
    assert answer["encoder_id"].startswith("tiny-")
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, len(answer["hits"]) + 1))
    assert answer["hits"]
    study = answer["hits"][0]["study_instance_uid"]
    assert study in pacsimile("similar", series_uid, "--data-dir", archived).out.replace("\n", "")
    by_study = pacsimile("similar", study, "--data-dir", archived, "--json").json
    assert study not in [hit["study_instance_uid"] for hit in by_study["hits"]]
    instance = next(phantom_archive.rglob("*.dcm")).stem
    assert pacsimile("similar", instance, "--data-dir", archived, "--json").json["hits"]
    unknown = pacsimile("similar", "1.2.3", "--data-dir", archived)
    assert (unknown.status, unknown.err.strip()) == (1, "✗ no study, series or instance 1.2.3 in the catalog")


def test_export(pacsimile: Factory, archived: Path, tmp_path: Path, phantom_archive: Path) -> None:
    out = tmp_path / "vectors.npz"
    said = pacsimile("export", "--out", out, "--data-dir", archived, "--json").json
    with np.load(out, allow_pickle=False) as file:
        arrays = dict(file)
    number = said["embeddings"]
    assert number > 7
    assert set(arrays) == {"study_uid", "series_uid", "modality", "kind", "box_lps_mm", "embedding", "encoder_id"}
    for name in ("study_uid", "series_uid", "modality", "kind"):
        assert arrays[name].shape == (number,)
        assert arrays[name].dtype.kind == "U"
    assert set(arrays["series_uid"]) == {folder.name for folder in phantom_archive.iterdir()}
    assert set(arrays["kind"]) >= {"GLOBAL"}
    assert set(arrays["modality"]) == {"CT"}
    assert (arrays["box_lps_mm"].shape, arrays["box_lps_mm"].dtype) == ((number, 6), np.float64)
    assert (arrays["box_lps_mm"][:, :3] < arrays["box_lps_mm"][:, 3:]).all()
    assert (arrays["embedding"].shape, arrays["embedding"].dtype) == ((number, EMBEDDING_DIM), np.float32)
    np.testing.assert_allclose(np.linalg.norm(arrays["embedding"], axis=1), 1, atol=1e-5)
    assert str(arrays["encoder_id"]) == said["encoder_id"]
    lost = pacsimile("export", "--out", tmp_path / "no" / "such" / "x.npz", "--data-dir", archived)
    assert (lost.status, "No such file or directory" in lost.err) == (1, True)


def test_config(pacsimile: Factory, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(pacsimile("config", "defaults").out)
    done = pacsimile("config", "check", "--config", file, "--json", variables={"PACSIMILE_BUNDLE": "tiny"})
    assert done.status == 0, done.err
    assert done.json["settings"]["dicom"]["port"] == 11112
    assert done.json["settings"]["dicom"]["host"] == done.json["settings"]["http"]["host"] == "127.0.0.1"
    assert done.json["encoder_id"].startswith("tiny-")
    assert done.json["sources"]["dicom.port"] == str(file)
    variables = {"PACSIMILE_BUNDLE": "tiny", "PACSIMILE_DICOM_HOST": "0.0.0.0"}
    refused = pacsimile("config", "check", variables=variables)
    assert refused.status != 0
    assert 'dicom.host = "0.0.0.0"  # PACSIMILE_DICOM_HOST' in refused.out
    for way_out in ("[[peers]]", "dicom.tls.certificate_file", "dicom.plain_beyond_loopback"):
        assert way_out in refused.err


def test_what_a_terminal_should_not_be_sent(pacsimile: Factory, tmp_path: Path) -> None:
    """File names are a stranger's text: no escape sequence, no markup, no broken encoding gets through or hurts."""
    folder = tmp_path / "odd"
    folder.mkdir()
    names = [b"[red]x[bold]", b"\x1b[2Jclear", b"\xff\xfe broken"]
    for name in names:
        (folder / name.decode(errors="surrogateescape")).write_bytes(b"not DICOM")
    call = ("ingest", folder, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--no-index")
    done = pacsimile(*call)
    assert done.status == 0, done.err
    assert "\x1b[2J" not in done.out + done.err
    assert "[red]x[bold]" in done.out
    assert len(json.loads(pacsimile(*call, "--json").out)["refused"]) == len(names)


@pytest.mark.slow
@pytest.mark.default_engines  # it keeps its own
def test_demo(pacsimile: Factory, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    done = pacsimile("demo", "--bundle", "tiny", "--patients", 2, "--keep", keep, "--json")
    assert done.status == 0, done.err
    assert done.json["answer"]
    assert [row["rank"] for row in done.json["answer"]] == list(range(1, len(done.json["answer"]) + 1))
    assert " INFO " not in done.err
    assert pacsimile("status", "--data-dir", keep, "--json").json["series_by_state"] == {"INDEXED": 5}


def test_evaluate(pacsimile: Factory, archived: Path, phantom_archive: Path, tmp_path: Path) -> None:
    """A folder, and the node's own embeddings, against labels by body part."""
    rows = ["series\tpart"]
    for folder in sorted(phantom_archive.iterdir()):
        header = dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True)
        rows.append(f"{folder.name}\t{header.BodyPartExamined}")
    labels = tmp_path / "labels.tsv"
    labels.write_text("\n".join(rows) + "\n")
    call = ("evaluate", "--labels", labels, "--bundle", "tiny")
    page = tmp_path / "report.html"
    of_folder = pacsimile(*call, "--data", phantom_archive, "--no-baselines", "--html", page, "--json")
    assert of_folder.status == 0, of_folder.err
    of_node = pacsimile(*call, "--data-dir", archived, "--json")
    assert of_node.status == 0, of_node.err
    for told in (of_folder.json, of_node.json):
        assert told["counts"]["queries"] > 0
        assert told["ways"][0]["macro"]["mAP"]
    assert "http" not in page.read_text().replace("http://www.w3.org", "")
    assert "mAP" in pacsimile(*call, "--data-dir", archived).out
    wrong = pacsimile(*call, "--data", tmp_path / "nowhere")
    assert (wrong.status, wrong.err.strip()) == (2, f"✗ --data {tmp_path / 'nowhere'}: no such folder")
    missing = pacsimile("evaluate", "--labels", tmp_path / "none.tsv", "--data-dir", tmp_path / "nowhere")
    assert missing.status == 2
    assert missing.err.startswith("✗ labels none.tsv: cannot be read")
