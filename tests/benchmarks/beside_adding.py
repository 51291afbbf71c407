"""Questions while a writer adds to the index that answers them, beside the same questions without."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from embedded_archive import DIM
from report import Line
from searched_archive import ENCODER, Archive, milliseconds

from config.load import load_settings
from indexer.answer import Seed
from indexer.catalog import Catalog
from indexer.search import Search
from indexer.uids import EncoderId, StudyInstanceUID
from indexer.vectors import VectorIndex, factory

ADDED_AT_ONCE, ADDED_EVERY_S = 32, 0.25
ROUNDS, ASKED = 6, 25
_WHY = (
    "a question waits for 16 chunks at most, which are linked while nobody searches, and shares the processors "
    "with the writer"
)


class _Source:
    """An index that answers though no keeper owns it."""

    def __init__(self, index: VectorIndex) -> None:
        self._index = index

    def current(self) -> tuple[VectorIndex, EncoderId]:
        """See `indexer.search.IndexSource`."""
        return self._index, ENCODER


def beside_adding(archive: Archive, studies: list[str]) -> Line:
    """Ask the same studies with and without a writer, in turn; the first round warms up."""
    settings = load_settings(overrides={"data_dir": str(archive.folder)})
    folder = settings.snapshot_dir / ENCODER
    asked = [Seed(study_instance_uid=StudyInstanceUID(uid)) for uid in studies[:ASKED]]
    with Catalog(settings.catalog_url) as catalog, tempfile.TemporaryDirectory(dir=archive.folder) as scratch:
        parameters = factory.IndexParameters(scratch=Path(scratch))
        index, _ = factory.restore("hnsw", folder, dim=DIM, encoder_id=ENCODER, parameters=parameters)
        search = Search(catalog, _Source(index), settings.search)

        def ask(number: int) -> object:
            return search.similar(asked[number], limit=5, explained=False)

        with _adding(catalog, index):
            milliseconds(ask, len(asked))
        quiet: list[float] = []
        busy: list[float] = []
        for _ in range(ROUNDS):
            quiet += milliseconds(ask, len(asked))
            with _adding(catalog, index):
                busy += milliseconds(ask, len(asked))
        index.close()
    with_them, without = (np.percentile(taken, (50, 99)) for taken in (busy, quiet))
    p50, p99 = with_them / without
    measured = (
        f"p50 {p50:.2f} ({with_them[0]:.0f} ms to {without[0]:.0f} ms), "
        f"p99 {p99:.2f} ({with_them[1]:.0f} ms to {without[1]:.0f} ms)"
    )
    what = (
        f"questions while {ADDED_AT_ONCE / ADDED_EVERY_S:.0f} chunks a second are added / without, {archive.name}"
    )
    return Line(what, "p50 at most 1.2", measured, bool(p50 <= 1.2), _WHY)


@contextmanager
def _adding(catalog: Catalog, index: VectorIndex) -> Iterator[None]:
    """Put chunks in the place of older ones steadily, as many as ever; which costs what adding does."""
    ids, vectors = catalog.embeddings.vectors_of(index.ids()[:1024].tolist())
    stop = threading.Event()

    def add() -> None:
        start, due = 0, time.monotonic()
        while not stop.wait(max(due - time.monotonic(), 0)):
            chosen = np.arange(start, start + ADDED_AT_ONCE) % len(ids)
            index.add(ids[chosen], vectors[chosen])
            start, due = start + ADDED_AT_ONCE, due + ADDED_EVERY_S

    writer = threading.Thread(target=add)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()
