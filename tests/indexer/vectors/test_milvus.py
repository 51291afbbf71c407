"""What only a server can get wrong: names, being away, losing what it held."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from indexer.errors import Damaged, Transient
from indexer.uids import EncoderId
from indexer.vectors import milvus

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Kind, Vectors


def test_collections_are_named_by_the_encoder() -> None:
    names = [milvus.collection_name(EncoderId(text)) for text in ("a1b2", "sha256:ab", "sha256-ab", "é" * 300)]
    assert names[0] == "pacsimile_a1b2"
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name) for name in names)


def test_a_server_that_is_away_is_transient(milvus_kind: Kind) -> None:
    parameters = milvus.MilvusParameters(uri="http://127.0.0.1:9", timeout_s=1)
    with pytest.raises(Transient, match="server"):
        milvus.attach(dim=8, encoder_id=EncoderId("e"), parameters=parameters)


def test_another_process_attaches_to_what_is_there(milvus_kind: Kind, vectors: Vectors) -> None:
    index = milvus_kind.create()
    index.add(np.arange(20), vectors(20))
    index.close()
    given = {"encoder_id": index.encoder_id, "parameters": milvus_kind.parameters.milvus}
    other = milvus.attach(dim=32, **given)
    assert len(other) == 20
    other.close()
    with pytest.raises(Damaged, match="dim 16"):
        milvus.attach(dim=16, **given)
    with pytest.raises(Damaged, match="none"):
        milvus.attach(dim=32, encoder_id=EncoderId("x"), parameters=milvus_kind.parameters.milvus)


def test_what_was_dropped_is_gone(milvus_kind: Kind, vectors: Vectors) -> None:
    index = milvus_kind.create()
    index.add(np.arange(20), vectors(20))
    index.close()
    given = {"dim": 32, "encoder_id": index.encoder_id, "parameters": milvus_kind.parameters.milvus}
    for _ in range(2):  # there is nothing to drop the second time
        milvus.drop(**given)
    with pytest.raises(Damaged, match="none"):
        milvus.attach(**given)


def test_a_server_that_lost_its_vectors_is_damaged(milvus_kind: Kind, vectors: Vectors, tmp_path: Path) -> None:
    index = milvus_kind.create()
    index.add(np.arange(100), vectors(100))
    index.snapshot(tmp_path / "record", 5)
    index.remove(np.arange(2))
    index.close()
    later, sequence = milvus_kind.restore(tmp_path / "record")
    assert (len(later), sequence) == (98, 5)
    later.remove(np.arange(50))
    later.close()
    with pytest.raises(Damaged, match="recorded"):
        milvus_kind.restore(tmp_path / "record")


def test_wide_filters_are_masked_and_completed(
    milvus_kind: Kind, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, data = milvus_kind.create(), vectors(600)
    index.add(np.arange(600), data)
    monkeypatch.setattr(milvus, "_MOST_IDS_AN_EXPRESSION", 40)
    near = np.sort(np.argsort(-(data @ data[0]))[:100])
    far = np.sort(np.argsort(data @ data[0])[:100])
    for most in (16_384, 30):
        monkeypatch.setattr(milvus, "_MOST_RESULTS", most)
        for allowed in (near, far, np.arange(0, 600, 2)):
            scores = np.float32(data[allowed] @ data[0])
            found = index.search(data[:1], 5, allowed)
            assert found.ids[0].tolist() == allowed[np.argsort(-scores)[:5]].tolist()


def test_more_than_the_server_can_answer_is_refused(milvus_kind: Kind, vectors: Vectors) -> None:
    index = milvus_kind.create()
    with pytest.raises(ValueError, match="at most"):
        index.search(vectors(1), 16_384)
