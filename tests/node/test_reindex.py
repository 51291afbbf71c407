"""`pacsimile reindex`: again, interrupted and resumed, by another encoder beside the old one."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import catalog_url

from indexer.bundle import read_bundle
from indexer.catalog import Catalog

Factory = Callable[..., Any]


@pytest.fixture
def archived(tmp_path: Path, pacsimile: Factory, make_series: Factory) -> Path:
    """Data folder with three series, indexed by `tiny`."""
    folders = [make_series(number) for number in (1, 2, 3)]
    done = pacsimile("ingest", *folders, "--data-dir", tmp_path / "data", "--bundle", "tiny", "--json")
    assert done.json["status"]["series_by_state"] == {"INDEXED": 3}, done.err
    return tmp_path / "data"


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_all_interrupted_and_resumed_with_another_encoder(
    archived: Path, pacsimile: Factory, start_command: Factory, slow_bundle: Path, make_series: Factory
) -> None:
    old, new = read_bundle("tiny").encoder_id, read_bundle(str(slow_bundle)).encoder_id
    study = pacsimile("status", "--data-dir", archived, "--json").json
    assert study["encoder_id"] == old
    series_uid = next(make_series(1).iterdir()).name
    process = start_command("reindex", "--all", "--data-dir", archived, "--bundle", slow_bundle)
    with Catalog(catalog_url(archived)) as catalog:
        wait(lambda: catalog.embeddings.count(new) > 0)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert "Traceback" not in told
        assert "--resume" in told
        assert catalog.progress.outstanding() > 0
        assert catalog.embeddings.active_encoder() == old  # no switch before all is done
        before = catalog.embeddings.count(old)
        assert before > 0
        assert pacsimile("similar", series_uid, "--data-dir", archived, "--json").json["encoder_id"] == old
        done = pacsimile("reindex", "--resume", "--data-dir", archived, "--bundle", slow_bundle, "--json")
        assert done.status == 0, done.err
        assert done.json["series_by_state"] == {"INDEXED": 3}
        assert catalog.embeddings.active_encoder() == new
    answer = pacsimile("similar", series_uid, "--data-dir", archived, "--json").json
    assert answer["encoder_id"] == new
    assert len(answer["hits"]) == 2
    assert pacsimile("verify", "--data-dir", archived, "--json").json == {"findings": []}


def test_one_study_and_parked(archived: Path, pacsimile: Factory) -> None:
    with Catalog(catalog_url(archived)) as catalog:
        before = {row.series_uid for row in catalog.embeddings.rows(read_bundle("tiny").encoder_id)}
        study = catalog.embeddings.rows(read_bundle("tiny").encoder_id).__next__().study_uid
    done = pacsimile("reindex", "--study", study, "--data-dir", archived, "--bundle", "tiny")
    assert done.status == 0, done.err
    assert "1 series to embed again" in done.err
    assert "3 INDEXED" in done.out
    done = pacsimile("reindex", "--parked", "--data-dir", archived, "--bundle", "tiny")
    assert "0 series to embed again" in done.err
    unknown = pacsimile("reindex", "--study", "1.2.3", "--data-dir", archived, "--bundle", "tiny")
    assert (unknown.status, "no study 1.2.3 in the catalog" in unknown.err) == (1, True)
    with Catalog(catalog_url(archived)) as catalog:
        assert {row.series_uid for row in catalog.embeddings.rows(read_bundle("tiny").encoder_id)} == before


def test_a_node_with_another_encoder_is_not_overruled(
    start_node: Factory, pacsimile: Factory, slow_bundle: Path
) -> None:
    node = start_node()
    done = pacsimile("reindex", "--all", "--data-dir", node.data_dir, "--bundle", slow_bundle)
    assert done.status == 2
    assert "stop it first, or start the node with that bundle" in done.err


@pytest.mark.slow
def test_a_node_started_with_another_encoder_switches_when_it_has_seen_all(
    archived: Path, start_node: Factory, slow_bundle: Path, wait_for: Factory
) -> None:
    old, new = read_bundle("tiny").encoder_id, read_bundle(str(slow_bundle)).encoder_id
    node = start_node(archived.name, bundle=str(slow_bundle))
    assert node.data_dir == archived
    assert node.get("/health")["encoder_id"] == old
    assert node.get("/health")["index_size"] > 0
    wait_for(lambda: node.get("/health")["encoder_id"] == new, 120, "the new encoder answers")
    assert node.get("/health")["index_size"] > 0
    assert node.stop() == 0
