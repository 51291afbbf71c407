"""Alignment: exact against trying every way, and what it is for."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.alignment import align, align_all


def _vectors(count: int, dim: int = 6, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _best_by_trying_all(cosines: NDArray[np.float64]) -> float:
    rows, columns = cosines.shape
    paths = combinations_with_replacement(range(columns), rows)
    return max(float(sum(cosines[row, column] for row, column in enumerate(path))) for path in paths)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000), st.booleans())
def test_the_path_is_the_best_there_is(rows: int, columns: int, seed: int, coarse: bool) -> None:
    query, found = _vectors(rows, seed=seed), _vectors(columns, seed=seed + 1)
    if coarse:  # few directions: many ties
        query, found = (np.eye(6, dtype=np.float32)[np.abs(part).argmax(axis=1) % 3] for part in (query, found))
    aligned = align(query, found)
    cosines = query.astype(np.float64) @ found.T.astype(np.float64)
    assert (np.diff(aligned.pairs) >= 0).all()
    np.testing.assert_allclose(aligned.cosines, cosines[np.arange(rows), aligned.pairs], atol=1e-6)
    assert aligned.cosines.sum() == pytest.approx(_best_by_trying_all(cosines), abs=1e-5)
    expected = (_best_by_trying_all(cosines) / rows + cosines.max(axis=1).mean()) / 2
    assert aligned.score == pytest.approx(expected, abs=2e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=0, max_size=8), st.integers(1, 5), st.integers(0, 10_000))
def test_many_at_once_are_as_one_by_one(lengths: list[int], rows: int, seed: int) -> None:
    query = _vectors(rows, seed=seed)
    found = [_vectors(length, seed=seed + place + 1) for place, length in enumerate(lengths)]
    together = align_all(query, found)
    assert len(together) == len(found)
    for one, vectors in zip(together, found, strict=True):
        alone = align(query, vectors)
        assert one.score == pytest.approx(alone.score, abs=2e-6)
        np.testing.assert_array_equal(one.pairs, alone.pairs)


def test_an_abdomen_inside_a_whole_body_scan_scores_as_high_as_alone() -> None:
    body = _vectors(12, dim=64)
    abdomen = body[5:8]
    inside, alone = align(abdomen, body), align(abdomen, abdomen)
    assert inside.score == alone.score == pytest.approx(1.0, abs=1e-6)
    assert inside.pairs.tolist() == [5, 6, 7]
    assert align(body, abdomen).score < 0.6  # but most of a whole body is not in an abdomen


def test_the_order_along_z_counts() -> None:
    body = _vectors(6, dim=64)
    upside_down = align(body, body[::-1])
    assert align(body, body).score == pytest.approx(1.0, abs=1e-6)
    assert 0.5 < upside_down.score < 0.8
    assert (np.diff(upside_down.pairs) >= 0).all()


def test_of_equal_ways_the_lower_one() -> None:
    one = np.eye(3, dtype=np.float32)[[0]]
    assert align(one, np.repeat(one, 4, axis=0)).pairs.tolist() == [0]
    assert align(np.repeat(one, 3, axis=0), np.repeat(one, 4, axis=0)).pairs.tolist() == [0, 0, 0]


def test_copies_tie_wherever_they_stand() -> None:
    """The order in which a processor sums depends on the place in a matrix; the score must not."""
    query, copy = _vectors(5, dim=256), _vectors(7, dim=256, seed=3)
    found = [*(_vectors(7, dim=256, seed=n) for n in range(10, 23)), copy, *([copy] * 6)]
    assert len({one.score for one in align_all(query, found)[13:]}) == 1
