"""A process is killed at any moment: what it acknowledged is there, once, and nothing is there by half."""

import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from indexer.catalog import Catalog, SeriesState
from indexer.catalog.embeddings import GLOBAL
from indexer.catalog.lookup import Level
from indexer.uids import EncoderId

ENCODER = EncoderId("encoder-a")
CHUNKS = 12

_COMMON = """
import sys
import numpy as np
from pydicom.uid import UID
from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.embeddings import EmbeddedChunk
from indexer.catalog.receipts import StoredFile

catalog, start = Catalog(sys.argv[1]), int(sys.argv[2])

def enter(number):
    sop, series, study = f"2.25.9.{number}", f"2.25.8.{number // 4}", f"2.25.7.{number // 16}"
    header = InstanceHeader(
        sop, UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.840.10008.1.2.1"), series, study,
        {"00100020": {"vr": "LO", "Value": [study]}}, {}, {"00080060": {"vr": "CS", "Value": ["CT"]}}, {},
    )
    catalog.receipts.enter(header, StoredFile(sop, 1, sop.rjust(64, "0")), "keep-first")
    return sop
print("ready", flush=True)
"""
_RECEIVER = """
for number in range(start, start + 100_000):
    print(enter(number), flush=True)
"""
_WORKER = f"""
catalog.progress.release("w", 99, blame=False)
vector = np.eye(256, dtype=np.float32)[0]
chunks = [EmbeddedChunk(0, n, (0, 0, n, 1, 1, n + 1), (), {{"{GLOBAL}": vector}}) for n in range({CHUNKS})]
for number in range(start, start + 100_000):
    enter(number)
    catalog.progress.settle(0.0)
    while (leased := catalog.progress.lease("w", 600.0)) is not None:
        catalog.embeddings.finish(leased, "w", "{ENCODER}", chunks, seconds={{}}, notes=[])
        print(leased.series_instance_uid, leased.revision, flush=True)
"""


def _run_and_kill(code: str, url: str, start: int, seconds: float) -> list[str]:
    """Lines that the process wrote after it was ready."""
    command = [sys.executable, "-c", _COMMON + code, url, str(start)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.kill()
    written, _ = process.communicate()
    return [line for line in written.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("_round", [1, 2])
def test_every_acknowledged_instance_is_there_once(url: str, _round: int) -> None:
    acknowledged: list[str] = []
    for part in range(3):
        pause_s = random.uniform(0.05, 0.5)
        acknowledged += [line.strip() for line in _run_and_kill(_RECEIVER, url, 1_000_000 * part, pause_s)]
    assert acknowledged
    with Catalog(url) as catalog:
        paths = Counter(path for path, _, _ in catalog.receipts.files())
        assert set(acknowledged) <= set(paths)
        assert set(paths.values()) == {1}
        assert len(paths) - len(acknowledged) <= 3  # of each process the last one, committed and not yet said
        of_series = catalog.lookup.entities(Level.SERIES)
        below = catalog.lookup.summaries(Level.SERIES, [one.series_pk for one in of_series])
        assert sum(one.instances for one in below.values()) == len(paths)
        catalog.progress.settle(0.0)
        while (leased := catalog.progress.lease("w", 600.0)) is not None:
            assert leased.revision == len(leased.paths)


def test_no_series_is_ever_half_embedded(url: str) -> None:
    said: dict[str, int] = {}
    for part in range(3):
        for line in _run_and_kill(_WORKER, url, 1_000_000 * part, random.uniform(0.05, 0.5)):
            uid, revision = line.split()
            said[uid] = int(revision)
    assert said
    with Catalog(url) as catalog:
        series = [one.series_pk for one in catalog.lookup.entities(Level.SERIES)]
        infos = catalog.lookup.series_info(series)
        up_to_date = catalog.embeddings.revisions(series, ENCODER)
        sequences = catalog.embeddings.sequences(series, ENCODER)
        assert {len(one.chunk_pks) for one in sequences.values()} == {CHUNKS}
        assert set(sequences) == set(up_to_date)
        for pk, info in infos.items():
            if info.state == SeriesState.INDEXED:
                assert up_to_date[pk]
            if info.series_instance_uid in said:
                assert pk in sequences
        held: set[int] = set()
        position = 0
        while entries := catalog.journal.after(position, ENCODER, GLOBAL, 1000):
            for entry in entries:
                (held.add if entry.added else held.remove)(entry.embedding_id)
            position = entries[-1].sequence
        assert sorted(held) == catalog.embeddings.ids(ENCODER).tolist()
