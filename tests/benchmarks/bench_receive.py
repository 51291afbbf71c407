"""Measure C-STORE beside Orthanc (fsync on) and DCMTK storescp (no fsync), in turn; never fails on time.

Run from the repository root: ``python tests/benchmarks/bench_receive.py [instances] [rounds]``, or with the word
``flat`` and a number of instances: small ones, the rate of each thousand.
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
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

NODE = """
import sys, threading
from config.load import load_settings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog

data_dir, port, fast_lane = sys.argv[1:]
values = {"data_dir": data_dir, "dicom.port": int(port), "dicom.fast_lane": fast_lane == "True"}
settings = load_settings(overrides=values)
DicomServer(settings, Catalog(settings.catalog_url), Spool(settings.spool_dir), None).start()
threading.Event().wait()
"""
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "OMP_NUM_THREADS": "1"}  # else 40 ms an instance, on whichever end


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
    """Write a new series of square images."""
    folder.mkdir(parents=True)
    study, series = generate_uid(), generate_uid()
    for number in range(instances):
        image(study, series, number, side, rng).save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def free_port() -> int:
    """Find a port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(port: int, command: list[str]) -> Iterator[None]:
    """Run a server until the block ends."""
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield
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


def commands(work: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Port, AE title and command of everything that is compared."""
    ports = [free_port() for _ in range(4)]
    orthanc = {
        "StorageDirectory": str(work / "orthanc"), "IndexDirectory": str(work / "orthanc"), "DicomPort": ports[2],
        "HttpPort": free_port(), "RemoteAccessAllowed": False, "DicomCheckCalledAet": False, "Plugins": [],
        "SyncStorageArea": True,
    }  # fmt: skip
    (work / "orthanc.json").write_text(json.dumps(orthanc))
    (work / "storescp").mkdir()
    node = [sys.executable, "-c", NODE]
    folder = str(work / "storescp")
    return {
        "node": (ports[0], "PACSIMILE", [*node, str(work / "fast"), str(ports[0]), "True"]),
        "node, no fast lane": (ports[1], "PACSIMILE", [*node, str(work / "plain"), str(ports[1]), "False"]),
        "Orthanc": (ports[2], "ORTHANC", ["/usr/sbin/Orthanc", str(work / "orthanc.json")]),
        "storescp": (
            ports[3], "ANY",
            ["/usr/bin/storescp", "--fork", "--output-directory", folder, "--max-pdu", "131072", str(ports[3])],
        ),
    }  # fmt: skip


def compare(associations: int, instances: int, rounds: int) -> None:
    """Print the median rates, and the node's ratio to each."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="receive-") as name, ExitStack() as servers:
        work = Path(name)
        targets = commands(work)
        for port, _, command in targets.values():
            servers.enter_context(running(port, command))
        rates: dict[str, list[float]] = {target: [] for target in targets}
        each = instances // associations
        for number in range(rounds):
            folders = [work / f"{number}-{one}" for one in range(associations)]
            for folder in folders:
                write_series(folder, each, rng)
            for target, (port, aet, _) in targets.items():
                rates[target].append(rate(port, aet, folders, each * associations))
            for folder in folders:
                shutil.rmtree(folder)
        print(f"{associations} associations, {each * associations} instances of 512 x 512, {rounds} rounds")
        for target, found in rates.items():
            ratios = [mine / other for mine, other in zip(rates["node"], found, strict=True)]
            print(
                f"  {target:18s} {statistics.median(found):6.0f} instances/s; node / it: "
                f"{statistics.median(ratios):.2f} ({', '.join(f'{one:.2f}' for one in ratios)})"
            )


def flat(instances: int) -> None:
    """Print the rate of each thousand small instances, each over an association of its own, in one archive."""
    rng = np.random.default_rng(0)
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="receive-") as name,
        running(port, [sys.executable, "-c", NODE, f"{name}/node", str(port), "True"]),
    ):
        for done in range(1000, instances + 1, 1000):
            folder = Path(name) / str(done)
            write_series(folder, 1000, rng, side=8)
            print(f"  {done:7d}: {rate(port, 'PACSIMILE', [folder], 1000):5.0f} instances/s", flush=True)
            shutil.rmtree(folder)


def main() -> None:
    """Compare with one association and with four, or see whether it stays as fast."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["flat"]:
        flat(int(arguments[1]))
        return
    instances, rounds = (int(one) for one in (arguments + ["300", "3"][len(arguments) :]))
    for associations in (1, 4):
        compare(associations, instances, rounds)


if __name__ == "__main__":
    main()
