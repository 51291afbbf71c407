"""Measure the vector indexes side by side; prints numbers and never fails on time.

Run from the repository root: ``python tests/benchmarks/bench_vectors.py [vectors] [dim]``.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.uids import EncoderId
from indexer.vectors import VectorIndex, factory, recall
from indexer.vectors.graph import GraphParameters

K = 10
QUERIES = 200
ENCODER = EncoderId("bench")


def clustered(n: int, dim: int, spread: float) -> NDArray[np.float32]:
    """Make unit vectors, shape (n, dim), around 200 centres; the spread decides how hard neighbours are to find."""
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((200, dim), dtype=np.float32)
    noise = generator.standard_normal((n, dim), dtype=np.float32)
    raw = centres[generator.integers(0, 200, n)] + np.float32(spread) * noise
    unit: NDArray[np.float32] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest of some runs, in seconds."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


@contextmanager
def adding(index: VectorIndex, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> Iterator[None]:
    """Add in another thread meanwhile, over and over."""
    done = threading.Event()

    def add() -> None:
        while not done.is_set():
            index.add(ids, vectors)

    thread = threading.Thread(target=add)
    thread.start()
    yield
    done.set()
    thread.join()


def latencies_ms(index: VectorIndex, queries: NDArray[np.float32]) -> str:
    """Ask one query at a time; median and worst of them."""
    taken = []
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], K)
        taken.append(1e3 * (time.perf_counter() - started))
    return f"median {np.median(taken):7.3f} ms   worst {max(taken):8.3f} ms"


def main() -> None:
    """Print the add rate, recall, time a query, filters, queries beside additions, and snapshots."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    dim = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    for spread in (0.6, 2.0):
        print(f"\n{n} vectors of {dim}, spread {spread}, k {K}, {QUERIES} queries")
        data = clustered(n + QUERIES, dim, spread)
        compare(np.arange(n, dtype=np.int64), data[:n], data[n:])


def compare(ids: NDArray[np.int64], data: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    """Measure the graph against exact search on the same vectors."""
    dim = data.shape[1]
    exact = factory.create("exact", dim=dim, encoder_id=ENCODER)
    exact.add(ids, data)
    yardstick = exact.search(queries, K)
    exact_s = seconds(lambda: exact.search(queries, K))
    print(f"exact                          {1e3 * exact_s / QUERIES:7.3f} ms a query (batch)")
    print(f"exact, one by one              {latencies_ms(exact, queries)}")
    for m, ef in ((16, 64), (16, 128), (16, 256), (24, 256), (32, 128)):
        parameters = factory.IndexParameters(hnsw=GraphParameters(m=m, ef=ef, threads=2))
        index = factory.create("hnsw", dim=dim, encoder_id=ENCODER, parameters=parameters)
        add_s = seconds(partial(index.add, ids, data), repeats=1)
        query_s = seconds(partial(index.search, queries, K))
        share = recall(index.search(queries, K), yardstick)
        print(
            f"hnsw M {m} ef {ef:<4} recall@{K} {share:.4f} {1e3 * query_s / QUERIES:7.3f} ms a query "
            f"({exact_s / query_s:5.1f}x exact)   {len(ids) / add_s:7.0f} added a second"
        )
        if parameters.hnsw == GraphParameters(threads=2):
            _more(index, exact, ids, data, queries)
        index.close()


def _more(
    index: VectorIndex,
    exact: VectorIndex,
    ids: NDArray[np.int64],
    data: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> None:
    print(f"  one by one                   {latencies_ms(index, queries)}")
    for share in (0.005, 0.05, 0.1, 0.2, 0.5, 0.9):
        allowed = np.flatnonzero(np.random.default_rng(0).random(len(ids)) < share).astype(np.int64)
        taken, looked = (seconds(partial(either.search, queries, K, allowed)) for either in (index, exact))
        found = recall(index.search(queries, K, allowed), exact.search(queries, K, allowed))
        print(
            f"  filter leaves {share:5.1%}         recall@{K} {found:.4f} {1e3 * taken / QUERIES:7.3f} ms a query "
            f"({looked / taken:5.1f}x exact)"
        )
    with adding(index, ids[:2000] + len(ids), data[:2000]):
        print(f"  beside additions             {latencies_ms(index, queries)}")
    with tempfile.TemporaryDirectory() as folder:
        written = seconds(lambda: index.snapshot(Path(folder), 1), repeats=1)
        opened = seconds(
            lambda: factory.restore("hnsw", Path(folder), dim=index.dim, encoder_id=ENCODER), repeats=1
        )
        print(f"  snapshot                     written in {written:.2f} s, verified and opened in {opened:.2f} s")


if __name__ == "__main__":
    main()
