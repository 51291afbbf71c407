"""The index beside hnswlib by itself, at the same recall, in turn."""

import os
import statistics
from collections.abc import Callable

import hnswlib
import numpy as np
from embedded_archive import DIM
from numpy.typing import NDArray
from report import Line
from searched_archive import ENCODER, QUERIES, Archive, K, milliseconds

from config.load import load_settings
from indexer.catalog import Catalog
from indexer.vectors import snapshot
from indexer.vectors.graph import FILE
from indexer.vectors.hnsw import KIND, HnswIndex
from indexer.vectors.reduction import load_reduction

MOST_BARE = 100_000
"""A graph of more whole vectors is not built for comparison: its own is asked by hnswlib alone."""
WIDTHS = (
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
    6144,
    8192,
    12288,
    16384,
)
_WHY = (
    "the index checks what it is asked, leaves room for ties, and scores candidates by their whole vectors in "
    "float64, so that similarities and their order are those of exact search"
)


def beside_bare(archive: Archive, catalog: Catalog, index: HnswIndex, queries: NDArray[np.float32]) -> Line:
    """Compare with a graph of whole vectors; in a large archive with the index's own graph of fewer directions."""
    if archive.chunks > MOST_BARE:
        return _beside_its_own(archive, catalog, index, queries)
    blocks = list(catalog.embeddings.vectors(ENCODER))
    ids, vectors = (np.concatenate(part) for part in zip(*blocks, strict=True))
    bare = hnswlib.Index("ip", DIM)
    bare.init_index(len(ids), M=16, ef_construction=200)
    bare.add_items(vectors, ids, num_threads=os.cpu_count() or 1)
    wanted = ids[np.argsort(-(queries @ vectors.T), axis=1)[:, :K]]
    own = _share(wanted, np.concatenate([index.search(one, K).ids for one in _singly(queries)]))
    for ef in WIDTHS:
        bare.set_ef(ef)
        got = _share(wanted, bare.knn_query(queries, k=K, num_threads=1)[0].astype(np.int64))
        if got >= own - 0.0005:
            break
    told = f"M 16, ef {ef}, recall {got:.4f} to {own:.4f}"
    return _line(archive, index, queries, lambda one: bare.knn_query(one, k=K, num_threads=1), told)


def _beside_its_own(archive: Archive, catalog: Catalog, index: HnswIndex, queries: NDArray[np.float32]) -> Line:
    """hnswlib gives as many candidates as hold as many of the nearest as the index answers with."""
    folder = load_settings(overrides={"data_dir": str(archive.folder)}).snapshot_dir / ENCODER
    description, data = snapshot.read(folder, kind=KIND, dim=DIM, encoder_id=ENCODER)
    known = int(description.parameters["directions"])
    bare = hnswlib.Index("ip", known)
    bare.load_index(str(data / FILE))
    reduction = load_reduction(data, DIM, known)
    asked = reduction.asked(queries)
    best, wanted = np.full((QUERIES, 0), -np.inf), np.empty((QUERIES, 0), dtype=np.int64)
    held = np.empty(0, dtype=np.int64)
    for ids, vectors in catalog.embeddings.vectors(ENCODER):
        held = np.concatenate([held, ids])
        best = np.concatenate([best, queries @ vectors.T], axis=1)
        wanted = np.concatenate([wanted, np.broadcast_to(ids, (QUERIES, len(ids)))], axis=1)
        kept = np.argsort(-best, axis=1)[:, :K]
        best, wanted = (np.take_along_axis(part, kept, axis=1) for part in (best, wanted))
    rows = np.searchsorted(held, wanted)  # an index made at once has its rows in the order of ids
    own = _share(wanted, np.concatenate([index.search(one, K).ids for one in _singly(queries)]))
    for width in WIDTHS:
        got = _share(rows, bare.knn_query(asked, k=width, num_threads=1)[0].astype(np.int64))
        if got >= own - 0.0005:
            break
    told = f"its own graph of {known} dimensions, {width} candidates, which hold {got:.4f} to {own:.4f}"

    def ask(one: NDArray[np.float32]) -> object:
        return bare.knn_query(reduction.asked(one), k=width, num_threads=1)

    return _line(archive, index, queries, ask, told)


def _share(wanted: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(of, those).mean() for of, those in zip(wanted, found, strict=True)]))


def _singly(queries: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [queries[at : at + 1] for at in range(len(queries))]


def _line(
    archive: Archive,
    index: HnswIndex,
    queries: NDArray[np.float32],
    bare: Callable[[NDArray[np.float32]], object],
    told: str,
) -> Line:
    ours: list[float] = []
    theirs: list[float] = []
    for one in _singly(queries):
        ours += milliseconds(lambda _, one=one: index.search(one, K), 1)  # type: ignore[misc]
        theirs += milliseconds(lambda _, one=one: bare(one), 1)  # type: ignore[misc]
    mine, other = statistics.median(ours), statistics.median(theirs)
    measured = f"{mine / other:.2f} ({mine:.2f} ms to {other:.2f} ms)"
    what = f"index search / bare hnswlib ({told}), {archive.name}"
    return Line(what, "at most 1.2", measured, mine <= 1.2 * other, _WHY)
