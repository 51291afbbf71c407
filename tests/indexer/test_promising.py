"""Which series are worth comparing exactly."""

import numpy as np

from indexer.promising import nearest_series, promising


def test_series_found_for_more_chunks_and_nearer_ones_come_first() -> None:
    series = np.array([[1, 2, 3, -1], [2, 1, 4, 4]])
    similarities = np.array([[0.9, 0.8, 0.3, 0.2], [0.8, 0.7, 0.5, 0.1]], dtype=np.float32)
    assert promising(series, similarities, [2], 1) == {1} or promising(series, similarities, [2], 1) == {2}
    assert promising(series, similarities, [2], 2) == {1, 2}
    assert promising(series, similarities, [2], 3) == {1, 2, 4}
    assert promising(series, similarities, [2], 99) == {1, 2, 3, 4}
    assert promising(series, similarities, [1, 1], 1) == {1, 2}


def test_nothing_found_is_nothing() -> None:
    padding = np.full((2, 3), -1), np.full((2, 3), -np.inf, dtype=np.float32)
    assert promising(*padding, [2], 1) == set()


def test_the_nearest_of_many_are_among_the_promising() -> None:
    """Whatever is not kept has a mean best similarity below that of all that is."""
    generator = np.random.default_rng(4)
    vectors = generator.standard_normal((400, 8))
    vectors += np.repeat(generator.standard_normal((100, 8)), 4, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    of, queries = np.arange(400) // 4, vectors[:4]
    cosines = queries @ vectors.T
    order = np.argsort(-cosines, axis=1)[:, :150]
    near = np.take_along_axis(cosines, order, axis=1).astype(np.float32)
    kept = promising(of[order], near, [4], 40)
    scores = cosines.reshape(4, 100, 4).max(axis=2).mean(axis=0)
    assert set(np.argsort(-scores)[:15].tolist()) <= kept
    assert len(kept) == 40


def test_how_near_series_are_is_the_mean_of_the_best_similarities() -> None:
    generator = np.random.default_rng(5)
    vectors, query = (generator.standard_normal((rows, 6)).astype(np.float32) for rows in (9, 5))
    of = np.array([7, 4, 4, 2, 2, 4, 7, 7, -1])  # not all of a series lie together

    series, (first, second) = nearest_series(vectors @ query.T, [2, 3], of)

    assert series.tolist() == [-1, 2, 4, 7]
    for chunks, found in ((query[:2], first), (query[2:], second)):
        expected = [(chunks @ vectors[of == one].T).max(axis=1).mean() for one in series]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
