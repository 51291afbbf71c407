"""Archives of made embeddings with an index, made once and kept in a folder."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from embedded_archive import DIM, build

from config.load import load_settings
from indexer.catalog import Catalog
from indexer.keeper import IndexKeeper
from indexer.uids import EncoderId
from indexer.vectors import VectorIndex, factory
from indexer.vectors.graph import GraphParameters
from indexer.vectors.reduction import LEAST_VECTORS, SAMPLE
from indexer.vectors.snapshot import MANIFEST

ENCODER = EncoderId("ct-astra-made")
SEED = 1
QUERIES, K = 200, 10


@dataclass
class Archive:
    """An archive in a folder, its index, and what was measured of it."""

    folder: Path
    chunks: int
    figures: dict[str, float] = field(default_factory=dict)

    def make(self) -> None:
        """Build catalog and index, unless they are there; what was begun and not finished is made again."""
        done = self.folder / "made.json"
        if done.exists():
            self.figures |= json.loads(done.read_text())
        for what, make in (("catalog s", self._make_catalog), ("index s", self._make_index)):
            if what not in self.figures:
                began = time.perf_counter()
                make()
                self.figures[what] = time.perf_counter() - began
                done.write_text(json.dumps(self.figures))

    def _make_catalog(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        build(self.folder, self.chunks, ENCODER, SEED)

    def _make_index(self) -> None:
        """Build the snapshot that a keeper would, on all cores."""
        settings = load_settings(overrides={"data_dir": str(self.folder)})
        folder = settings.snapshot_dir / ENCODER
        with Catalog(settings.catalog_url) as catalog:
            every = max(self.chunks // SAMPLE, 1)
            is_large = self.chunks >= LEAST_VECTORS
            ids = catalog.embeddings.ids(ENCODER)
            sample = catalog.embeddings.vectors_of(ids[::every].tolist())[1] if is_large else None
            graph = GraphParameters(threads=os.cpu_count() or 1)
            parameters = factory.IndexParameters(hnsw=graph, scratch=settings.snapshot_dir)
            index = factory.create("hnsw", dim=DIM, encoder_id=ENCODER, parameters=parameters, sample=sample)
            for block, vectors in catalog.embeddings.vectors(ENCODER):
                index.add(block, vectors)
                print(f"\rindex: {len(index):,} of {len(ids):,}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            index.snapshot(folder, catalog.journal.last())
            catalog.journal.vouch(hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(), None)
            index.close()

    @contextmanager
    def opened(self) -> Iterator[tuple[Catalog, VectorIndex]]:
        """The catalog and its index, for reading."""
        settings = load_settings(overrides={"data_dir": str(self.folder)})
        with Catalog(settings.catalog_url) as catalog:
            keeper = IndexKeeper(catalog, settings.vectors, settings.snapshot_dir, ENCODER, read_only=True)
            yield catalog, keeper.current()[0]
            keeper.close()

    @property
    def name(self) -> str:
        """What it is called in a line."""
        return f"{self.chunks:,} chunks"


def milliseconds(work: Callable[[int], object], times: int = QUERIES) -> list[float]:
    """How long each of several calls took."""
    taken = []
    for number in range(times):
        began = time.perf_counter()
        work(number)
        taken.append(1e3 * (time.perf_counter() - began))
    return taken
