"""What only the graph can get wrong: reachability after changes, bad graphs, compaction, filters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import Damaged
from indexer.uids import EncoderId
from indexer.vectors import hnsw, recall
from indexer.vectors.exact import ExactIndex
from indexer.vectors.graph import Graph, GraphParameters
from indexer.vectors.hnsw import HnswIndex

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Vectors


ENCODER = EncoderId("e")
Pair = tuple[HnswIndex, ExactIndex, NDArray[np.float32]]


def _ids(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64)


@pytest.fixture
def pair(vectors: Vectors) -> Pair:
    """Return a graph and the yardstick over the same 6000 vectors, and 100 queries."""
    index = HnswIndex(dim=32, encoder_id=ENCODER, parameters=GraphParameters(threads=2))
    exact = ExactIndex(dim=32, encoder_id=ENCODER)
    for either in (index, exact):
        either.add(_ids(6000), vectors(6000))
    return index, exact, vectors(100, seed=7)


def test_recall_of_the_graph(pair: Pair) -> None:
    index, exact, queries = pair
    assert recall(index.search(queries, 10), exact.search(queries, 10)) >= 0.99


def test_the_graph_is_what_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, queries = pair
    calls = []
    original = Graph.search
    monkeypatch.setattr(Graph, "search", lambda *given: calls.append(given[2]) or original(*given))
    index.search(queries, 10)
    index.search(queries, 10, _ids(6000)[::2])
    assert len(calls) >= 2
    calls.clear()
    index.search(queries, 10, _ids(6000)[::20])
    assert not calls


def test_what_is_near_comes_from_the_graph_and_holds_the_nearest(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, exact, queries = pair
    index.remove(_ids(6000)[::3])
    exact.remove(_ids(6000)[::3])
    calls = []
    original = Graph.search
    monkeypatch.setattr(Graph, "search", lambda *given: calls.append(given[2]) or original(*given))

    near = index.near(queries, 100).ids

    assert len(calls) == 1
    wanted = exact.search(queries, 10).ids
    assert np.mean([np.isin(of, those).mean() for of, those in zip(wanted, near, strict=True)]) >= 0.99
    assert not np.isin(near, _ids(6000)[::3]).any()


def test_recall_after_everything_was_replaced_and_a_third_removed(pair: Pair, vectors: Vectors) -> None:
    index, exact, queries = pair
    fresh = vectors(6000, seed=11)
    for either in (index, exact):
        either.add(_ids(6000), fresh)
        either.remove(_ids(6000)[::3])
    assert recall(index.search(queries, 10), exact.search(queries, 10)) >= 0.99


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6, 0.95])
def test_recall_under_filters_of_any_width(pair: Pair, share: float) -> None:
    index, exact, queries = pair
    chosen = np.flatnonzero(np.random.default_rng(0).random(6000) < share).astype(np.int64)
    found, expected = index.search(queries, 10, chosen), exact.search(queries, 10, chosen)
    assert np.isin(found.ids, chosen).all()
    assert recall(found, expected) >= (1.0 if share == 0.01 else 0.99)


def test_more_ties_than_the_slack_are_still_exact(vectors: Vectors) -> None:
    index = HnswIndex(dim=32, encoder_id=ENCODER)
    data = vectors(2000)
    data[500:560] = data[500]
    order = np.random.default_rng(2).permutation(2000)
    index.add(order.astype(np.int64), data[order])
    assert index.search(data[500:501], 3).ids.tolist() == [[500, 501, 502]]


def test_a_snapshot_of_mostly_dead_rows_is_built_anew(pair: Pair, vectors: Vectors, tmp_path: Path) -> None:
    index, exact, queries = pair
    for seed in (1, 2):
        index.add(_ids(6000), vectors(6000, seed=seed))
    exact.add(_ids(6000), vectors(6000, seed=2))
    assert index._parts[0].dead == 12_000
    index.snapshot(tmp_path, 1)
    assert index._parts[0].dead == 0
    again, _ = hnsw.restore(tmp_path, dim=32, encoder_id=ENCODER)
    for either in (index, again):
        assert recall(either.search(queries, 10), exact.search(queries, 10)) >= 0.99


def test_a_graph_that_does_not_find_its_own_vectors_is_damaged(
    vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = HnswIndex(dim=32, encoder_id=ENCODER)
    index.add(_ids(500), vectors(500))
    stranger = HnswIndex(dim=32, encoder_id=ENCODER)
    stranger.add(_ids(500), vectors(500, seed=1))
    monkeypatch.setattr(index, "_parts", (index._parts[0], stranger._parts[1]))
    index.snapshot(tmp_path, 1)
    with pytest.raises(Damaged, match="its own vectors"):
        hnsw.restore(tmp_path, dim=32, encoder_id=ENCODER)


def test_rows_that_the_graph_lacks_are_damage(vectors: Vectors, tmp_path: Path) -> None:
    index = HnswIndex(dim=32, encoder_id=ENCODER)
    index.add(_ids(500), vectors(500))
    index._parts[0].append(_ids(501)[500:], vectors(1, seed=5))
    index.snapshot(tmp_path, 1)
    with pytest.raises(Damaged, match="linked"):
        hnsw.restore(tmp_path, dim=32, encoder_id=ENCODER)
