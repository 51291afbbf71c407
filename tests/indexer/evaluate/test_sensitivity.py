"""Sensitivity to findings, on specimens made by hand: who is asked, who may answer, what is counted."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from config.errors import ConfigError
from indexer.evaluate.sensitivity import sensitivities, sensitivity
from indexer.evaluate.sensitivity_figures import CHANCE, PLAIN, SYNTHETIC, TRAINED, UNSEEN, WAYS, WHOLE
from indexer.evaluate.subjects import subjects_below
from indexer.evaluate.tables import interval
from indexer.insertion.findings import ALL, CLEAN, EFFUSION, LYTIC, NODULE, Finding
from indexer.region_fit import Example
from indexer.scored_fit import FineExample
from indexer.specimens import Role, Specimen

FEATURES, CELLS = 24, 40
_LOOKS = {one: 7 * np.eye(FEATURES)[n] for n, one in enumerate((EFFUSION, NODULE, LYTIC))}


def specimen(
    patient: int, role: Role, finding: Finding | None, size_mm: float, telling: bool = True, cells: int = CELLS
) -> Specimen:
    rng = np.random.default_rng([patient, len(role), int(size_mm), 0 if finding is None else len(finding.name)])
    features = rng.standard_normal((cells, FEATURES)).astype(np.float32)
    shown = np.zeros(cells, np.float32)
    if finding is not None:
        few = int(size_mm * cells // (5 * CELLS))
        shown[:few] = 1.0
        if telling:
            features[:few] += _LOOKS[finding]
    label = finding.label(size_mm) if finding else CLEAN
    findings = {finding.name: shown} if finding else {}
    first, second = np.hsplit(features.astype(np.float16), 2)
    return Specimen(
        role=role,
        slab=f"{patient}/0",
        example=Example(str(patient), features, np.ones(cells, np.float32), label, findings),
        finding=finding,
        size_mm=size_mm,
        places=np.zeros((cells, 3), np.int64),
        whole=rng.standard_normal(8).astype(np.float32),
        histogram=np.ones(4, np.float32) / 2,
        fine=FineExample(str(patient), first, second, label, findings),
    )


def specimens(patients: int = 5, telling: bool = True) -> list[Specimen]:
    made = []
    for patient in range(patients):
        made.append(specimen(patient, "clean", None, 0))
        for role in ("training", "testing"):
            made += [specimen(patient, role, EFFUSION, 35, telling), specimen(patient, role, NODULE, 35, telling)]
        made.append(specimen(patient, "testing", EFFUSION, 20, telling))
    return made


def test_findings_that_can_be_told_are_found_and_placed() -> None:
    found = sensitivity("LUNGS", specimens())

    assert (found.patients, found.slabs) == (5, 5)
    effusion = next(one for one in found.labels if one.label == EFFUSION.name)
    assert (effusion.queries, effusion.relevant, effusion.in_gallery) == (5, 4, True)
    assert effusion.first[TRAINED] == effusion.first[UNSEEN] == effusion.first[PLAIN] == 1
    assert effusion.five[TRAINED] == pytest.approx(4 / 5)
    assert found.on_finding == {EFFUSION.name: 1, NODULE.name: 1}
    assert found.smallest_mm[EFFUSION.name] == 20


def test_chance_is_the_share_of_relevant_slabs_of_other_patients() -> None:
    found = sensitivity("LUNGS", specimens(telling=False))

    assert found.gallery == 12  # clean, effusion and nodule of four other patients
    assert found.overall[0].first[CHANCE].value == pytest.approx(4 / 12)
    assert (found.overall[0].first[WHOLE].value or 0) < 0.8


def test_other_sizes_ask_but_never_answer() -> None:
    found = sensitivity("LUNGS", specimens())
    small = next(one for one in found.labels if not one.in_gallery)

    assert small.label == "pleural effusion 20 mm"
    assert small.relevant == 4


def test_another_size_of_a_finding_is_right_unless_asked_otherwise() -> None:
    """Nodules of two sizes look the same here: each finds the other, which only the last row calls wrong."""
    made = [*specimens(), *(specimen(patient, "testing", NODULE, 20) for patient in range(5))]
    found = sensitivity("LUNGS", made)
    of_any_size, _, of_the_same = found.overall

    assert of_any_size.first[TRAINED].value == 1
    assert (of_the_same.first[TRAINED].value or 0) < 1
    assert {one.relevant for one in found.labels if one.label.startswith("nodule")} == {8}


def test_clean_slabs_ask_in_a_row_of_their_own_and_intervals_are_over_patients() -> None:
    made = specimens(telling=False)
    findings, with_clean, _ = sensitivity("LUNGS", made).overall
    chance, trained = findings.first[CHANCE], findings.first[TRAINED]

    assert with_clean.first[CHANCE].value == pytest.approx(chance.value)
    assert chance.low == chance.high == chance.value
    assert trained.low is not None and trained.high is not None and trained.low < trained.high  # noqa: PT018


def test_a_patient_is_never_in_the_own_gallery_nor_in_the_own_fit() -> None:
    """One patient alone has a finding: nobody can find it, though the own fit would know it."""
    made = [one for one in specimens() if one.finding is not EFFUSION or one.example.patient == "0"]
    found = sensitivity("LUNGS", [one for one in made if not (one.finding is EFFUSION and one.role == "testing")])

    assert all(one.label != EFFUSION.name for one in found.labels)
    assert found.gallery == pytest.approx(8)


def test_each_pair_is_compared_by_what_neither_patient_has_taught() -> None:
    """Every patient's lesions look their own way; what looks like all others' finds those who have taught."""
    roles: tuple[Role, ...] = ("training", "testing")
    made = [specimen(patient, "clean", None, 0, cells=500) for patient in range(4)]
    made += [_looking_like([patient], patient, role, 35) for patient in range(4) for role in roles]
    made += [_looking_like([one for one in range(4) if one != who], who, "testing", 20) for who in range(4)]
    found = sensitivity("BONES", made)
    of_all_others = next(one for one in found.labels if not one.in_gallery)

    assert of_all_others.five[TRAINED] == pytest.approx(3 / 5)
    assert of_all_others.five[UNSEEN] < 3 / 5
    assert of_all_others.first[TRAINED] == 1
    assert of_all_others.first[UNSEEN] < of_all_others.first[CHANCE]


def _looking_like(whom: Sequence[int], patient: int, role: Role, size_mm: float) -> Specimen:
    made = specimen(patient, role, LYTIC, size_mm, telling=False, cells=500)
    assert made.fine is not None
    for one in whom:
        made.fine.first[made.fine.findings[LYTIC.name] > 0, one] += 9
    return made


def test_two_patients_leave_nobody_to_teach_what_knows_neither() -> None:
    found = sensitivity("LUNGS", specimens(2))

    assert UNSEEN not in found.overall[0].five
    by_way, by_finding = found.tables()
    assert "neither" not in " ".join(row[0] for row in by_way.rows)
    assert by_finding.rows[0][by_finding.columns.index("on neither")] == "–"


def test_it_says_that_findings_are_synthetic() -> None:
    found = sensitivity("LUNGS", specimens())

    assert {one.caption for one in found.tables()} == {SYNTHETIC}
    assert found.to_json()["note"] == SYNTHETIC


def test_tables_sum_up_by_way_and_go_on_by_finding() -> None:
    found = sensitivity("LUNGS", specimens())
    by_way, by_finding = found.tables()

    assert [row[0] for row in by_way.rows if not row[1]] == [one.what for one in found.overall]
    for way, row in zip(WAYS, by_way.rows[1:], strict=False):
        assert way.endswith(row[0].strip())
        assert row[1:] == (interval(found.overall[0].five[way]), interval(found.overall[0].first[way]))
    assert [row[0].split(" (")[0] for row in by_finding.rows] == [one.label for one in found.labels]
    trained = by_finding.columns.index("trained")
    assert by_finding.rows[0][trained] == f"{found.labels[0].five[TRAINED]:.2f}"


def test_tables_fit_a_terminal_of_80_columns() -> None:
    """No word is broken, down to the longest names of findings."""
    found = sensitivity("LUNGS", specimens())
    longest = max(ALL, key=lambda one: len(one.name))
    labels = [replace(one, label=longest.name, in_gallery=False) for one in found.labels]
    tables = replace(found, labels=tuple(labels)).tables()
    terminal = Console(width=80, file=StringIO(), record=True)
    for table in tables:
        terminal.print(table)

    cells = [cell for table in tables for row in (table.columns, *table.rows) for cell in row]
    assert {*" ".join(cells).split()} <= {*terminal.export_text().split()}


def test_findings_of_all_compartments_weigh_the_same_together() -> None:
    """Chance is a third of the gallery for each of two findings of the lungs, half for the only one of bones."""
    roles: tuple[Role, ...] = ("training", "testing")
    bones = [specimen(patient, "clean", None, 0, cells=500) for patient in range(4)]
    bones += [specimen(patient, role, LYTIC, 35, cells=500) for patient in range(4) for role in roles]
    told = list[tuple[str, int, int]]()
    found, together = sensitivities(
        {"LUNGS": specimens(), "BONES": bones}, lambda kind, done, total: told.append((kind, done, total))
    )

    assert [one.kind for one in found] == ["LUNGS", "BONES"]
    assert together.first[CHANCE].value == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)
    assert "LUNGS, BONES" in together.what
    assert together.table().rows[0][0] == together.what
    lytic = next(one for one in found[1].labels if one.label == LYTIC.name)
    assert lytic.first[TRAINED] == 1  # by scores of places: bones have no other trained part
    assert found[1].on_finding == {LYTIC.name: 1}
    assert [one for one in told if one[0] == "BONES"] == [("BONES", done, 8) for done in range(9)]


def test_one_patient_is_too_few(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="slabs of 1 patients, expected at least 2"):
        sensitivity("LUNGS", specimens(1))
    assert sensitivity("LUNGS", specimens(2)).patients == 2
    assert "what the other one alone has taught" in caplog.text


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"folder of series is not there: {tmp_path / 'series'}"):
        subjects_below(tmp_path / "series")
