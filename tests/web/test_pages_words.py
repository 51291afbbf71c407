"""Attributes in words, values in 16 bits, slices counted from the head."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from indexer.catalog.embeddings import StoredChunk
from indexer.uids import SliceRef, SOPInstanceUID
from node.web.pages import words
from node.web.pages.hits import Hit, MatchedSlices
from node.web.pages.html import html
from node.web.pages.lines import StudyLine, window_for
from node.web.pages.numbering import numbers_of, span
from node.web.pages.values import words_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ({"Alphabetic": "Doe^Jane^M^Dr."}, "Doe, Jane M Dr."),
        ({"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}, "Yamada, Tarou (山田 太郎)"),
        ({"Ideographic": "山田^太郎"}, "山田 太郎"),
        ({"Alphabetic": "^Only"}, "Only"),
        ({}, "Unnamed"),
        ("text", "text"),
    ],
)
def test_names(name: object, expected: str) -> None:
    assert words.person({"00100010": {"vr": "PN", "Value": [name]}}) == expected
    assert words.person({"00100010": {"vr": "PN"}}) == "Unnamed"


def test_dates_and_ages() -> None:
    assert [words.day(text) for text in ("20200305", "2020.03.05", "soon")] == ["2020-03-05", "2020-03-05", "soon"]
    assert [words.da(text) for text in ("2020-03-05", "20200305", "x")] == ["20200305", "", ""]
    assert [words.clock(text) for text in ("101112.5", "2561", "")] == ["10:11", "", ""]
    assert [words.age(text) for text in ("063Y", "6M", "old")] == ["63 y", "6 m", ""]


@pytest.mark.parametrize(
    ("text", "other", "expected"),
    [
        ("20230309", "20240318", "12 months earlier"),
        ("20200101", "20240101", "4 years earlier"),
        ("20240102", "20240101", "1 day later"),
        ("20240101", "20240101", "same day"),
        ("20241301", "20240101", ""),
        ("", "20240101", ""),
    ],
)
def test_how_far_apart(text: str, other: str, expected: str) -> None:
    assert words.apart(text, other) == expected


def test_levels_stand_beside_what_matches_where_they_are_known() -> None:
    assert words.level("head", "head") == "head"
    assert words.level("mid thorax", "upper abdomen") == "mid thorax – upper abdomen"
    assert words.level("", "") == words.level("head", "") == ""
    known, unknown = _card("upper abdomen"), _card("")
    assert "<summary>Slices 1–9 match 4–12 · upper abdomen</summary>" in known
    assert "<td>upper abdomen</td>" in known
    assert '<th scope="col">level</th>' in known
    assert "<summary>Slices 1–9 match 4–12</summary>" in unknown
    assert '<th scope="col">level</th>' not in unknown


def _card(level: str) -> str:
    """What the page says of a hit whose best match lies at a level."""
    values: dict[str, Any] = {field.name: "" for field in fields(StudyLine)}
    study = StudyLine(**values | {"uid": "1.2", "series": (), "viewers": ()})
    hit = Hit(1, study, 0.9, False, "1.3", "1.4", "/a", "/b", (MatchedSlices("1–9", "4–12", level, 0.9),), 1, "")
    nothing = {"priors": (), "copies": (), "waiting": "", "problem": "", "is_unusual": False}
    return bytes(html("related.html", study=study, limit=12, next_limit=0, hits=[hit], **nothing).body).decode()


def test_whole_values_stay_exact_and_others_nearly() -> None:
    whole = words_of(np.array([[-1024.0, 0.0], [3071.0, np.nan]], dtype=np.float32))
    assert (whole.slope, whole.intercept) == (1.0, 0.0)
    assert whole.words.tolist() == [[-1024, 0], [3071, -1024]]
    for values in ([[0.5, 1.25], [100.0, 7.0]], [[-1e6, 0.0], [1e6, 3.0]], [[2.5, 2.5], [2.5, 2.5]]):
        given = np.array(values, dtype=np.float32)
        packed = words_of(given)
        shown = packed.words * packed.slope + packed.intercept
        assert np.abs(shown - given).max() <= max(np.ptp(given) / 65535, 1e-6)
    assert words_of(np.full((2, 2), np.nan, dtype=np.float32)).words.tolist() == [[0, 0], [0, 0]]


def test_windows_by_body_part() -> None:
    assert window_for("CT", "Brain") == (40, 80)
    assert window_for("CT", "Chest") == (40, 400)
    assert window_for("MR", "Brain") is None


@pytest.mark.parametrize("direction", [1, -1])
def test_slices_are_counted_from_the_head(direction: int) -> None:
    refs = [SliceRef(SOPInstanceUID(f"1.{height}"), None) for height in range(10)]  # feet to head
    runs = [refs[0:6], refs[3:9], refs[4:10]]
    chunks = [
        StoredChunk(n, 7, 0, n, (0.0, 0.0, 0.0, 1.0, 1.0, 1.0), tuple(run[::direction]))
        for n, run in enumerate(runs)
    ]
    numbers = numbers_of(chunks)
    assert [numbers[ref] for ref in refs] == list(range(10, 0, -1))
    assert span(chunks[0].slices, numbers) == "5–10"
    assert span(refs[:1], numbers) == "10"
    assert span([SliceRef(SOPInstanceUID("1.99"), 3)], numbers) == "1 slices"
