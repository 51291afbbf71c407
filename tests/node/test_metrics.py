"""What a node tells Prometheus and /health: sent to, asked over both faces, then read as Prometheus reads it."""

import os
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread

from indexer.uids import EncoderId
from indexer.vectors.exact import ExactIndex
from indexer.vectors.recall import recall

Factory = Callable[..., Any]
Node = Any
Labels = frozenset[tuple[str, str]]


class Figures:
    """Samples of one scrape."""

    def __init__(self, node: Node) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.ports['http']}/metrics", timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            self.text = answer.read().decode()
        self.samples: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(self.text):
            assert family.documentation
            for one in family.samples:
                self.samples[one.name, frozenset(one.labels.items())] = one.value

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"pacsimile_{name}", frozenset(labels.items())]

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(of)[label] for key, of in self.samples if key == f"pacsimile_{name}"}


def find(tool: Factory, node: Node, called: str, study: str) -> None:
    asked = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    command = [tool("findscu"), "-S", "-aec", called, *asked, "127.0.0.1", str(node.dicom_port)]
    subprocess.run(command, env={**os.environ, "TCP_NODELAY": "1"}, check=True, capture_output=True, timeout=120)


def test_send_ask_and_scrape(
    start_node: Factory, send: Factory, tool: Factory, make_series: Factory, wait_for: Factory
) -> None:
    node = start_node()
    before = Figures(node)
    assert before("instances_received_total", outcome="stored") == 0
    assert before("query_seconds_count", path="http") == 0
    assert before("index_embeddings") == 0
    assert not before.labels("stage_seconds_count", "stage")
    folders = [make_series(number) for number in (121, 122, 123)]
    files = [file for folder in folders for file in sorted(folder.rglob("*.dcm"))]
    send(node.dicom_port, *folders)
    known = node.wait_until_indexed(len(files))
    study = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    find(tool, node, "PACSIMILE", study)
    for _ in range(2):
        find(tool, node, "SIMILAR", study)
    node.get(f"/studies/{study}/similar")
    node.get("/status")
    wait_for(lambda: "pacsimile_index_recall" in Figures(node).text, 120, "recall is measured")
    after = Figures(node)
    assert after("instances_received_total", outcome="stored") == after("instances") == len(files)
    assert after("received_bytes_total") > len(files) * 48 * 48 * 2
    assert after("instances_received_total", outcome="refused") == 0
    assert after("associations_total", outcome="accepted") >= 4
    assert after("query_seconds_count", path="c-find") == 1
    assert after("query_seconds_count", path="c-find-similar") == 2
    assert after("query_seconds_count", path="http") == 1
    assert after("query_seconds_bucket", path="http", le="+Inf") == 1
    assert after("series", state="INDEXED") == known["series_by_state"]["INDEXED"]
    assert after("series", state="PARKED") == 0
    assert after("queue_series") == 0
    assert after("index_embeddings") == known["embeddings"]
    assert after("index_recall") == 1.0  # an index of so few is exact
    assert after("disk_free_bytes") > 0
    assert after("catalog_up") == after("worker_running") == 1
    stages = after.labels("stage_seconds_count", "stage")
    assert stages
    for stage in stages:
        assert after("stage_seconds_count", stage=stage) == known["series_by_state"]["INDEXED"]
        assert after("stage_seconds_sum", stage=stage) >= 0
    assert Figures(node)("stage_seconds_count", stage=min(stages)) == known["series_by_state"]["INDEXED"]
    told = {value for _, of in after.samples for _, value in of}
    assert study not in after.text
    assert not [
        value for value in told if "." in value and not value.replace(".", "").replace("+Inf", "").isdigit()
    ]
    assert node.stop() == 0


def test_health_names_what_is_not_ready(start_node: Factory, wait_for: Factory) -> None:
    node = start_node()
    node.wait_until_worker_runs()
    health = node.get("/health")
    assert (health["ready"], health["dicom"], health["catalog"]) == (True, True, True)
    node.workers()[0].kill()
    wait_for(lambda: node.get("/health")["worker"]["state"] == "FAILED", 60, "the worker's end is noticed")
    health = node.get("/health")
    assert health["worker"]["state"] == "RUNNING" or not health["ready"]
    wait_for(lambda: node.get("/health")["ready"], 120, "another worker runs")


@pytest.mark.parametrize("missing", [0, 100])
def test_recall_is_the_share_that_is_found(missing: int) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(400, dtype=np.int64) * 3
    index = ExactIndex(dim=16, encoder_id=EncoderId("encoder-a"))
    index.add(ids[missing:], vectors[missing:])
    blocks = [(ids[start : start + 150], vectors[start : start + 150]) for start in range(0, 400, 150)]
    nearest = np.argsort(-(vectors[:50] @ vectors.T), axis=1)[:, :10]
    expected = float((nearest >= missing).mean())
    assert recall(index, vectors[:50], 10, blocks) == pytest.approx(expected)
