"""A node on PostgreSQL and Milvus Lite: received, embedded, asked, killed, asked again, verified, forgotten."""

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engines import Server

Factory = Callable[..., Any]


def test_the_whole_way(
    start_node: Factory,
    postgresql: Server,
    send: Factory,
    pacsimile: Factory,
    phantom_archive: Path,
    wait_for: Factory,
    tmp_path: Path,
) -> None:
    if find_spec("pymilvus") is None or find_spec("milvus_lite") is None:
        pytest.skip("pymilvus or milvus_lite is not installed (extra `milvus`)")
    variables = {
        "PACSIMILE_CATALOG_URL": postgresql.new_database(),
        "PACSIMILE_VECTORS_KIND": "milvus",
        "PACSIMILE_VECTORS_MILVUS_URI": str(tmp_path / "milvus.db"),
    }
    node = start_node(**variables)
    send(node.dicom_port, phantom_archive, options=["-xt"])
    known = node.wait_until_indexed()
    assert known["series_by_state"] == {"INDEXED": 7}
    studies = [one["0020000D"]["Value"][0] for one in node.get("/dicomweb/studies")]
    answers = {study: node.get(f"/studies/{study}/similar")["hits"] for study in studies}
    assert all(answers.values())
    place = ("--json", "--data-dir", node.data_dir)
    beside = pacsimile("similar", studies[0], *place, variables=variables)
    assert studies_of(beside.json["hits"]) == studies_of(answers[studies[0]])
    assert "one process at a time can" in beside.err  # the file is the node's
    assert "the index is not compared" in pacsimile("verify", *place, variables=variables).err
    node.stop(signal.SIGKILL)

    node = start_node(**variables)
    assert node.get("/health")["index_size"] == known["embeddings"]
    assert {study: node.get(f"/studies/{study}/similar")["hits"] for study in studies} == answers
    forgotten, other = studies[0], studies[1]
    assert pacsimile("forget", forgotten, "--yes", "--data-dir", node.data_dir, variables=variables).status == 0
    wait_for(lambda: node.get("/status")["studies"] == len(studies) - 1, 60, "one study less")
    held = node.get("/status")["embeddings"]
    wait_for(lambda: node.get("/health")["index_size"] == held < known["embeddings"], 60, "the index follows")
    found = studies_of(node.get(f"/studies/{other}/similar")["hits"])
    assert forgotten not in found
    assert node.stop() == 0
    assert pacsimile("verify", *place, variables=variables).json == {"findings": []}
    alone = pacsimile("similar", other, *place, variables=variables)
    assert (studies_of(alone.json["hits"]), "exact search" in alone.err) == (found, False)
    done = pacsimile("forget", other, "--yes", *place, variables=variables)  # no node is there to do it
    assert (done.status, done.json["erased"]) == (0, True)
    assert pacsimile("verify", *place, variables=variables).json == {"findings": []}


def studies_of(hits: list[dict[str, Any]]) -> list[str]:
    return [str(hit["study_instance_uid"]) for hit in hits]
