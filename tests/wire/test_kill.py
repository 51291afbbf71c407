"""A receiver that dies in the middle: what it acknowledged is there."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom.sop_class import CTImageStorage

from dicom_scp.spool import Spool
from indexer.catalog import Catalog

Factory = Callable[..., Any]
pytestmark = pytest.mark.default_engines

RECEIVER = """
import os, signal, sys, threading
from pathlib import Path
from config.load import load_settings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import NotFound

class Nobody:
    def similar(self, seed, **_):
        raise NotFound("nothing is compared here")

settings = load_settings(overrides={"data_dir": sys.argv[1], "dicom.port": 0})
catalog = Catalog(settings.catalog_url)
dies_at, calls, enter = int(sys.argv[2]), 0, catalog.receipts.enter

def entering(*arguments, **named):
    global calls
    calls += 1
    if calls == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return enter(*arguments, **named)

catalog.receipts.enter = entering
server = DicomServer(settings, catalog, Spool(settings.spool_dir), Nobody())
server.start()
print(server.bound_port, flush=True)
threading.Event().wait()
"""


class _Receiver:
    def __init__(self, folder: Path, dies_at: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, str(folder), str(dies_at)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _send_until_it_dies(
    port: int, peer: Factory, datasets: list[Any], at_first: Callable[[], object] = lambda: None
) -> list[str]:
    """SOP Instance UIDs that were acknowledged; `at_first` is called after the first of them."""
    acknowledged = []
    with peer(SimpleNamespace(port=port), timeout_s=60.0).associated(
        [(CTImageStorage, [datasets[0].file_meta.TransferSyntaxUID])]
    ) as association:
        for dataset in datasets:
            if not association.is_established:
                break
            status = association.send_c_store(dataset)
            if status and status.Status == 0:
                acknowledged.append(dataset.SOPInstanceUID)
                if len(acknowledged) == 1:
                    at_first()
    return acknowledged


def _check(folder: Path, acknowledged: list[str]) -> None:
    with Catalog(f"sqlite:///{folder / 'catalog.sqlite'}") as catalog:
        spool = Spool(folder / "spool")
        for uid in acknowledged:
            relative = catalog.lookup.instance_path(uid)
            assert relative is not None, f"{uid} was acknowledged and is not in the catalog"
            spool.read(relative)
            assert dcmread(spool.path(relative)).SOPInstanceUID == uid


@pytest.mark.parametrize("dies_at", [1, 4])
def test_death_between_file_and_catalog(tmp_path: Path, peer: Factory, instance: Factory, dies_at: int) -> None:
    datasets = [instance(InstanceNumber=n) for n in range(6)]
    receiver = _Receiver(tmp_path, dies_at)
    acknowledged = _send_until_it_dies(receiver.port, peer, datasets)
    receiver.kill()
    assert len(acknowledged) == dies_at - 1
    assert len(list((tmp_path / "spool").glob("*/*/*.dcm"))) == dies_at  # one file the catalog does not know
    _check(tmp_path, acknowledged)
    receiver = _Receiver(tmp_path)
    again = _send_until_it_dies(receiver.port, peer, datasets)
    receiver.kill()
    assert again == [dataset.SOPInstanceUID for dataset in datasets]
    assert len(list((tmp_path / "spool").glob("*/*/*.dcm"))) == len(datasets)
    _check(tmp_path, again)


def test_death_at_any_time(tmp_path: Path, peer: Factory, instance: Factory) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    acknowledged: list[str] = []
    for _ in range(4):
        datasets = [instance(InstanceNumber=n) for n in range(200)]
        receiver = _Receiver(tmp_path)
        timer = threading.Timer(rng.uniform(0.0, 0.6), receiver.process.kill)
        acknowledged += _send_until_it_dies(receiver.port, peer, datasets, timer.start)
        timer.join()
        receiver.kill()
    assert len(acknowledged) >= 4
    print(f"{len(acknowledged)} acknowledged, random seed {seed}")
    _check(tmp_path, acknowledged)
