from collections.abc import Callable

import numpy as np
import pytest

from indexer.evaluate.estimates import Bootstrap
from indexer.evaluate.items import Item
from indexer.evaluate.protocol import Measured, Protocol, measure


def measured(queries: list[int], labels: list[int], values: list[float]) -> Measured:
    figures = np.array(values)[:, None]
    asking = np.array(queries)
    return Measured(asking, figures, asking, np.array(labels), figures, asking)


def bootstrap(patients: list[str], asking: list[int], resamples: int = 2000) -> Bootstrap:
    return Bootstrap(patients, np.array(asking), resamples=resamples, seed=5)


def test_macro_is_over_labels_and_micro_over_queries() -> None:
    one = measured([0, 1, 2, 3], [0, 0, 0, 1], [1.0, 1.0, 1.0, 0.0])
    drawn = bootstrap(list("abcd"), [0, 1, 2, 3])
    assert drawn.micro(one).value[0] == pytest.approx(3 / 4)
    assert drawn.macro(one).value[0] == pytest.approx(1 / 2)
    assert drawn.of_label(one, 1).value[0] == 0.0


def test_patients_are_resampled_not_queries() -> None:
    """A hundred queries of two patients know as much as two numbers: the interval must say so."""
    values = [1.0] * 50 + [0.0] * 50
    one = measured(list(range(100)), [0] * 100, values)
    two_patients = bootstrap(["a"] * 50 + ["b"] * 50, list(range(100))).micro(one).estimates(0.95)[0]
    all_different = bootstrap([str(n) for n in range(100)], list(range(100))).micro(one).estimates(0.95)[0]
    assert (two_patients.low, two_patients.high) == (0.0, 1.0)
    assert all_different.low is not None
    assert all_different.high is not None
    assert 0.35 < all_different.low < 0.45 < 0.55 < all_different.high < 0.65


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(11)
    covered = 0
    for trial in range(150):
        of_patient = random.normal(0.5, 0.1, size=40)
        values = np.repeat(of_patient, 3) + random.normal(0, 0.02, size=120)
        one = measured(list(range(120)), [0] * 120, values.tolist())
        patients = [str(n // 3) for n in range(120)]
        drawn = Bootstrap(patients, np.arange(120), resamples=300, seed=trial)
        estimate = drawn.micro(one).estimates(0.9)[0]
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.8 < covered / 150 < 0.97


def test_the_seed_decides() -> None:
    one = measured([0, 1, 2], [0, 0, 0], [0.1, 0.5, 0.9])
    first, again = (bootstrap(list("abc"), [0, 1, 2]).micro(one).estimates(0.95) for _ in range(2))
    other = Bootstrap(list("abc"), np.arange(3), resamples=7, seed=6).micro(one).estimates(0.95)
    assert first == again != other


def test_one_patient_has_no_interval() -> None:
    one = measured([0, 1], [0, 0], [0.2, 0.4])
    estimate = bootstrap(["a", "a"], [0, 1]).micro(one).estimates(0.95)[0]
    assert estimate.value == pytest.approx(0.3)
    assert estimate.low is None


def test_nothing_chosen_is_not_measured() -> None:
    one = measured([0, 1], [0, 0], [0.2, 0.4])
    chosen = bootstrap(["a", "b"], [0, 1]).micro(one, np.zeros(2, bool))
    assert chosen.estimates(0.95)[0].value is None


def test_a_difference_is_paired() -> None:
    """Two ways that differ by the same amount on every query differ by exactly that, however patients vary."""
    drawn = bootstrap(list("abcd"), [0, 1, 2, 3])
    better = drawn.micro(measured([0, 1, 2, 3], [0] * 4, [0.2, 0.4, 0.9, 1.0]))
    worse = drawn.micro(measured([0, 1, 2, 3], [0] * 4, [0.1, 0.3, 0.8, 0.9]))
    estimate = better.minus(worse).estimates(0.95)[0]
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.1, 0.1))


def test_only_patients_that_ask_are_drawn(an_item: Callable[..., Item]) -> None:
    items = [an_item("a", "x"), an_item("b", "x"), an_item("c", "lonely")]
    one = measure(Protocol(items), lambda query: np.ones(3), (1,))
    replicates = Bootstrap([i.patient for i in items], one.queries, resamples=50, seed=0).micro(one)
    assert not np.isnan(replicates.drawn).any()
    assert replicates.patients == 2
