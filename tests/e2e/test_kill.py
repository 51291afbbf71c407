"""Nodes killed at random moments while receiving and indexing: nothing acknowledged is lost, nothing is twice."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Factory = Callable[..., Any]
ROUNDS = 20


SENDING, SUCCESS = "I: Sending file: ", "I: Received Store Response (Success)"


def acknowledged_in(log: str) -> set[Path]:
    """Find the files that storescu was answered success about."""
    found, sending = set(), None
    for line in log.splitlines():
        if line.startswith(SENDING):
            sending = Path(line.removeprefix(SENDING))
        elif line.startswith(SUCCESS) and sending is not None:
            found.add(sending)
    return found


@pytest.mark.slow
def test_killed_again_and_again(
    start_node: Factory, tool: Factory, send: Factory, make_series: Factory, pacsimile: Factory, compare: Factory
) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    acknowledged: set[Path] = set()
    folders = [make_series(number) for number in range(1, 9)]
    for number in range(ROUNDS):
        node = start_node(PACSIMILE_INDEXING_QUIET_TIME_S="0.2")
        command = [tool("storescu"), "-v", "-aec", "PACSIMILE", "+sd", "+r", "127.0.0.1", str(node.dicom_port)]
        sender = subprocess.Popen(
            [*command, str(folders[number % len(folders)])],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"TCP_NODELAY": "1"},
        )  # fmt: skip
        time.sleep(rng.uniform(0.0, 1.0) if number % 2 else rng.uniform(2.0, 5.0))  # receiving, or indexing
        node.stop(signal.SIGKILL)
        acknowledged |= acknowledged_in(sender.communicate(timeout=60)[0])
    node = start_node()
    with node.catalog() as catalog:
        lost = [file for file in acknowledged if catalog.lookup.instance_path(file.stem) is None]
    assert not lost, f"seed {seed}"
    assert len(acknowledged) > ROUNDS
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
    compare(node.data_dir, [file for folder in folders for file in folder.rglob("*.dcm")])
