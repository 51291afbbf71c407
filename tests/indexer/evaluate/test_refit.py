from pathlib import Path

import numpy as np
import pytest

from indexer import projection
from indexer.evaluate.refit import Reference, Refit, same_fit, unit
from indexer.fit import ReferenceFeatures


def reference(patient: str, seed: int, modality: str = "CT", level: float = 0.0) -> Reference:
    rows = np.random.default_rng(seed).normal(level, 1.0, size=(30, 12)).astype(np.float32)
    return Reference(patient, modality, ReferenceFeatures(rows, rows[:0]))


def test_a_left_out_patient_leaves_no_trace() -> None:
    others = [reference("a", 1), reference("b", 2)]
    with_one = Refit([*others, reference("c", 3)]).without({"c"})
    with_another = Refit([*others, reference("c", 4, level=100.0)]).without({"c"})
    for part in ("mean", "scale", "matrix"):
        assert (getattr(with_one["CT"], part) == getattr(with_another["CT"], part)).all()
    unmindful = Refit([*others, reference("c", 4, level=100.0)]).whole()
    assert not np.allclose(unmindful["CT"].mean, with_one["CT"].mean)


def test_modalities_are_fitted_apart_and_one_that_is_gone_stays_unfitted() -> None:
    refit = Refit([reference("a", 1), reference("b", 2), reference("c", 3, "MR")])
    found = refit.without({"c"})
    assert (found["MR"].mean == 0).all()
    assert (found["MR"].scale == 1).all()
    assert found["CT"] is refit.whole()["CT"]
    assert not (refit.whole()["MR"].mean == 0).all()


def test_a_fit_to_the_same_series_is_recognised(tmp_path: Path) -> None:
    references = [reference("a", 1), reference("b", 2, level=3.0)]
    projection.save(tmp_path / "own.npz", dict(Refit(references).whole()))
    read = projection.load(tmp_path / "own.npz", 12)
    assert same_fit(read, Refit(references).whole())
    assert not same_fit(read, Refit([references[0], reference("c", 5, level=4.0)]).whole())


def test_a_description_of_nothing_is_like_nothing() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.array([[3.0, 4.0, 0.0]], np.float32)
    found = unit([((zero,),), ((one,),)])
    assert (found[0][0][0] == 0).all()
    assert found[1][0][0][0] == pytest.approx([0.6, 0.8, 0.0])
