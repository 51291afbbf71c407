"""Objects that mean harm: their series is parked, the worker and the node go on."""

import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

Factory = Callable[..., Any]


def _compressed(syntax: str, frame: bytes) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True

    return change


def _set(**values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def _deep(dataset: Dataset) -> None:
    inner = Dataset()
    for _ in range(60):
        outer = Dataset()
        outer.ContentSequence = [inner]
        inner = outer
    dataset.ContentSequence = [inner]
    dataset.ImageOrientationPatient = None


def _huge_j2k() -> bytes:
    """The beginning of a JPEG 2000 codestream of 2^31 by 2^31 pixels."""
    size = struct.pack(">8IH3B", 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0, 1, 15, 1, 1)
    return b"\xff\x4f\xff\x51" + struct.pack(">HH", len(size) + 4, 0) + size + b"\xff\x93" + bytes(64) + b"\xff\xd9"


def _wrong_vrs(dataset: Dataset) -> None:
    dataset[0x00280010] = DataElement(0x00280010, "LO", "eight")
    dataset[0x00200032] = DataElement(0x00200032, "UT", "..\\..\\etc")


RLE, JPEG_LS, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS, NOISE = "1.2.840.10008.1.2.4.70", bytes(range(256)) * 4
HOSTILE: dict[str, Callable[[Dataset], None]] = {
    "10^9 frames": _set(NumberOfFrames=10**9),
    "rows and columns that are not there": _set(Rows=65535, Columns=65535),
    "spacing that is no number": _set(PixelSpacing=["NaN", "NaN"]),
    "position that is infinite": _set(ImagePositionPatient=["Inf", "0", "0"]),
    "no bits": _set(BitsAllocated=0, BitsStored=0),
    "deep nesting": _deep,
    "RLE of a gigabyte": _compressed(RLE, struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\x00" * 4_000_000),
    "RLE segments out of bounds": _compressed(RLE, struct.pack("<16I", 15, *[0xFFFFFFF0] * 15)),
    "JPEG-LS that is noise": _compressed(JPEG_LS, b"\xff\xd8\xff\xf7" + NOISE + b"\xff\xd9"),
    "JPEG that is noise": _compressed(JPEG_LOSSLESS, b"\xff\xd8\xff\xc3" + NOISE + b"\xff\xd9"),
    "values in VRs that are none of theirs": _wrong_vrs,
    "JPEG 2000 of 2^62 pixels": _compressed(J2K, _huge_j2k()),
    "JPEG 2000 cut short": _compressed(J2K, b"\xff\x4f\xff\x51\x00"),
}


@pytest.mark.slow
def test_every_hostile_series_is_parked_and_a_good_one_indexed(
    pacsimile: Factory, make_series: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker meets them all, within the memory that it may use."""
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    good = make_series(1)
    series = {}
    for number, (name, change) in enumerate(HOSTILE.items()):
        series[name] = generate_uid(None)
        for instance in range(4):
            one = dcmread(sorted(good.rglob("*.dcm"))[instance])
            one.SeriesInstanceUID, one.SOPInstanceUID = series[name], generate_uid(None)
            one.StudyInstanceUID = f"2.25.77{number}"
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            change(one)
            one.save_as(tmp_path / f"{number}-{instance}.dcm", enforce_file_format=True)
    data = tmp_path / "data"
    done = pacsimile(
        "ingest", good, *sorted(tmp_path.glob("*.dcm")), "--data-dir", data, "--bundle", "tiny", "--json",
        variables={"PACSIMILE_INDEXING_MEMORY_LIMIT_MIB": "3072"},
    )  # fmt: skip
    assert done.status == 0, done.err
    status = done.json["status"]
    reasons = {one["series_instance_uid"]: one["reason"] for one in status["parked"]}
    assert status["series_by_state"] == {"INDEXED": 1, "PARKED": len(HOSTILE)}
    for name, uid in series.items():
        assert len(reasons[uid]) > 10, name
        assert "unexpected" not in reasons[uid], name


def test_a_series_has_so_much_time_and_no_more() -> None:
    """A decoder that never comes back, in code that does not let Python run: the system ends the process."""
    code = (
        "import re\nfrom node.worker import ends_after\nwith ends_after(0.2):\n"
        "    re.match('(a+)+$', 'a' * 60 + 'b')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGALRM
    quick = "from node.worker import ends_after\nimport time\nwith ends_after(0.2):\n    pass\ntime.sleep(0.5)"
    assert subprocess.run([sys.executable, "-c", quick], check=False, timeout=300).returncode == 0


@pytest.mark.slow
def test_a_series_that_takes_too_long_is_parked(
    start_node: Factory, send: Factory, make_series: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    node = start_node(
        bundle=str(slow_bundle), PACSIMILE_INDEXING_LEASE_S="0.3", PACSIMILE_INDEXING_MAX_ATTEMPTS="1"
    )
    send(node.dicom_port, make_series(3, spacing_mm=4.0))
    wait_for(lambda: node.get("/status")["series_by_state"] == {"PARKED": 1}, 120, "it is parked")
    assert "ended while indexing it" in node.get("/status")["parked"][0]["reason"]
    wait_for(lambda: node.get("/health")["ready"], 60, "another worker runs")
    assert node.stop() == 0
