"""Rankings by fits that leave patients out, on features drawn at random."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from indexer.bundle import EMBEDDING_DIM
from indexer.evaluate.describe import Pooled
from indexer.evaluate.items import Group, Item, Subject
from indexer.evaluate.left_out import BOTH_OUT, LeftOut
from indexer.evaluate.protocol import Protocol, measure
from indexer.evaluate.refit import Anatomy, Reference, Refit
from indexer.fit import ReferenceFeatures
from indexer.levels import Atlas, Column, owner_of
from indexer.uids import SeriesInstanceUID

FEATURES = EMBEDDING_DIM + 8
PATIENTS = ("a", "b", "c", "d")
PLACES_MM = np.arange(0.0, 480.0, 24.0)


def rows_of(patient: str, drawn: int = 0) -> np.ndarray:
    """Features along a body, the same in all patients but for some noise."""
    body = np.random.default_rng(0).normal(size=(len(PLACES_MM), FEATURES))
    own = np.random.default_rng([ord(patient), drawn]).normal(size=body.shape)
    return np.asarray(body + own, dtype=np.float32)


def left_out(taught: dict[str, int] | None = None) -> LeftOut:
    """Two slabs a patient; `taught` draws anew what some patients taught projection and atlas, not their slabs."""
    drawn = dict.fromkeys(PATIENTS, 0) | (taught or {})
    lessons = {name: rows_of(name, number) for name, number in drawn.items()}
    refit = Refit([Reference(name, "CT", ReferenceFeatures(rows, rows[:0])) for name, rows in lessons.items()])
    owners = np.repeat([owner_of(uid_of(name)) for name in PATIENTS], len(PLACES_MM))
    atlas = Atlas(np.concatenate(list(lessons.values())), np.tile(PLACES_MM, len(PATIENTS)), owners)
    items, evidence = [], []
    for name in PATIENTS:
        column = Column(rows_of(name), PLACES_MM)
        for cell in (3, 12):
            items.append(an_item(name, cell))
            evidence.append(((Pooled(column.rows[cell : cell + 1], PLACES_MM[cell : cell + 1], column),),))
    group = items[0].group
    subjects = [Subject(name, f"2.25.2{ord(name)}", uid_of(name), name, group) for name in PATIENTS]
    return LeftOut(refit, Anatomy(atlas), subjects, items, evidence)


def uid_of(patient: str) -> SeriesInstanceUID:
    return SeriesInstanceUID(f"2.25.1{ord(patient)}")


def an_item(patient: str, cell: int) -> Item:
    group, label = Group("CT", "", "", "", ""), frozenset({(f"level {cell}",)})
    return Item(patient, f"2.25.2{ord(patient)}", (uid_of(patient),), ("CT",), None, label, 1.0, group)


def similarities(of: LeftOut, way: str) -> np.ndarray:
    answers = (of.both("encoder", "e") if way == BOTH_OUT else of.query("encoder", "e", 50)).similarities
    return np.stack([answers(query) for query in range(len(of.items))])


def of_patients(table: np.ndarray, one: str, other: str) -> np.ndarray:
    own, found = (slice(2 * PATIENTS.index(name), 2 * PATIENTS.index(name) + 2) for name in (one, other))
    return table[own, found]


def test_what_either_of_two_patients_taught_makes_no_difference_between_them() -> None:
    table, changed = (similarities(left_out(taught), BOTH_OUT) for taught in (None, {"a": 1, "b": 1}))

    assert (of_patients(changed, "a", "b") == of_patients(table, "a", "b")).all()
    assert (of_patients(changed, "b", "a") == of_patients(table, "b", "a")).all()
    assert not np.allclose(of_patients(changed, "a", "c"), of_patients(table, "a", "c"), atol=1e-3)
    assert not np.allclose(of_patients(changed, "c", "d"), of_patients(table, "c", "d"), atol=1e-3)


def test_with_the_query_alone_left_out_the_gallery_teaches() -> None:
    table, changed = (similarities(left_out(taught), "") for taught in (None, {"b": 1}))

    assert (of_patients(changed, "b", "a") == of_patients(table, "b", "a")).all()
    assert not np.allclose(of_patients(changed, "a", "b"), of_patients(table, "a", "b"), atol=1e-3)


def test_the_atlas_forgets_both() -> None:
    """The same projections, an atlas in which only the two patients' rows differ."""
    plain, changed = left_out(), left_out({"a": 1, "b": 1})
    mixed = replace(plain, anatomy=changed.anatomy)
    tables = [similarities(one, BOTH_OUT) for one in (plain, mixed)]

    assert (of_patients(tables[0], "a", "b") == of_patients(tables[1], "a", "b")).all()
    assert not np.allclose(of_patients(tables[0], "c", "d"), of_patients(tables[1], "c", "d"), atol=1e-4)


def test_no_patient_is_compared_with_himself_and_every_question_is_answered() -> None:
    of = left_out()
    table = similarities(of, BOTH_OUT)
    patients = [item.patient for item in of.items]

    assert (np.isnan(table) == np.equal.outer(patients, patients)).all()
    assert of.pairs == 6
    measured = measure(Protocol(of.items), of.both("encoder", "e").similarities, (1,))
    assert measured.figures[:, 0].mean() > 0.9
    assert {(patients[q], patients[h]) for q, h in zip(measured.queries, measured.first_hits, strict=True)} <= {
        (one, other) for one in PATIENTS for other in PATIENTS if one != other
    }


def test_a_fit_is_made_once_for_every_two_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[frozenset[str]] = []
    without: Callable[..., object] = Refit.without

    def watching(self: Refit, patients: frozenset[str]) -> object:
        fits.append(patients)
        return without(self, patients)

    monkeypatch.setattr(Refit, "without", watching)
    similarities(left_out(), BOTH_OUT)

    assert len(fits) == len(set(fits)) == 6
    assert {len(one) for one in fits} == {2}
