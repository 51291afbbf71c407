"""Measure C-STORE beside Orthanc (fsync on) and DCMTK storescp (no fsync), in turn; never fails on time.

Run from the repository root: ``python tests/benchmarks/bench_receive.py [instances] [rounds]``, or with the word
``flat`` and a number of instances: small ones, the rate and the processor time of each twentieth.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from report import Line, tell

NODE = """
import gc, sys, threading, time
from config.load import load_settings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from node.receivers import ReceiverSupervisor, receivers_of

data_dir, port, receivers = sys.argv[1:]
values = {"data_dir": data_dir, "dicom.port": int(port), "dicom.receivers": int(receivers)}
settings = load_settings(overrides=values)
server = DicomServer(settings, Catalog(settings.catalog_url), Spool(settings.spool_dir), None)
ReceiverSupervisor(settings, server.handover).start()
while server.handover.receivers < receivers_of(settings):
    time.sleep(0.05)
server.start()
gc.collect()
gc.freeze()
threading.Event().wait()
"""
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "OMP_NUM_THREADS": "1"}  # else 40 ms an instance, on whichever end
RECEIVERS = max(2, (os.cpu_count() or 2) // 2)
ALONE, TOGETHER = "one process", f"{RECEIVERS} receivers"
WANTED = {"Orthanc": 2.0, "storescp": 0.6}
ASSOCIATIONS = {1: "one association", 4: "four associations"}
FLAT_INSTANCES, FLAT_PARTS = 20_000, 20
WHY = (
    "each instance waits for the flush of its file, 0.7 ms for half a megabyte on idle cores, as storescp need "
    "not; for its hash, 0.3 ms; and for the catalog's row, 0.4 ms. Tried: flushes side by side, grouped and early "
    "commits, receivers, writing ahead of the flush (sync_file_range), a journal that holds every byte twice: "
    "no gain"
)


def image(study: str, series: str, number: int, side: int, rng: np.random.Generator) -> Dataset:
    """Make a CT image of noise, 16 bit."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.Modality, made.PatientID, made.PatientName, made.StudyDate = "CT", "LOAD", "Load^Test", "20200101"
    made.StudyID, made.SeriesNumber, made.InstanceNumber = "1", 1, number
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, float(number)], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.SliceThickness = [0.8, 0.8], 1.0
    made.Rows = made.Columns = side
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 15, 1, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.PixelData = rng.integers(0, 3000, (side, side), dtype=np.int16).tobytes()
    return made


def write_series(folder: Path, instances: int, rng: np.random.Generator, side: int = 512) -> None:
    """Write a new series of square images, the same but for their UIDs."""
    folder.mkdir(parents=True)
    first = image(generate_uid(), generate_uid(), 0, side, rng)
    content = BytesIO()
    first.save_as(content, enforce_file_format=True)
    uid, base = first.SOPInstanceUID, int.from_bytes(rng.bytes(12))
    for number in range(instances):
        other = f"2.25.{base + number}".ljust(len(uid), "1")[: len(uid)]
        (folder / f"{number:05d}.dcm").write_bytes(content.getvalue().replace(uid.encode(), other.encode()))


def free_port() -> int:
    """Find a port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(port: int, command: list[str]) -> Iterator[psutil.Process]:
    """Run a server until the block ends."""
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield psutil.Process(server.pid)
        finally:
            server.terminate()


def rate(port: int, aet: str, folders: list[Path], instances: int) -> float:
    """Instances a second with one `storescu` a folder, all at once."""
    command = ["/usr/bin/storescu", "-aec", aet, "--max-pdu", "131072", "+sd", "127.0.0.1", str(port)]
    start = time.perf_counter()
    senders = [subprocess.Popen([*command, str(folder)], env=ENVIRONMENT) for folder in folders]
    for sender in senders:
        if sender.wait() != 0:
            raise SystemExit(f"storescu to {aet} failed")
    return instances / (time.perf_counter() - start)


def processor_s(server: psutil.Process) -> float:
    """Processor time of a server and its processes up to now."""
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


@dataclass
class Target:
    """A server that is compared."""

    port: int
    aet: str
    command: list[str]
    rates: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)


def targets_in(work: Path) -> dict[str, Target]:
    """Everything that is compared."""
    ports = [free_port() for _ in range(4)]
    orthanc = {
        "StorageDirectory": str(work / "orthanc"), "IndexDirectory": str(work / "orthanc"), "DicomPort": ports[2],
        "HttpPort": free_port(), "RemoteAccessAllowed": False, "DicomCheckCalledAet": False, "Plugins": [],
        "SyncStorageArea": True,
    }  # fmt: skip
    (work / "orthanc.json").write_text(json.dumps(orthanc))
    (work / "storescp").mkdir()
    node = [sys.executable, "-c", NODE]
    storescp = ["/usr/bin/storescp", "--fork", "--output-directory", str(work / "storescp"), "--max-pdu", "131072"]
    return {
        ALONE: Target(ports[0], "PACSIMILE", [*node, str(work / "alone"), str(ports[0]), "1"]),
        TOGETHER: Target(ports[1], "PACSIMILE", [*node, str(work / "together"), str(ports[1]), str(RECEIVERS)]),
        "Orthanc": Target(ports[2], "ORTHANC", ["/usr/sbin/Orthanc", str(work / "orthanc.json")]),
        "storescp": Target(ports[3], "ANY", [*storescp, str(ports[3])]),
    }


def compare(associations: int, instances: int, rounds: int) -> list[Line]:
    """Rates in turn, and the node's ratios to the others within each round; the first round is not counted.

    What was sent stays until the end: without a journal, ext4 passes one by one over inodes that were freed in the
    last minutes whenever it makes a file, at the cost of whoever comes after the one that deletes.
    """
    rng = np.random.default_rng()
    with tempfile.TemporaryDirectory(prefix="receive-") as name, ExitStack() as servers:
        work = Path(name)
        targets = targets_in(work)
        started = {key: servers.enter_context(running(one.port, one.command)) for key, one in targets.items()}
        each = instances // associations
        for number in range(rounds + 1):
            folders = [work / f"{number}-{one}" for one in range(associations)]
            for folder in folders:
                write_series(folder, each if number else 20, rng)
            for key, target in targets.items():
                before = processor_s(started[key])
                found = rate(target.port, target.aet, folders, each * associations)
                if number:
                    target.rates.append(found)
                    spent_s = processor_s(started[key]) - before
                    target.processor_ms.append(1000 * spent_s / (each * associations))
    return lines_of(targets, ASSOCIATIONS.get(associations, f"{associations} associations"))


def lines_of(targets: dict[str, Target], what: str) -> list[Line]:
    """Tell the rates, and the ratios that are wanted."""
    rates = ", ".join(f"{key} {statistics.median(one.rates):.0f}/s" for key, one in targets.items())
    spent = ", ".join(f"{key} {statistics.median(one.processor_ms):.1f} ms" for key, one in targets.items())
    lines = [
        Line(f"{what}: instances of 512 x 512 a second", "", rates),
        Line(f"{what}: processor time an instance (storescp's ended processes do not count)", "", spent),
    ]
    for mine in (ALONE, TOGETHER):
        for other, wanted in WANTED.items():
            pairs = zip(targets[mine].rates, targets[other].rates, strict=True)
            ratios = sorted(ours / theirs for ours, theirs in pairs)
            found = statistics.median(ratios)
            measured = f"{found:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            is_met = found >= wanted
            lines.append(Line(f"{what}, {mine} / {other}", f"≥ {wanted}", measured, is_met, "" if is_met else WHY))
    return lines


def flat(instances: int) -> list[Line]:
    """Rate and processor time of each part of many small instances, one association a part, in one archive."""
    rng = np.random.default_rng()
    port, each = free_port(), instances // FLAT_PARTS
    rates, spent_ms, memory_mib, catalog_mib = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="receive-") as name, ExitStack() as servers:
        work = Path(name)
        node = servers.enter_context(running(port, [sys.executable, "-c", NODE, f"{name}/node", str(port), "1"]))
        for part in range(FLAT_PARTS):
            write_series(work / "sent", each, rng, side=64)
            before = processor_s(node)
            rates.append(rate(port, "PACSIMILE", [work / "sent"], each))
            spent_ms.append(1000 * (processor_s(node) - before) / each)
            memory_mib.append(node.memory_info().rss / 2**20)
            catalog_mib.append(sum(one.stat().st_size for one in (work / "node").glob("catalog.sqlite*")) / 2**20)
            shutil.rmtree(work / "sent")
            print(
                f"  {(part + 1) * each:7d}: {rates[-1]:5.0f} instances/s, {spent_ms[-1]:.2f} ms of processor, "
                f"{memory_mib[-1]:.0f} MiB, catalog {catalog_mib[-1]:.0f} MiB, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    growth = statistics.median(spent_ms[-FLAT_PARTS // 4 :]) / statistics.median(spent_ms[: FLAT_PARTS // 4])
    speed = statistics.median(rates[-FLAT_PARTS // 4 :]) / statistics.median(rates[: FLAT_PARTS // 4])
    why = "more of the catalog's pages are touched as it grows"
    return [
        Line(
            f"{instances} instances of 64 x 64: processor time, last quarter / first",
            "≤ 1.1",
            f"{growth:.2f} ({spent_ms[0]:.2f} ms at first, {spent_ms[-1]:.2f} ms at last)",
            growth <= 1.1,
            "" if growth <= 1.1 else why,
        ),
        Line(
            f"{instances} instances of 64 x 64: rate, last quarter / first",
            "≥ 0.9",
            f"{speed:.2f} ({rates[0]:.0f}/s at first, {rates[-1]:.0f}/s at last)",
            speed >= 0.9,
            "" if speed >= 0.9 else why,
        ),
        Line(
            f"{instances} instances of 64 x 64: memory, catalog",
            "",
            f"{memory_mib[FLAT_PARTS // 2]:.0f} MiB half way, {memory_mib[-1]:.0f} MiB at last; catalog "
            f"{1000 * catalog_mib[-1] / instances:.2f} MiB a thousand instances",
        ),
    ]


def main() -> None:
    """Compare with one association and with four, and see whether it stays as fast."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["flat"]:
        tell(flat(int(arguments[1])))
        return
    instances, rounds = (int(one) for one in (arguments + ["400", "5"][len(arguments) :]))
    for associations in ASSOCIATIONS:
        tell(compare(associations, instances, rounds))
    if not arguments:
        tell(flat(FLAT_INSTANCES))


if __name__ == "__main__":
    main()
