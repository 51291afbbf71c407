"""Sensitivity to inserted findings: synthetic, a test of what embeddings can tell, no claim about patients."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.compartments import Kind
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.evaluate.folder import subjects_below
from indexer.evaluate.metrics import Judged, figures
from indexer.evaluate.similarity import Rows
from indexer.evaluate.tables import TextTable
from indexer.region_fit import fit_region
from indexer.regions import Region
from indexer.specimens import Role, Specimen, specimens_of
from indexer.volume import load_volume, plan_series

log = logging.getLogger(__name__)

CUTOFFS = (1, 5)
SYNTHETIC = (
    "Findings are synthetic: inserted into real scans. This says what an embedding can tell, nothing of patients."
)
TRAINED, PLAIN = "compartment, trained on other patients", "compartment, no labels"
WHOLE, HISTOGRAM, CHANCE = "whole body slab", "intensity histogram", "chance"
WAYS = (TRAINED, PLAIN, WHOLE, HISTOGRAM, CHANCE)
_PASSED = 0.8

Measured = dict[str, NDArray[np.float64]]
"""Way to P@1 and P@5 of one query."""


@dataclass(frozen=True)
class LabelFigures:
    """Queries of one finding and size.

    Attributes
    ----------
    any_size : bool
        Relevant is the same finding of any size: galleries hold none of just this size.
    relevant : float
        Mean number of relevant slabs in the gallery.
    first, five : dict of str to float
        Way to P@1 and P@5.
    """

    label: str
    any_size: bool
    queries: int
    patients: int
    relevant: float
    first: dict[str, float]
    five: dict[str, float]


@dataclass(frozen=True)
class Sensitivity:
    """Leave-one-patient-out figures over inserted findings.

    Attributes
    ----------
    first, five : dict of str to float
        Way to P@1 and P@5 over all queries of what galleries hold.
    on_finding : float or None
        Of queries whose first hit is right: share whose most telling cell shows the inserted finding.
    smallest_mm : dict of str to float or None
        Finding to the smallest size from which on P@1 is at least 0.8.
    """

    kind: str
    patients: int
    slabs: int
    gallery: float
    first: dict[str, float]
    five: dict[str, float]
    labels: tuple[LabelFigures, ...]
    on_finding: float | None
    smallest_mm: dict[str, float | None]

    def to_json(self) -> dict[str, object]:
        """Everything, for `json`."""
        return {"note": SYNTHETIC, **asdict(self)}

    def table(self) -> TextTable:
        """All figures as one table."""
        columns = ("finding", "queries", "relevant", *(f"P@5 {way}" for way in WAYS), f"P@1 {TRAINED}")
        rows = [
            (
                one.label + (" (any size)" if one.any_size else ""),
                f"{one.queries} of {one.patients}",
                f"{one.relevant:.1f}",
                *(f"{one.five[way]:.2f}" for way in WAYS),
                f"{one.first[TRAINED]:.2f}",
            )
            for one in self.labels
        ]
        rows.append(("all", "", "", *(f"{self.five[way]:.2f}" for way in WAYS), f"{self.first[TRAINED]:.2f}"))
        title = f"Inserted findings, {self.kind}: {self.patients} patients, {self.slabs} slabs, other patients only"
        return TextTable(title, columns, tuple(rows), SYNTHETIC)


def sensitivity(kind: str, specimens: Iterable[Specimen]) -> Sensitivity:
    """Rank slabs of other patients, clean and with every finding, for each slab; relevant is the same finding.

    Whatever is fitted is fitted without the query's patient, to findings drawn in the style for training; queries
    and galleries are drawn in the style for testing.

    Raises
    ------
    ConfigError
        There are specimens of fewer than three patients.
    """
    return _Trial(kind, list(specimens)).result()


class _Trial:
    def __init__(self, kind: str, specimens: Sequence[Specimen]) -> None:
        self._kind = kind
        self._training = [one for one in specimens if one.role != "testing"]
        self._gallery = [one for one in specimens if one.in_gallery]
        self._asking = [one for one in specimens if one.role != "training"]
        self._patients = sorted({one.example.patient for one in self._gallery})
        if len(self._patients) < 3:
            raise ConfigError([f"{kind}: slabs of {len(self._patients)} patients, expected at least 3"])

    def result(self) -> Sensitivity:
        """Measure all ways."""
        rows = [(one, self._measured(one)) for one in self._asking]
        main = [figures for one, figures in rows if one.in_gallery]
        labels = [self._of_label(label, rows) for label in dict.fromkeys(map(_ask, self._asking))]
        right = [one for one, measured in rows if one.finding and one.in_gallery and measured[TRAINED][0] == 1]
        on = [self._on_finding(one) for one in right]
        return Sensitivity(
            kind=self._kind,
            patients=len(self._patients),
            slabs=len({one.slab for one in self._gallery}),
            gallery=float(np.mean([len(self._found(one)) for one in self._asking])),
            first={way: float(np.mean([one[way][0] for one in main])) for way in WAYS},
            five={way: float(np.mean([one[way][1] for one in main])) for way in WAYS},
            labels=tuple(labels),
            on_finding=float(np.mean(on)) if on else None,
            smallest_mm=_smallest(rows),
        )

    def _of_label(self, asked: tuple[str, bool], rows: Sequence[tuple[Specimen, Measured]]) -> LabelFigures:
        own = [(one, measured) for one, measured in rows if _ask(one) == asked]
        relevant = [self._relevant(one).sum() for one, _ in own]
        means = {way: np.mean([measured[way] for _, measured in own], axis=0) for way in WAYS}
        return LabelFigures(
            label=asked[0],
            any_size=asked[1],
            queries=len(own),
            patients=len({one.example.patient for one, _ in own}),
            relevant=float(np.mean(relevant)),
            first={way: float(mean[0]) for way, mean in means.items()},
            five={way: float(mean[1]) for way, mean in means.items()},
        )

    def _found(self, query: Specimen) -> list[Specimen]:
        return [one for one in self._gallery if one.example.patient != query.example.patient]

    def _relevant(self, query: Specimen) -> NDArray[np.bool_]:
        if query.in_gallery:
            return np.array([one.example.label == query.example.label for one in self._found(query)])
        return np.array([one.finding == query.finding for one in self._found(query)])

    def _measured(self, query: Specimen) -> Measured:
        """Precision at 1 and 5 of every way: way to (2,)."""
        region = self._region(query.example.patient)
        mean, scale = self._whole(query.example.patient)
        found, relevant = self._found(query), self._relevant(query)
        ways: dict[str, Callable[[Specimen], Rows]] = {
            TRAINED: lambda one: _embedded(region, one),
            PLAIN: lambda one: _plainly(region, one),
            WHOLE: lambda one: np.clip((one.whole - mean) / scale, -5.0, 5.0),
            HISTOGRAM: lambda one: one.histogram,
            CHANCE: lambda one: np.zeros(1, np.float32),
        }
        judged = Judged(relevant, relevant.astype(np.float64), relevant)
        measured = {}
        for way, describe in ways.items():
            own = _unit(describe(query))
            near = np.array([float(own @ _unit(describe(one))) for one in found])
            measured[way] = figures(near, judged, CUTOFFS, hierarchical=False)[1 : 1 + len(CUTOFFS)]
        return measured

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the trial does
    def _region(self, patient: str) -> Region:
        return fit_region([one.example for one in self._training if one.example.patient != patient])

    def _whole(self, patient: str) -> tuple[Rows, Rows]:
        others = [one.whole for one in self._training if one.role == "clean" and one.example.patient != patient]
        return np.mean(others, axis=0), np.std(others, axis=0) + 1e-6

    def _on_finding(self, query: Specimen) -> bool:
        """Whether the cell that looks most like the finding shows it; the head has not seen the patient."""
        assert query.finding is not None  # noqa: S101 - asked only of slabs with a finding
        region = self._region(query.example.patient)
        names = sorted({name for one in self._training for name in one.example.findings})
        scores = region.scores(region.standard(query.example.features))[:, names.index(query.finding.name)]
        return bool(query.example.findings[query.finding.name][scores.argmax()] > 0)


@lru_cache(maxsize=4096)
def _embedded(region: Region, one: Specimen) -> Rows:
    return region(one.example.features, one.example.shares)


@lru_cache(maxsize=4096)
def _plainly(region: Region, one: Specimen) -> Rows:
    return region.plain(region.standard(one.example.features), one.example.shares) - region.centre


def _ask(one: Specimen) -> tuple[str, bool]:
    """What a query is reported under, and whether galleries hold it in other sizes only."""
    if one.in_gallery or one.finding is None:
        return one.example.label, False
    return f"{one.finding.name} {one.size_mm:g} mm", True


def _smallest(rows: Sequence[tuple[Specimen, Measured]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for finding in dict.fromkeys(one.finding for one, _ in rows if one.finding):
        smallest = None
        for size in sorted(finding.sizes_mm, reverse=True):
            own = [measured[TRAINED][0] for one, measured in rows if (one.finding, one.size_mm) == (finding, size)]
            if own and np.mean(own) < _PASSED:
                break
            smallest = size if own else smallest
        found[finding.name] = smallest
    return found


def specimens_below(
    folder: Path,
    encoder: MonaiEncoder,
    kind: Kind,
    roles: Sequence[Role],
    *,
    all_sizes: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Specimen]:
    """Make the specimens of every series of a folder that holds one folder a series; the first volume of each.

    Raises
    ------
    ConfigError
        The folder is not there.
    """
    subjects, paths = subjects_below(folder)
    for number, (subject, files) in enumerate(zip(subjects, paths, strict=True)):
        try:
            volume = load_volume(plan_series(files).stacks[0])
            yield from specimens_of(
                volume, subject.patient, subject.name, encoder, kind, roles, all_sizes=all_sizes
            )
        except (Parked, ValueError) as reason:  # ValueError: several series in one folder
            log.warning("a series is passed over: %s", reason)
        on_progress(number + 1, len(subjects))


def _unit(vector: Rows) -> Rows:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
