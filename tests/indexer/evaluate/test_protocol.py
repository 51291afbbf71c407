from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.evaluate.items import Group, Item
from indexer.evaluate.metrics import names
from indexer.evaluate.protocol import Protocol, measure, random_order

KS = (1, 2)


def item(patient: str, study: str, *labels: str) -> Item:
    paths = frozenset(tuple(label.split("/")) for label in labels)
    return Item(patient, study, ("2.25.1",), ("CT",), None, paths, 1.0, Group("CT", "", "", "", ""))


@given(
    st.lists(
        st.tuples(st.sampled_from("ABCDE"), st.sampled_from("stuv"), st.sampled_from("xyz")),
        min_size=1,
        max_size=25,
    )
)
def test_no_gallery_holds_the_querys_patient_or_study(rows: list[tuple[str, str, str]]) -> None:
    items = [item(*row) for row in rows]
    protocol = Protocol(items)
    for query, one in enumerate(items):
        gallery = set(protocol.gallery(query).tolist())
        own = {n for n, other in enumerate(items) if other.patient == one.patient}
        same_study = {n for n, other in enumerate(items) if other.study_instance_uid == one.study_instance_uid}
        assert query not in gallery
        assert gallery == set(range(len(items))) - own - same_study
    for question in protocol.questions:
        assert (question.gallery == protocol.gallery(question.query)).all()


def test_an_embedding_that_only_knows_patients_gains_nothing(an_item: Callable[..., Item]) -> None:
    """Vectors that are equal within a patient and unrelated between patients must score no better than chance."""
    random = np.random.default_rng(1)
    patients = {f"p{n}": random.normal(size=64) for n in range(60)}
    items = [
        an_item(patient, f"label {n % 3}", study=f"2.25.{n}.{visit}")
        for n, patient in enumerate(patients)
        for visit in range(1, 6)
    ]
    vectors = np.stack([patients[one.patient] / np.linalg.norm(patients[one.patient]) for one in items])
    protocol = Protocol(items)
    found = measure(protocol, lambda query: vectors @ vectors[query], KS).figures.mean(axis=0)
    chance = measure(protocol, random_order(len(items)), KS).figures.mean(axis=0)
    ap, p_at_1 = 0, 1
    assert found[ap] == pytest.approx(chance[ap], abs=0.05)
    assert found[p_at_1] == pytest.approx(chance[p_at_1], abs=0.15)


def test_similarity_to_the_query_and_its_patient_is_never_looked_at(an_item: Callable[..., Item]) -> None:
    items = [
        an_item("a", "x", study="2.25.1"),
        an_item("a", "x", study="2.25.2"),
        an_item("b", "x"),
        an_item("c", "y"),
    ]
    protocol = Protocol(items)

    def poisoned(query: int) -> np.ndarray:
        own = np.array([one.patient == items[query].patient for one in items])
        return np.where(own, np.nan, 0.5)

    assert np.isfinite(measure(protocol, poisoned, KS).figures).all()


def test_perfect_embedding_is_perfect(an_item: Callable[..., Item]) -> None:
    items = [an_item(f"p{n}", "xyz"[n % 3]) for n in range(12)]
    vectors = np.eye(3)[[n % 3 for n in range(12)]]
    found = measure(Protocol(items), lambda query: vectors @ vectors[query], KS)
    values = dict(zip(names(KS, hierarchical=False), found.figures.mean(axis=0), strict=True))
    assert values["AP"] == values["P@1"] == values["P@2"] == values["nDCG@2"] == 1.0
    assert values["R@1"] == pytest.approx(1 / 3)


def test_queries_without_anything_relevant_are_not_asked(an_item: Callable[..., Item]) -> None:
    items = [an_item("a", "lonely"), an_item("a", "lonely"), an_item("b", "x"), an_item("c", "x")]
    protocol = Protocol(items)
    assert [question.query for question in protocol.questions] == [2, 3]
    assert protocol.unanswerable == 2
    assert set(protocol.gallery(2).tolist()) == {0, 1, 3}  # but they are still in the way


def test_several_labels_are_asked_about_one_by_one_and_together(an_item: Callable[..., Item]) -> None:
    items = [an_item("a", "x", "y"), an_item("b", "x"), an_item("c", "y"), an_item("d", "z")]
    question = next(one for one in Protocol(items).questions if one.query == 0)
    assert question.judged.relevant.tolist() == [True, True, False]
    assert {label: one.relevant.tolist() for label, one in question.by_label} == {
        0: [True, False, False],
        1: [False, True, False],
    }


def test_branches_give_partial_gains_and_top_branch_errors(an_item: Callable[..., Item]) -> None:
    items = [
        an_item("a", "thorax/lung/apex"),
        an_item("b", "thorax/lung/base"),
        an_item("c", "thorax/heart"),
        an_item("d", "head/brain"),
        an_item("e", "thorax/lung/apex", relevance=2.0),
    ]
    protocol = Protocol(items)
    question = next(one for one in protocol.questions if one.query == 0)
    assert protocol.hierarchical
    assert question.judged.relevant.tolist() == [False, False, False, True]
    assert question.judged.gains.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 2])
    assert question.judged.same_branch.tolist() == [True, True, False, True]


def test_within_modality_shrinks_galleries(an_item: Callable[..., Item]) -> None:
    items = [an_item("a", "x"), an_item("b", "x", modality="MR"), an_item("c", "x")]
    assert Protocol(items).gallery(0).tolist() == [1, 2]
    assert Protocol(items, within_modality=True).gallery(0).tolist() == [2]


def test_similarities_that_are_no_numbers_are_refused(an_item: Callable[..., Item]) -> None:
    items = [an_item("a", "x"), an_item("b", "x")]
    with pytest.raises(ValueError, match="finite"):
        measure(Protocol(items), lambda query: np.full(2, np.nan), KS)
