"""What every kind of vector index does, whatever it is made of."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import Damaged
from indexer.uids import EncoderId
from indexer.vectors import HoldsVectors, VectorIndex, recall
from indexer.vectors.exact import ExactIndex

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Kind, Vectors


def _ids(n: int, start: int = 0) -> NDArray[Any]:
    """Ids that are neither rows nor dense."""
    return np.arange(start, start + n, dtype=np.int64) * 7 + 3


def _yardstick(index: VectorIndex, ids: NDArray[Any], data: NDArray[Any]) -> ExactIndex:
    exact = ExactIndex(dim=index.dim, encoder_id=index.encoder_id)
    exact.add(ids, data)
    return exact


def test_an_empty_index_answers_with_padding(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    found = index.search(vectors(3), 4)
    assert len(index) == 0
    assert index.ids().shape == (0,)
    assert found.ids.dtype == np.int64
    assert found.similarities.dtype == np.float32
    assert (found.ids == np.full((3, 4), -1)).all()
    assert np.isneginf(found.similarities).all()


def test_what_is_near_holds_the_nearest(kind: Kind, vectors: Vectors) -> None:
    index, queries = kind.create(), vectors(20, seed=1)
    if not isinstance(index, HoldsVectors):
        pytest.skip("it does not hold the vectors")
    index.add(_ids(600), vectors(600))

    near, wanted = index.near(queries, 60).ids, index.search(queries, 10).ids

    found = [np.isin(of, those).mean() for of, those in zip(wanted, near, strict=True)]
    assert np.mean(found) >= 0.99
    allowed = _ids(600)[::3]
    assert np.isin(index.near(queries, 60, allowed).ids, [-1, *allowed]).all()


def test_a_look_at_all_sees_what_is_there_and_nothing_else(kind: Kind, vectors: Vectors) -> None:
    index, queries = kind.create(), vectors(3, seed=1)
    if not isinstance(index, HoldsVectors):
        pytest.skip("it does not hold the vectors")
    index.add(_ids(5000), vectors(5000))
    index.add(_ids(10), vectors(10, seed=2))
    index.remove(_ids(5000)[::2])

    ids, similarities = index.similarities(queries)

    kept = ids >= 0
    assert sorted(ids[kept].tolist()) == _ids(5000)[1::2].tolist()
    expected = dict(zip(_ids(5000).tolist(), vectors(5000), strict=True))
    expected |= dict(zip(_ids(10).tolist(), vectors(10, seed=2), strict=True))
    np.testing.assert_allclose(
        similarities[kept], [expected[one] @ queries.T for one in ids[kept].tolist()], atol=1e-6
    )


def test_nearest_first_with_true_cosines(kind: Kind, vectors: Vectors) -> None:
    index, data, queries = kind.create(), vectors(600), vectors(20, seed=1)
    index.add(_ids(600), data)
    found = index.search(queries, 10)
    cosines = queries.astype(np.float64) @ data.astype(np.float64).T
    expected = np.argsort(-cosines, axis=1)[:, :10]
    assert recall(found, _yardstick(index, _ids(600), data).search(queries, 10)) >= 0.99
    assert (found.ids[:, 0] == _ids(600)[expected[:, 0]]).mean() >= 0.95
    looked_up = np.take_along_axis(cosines, (found.ids - 3) // 7, axis=1)
    np.testing.assert_allclose(found.similarities, looked_up, atol=1e-7)
    assert (np.diff(found.similarities, axis=1) <= 0).all()


def test_answers_equal_those_of_exact_search_bit_by_bit(kind: Kind, vectors: Vectors) -> None:
    index, data = kind.create(), vectors(800)
    index.add(_ids(800), data)
    exact = _yardstick(index, _ids(800), data)
    queries = data[:30]
    found, expected = index.search(queries, 5), exact.search(queries, 5)
    same = (found.ids == expected.ids).all(axis=1)
    assert same.mean() >= 0.95
    assert (found.similarities[same] == expected.similarities[same]).all()


def test_ties_go_to_the_smaller_id(kind: Kind, vectors: Vectors) -> None:
    index, data = kind.create(), vectors(500)
    data[100:112] = data[100]
    order = np.random.default_rng(5).permutation(500)
    index.add(_ids(500)[order], data[order])
    found = index.search(data[100:101], 5)
    assert found.ids[0].tolist() == _ids(500)[100:105].tolist()
    assert len(set(found.similarities[0].tolist())) == 1


def test_more_asked_than_there_is(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    index.add(_ids(5), vectors(5))
    found = index.search(vectors(2), 9)
    assert sorted(found.ids[0, :5].tolist()) == _ids(5).tolist()
    assert (found.ids[:, 5:] == -1).all()
    assert np.isneginf(found.similarities[:, 5:]).all()


def test_an_id_added_again_is_replaced(kind: Kind, vectors: Vectors) -> None:
    index, old, new = kind.create(), vectors(400), vectors(400, seed=2)
    index.add(_ids(400), old)
    index.add(_ids(400)[::2], new[::2])
    assert len(index) == 400
    found = index.search(new[::2], 1)
    assert (found.ids[:, 0] == _ids(400)[::2]).mean() >= 0.98
    gone = index.search(old[::2], 1)
    assert (gone.similarities[:, 0] < 1 - 1e-4).all()


def test_removed_ids_are_not_answered_and_may_come_back(kind: Kind, vectors: Vectors) -> None:
    index, data = kind.create(), vectors(400)
    index.add(_ids(400), data)
    index.remove(np.concatenate([_ids(200), np.array([1, 10**12], dtype=np.int64)]))
    assert len(index) == 200
    assert index.ids().tolist() == _ids(200, start=200).tolist()
    assert not np.isin(index.search(data[:50], 20).ids, _ids(200)).any()
    index.remove(_ids(200))
    index.add(_ids(10), data[:10])
    assert index.search(data[:10], 1).ids[:, 0].tolist() == _ids(10).tolist()
    assert len(index) == 210


def test_everything_removed_leaves_a_working_index(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    index.add(_ids(300), vectors(300))
    index.remove(_ids(300))
    assert len(index) == 0
    assert (index.search(vectors(2), 3).ids == -1).all()
    index.add(_ids(1), vectors(1))
    assert index.search(vectors(1), 3).ids.tolist() == [[3, -1, -1]]


def test_growing_in_many_additions(kind: Kind, vectors: Vectors) -> None:
    index, data = kind.create(), vectors(2500)
    for start in range(0, 2500, 500):
        index.add(_ids(500, start), data[start : start + 500])
    assert len(index) == 2500
    assert (index.search(data[::50], 1).ids[:, 0] == _ids(2500)[::50]).mean() >= 0.98


def test_large_ids_survive(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    large = np.array([0, 2**40, 2**62], dtype=np.int64)
    index.add(large, vectors(3))
    assert index.ids().tolist() == large.tolist()
    assert index.search(vectors(3), 1).ids[:, 0].tolist() == large.tolist()


@pytest.mark.parametrize("n_allowed", [1, 7, 60, 700, 1999])
def test_only_allowed_ids_are_answered(kind: Kind, vectors: Vectors, n_allowed: int) -> None:
    index, data, queries = kind.create(), vectors(2000), vectors(10, seed=3)
    index.add(_ids(2000), data)
    chosen = np.sort(np.random.default_rng(n_allowed).choice(_ids(2000), n_allowed, replace=False))
    unknown = np.array([0, 10**9], dtype=np.int64)
    allowed = np.union1d(chosen, unknown)
    found = index.search(queries, 5, allowed)
    expected = _yardstick(index, _ids(2000), data).search(queries, 5, allowed)
    assert np.isin(found.ids[found.ids >= 0], chosen).all()
    assert recall(found, expected) >= (1.0 if n_allowed < 100 else 0.99)


def test_a_filter_far_from_the_query(kind: Kind, vectors: Vectors) -> None:
    index, data, query = kind.create(), vectors(2000), vectors(1, seed=4)
    index.add(_ids(2000), data)
    farthest = np.sort(_ids(2000)[np.argsort(data @ query[0])[:1000]])
    found = index.search(query, 10, farthest)
    assert recall(found, _yardstick(index, _ids(2000), data).search(query, 10, farthest)) == 1.0


def test_nothing_allowed_answers_nothing(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    index.add(_ids(300), vectors(300))
    for allowed in (np.empty(0, dtype=np.int64), np.array([1, 2], dtype=np.int64)):
        assert (index.search(vectors(2), 3, allowed).ids == -1).all()


def test_no_queries_give_no_answers(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    index.add(_ids(300), vectors(300))
    assert index.search(vectors(300)[:0], 3).ids.shape == (0, 3)


def test_adding_and_removing_nothing(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    index.add(_ids(0), vectors(0))
    index.remove(_ids(0))
    assert len(index) == 0


def _bad_additions(data: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    nan, short = data.copy(), data.copy()
    nan[2, 1] = np.nan
    short[3] *= 0.99
    return {
        "not a number": (_ids(4), nan),
        "not unit length": (_ids(4), short),
        "zero": (_ids(4), np.zeros_like(data)),
        "wrong dim": (_ids(4), data[:, :-1]),
        "one-dimensional": (_ids(4), data[0]),
        "float64": (_ids(4), data.astype(np.float64)),
        "too few ids": (_ids(3), data),
        "negative id": (np.array([1, 2, -3, 4], dtype=np.int64), data),
        "id twice": (np.array([1, 2, 2, 4], dtype=np.int64), data),
        "int32 ids": (_ids(4).astype(np.int32), data),
    }


@pytest.mark.parametrize("case", list(_bad_additions(np.eye(4, dtype=np.float32))))
def test_a_bad_addition_adds_nothing(kind: Kind, vectors: Vectors, case: str) -> None:
    index = kind.create()
    ids, data = _bad_additions(vectors(4))[case]
    with pytest.raises(ValueError, match="expected"):
        index.add(ids, data)
    assert len(index) == 0


def test_bad_searches_are_refused(kind: Kind, vectors: Vectors) -> None:
    index = kind.create()
    index.add(_ids(4), vectors(4))
    query = vectors(1)
    for queries, k, allowed in (
        (query * 2, 1, None),
        (query[:, 1:], 1, None),
        (query, 0, None),
        (query, 1, np.array([5, 3], dtype=np.int64)),
        (query, 1, np.array([3, 3], dtype=np.int64)),
        (query, 1, np.array([3.0])),
    ):
        with pytest.raises(ValueError, match="expected"):
            index.search(queries, k, allowed)


def test_a_closed_index_says_so(kind: Kind, vectors: Vectors, tmp_path: Path) -> None:
    index = kind.create()
    index.add(_ids(4), vectors(4))
    index.close()
    index.close()
    for use in (
        lambda: len(index),
        index.ids,
        lambda: index.add(_ids(4), vectors(4)),
        lambda: index.remove(_ids(4)),
        lambda: index.search(vectors(1), 1),
        lambda: index.snapshot(tmp_path / "closed", 1),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_snapshot_brings_everything_back(kind: Kind, vectors: Vectors, tmp_path: Path) -> None:
    index, data = kind.create(), vectors(700)
    index.add(_ids(700), data)
    index.remove(_ids(100))
    index.add(_ids(50, 100), vectors(50, seed=8))
    before = index.search(data[::10], 6)
    index.snapshot(tmp_path / "snapshot", 41)
    index.snapshot(tmp_path / "snapshot", 42)
    index.close()
    again, sequence = kind.restore(tmp_path / "snapshot")
    after = again.search(data[::10], 6)
    assert sequence == 42
    assert (again.dim, again.encoder_id) == (index.dim, index.encoder_id)
    assert again.ids().tolist() == _ids(600, start=100).tolist()
    assert (after.ids == before.ids).all()
    assert (after.similarities == before.similarities).all()
    assert len(list((tmp_path / "snapshot").iterdir())) == 2
    again.add(_ids(5), vectors(5, seed=9))
    assert again.search(vectors(5, seed=9), 1).ids[:, 0].tolist() == _ids(5).tolist()


def test_an_empty_snapshot_comes_back(kind: Kind, tmp_path: Path) -> None:
    index = kind.create()
    index.snapshot(tmp_path / "snapshot", 0)
    index.close()
    again, sequence = kind.restore(tmp_path / "snapshot")
    assert (len(again), sequence) == (0, 0)


def test_a_foreign_snapshot_is_damaged(kind: Kind, vectors: Vectors, tmp_path: Path) -> None:
    index = kind.create()
    index.add(_ids(20), vectors(20))
    index.snapshot(tmp_path / "snapshot", 1)
    index.close()
    with pytest.raises(Damaged, match="encoder"):
        kind.restore(tmp_path / "snapshot", encoder_id=EncoderId("another"))
    with pytest.raises(Damaged, match="dim"):
        kind.restore(tmp_path / "snapshot", dim=16)
    with pytest.raises(Damaged, match="manifest"):
        kind.restore(tmp_path / "nowhere")


def test_searches_run_beside_changes(kind: Kind, vectors: Vectors) -> None:
    """Ids tell which vector they must have: even ones stay, odd ones come, go and are replaced by the like."""
    index, data = kind.create(), vectors(1500)
    ids = np.arange(1500, dtype=np.int64)
    index.add(ids[::2], data[::2])
    done, faults = threading.Event(), []

    def search() -> None:
        generator = np.random.default_rng(threading.get_ident() % 1000)
        try:
            while not done.is_set():
                rows = generator.integers(0, 1500, 4)
                found = index.search(data[rows], 5, ids[::2] if rows[0] % 3 == 0 else None)
                assert (found.ids >= 0).all()
                cosines = np.einsum("qd,qkd->qk", data[rows], data[found.ids], dtype=np.float64)
                np.testing.assert_allclose(found.similarities, cosines, atol=1e-6)
                stays = rows % 2 == 0
                assert (found.ids[stays, 0] == rows[stays]).all()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for start in range(1, 1500, 250):
        block = ids[start : start + 250 : 2]
        index.add(block, data[block])
        index.remove(block[::3])
        index.add(block, data[block])
    done.set()
    for thread in threads:
        thread.join(timeout=60)
    assert not faults, faults[0]
    assert index.ids().tolist() == ids.tolist()
