"""Processes killed at any moment while receiving and indexing: nothing acknowledged is lost, nothing half there.

`tests/benchmarks/bench_hostile.py` kills a hundred times.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot
from senders import Load

Factory = Callable[..., Any]
Node = Any
KILLS = int(os.environ.get("PACSIMILE_KILLS", "6"))


def found_by_c_find(port: int, folders: Sequence[Path]) -> set[str]:
    """SOP Instance UIDs that the node lists for the series of some folders."""
    entity, found = AE("KILLER"), set()
    entity.add_requested_context(StudyRoot)
    association = entity.associate("127.0.0.1", port, ae_title="PACSIMILE")
    assert association.is_established
    for folder in folders:
        header = dcmread(next(folder.rglob("*.dcm")), stop_before_pixels=True)
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.SOPInstanceUID = "IMAGE", None
        asked.StudyInstanceUID, asked.SeriesInstanceUID = header.StudyInstanceUID, header.SeriesInstanceUID
        found |= {str(one.SOPInstanceUID) for _, one in association.send_c_find(asked, StudyRoot) if one}
    association.release()
    return found


def kill_worker(node: Node) -> bool:
    """Kill the process that embeds, if one runs now."""
    with suppress(psutil.Error):
        for worker in node.workers():
            worker.kill()
            return True
    return False


@pytest.mark.slow
def test_killed_again_and_again(
    start_node: Factory, tool: Factory, send: Factory, make_series: Factory, pacsimile: Factory, compare: Factory
) -> None:
    """The main process, which receives, or the worker, which embeds."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    load, killed = Load(tool("storescu")), {"main": 0, "worker": 0}
    folders = [make_series(number) for number in range(1, min(KILLS, 24) + 1)]
    patient = {"PACSIMILE_INDEXING_QUIET_TIME_S": "0.2", "PACSIMILE_INDEXING_MAX_ATTEMPTS": "1000"}
    node = start_node(**patient)
    for number in range(KILLS):
        for one in range(2):
            load.add(node.dicom_port, folders[(2 * number + one) % len(folders)])
        time.sleep(rng.uniform(0.0, 1.0) if number % 2 else rng.uniform(1.0, 3.0))
        if rng.random() < 0.4 and kill_worker(node):
            killed["worker"] += 1
        else:
            node.stop(signal.SIGKILL)
            killed["main"] += 1
        load.end()
        if node.process.poll() is not None:
            node = start_node(**patient)
    sent = {file.stem: file for folder in folders for file in folder.rglob("*.dcm")}
    acknowledged = {file.stem for file in load.acknowledged}
    there = found_by_c_find(node.dicom_port, folders)
    with node.catalog() as catalog:
        entered = {uid for uid in sent if catalog.lookup.instance_path(uid) is not None}
    print(
        f"seed {seed}, killed {killed}: {len(acknowledged)} acknowledged, {len(acknowledged - there)} of them lost"
    )
    assert acknowledged <= there == entered, f"seed {seed}"
    assert acknowledged
    for folder in folders:
        send(node.dicom_port, folder)
    known = node.wait_until_indexed()
    assert known["series_by_state"] == {"INDEXED": len(folders)}, f"seed {seed}"
    assert node.stop() == 0
    verified = pacsimile("verify", "--repair", "--data-dir", node.data_dir, "--json").json["findings"]
    assert [one for one in verified if one["what"] != "a file of the spool belongs to no instance"] == [], (
        f"seed {seed}"
    )
    assert pacsimile("verify", "--data-dir", node.data_dir, "--json").json == {"findings": []}
    compare(node.data_dir, sent.values())
