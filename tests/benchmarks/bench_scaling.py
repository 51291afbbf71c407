"""Measure what a step beyond one machine costs and brings: catalogs, vector indexes and workers side by side.

Run from the repository root: ``python tests/benchmarks/bench_scaling.py [instances]``. Takes about two minutes on
an idle machine. Catalogs flush to the disk, as they do in use.
"""

import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian
from report import Line, tell
from sqlalchemy import create_engine, text

from config.load import load_settings
from dicom_scp.reception import Receiver
from indexer.attributes import InstanceHeader, header_of
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.receipts import StoredFile
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID
from indexer.vectors import factory, recall
from indexer.vectors.milvus import MilvusParameters
from node.phantoms import archive, datasets
from node.storage import open_spool

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from engines import running_server

INSTANCES = int(sys.argv[1]) if len(sys.argv) > 1 else 1200
OF_SERIES, CHUNKS, THREADS = 30, 8, 4
VECTORS, QUERIES, DIM, CANDIDATES = 5000, 12, 256, 200
PATIENTS = 6
ENCODER = EncoderId("bench")
_numbers = count(1)
WORKER = """
import sys
from pathlib import Path
from config.load import load_settings
from node.storage import open_catalog
from node.worker import make_pipeline
given = dict(one.split("=", 1) for one in sys.argv[1:])
settings = load_settings(None, {}, {**given, "indexing.threads": 1, "bundle": "tiny"})
with open_catalog(settings) as catalog:
    pipeline = make_pipeline(settings, catalog)
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    while pipeline.work_one() is not None:
        done += 1
    print(done, flush=True)
"""


class Timed:
    """Seconds on the wall and of this process's processor time."""

    def __init__(self, work: Callable[[], object]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        work()
        self.wall_s, self.processor_s = time.perf_counter() - wall, time.process_time() - processor


def headers(number: int) -> list[InstanceHeader]:
    """Make headers as long as real ones: series of a patient each, two series a study."""
    exam = next(iter(archive(1)))
    example = header_of(next(iter(datasets(exam))), ExplicitVRLittleEndian)
    found = []
    for series in range(number // OF_SERIES):
        key = next(_numbers)
        for one in range(OF_SERIES):
            found.append(
                InstanceHeader(
                    sop_instance_uid=SOPInstanceUID(f"2.25.3.{key}.{one}"),
                    sop_class_uid=example.sop_class_uid,
                    transfer_syntax_uid=example.transfer_syntax_uid,
                    series_instance_uid=SeriesInstanceUID(f"2.25.2.{key}"),
                    study_instance_uid=StudyInstanceUID(f"2.25.1.{key - series % 2}"),
                    patient={**example.patient, "00100020": {"vr": "LO", "Value": [f"B{key - series % 2}"]}},
                    study=example.study,
                    series=example.series,
                    instance=example.instance,
                )
            )
    return found


def enter(catalog: Catalog, chosen: Sequence[InstanceHeader]) -> None:
    for one in chosen:
        name = one.sop_instance_uid
        catalog.receipts.enter(one, StoredFile(f"{name}.dcm", 524_288, name.rjust(64, "0")), None)


def in_threads(work: Callable[[Sequence[InstanceHeader]], None], chosen: Sequence[InstanceHeader]) -> None:
    """Let threads work at the same time, each on series of its own."""
    step = len(chosen) // THREADS // OF_SERIES * OF_SERIES
    threads = [threading.Thread(target=work, args=(chosen[n * step : (n + 1) * step],)) for n in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def work_off(catalog: Catalog, owner: str) -> None:
    """Lease and finish series until none waits."""
    generator = np.random.default_rng(1)
    while (leased := catalog.progress.lease(owner, 600.0)) is not None:
        drawn = generator.standard_normal((CHUNKS, DIM)).astype(np.float32)
        unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        slices = tuple(SliceRef(SOPInstanceUID(f"{leased.series_instance_uid}.{n}"), None) for n in range(8))
        chunks = [
            EmbeddedChunk(0, n, (0.0, 0.0, 48.0 * n, 300.0, 300.0, 48.0 * n + 96.0), slices, {GLOBAL: one})
            for n, one in enumerate(unit)
        ]
        catalog.embeddings.finish(leased, owner, ENCODER, chunks, seconds={"encode": 1.0}, notes=[])


def size_bytes(url: str) -> int:
    """Bytes of a catalog on the disk."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(
            one.stat().st_size for one in Path(url.removeprefix("sqlite:///")).parent.glob("catalog.sqlite*")
        )
    engine = create_engine(url.replace("://", "+psycopg://"))
    with engine.connect() as connection:
        found = int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    engine.dispose()
    return found


def catalogs(urls: dict[str, str]) -> Iterator[Line]:
    """Commits and leases, each catalog in turn, so that what else the machine does meets both."""
    opened = {name: Catalog(url) for name, url in urls.items()}
    empty = {name: size_bytes(url) for name, url in urls.items()}
    rates: dict[str, dict[str, float]] = {name: {} for name in opened}
    costs: dict[str, dict[str, float]] = {name: {} for name in opened}
    held = dict.fromkeys(opened, 0)
    for _ in range(2):
        for name, catalog in opened.items():
            alone, together = headers(INSTANCES // 4), headers(INSTANCES // 4)
            for what, taken, number in (
                ("instances, one thread", Timed(lambda c=catalog, h=alone: enter(c, h)), len(alone)),
                (
                    "instances, four threads",
                    Timed(lambda c=catalog, h=together: in_threads(lambda part: enter(c, part), h)),
                    len(together) // THREADS // OF_SERIES * OF_SERIES * THREADS,
                ),
            ):
                rates[name][what] = max(number / taken.wall_s, rates[name].get(what, 0.0))
                costs[name][what] = min(1e3 * taken.processor_s / number, costs[name].get(what, np.inf))
                held[name] += number
    settled = {name: catalog.progress.settle(0.0) for name, catalog in opened.items()}
    sizes = {name: (size_bytes(urls[name]) - empty[name]) / held[name] for name in opened}
    for name, catalog in opened.items():
        before = size_bytes(urls[name])
        taken = Timed(lambda c=catalog: work_off(c, "bench"))
        rates[name]["series leased and entered"] = settled[name] / taken.wall_s
        costs[name]["series leased and entered"] = 1e3 * taken.processor_s / settled[name]
        grown = (size_bytes(urls[name]) - before) / settled[name] / CHUNKS
        yield Line(f"{name}: bytes of the catalog", "", f"{sizes[name]:.0f} an instance, {grown:.0f} a chunk")
        catalog.close()
    for what in rates["SQLite"]:
        both = " and ".join(f"{rates[n][what]:.0f}/s ({costs[n][what]:.2f} ms of computing)" for n in rates)
        ratio = rates["PostgreSQL"][what] / rates["SQLite"][what]
        yield Line(f"{what}: SQLite and PostgreSQL", "", f"{both}; ratio {ratio:.2f}")


def vectors(folder: Path) -> Iterator[Line]:
    """Ask the embedded graph and Milvus Lite the same."""
    generator = np.random.default_rng(2)
    centres = generator.standard_normal((200, DIM), dtype=np.float32)
    noise = generator.standard_normal((VECTORS + QUERIES, DIM), dtype=np.float32)
    raw = centres[generator.integers(0, 200, len(noise))] + noise
    data: NDArray[np.float32] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    ids, queries = np.arange(VECTORS, dtype=np.int64), data[VECTORS:]
    parameters = factory.IndexParameters(milvus=MilvusParameters(uri=str(folder / "lite.db")))
    made = {
        k: factory.create(k, dim=DIM, encoder_id=ENCODER, parameters=parameters)
        for k in ("exact", "hnsw", "milvus")
    }
    added = {kind: Timed(lambda i=index: i.add(ids, data[:VECTORS])).wall_s for kind, index in made.items()}
    asked: dict[str, list[float]] = {kind: [] for kind in made}
    for _ in range(15):
        for kind, index in made.items():
            asked[kind].append(Timed(lambda i=index: i.search(queries, CANDIDATES)).wall_s)
    yardstick = made["exact"].search(queries, CANDIDATES)
    for kind in ("hnsw", "milvus"):
        share = recall(made[kind].search(queries, CANDIDATES), yardstick)
        ratio = np.median(np.divide(asked[kind], asked["exact"]))
        added_s = VECTORS / added[kind]
        told = f"{ratio:.2f} of the time of exact search, recall {share:.3f}, {added_s:.0f} added a second"
        yield Line(f"{kind}: {QUERIES} chunks ask {VECTORS} for {CANDIDATES} each", "", told)
    for index in made.values():
        index.close()


def phantoms(folder: Path) -> list[Path]:
    """Write series of few voxels as files."""
    folder.mkdir()
    made = [one for exam in archive(PATIENTS) for one in datasets(replace(exam, matrix=96, spacing_mm=6.0))]
    files = [folder / f"{number}.dcm" for number in range(len(made))]
    for one, file in zip(made, files, strict=True):
        one.save_as(file, enforce_file_format=True)
    return files


@contextmanager
def received(url: str, folder: Path, files: Sequence[Path]) -> Iterator[int]:
    """Series in a new catalog and a spool, settled."""
    settings = load_settings(None, {}, {"data_dir": str(folder), "catalog.url": url})
    with Catalog(url) as catalog:
        receiver = Receiver(catalog, open_spool(settings, catalog), "keep-first")
        for file in files:
            receiver.take_file(file)
        yield catalog.progress.settle(0.0)


def workers(new_database: Callable[[], str], folder: Path) -> Iterator[Line]:
    """Have one worker, then two, each with one thread, work off the same series."""
    taken = {}
    files = phantoms(folder / "phantoms")
    for number in (1, 2):
        url, data = new_database(), folder / f"workers-{number}"
        data.mkdir()
        with received(url, data, files) as series:
            given = [f"data_dir={data}", f"catalog.url={url}"]
            (data / "node.id").write_text("bench")
            command = [sys.executable, "-c", WORKER, *given]
            started = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(number)
            ]
            for one in started:
                assert one.stdout is not None
                assert one.stdout.readline() == "ready\n"
            began = time.perf_counter()
            for one in started:
                assert one.stdin is not None
                one.stdin.write("go\n")
                one.stdin.flush()
            done = [int(one.communicate()[0]) for one in started]
            taken[number] = time.perf_counter() - began
            assert sum(done) == series
    gain = taken[1] / taken[2]
    yield Line(
        f"two workers on two cores against one, {series} series of phantoms, PostgreSQL",
        "1.7 times as many series",
        f"{gain:.2f} times ({done[0]} and {done[1]} series)",
        gain >= 1.7,
        "the machine's two cores also run the database and whatever else is on it",
    )


def main() -> None:
    """Measure all in turn."""
    with tempfile.TemporaryDirectory() as name, running_server("-c", "fsync=on") as server:
        folder = Path(name)
        urls = {"SQLite": f"sqlite:///{folder / 'catalog.sqlite'}", "PostgreSQL": server.new_database()}
        tell(catalogs(urls))
        tell(vectors(folder))
        tell(workers(server.new_database, folder))


if __name__ == "__main__":
    main()
