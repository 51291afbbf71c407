import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.evaluate.metrics import Judged, figures, names

CUTOFFS = (1, 3, 5)


def judged(relevant: list[int], gains: list[float] | None = None, branch: list[int] | None = None) -> Judged:
    return Judged(
        np.array(relevant, dtype=bool),
        np.array(relevant if gains is None else gains, dtype=np.float64),
        np.array(relevant if branch is None else branch, dtype=bool),
    )


def named(similarities: list[float], one: Judged) -> dict[str, float]:
    found = figures(np.array(similarities, dtype=np.float64), one, CUTOFFS, hierarchical=True)
    return dict(zip(names(CUTOFFS, hierarchical=True), found.tolist(), strict=True))


def of_order(one: Judged, order: tuple[int, ...]) -> NDArray[np.float64]:
    """Every figure of one order by its definition, counted by hand."""
    relevant, gains = one.relevant[list(order)], one.gains[list(order)]
    total = relevant.sum()
    precisions = [relevant[: rank + 1].sum() / (rank + 1) for rank in range(len(order)) if relevant[rank]]
    found = [sum(precisions) / total]
    found += [relevant[:k].sum() / k for k in CUTOFFS]
    found += [relevant[:k].sum() / total for k in CUTOFFS]
    ideal = sorted(one.gains, reverse=True)
    for k in CUTOFFS:
        best = sum(gain / np.log2(rank + 2) for rank, gain in enumerate(ideal[:k]))
        found.append(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains[:k])) / best)
    return np.array([*found, 1.0 - one.same_branch[order[0]]])


def test_average_precision_of_a_textbook_ranking() -> None:
    found = named([0.9, 0.8, 0.7, 0.6, 0.5], judged([1, 0, 1, 0, 1]))
    assert found["AP"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert found["P@3"] == pytest.approx(2 / 3)
    assert found["R@3"] == pytest.approx(2 / 3)
    assert found["nDCG@3"] == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3) + 1 / 2))


def test_relevant_items_that_come_late_lower_average_precision() -> None:
    """All relevant items count, however far down: not only those that were retrieved within some k."""
    near = named([1.0, *[0.5 - 0.01 * n for n in range(20)]], judged([1] + [0] * 20))
    far = named([1.0, *[0.5 - 0.01 * n for n in range(20)]], judged([1] + [0] * 19 + [1]))
    assert near["AP"] == 1.0
    assert far["AP"] == pytest.approx((1 + 2 / 21) / 2)


def test_graded_gains_prefer_the_better_example_first() -> None:
    better = named([0.9, 0.8], judged([1, 1], [2.0, 1.0]))
    worse = named([0.8, 0.9], judged([1, 1], [2.0, 1.0]))
    assert better["nDCG@3"] == 1.0
    assert worse["nDCG@3"] == pytest.approx((1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)))
    assert better["AP"] == worse["AP"] == 1.0


def test_precision_divides_by_k_even_where_the_gallery_is_smaller() -> None:
    assert named([0.9, 0.1], judged([1, 1]))["P@5"] == pytest.approx(2 / 5)


def test_cross_branch_error_is_about_the_first_hit() -> None:
    assert named([0.9, 0.5], judged([0, 1], branch=[0, 1]))["cross-branch error"] == 1.0
    assert named([0.9, 0.5], judged([0, 1], branch=[1, 1]))["cross-branch error"] == 0.0


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 3), st.booleans()), min_size=1, max_size=6)
)
def test_ties_count_in_every_order(rows: list[tuple[int, bool, int, bool]]) -> None:
    relevant = [int(row[1]) for row in rows]
    if not any(relevant):
        return
    gains = [float(row[2]) + (1.0 if row[1] else 0.0) for row in rows]
    one = judged(relevant, gains, [int(row[3]) for row in rows])
    similarities = np.array([row[0] / 2 for row in rows])
    orders = [
        order
        for order in itertools.permutations(range(len(rows)))
        if all(similarities[a] >= similarities[b] for a, b in itertools.pairwise(order))
    ]
    expected = np.mean([of_order(one, order) for order in orders], axis=0)
    assert figures(similarities, one, CUTOFFS, hierarchical=True) == pytest.approx(expected)


def test_everything_tied_is_a_random_order() -> None:
    """What simulated shuffles average to, on a gallery too large for all its orders."""
    random = np.random.default_rng(3)
    one = judged([1] * 4 + [0] * 26)
    simulated = [of_order(one, tuple(random.permutation(30).tolist())) for _ in range(4000)]
    expected = figures(np.zeros(30), one, CUTOFFS, hierarchical=True)
    assert expected == pytest.approx(np.mean(simulated, axis=0), abs=0.02)
    assert expected[1] == pytest.approx(4 / 30)


def test_rounding_does_not_break_ties() -> None:
    one = judged([0, 1])
    assert named([0.5 + 1e-9, 0.5], one) == named([0.5, 0.5], one)
