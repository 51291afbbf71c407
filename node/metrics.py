"""Figures for Prometheus: what happened since the start, and how things stand now. None names a patient."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pynetdicom import evt

from config.model import Settings
from dicom_scp.disk import Reserve
from dicom_scp.server import DicomServer
from indexer.catalog import Catalog, SeriesState
from indexer.errors import Transient
from indexer.keeper import IndexKeeper
from indexer.vectors.recall import recall
from node.supervisor import WorkerState, WorkerSupervisor

log = logging.getLogger(__name__)

_QUICK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BATCH = 1000
_RECALL_EVERY_S = 6 * 3600.0
_RECALL_QUERIES, _RECALL_NEIGHBOURS = 16, 10
_OUTCOMES = ((0x0000, "stored"), (0x0111, "duplicate"), (0xB007, "quarantined"))
"""Status of C-STORE to the outcome that it is counted as; every other is a refusal."""


class Metrics:
    """Counts what the DICOM and HTTP faces do (`dicom_scp.metering.Meter`), and tells it with all else.

    Stages of indexing are read from the catalog, where workers leave them, so that it does not matter where those
    run. How much the index finds of what exact search does is measured now and then, beside everything else.
    """

    def __init__(self, settings: Settings, catalog: Catalog, keeper: IndexKeeper | None) -> None:
        self._catalog = catalog
        self._keeper = keeper
        self._settings = settings
        self._lock = threading.Lock()
        self._seen = catalog.embeddings.last_indexing()
        self._recall: float | None = None
        self._recall_due = time.monotonic()
        self._measuring: threading.Thread | None = None
        self._closing = threading.Event()
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._instances = Counter(
            "pacsimile_instances_received", "Instances received by C-STORE", ["outcome"], registry=registry
        )
        self._bytes = Counter("pacsimile_received_bytes", "Data sets received by C-STORE", registry=registry)
        self._associations = Counter(
            "pacsimile_associations", "Associations asked for", ["outcome"], registry=registry
        )
        self._queries = Histogram(
            "pacsimile_query_seconds",
            "Queries, to their last answer",
            ["path"],
            buckets=_QUICK_S,
            registry=registry,
        )
        self._stages = Histogram(
            "pacsimile_stage_seconds", "Indexing of a series", ["stage"], buckets=_SLOW_S, registry=registry
        )
        for _, outcome in (*_OUTCOMES, (0, "refused")):
            self._instances.labels(outcome)
        for path in ("c-find", "c-find-similar", "http"):
            self._queries.labels(path)

    def observers(self) -> list[tuple[Any, Any]]:
        """Notifications of the DICOM face that are counted as they come (`DicomServer`)."""
        accepted, rejected = self._associations.labels("accepted"), self._associations.labels("rejected")
        return [
            (evt.EVT_ACCEPTED, lambda _event: accepted.inc()),
            (evt.EVT_REJECTED, lambda _event: rejected.inc()),
        ]

    def stored(self, status: int, size_bytes: int) -> None:
        """See `Meter`."""
        self._instances.labels(dict(_OUTCOMES).get(status, "refused")).inc()
        self._bytes.inc(size_bytes)

    def found(self, seconds: float, *, is_similarity_view: bool) -> None:
        """See `Meter`."""
        self._queries.labels("c-find-similar" if is_similarity_view else "c-find").observe(seconds)

    def answered_over_http(self, seconds: float) -> None:
        """A question for similar studies was answered over HTTP."""
        self._queries.labels("http").observe(seconds)

    def watch(self, dicom: DicomServer | None, worker: WorkerSupervisor | None) -> None:
        """Tell how these stand as well, if the node has them; once."""
        self._registry.register(_Standing(self._settings, self._catalog, self._keeper, dicom, worker, self))

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format."""
        with self._lock:
            try:
                self._follow_indexing()
            except Transient as error:
                log.warning("metrics without the latest stages: %s", error)
            self._measure_if_due()
        return generate_latest(self._registry)

    @property
    def recall(self) -> float | None:
        """What share of the nearest embeddings the index found, the last time it was measured."""
        return self._recall

    def close(self) -> None:
        """Wait for what is being measured."""
        self._closing.set()
        if self._measuring is not None:
            self._measuring.join()

    def _follow_indexing(self) -> None:
        while rows := self._catalog.embeddings.seconds_after(self._seen, _BATCH):
            for key, seconds in rows:
                for stage, took in seconds.items():
                    self._stages.labels(stage).observe(took)
                self._seen = key

    def _measure_if_due(self) -> None:
        is_idle = self._measuring is None or not self._measuring.is_alive()
        is_due = is_idle and time.monotonic() >= self._recall_due and not self._closing.is_set()
        if self._keeper is not None and is_due:
            measure = partial(self._measure, self._keeper)
            self._measuring = threading.Thread(target=measure, name="recall", daemon=True)
            self._measuring.start()

    def _measure(self, keeper: IndexKeeper) -> None:
        """Ask the index for the neighbours of some of its own embeddings, and go through all to see which are."""
        index, encoder_id = keeper.current()
        embeddings = self._catalog.embeddings
        try:
            ids = embeddings.ids(encoder_id)
            if len(ids) <= _RECALL_NEIGHBOURS:
                return
            chosen = np.random.default_rng().choice(ids, min(_RECALL_QUERIES, len(ids)), replace=False)
            _, queries = embeddings.vectors_of(chosen.tolist())
            blocks = embeddings.vectors(encoder_id)
            everything = (block for block in blocks if not self._closing.is_set())
            found = recall(index, queries, _RECALL_NEIGHBOURS, everything)
        except Exception as error:  # of no consequence for anything else
            log.warning("recall of the index was not measured: %s", type(error).__name__)
        else:
            if not self._closing.is_set():
                self._recall = found
            self._recall_due = time.monotonic() + _RECALL_EVERY_S


class _Standing(Collector):
    """How things stand when they are asked for."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        keeper: IndexKeeper | None,
        dicom: DicomServer | None,
        worker: WorkerSupervisor | None,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._keeper = keeper
        self._dicom = dicom
        self._worker = worker
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        if self._worker is not None:
            running = self._worker.health.state is WorkerState.RUNNING
            yield _gauge("pacsimile_worker_running", "Whether the worker process is at work", float(running))
        if self._dicom is not None:
            yield _gauge("pacsimile_open_associations", "Associations open now", self._dicom.open_associations)
        if self._keeper is not None:
            yield _gauge("pacsimile_index_embeddings", "Embeddings in the index", len(self._keeper.current()[0]))
        if (found := self._metrics.recall) is not None:
            yield _gauge("pacsimile_index_recall", "Share of the nearest embeddings that the index finds", found)
        try:
            free = Reserve(self._settings.spool_dir, self._settings.storage.reserve_mib).free_mib
            yield _gauge("pacsimile_disk_free_bytes", "Room on the disk of the spool", float(free << 20))
        except Transient as error:
            log.warning("metrics without the disk: %s", error)
        yield from self._of_catalog()

    def _of_catalog(self) -> Iterator[Metric]:
        try:
            counts, waiting = self._catalog.progress.counts(), self._catalog.progress.outstanding()
        except Transient as error:
            log.warning("metrics without the catalog: %s", error)
            yield _gauge("pacsimile_catalog_up", "Whether the catalog answers", 0.0)
            return
        yield _gauge("pacsimile_catalog_up", "Whether the catalog answers", 1.0)
        yield _gauge("pacsimile_queue_series", "Series that are not indexed yet", waiting)
        yield _gauge("pacsimile_studies", "Studies in the catalog", counts.studies)
        yield _gauge("pacsimile_instances", "Instances in the catalog", counts.instances)
        yield _gauge("pacsimile_quarantined_instances", "Instances in quarantine", counts.quarantined)
        by_state: Mapping[SeriesState, int] = counts.series_by_state
        series = GaugeMetricFamily("pacsimile_series", "Series in the catalog", labels=["state"])
        for state in SeriesState:
            series.add_metric([state.value], by_state.get(state, 0))
        yield series


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
