"""The yardstick itself, against the plainest arithmetic there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.vectors import Neighbours, ranking, recall

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Vectors


def _plain(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], ids: NDArray[np.int64], k: int
) -> list[list[int]]:
    """Sort every pair in Python."""
    rows = []
    for query in queries.astype(np.float64):
        scored = [(-np.float32((query * v).sum()), i) for v, i in zip(vectors, ids, strict=True)]
        rows.append([i for _, i in sorted(scored)[:k]])
    return rows


@pytest.mark.parametrize("k", [1, 5, 40])
def test_nearest_is_a_plain_sort(vectors: Vectors, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_ROWS_A_BLOCK", 16)
    monkeypatch.setattr(ranking, "_QUERIES_A_BLOCK", 3)
    monkeypatch.setattr(ranking, "_PAIRS_A_BLOCK", 11)
    data = vectors(100)
    data[30:45] = data[3]
    ids = np.random.default_rng(0).permutation(100).astype(np.int64)
    found = ranking.nearest(data[:8], data, ids, k)
    assert found.ids.tolist() == _plain(data[:8], data, ids, k)


def test_a_pair_scores_the_same_wherever_it_stands(vectors: Vectors) -> None:
    data, query = vectors(500, dim=257), vectors(1, dim=257, seed=1)
    together = ranking.cosines(np.repeat(query, 500, axis=0), data)
    alone = np.concatenate([ranking.cosines(query, data[i : i + 1]) for i in range(500)])
    assert (together == alone).all()


def test_the_margin_covers_the_rounding_of_a_product(vectors: Vectors) -> None:
    for dim in (8, 256, 2048):
        data = vectors(60, dim=dim)
        products = data @ data.T
        pairs = ranking.cosines(np.repeat(data, 60, axis=0), np.tile(data, (60, 1))).reshape(60, 60)
        assert np.abs(products - pairs).max() < ranking.margin(dim) / 2


def test_settled_means_k_usable_and_a_clear_end() -> None:
    approximate = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.7], [0.9, 0.8, 0.7, 0.6]], dtype=np.float32)
    usable = np.array([[1, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=np.bool_)
    settled, kept = ranking.settle(approximate, usable, 2, 8)
    assert settled.tolist() == [True, True, False]
    assert kept.tolist() == [
        [True, False, True, False],
        [True, True, False, False],
        [True, False, False, False],
    ]
    assert ranking.settle(approximate, usable, 3, 8)[0].tolist() == [False, False, False]


def _answer(*rows: list[int]) -> Neighbours:
    ids = np.array(rows, dtype=np.int64)
    return Neighbours(ids, np.zeros(ids.shape, dtype=np.float32))


def test_recall_is_the_mean_share_found() -> None:
    exact = _answer([1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1])
    assert recall(exact, exact) == 1.0
    assert recall(_answer([4, 3, 9, 8], [6, 5, 1, 2], [1, 2, 3, 4]), exact) == 0.75
    assert recall(_answer([-1], [-1], [-1]), exact) == 0.0
    with pytest.raises(ValueError, match="same queries"):
        recall(_answer([1]), exact)
