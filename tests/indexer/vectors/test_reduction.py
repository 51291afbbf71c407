"""A graph that knows some directions only, and tables in files: answers stay those of whole vectors."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import Damaged, Transient
from indexer.uids import EncoderId
from indexer.vectors import hnsw, recall, reduction
from indexer.vectors import rows as rows_module
from indexer.vectors.exact import ExactIndex
from indexer.vectors.hnsw import HnswIndex
from indexer.vectors.reduction import Reduction, fitted

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Vectors

ENCODER = EncoderId("e")
N = 3000


def _ids(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64)


@pytest.fixture
def half(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> Reduction:
    """Sixteen directions of thirty-two, for a graph that answers though there are few vectors."""
    monkeypatch.setattr(hnsw, "_REDUCED_EF", 256)
    found = fitted(vectors(1000, seed=3), directions=16)
    assert found is not None
    return found


@pytest.fixture
def exact(vectors: Vectors) -> ExactIndex:
    """The yardstick over N vectors."""
    index = ExactIndex(dim=32, encoder_id=ENCODER)
    index.add(_ids(N), vectors(N))
    return index


def _agree(index: HnswIndex, exact: ExactIndex, queries: NDArray[np.float32]) -> None:
    for allowed in (None, _ids(N)[::2], _ids(N)[::100]):
        found, expected = index.search(queries, 10, allowed), exact.search(queries, 10, allowed)
        assert recall(found, expected) >= (1.0 if allowed is not None and len(allowed) < 100 else 0.99)
        same = found.ids == expected.ids
        assert (found.similarities[same] == expected.similarities[same]).all()


def test_whole_vectors_decide_though_the_graph_knows_half_of_them(
    half: Reduction, exact: ExactIndex, vectors: Vectors, tmp_path: Path
) -> None:
    index = HnswIndex(dim=32, encoder_id=ENCODER, reduction=half)
    index.add(_ids(N), vectors(N))
    assert 0.05 < half.lost < 0.5  # else nothing is shown
    queries = vectors(100, seed=7)
    _agree(index, exact, queries)
    for either in (index, exact):
        either.add(_ids(N)[::3], vectors(N, seed=5)[::3])
        either.remove(_ids(N)[1::3])
    _agree(index, exact, queries)
    index.snapshot(tmp_path, 4)
    index.close()
    again, sequence = hnsw.restore(tmp_path, dim=32, encoder_id=ENCODER)
    assert sequence == 4
    _agree(again, exact, queries)
    (path,) = tmp_path.rglob(reduction.FILE)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged):
        hnsw.restore(tmp_path, dim=32, encoder_id=ENCODER)


@pytest.mark.parametrize("has_rest", [True, False], ids=["now", "of an earlier version"])
def test_a_snapshot_is_opened_whether_or_not_the_graph_knows_what_lies_elsewhere(
    half: Reduction, exact: ExactIndex, vectors: Vectors, tmp_path: Path, has_rest: bool
) -> None:
    index = HnswIndex(dim=32, encoder_id=ENCODER, reduction=Reduction(half.basis, half.lost, has_rest))
    index.add(_ids(N), vectors(N))
    index.snapshot(tmp_path, 4)
    again, _ = hnsw.restore(tmp_path, dim=32, encoder_id=ENCODER)
    assert again._reduction is not None
    assert again._reduction.has_rest is has_rest
    _agree(again, exact, vectors(50, seed=7))
    again.add(_ids(N)[:100], vectors(N)[:100])
    _agree(again, exact, vectors(50, seed=7))


def test_the_graph_knows_unit_vectors_and_is_asked_by_the_directions_alone(
    half: Reduction, vectors: Vectors
) -> None:
    data, queries = vectors(200), vectors(5, seed=7)
    known, lost = half.known(data)
    inside = data @ half.basis
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(half.asked(queries) @ known.T, queries @ half.basis @ inside.T, atol=1e-5)
    assert lost == pytest.approx(len(data) - float((inside**2).sum()), rel=1e-4)


def test_queries_asked_together_cost_less_and_find_nearly_all(
    half: Reduction, exact: ExactIndex, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hnsw, "_TOGETHER_EF", 64)
    index = HnswIndex(dim=32, encoder_id=ENCODER, reduction=half)
    index.add(_ids(N), vectors(N))
    widths: list[int] = []
    search = hnsw.search_graph
    monkeypatch.setattr(hnsw, "search_graph", lambda a, c, n, answer: widths.append(n) or search(a, c, n, answer))
    monkeypatch.setattr(hnsw, "_GRAPH_COST", 1)
    queries = vectors(20, seed=9)
    for together, width in ((False, 256), (True, 64)):
        widths.clear()
        found = index.search(queries, 10, together=together)
        assert widths[0] == width
        assert recall(found, exact.search(queries, 10)) >= (0.99 if not together else 0.9)
    widths.clear()
    index.search(queries[:1], 10, together=True)
    assert widths[0] == 256, "one alone is looked for as far as ever"


def test_a_reduction_that_spares_nothing_or_knows_too_little_is_none(vectors: Vectors) -> None:
    assert fitted(vectors(1000), directions=32) is None
    assert fitted(vectors(15), directions=16) is None


def test_other_vectors_than_those_it_was_made_of_outgrow_it(
    half: Reduction, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hnsw, "LEAST_VECTORS", 400)
    index = HnswIndex(dim=32, encoder_id=ENCODER, reduction=half)
    index.add(_ids(500), vectors(500))
    assert not index.is_outgrown
    beside = np.linalg.svd(half.basis)[0][:, 16:]  # the other directions
    strange = np.random.default_rng(1).standard_normal((500, 16)) @ beside.T
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    index.add(_ids(1000)[500:], strange.astype(np.float32))
    assert index.is_outgrown
    whole = HnswIndex(dim=32, encoder_id=ENCODER)
    whole.add(_ids(500), vectors(500))
    assert not whole.is_outgrown
    whole.add(_ids(900)[500:], vectors(400, seed=2))
    assert whole.is_outgrown


def test_a_table_in_a_file_answers_like_one_in_memory(
    half: Reduction, exact: ExactIndex, vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_IN_MEMORY_BYTES", 1 << 16)
    queries = vectors(50, seed=7)
    index = HnswIndex(dim=32, encoder_id=ENCODER, reduction=half, scratch=tmp_path / "scratch")
    for start in range(0, N, 500):
        index.add(_ids(N)[start : start + 500], vectors(N)[start : start + 500])
    assert index._parts is not None
    assert index._parts[0]._file is not None
    assert not any((tmp_path / "scratch").iterdir())  # nothing is left of it, however the process ends
    _agree(index, exact, queries)
    index.snapshot(tmp_path / "saved", 1)
    index.close()
    again, _ = hnsw.restore(tmp_path / "saved", dim=32, encoder_id=ENCODER, scratch=tmp_path / "scratch")
    assert again._parts is not None
    assert not again._parts[0].vectors.flags.writeable  # the snapshot itself is what is mapped
    _agree(again, exact, queries)
    again.add(_ids(N)[:700], vectors(N)[:700])
    again.snapshot(tmp_path / "saved", 2)
    _agree(again, exact, queries)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))
    try:
        with pytest.raises(Transient, match="no memory"):
            again.add(_ids(3 * N)[N:], vectors(2 * N, seed=9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    _agree(again, exact, queries)
