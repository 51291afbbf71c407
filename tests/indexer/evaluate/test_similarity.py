from collections.abc import Sequence

import numpy as np
import pytest

from indexer.alignment import align
from indexer.evaluate.similarity import Evidence, leaving_both_out, leaving_out, pairs_of, similarities_of


def unit(seed: int, rows: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, 8))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def test_single_vectors_are_compared_by_cosine() -> None:
    evidence: list[Evidence] = [((unit(seed, 1),),) for seed in range(5)]
    vectors = np.concatenate([unit(seed, 1) for seed in range(5)])
    assert similarities_of(evidence)(2) == pytest.approx(vectors @ vectors[2], abs=1e-6)
    by_alignment = [align(vectors[2:3], vectors[n : n + 1]).score for n in range(5)]
    assert similarities_of(evidence)(2) == pytest.approx(by_alignment, abs=1e-6)


def test_series_are_compared_as_the_search_does() -> None:
    one, other, third = unit(1, 4), unit(2, 3), unit(3, 5)
    study: Evidence = ((one,), (other,))
    found: Evidence = ((third, one),)
    near = similarities_of([study, found])(0)
    expected = [max(align(own, volume).score for volume in (third, one)) for own in (one, other)]
    assert near[1] == pytest.approx(np.mean(expected))
    assert near[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("folds", [2, 5, 50])
def test_no_patient_has_a_part_in_what_its_queries_are_answered_with(folds: int) -> None:
    patients = ["b", "a", "c", "a", "e", "d", "b"]
    current: list[frozenset[str]] = []

    def without(left_out: frozenset[str]) -> list[Evidence]:
        current.append(left_out)
        return [((unit(n, 1),),) for n in range(len(patients))]

    answers = leaving_out(patients, without, folds)
    for query in sorted(range(len(patients)), key=lambda n: patients[n]):
        answers(query)
        assert patients[query] in current[-1]
    assert len(current) == min(folds, 5)
    assert frozenset().union(*current) == set(patients)


def test_two_patients_are_compared_by_a_fit_that_knows_neither_and_nobody_by_his_own() -> None:
    patients, ct = ["b", "a", "c", "a"], frozenset({"CT"})
    fits: list[frozenset[str]] = []

    def without(left_out: frozenset[str], chosen: Sequence[int]) -> list[Evidence]:
        fits.append(left_out)
        assert {patients[n] for n in chosen} == left_out
        return [((unit(100 * len(fits) + n, 1),),) for n in chosen]

    answers = leaving_both_out(patients, [ct] * 4, without)
    near = np.stack([answers(query) for query in range(4)])

    assert [sorted(one) for one in fits] == [["a", "b"], ["a", "c"], ["b", "c"]]  # each fit once
    own = np.equal.outer(patients, patients)
    assert (np.isnan(near) == own).all()
    for fit, pair in enumerate(fits, start=1):
        for one, other in ((n, m) for n in range(4) for m in range(4) if {patients[n], patients[m]} == pair):
            expected = float(unit(100 * fit + one, 1)[0] @ unit(100 * fit + other, 1)[0])
            assert near[one, other] == pytest.approx(expected, abs=1e-6)


def test_items_of_several_series_are_compared_from_either_side() -> None:
    """A study of two series finds one of them; that one finds the better of the two."""
    one, other = unit(1, 4), unit(2, 3)
    both: list[Evidence] = [((one,), (other,)), ((one,),)]
    answers = leaving_both_out(["a", "b"], [frozenset({"CT"})] * 2, lambda _, chosen: [both[n] for n in chosen])

    assert answers(0)[1] == pytest.approx(similarities_of(both)(0)[1])
    assert answers(1)[0] == pytest.approx(1.0, abs=1e-6)
    assert answers(0)[1] < 0.95


def test_patients_of_different_modalities_are_no_pair() -> None:
    ct, mr = frozenset({"CT"}), frozenset({"MR"})
    assert pairs_of(["c", "a", "b", "c"], [ct, ct, mr, mr]) == [("a", "c"), ("b", "c")]
