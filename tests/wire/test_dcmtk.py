"""The same over the wire of another implementation: DCMTK's tools."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from dicom_scp.part10 import split_file
from dicom_scp.private_dictionary import BLOCK, CREATOR

Tool = Callable[[str], str]
Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
DICTIONARIES = sorted(Path("/usr/share").glob("*dcmtk*/dicom.dic"))


def run(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        command,
        env={**os.environ, "TCP_NODELAY": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_echo(node: Node, dcmtk: Tool) -> None:
    for called, code in (("PACSIMILE", 0), ("SIMILAR", 0), ("NOBODY", 1)):
        assert run([dcmtk("echoscu"), "-aec", called, "127.0.0.1", str(node.port)])[0] == code


def test_every_real_transfer_syntax(node: Node, dcmtk: Tool, real_series: list[list[Path]]) -> None:
    propose = {
        ImplicitVRLittleEndian: "-xi",
        ExplicitVRLittleEndian: "-xe",
        JPEGLSLossless: "-xt",
        JPEG2000Lossless: "-xv",
    }
    by_syntax: dict[UID, Path] = {}
    for series in real_series:
        by_syntax.setdefault(dcmread(series[0], stop_before_pixels=True).file_meta.TransferSyntaxUID, series[0])
    assert set(by_syntax) & set(propose)
    for syntax, file in by_syntax.items():
        if syntax in propose:
            code, text = run(
                [dcmtk("storescu"), propose[syntax], "-aec", "PACSIMILE", "127.0.0.1", str(node.port), str(file)]
            )
            assert code == 0, text
            uid = dcmread(file, stop_before_pixels=True).SOPInstanceUID
            kept = node.spool.path(node.catalog.lookup.instance_path(uid)).read_bytes()
            assert split_file(kept)[0] == syntax
            if syntax in (JPEGLSLossless, JPEG2000Lossless):
                assert (
                    dcmread(node.spool.path(node.catalog.lookup.instance_path(uid))).PixelData
                    == dcmread(file).PixelData
                )


def test_a_refusal_is_told(node: Node, dcmtk: Tool, instance: Factory, tmp_path: Path) -> None:
    dataset = instance(StudyInstanceUID=None)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(tmp_path / "stray.dcm", enforce_file_format=True)
    code, text = run(
        [dcmtk("storescu"), "-d", "-aec", "PACSIMILE", "127.0.0.1", str(node.port), str(tmp_path / "stray.dcm")]
    )
    assert code == 0
    assert "0xb007" in text
    assert "Study Instance UID (0020,000D) is missing" in text


@pytest.fixture
def dictionary(tmp_path: Path) -> dict[str, str]:
    """Environment with the private block in DCMTK's dictionary, as the documentation writes it."""
    if not DICTIONARIES:
        pytest.skip("DCMTK's dictionary is not installed")
    text = (Path(__file__).parents[2] / "docs" / "private-dictionary.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(f'(0077,"{CREATOR}"')]
    assert len(lines) == len(BLOCK)
    file = tmp_path / "pacsimile.dic"
    file.write_text("\n".join(lines) + "\n")
    return {"DCMDICTPATH": f"{DICTIONARIES[0]}{os.pathsep}{file}"}


def test_find_and_find_similar(
    node: Node, peer: Factory, instance: Factory, dcmtk: Tool, dictionary: dict[str, str]
) -> None:
    for n in (1, 2, 3):
        peer(node).send(
            instance(
                StudyInstanceUID=f"2.25.{n}", SeriesInstanceUID=f"2.25.{n}1", PatientID=f"P{n}", pixel_level=100 * n
            )
        )
    node.finder.index()
    find = [dcmtk("findscu"), "-v", "-S", "127.0.0.1", str(node.port), "-k", "QueryRetrieveLevel=STUDY"]
    code, text = run([*find, "-aec", "PACSIMILE", "-k", "StudyInstanceUID", "-k", "PatientID=P2"])
    assert code == 0
    assert text.count("(Pending)") == 1
    assert "[2.25.2]" in text
    private = ["-k", f"0077,0010={CREATOR}"]
    code, text = run([*find, "-aec", "SIMILAR", "-k", "StudyInstanceUID=2.25.1", "-k", "PatientID", *private])
    assert code == 0
    assert text.count("(Pending)") == 2
    assert text.count("[ANALOGUE]") == 2
    seed = [*private, "-k", "0077,1001=2.25.1", "-k", "0077,1006=1"]
    code, text = run([*find, "-aec", "SIMILAR", "-k", "StudyInstanceUID", *seed], dictionary)
    assert code == 0
    assert text.count("(Pending)") == 1
    assert "SeedStudyInstanceUID" in text
