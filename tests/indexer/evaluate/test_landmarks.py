from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError
from indexer import levels
from indexer.bundle import Levels, read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.evaluate.describe import Eye
from indexer.evaluate.landmarks import Localised, fit_atlas, landmarks_of, localise, summary
from indexer.evaluate.refit import Projections, Refit
from indexer.levels import Atlas, LevelFinder
from indexer.places import place_of
from indexer.projection import Projection
from indexer.volume import load_volume, plan_series

TINY = read_bundle("tiny")
HEADER = ("series", "landmark", "mm_from_inferior_end")
FOUR = {name: (f"P-{name}", contrast) for name, contrast in (("a", 0), ("b", 20), ("c", 40), ("d", 60))}
PLACES = [(name, "right_diaphragm_dome", 66) for name in FOUR]


def test_the_same_landmark_is_found_in_other_patients_with_and_without_an_atlas(
    a_folder: Callable[..., Path], a_table: Callable[..., Path], tmp_path: Path
) -> None:
    folder, table = a_folder(FOUR), a_table(HEADER, *PLACES, name="landmarks.tsv")
    plain = Eye(TINY, "cpu", 1)

    found = localise(plain, folder, table)

    assert len(found) == 12
    assert summary(found, 20)["all"]["median_mm"] <= 12
    atlas = fit_atlas(plain, folder, table)
    assert len(set(atlas.owners.tolist())) == 4
    levels.save(tmp_path / "levels.npz", atlas)
    bundle = TINY.model_copy(update={"levels": Levels(file="levels.npz"), "folder": tmp_path})
    eye = Eye(bundle, "cpu", 1)
    assert bundle.encoder_id != TINY.encoder_id
    assert summary(localise(eye, folder, table), 20)["all"]["median_mm"] <= 12
    volume = load_volume(plan_series(sorted((folder / "a").iterdir())).stacks[0])
    places = [place_of(chunk.embeddings[GLOBAL]) for chunk in eye.encode(volume).chunks]
    middles = np.array([(c.box_lps_mm[2] + c.box_lps_mm[5]) / 2 for c in eye.encode(volume).chunks])
    assert places == pytest.approx((320 + middles - 3).tolist(), abs=50)  # its projection is not fitted


def test_a_landmark_is_also_looked_for_by_fits_without_either_patient(
    a_folder: Callable[..., Path], a_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = a_folder(FOUR), a_table(HEADER, *PLACES, name="landmarks.tsv")
    levels.save(tmp_path / "levels.npz", fit_atlas(Eye(TINY, "cpu", 1), folder, table))
    bundle = TINY.model_copy(update={"levels": Levels(file="levels.npz"), "folder": tmp_path})
    fits: list[frozenset[str]] = []
    owners: list[int] = []
    refit, finder = Refit.without, LevelFinder.__init__

    def refitted(self: Refit, patients: frozenset[str]) -> Projections:
        fits.append(patients)
        return refit(self, patients)

    def laid(self: LevelFinder, atlas: Atlas, project: Projection) -> None:
        owners.append(len(set(atlas.owners.tolist())))
        finder(self, atlas, project)

    eye = Eye(bundle, "cpu", 1)
    monkeypatch.setattr(Refit, "without", refitted)
    monkeypatch.setattr(LevelFinder, "__init__", laid)
    found = localise(eye, folder, table, both_out=True)

    assert len(found) == 12
    assert summary(found, 20)["all"]["median_mm"] <= 12
    assert {len(one) for one in fits} == {2}
    assert len(fits) == len(set(fits)) == 6
    assert owners == [2] * 6


def test_figures_count_pairs_and_those_that_are_near() -> None:
    found = [Localised("vertex", patient, mm) for patient, mm in (("1", 10.0), ("1", 20.0), ("2", 60.0))]

    one = summary(found, 50)["vertex"]

    assert (one["pairs"], one["patients"], one["median_mm"]) == (3, 2, 20.0)
    assert one["near"] == pytest.approx(2 / 3)
    assert one["near_low"] == 0


@pytest.mark.parametrize("rows", [[("series", "place")], [HEADER, ("a", "vertex", "high")]])
def test_a_table_that_cannot_be_read_says_what_was_expected(
    rows: list[tuple[str, ...]], a_table: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match="expected columns series, landmark, mm_from_inferior_end"):
        landmarks_of(a_table(*rows, ("a", "b", "c"), name="landmarks.tsv"))


def test_landmarks_of_one_patient_alone_measure_nothing(
    a_folder: Callable[..., Path], a_table: Callable[..., Path]
) -> None:
    folder = a_folder({"a": ("P", 0)})

    with pytest.raises(ConfigError, match="no landmark is there in two patients"):
        localise(Eye(TINY, "cpu", 1), folder, a_table(HEADER, PLACES[0], name="landmarks.tsv"))
