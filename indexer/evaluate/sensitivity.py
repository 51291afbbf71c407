"""Sensitivity to inserted findings: synthetic, a test of what embeddings can tell, no claim about patients."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.compartments import Kind
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.evaluate.estimates import Bootstrap, Estimate
from indexer.evaluate.metrics import Judged, figures
from indexer.evaluate.protocol import Measured as MeasuredQueries
from indexer.evaluate.sensitivity_figures import (
    CHANCE,
    HISTOGRAM,
    PLAIN,
    TRAINED,
    UNSEEN,
    WHOLE,
    LabelFigures,
    Overall,
    Sensitivity,
)
from indexer.evaluate.similarity import Rows
from indexer.evaluate.subjects import subjects_below
from indexer.region_fit import fit_region
from indexer.regions import Region
from indexer.scored import SCORED, ScoredKind
from indexer.scored_fit import FineExample, fit_scored
from indexer.specimens import Role, Specimen, specimens_of
from indexer.volume import load_volume, plan_series

log = logging.getLogger(__name__)

CUTOFFS = (1, 5)
_PASSED = 0.8

_RESAMPLES, _SEED, _CONFIDENCE = 1000, 5, 0.95

_GROUPS = 5
"""Patients are left out by so many groups where neither of two compared ones may be known."""

Measured = dict[str, NDArray[np.float64]]
"""Way to P@1 and P@5 of one query; `UNSEEN` takes three patients."""


@dataclass(frozen=True, eq=False)
class _Row:
    """One query and what was measured."""

    query: Specimen
    same_finding: Measured
    same_size: Measured


def sensitivity(kind: Kind, specimens: Iterable[Specimen]) -> Sensitivity:
    """Rank slabs of other patients, clean and with every finding, for each slab; relevant is the same finding.

    Whatever is fitted is fitted without the query's patient, to findings drawn in the style for training; queries
    and galleries are drawn in the style for testing. The gallery's patients have taught the fit, which new ones of
    an archive have not: so each pair is compared once more by what neither has taught.

    Raises
    ------
    ConfigError
        There are specimens of one patient only.
    """
    (found,), _ = sensitivities({kind: specimens})
    return found


def sensitivities(
    specimens: Mapping[Kind, Iterable[Specimen]],
    on_progress: Callable[[str, int, int], None] = lambda kind, done, total: None,
) -> tuple[tuple[Sensitivity, ...], Overall]:
    """Measure several compartments, kind to specimens, each as `sensitivity` does; and all their findings at once.

    In the last row every finding has the same weight; each keeps to its own compartment's galleries.

    Parameters
    ----------
    on_progress : callable
        Told a kind, how many of its slabs have asked, and of how many.

    Raises
    ------
    ConfigError
        A compartment has specimens of one patient only.
    """
    found, asking = [], list[_Row]()
    for kind, made in specimens.items():
        trial = _Trial(kind, list(made))
        rows = trial.rows(partial(on_progress, kind))
        found.append(trial.result(rows))
        asking += [row for row in rows if row.query.in_gallery and row.query.finding]
    what = f"all findings of {', '.join(specimens)}"
    return tuple(found), _overall(what, asking, [row.same_finding for row in asking])


class _Trial:
    def __init__(self, kind: Kind, specimens: Sequence[Specimen]) -> None:
        self._kind = kind
        self._training = [one for one in specimens if one.role != "testing"]
        self._gallery = [one for one in specimens if one.in_gallery]
        self._asking = [one for one in specimens if one.role != "training"]
        self._patients = sorted({one.example.patient for one in self._gallery})
        if len(self._patients) < 2:
            raise ConfigError([f"{kind}: slabs of {len(self._patients)} patients, expected at least 2"])
        if len(self._patients) == 2:
            log.warning("%s: slabs of 2 patients: each is measured by what the other one alone has taught", kind)
        everyone = sorted({one.example.patient for one in specimens})
        groups = [frozenset(everyone[first::_GROUPS]) for first in range(_GROUPS)]
        self._group_of = {who: group for group in groups for who in group}

    def rows(self, on_progress: Callable[[int, int], None]) -> list[_Row]:
        """Measure all ways for every query."""
        rows = list[_Row]()
        for one in self._asking:
            on_progress(len(rows), len(self._asking))
            rows.append(_Row(one, *self._measured(one)))
        on_progress(len(rows), len(self._asking))
        return rows

    def result(self, rows: Sequence[_Row]) -> Sensitivity:
        """Sum up."""
        main = [row for row in rows if row.query.in_gallery]
        found = [row for row in main if row.query.finding]
        return Sensitivity(
            kind=self._kind,
            patients=len(self._patients),
            slabs=len({one.slab for one in self._gallery}),
            gallery=float(np.mean([len(self._found(one)) for one in self._asking])),
            overall=(
                _overall("all findings", found, [row.same_finding for row in found]),
                _overall("all findings and clean slabs", main, [row.same_finding for row in main]),
                _overall("all findings, only the same size is right", found, [row.same_size for row in found]),
            ),
            labels=tuple(self._of_label(label, rows) for label in dict.fromkeys(_ask(row.query) for row in rows)),
            on_finding=self._on_finding(found),
            smallest_mm=_smallest(rows),
        )

    def _of_label(self, asked: tuple[str, bool], rows: Sequence["_Row"]) -> LabelFigures:
        own = [row for row in rows if _ask(row.query) == asked]
        means = {way: np.mean([row.same_finding[way] for row in own], axis=0) for way in own[0].same_finding}
        return LabelFigures(
            label=asked[0],
            in_gallery=asked[1],
            queries=len(own),
            patients=len({row.query.example.patient for row in own}),
            relevant=float(np.mean([_relevant(row.query, self._found(row.query)).sum() for row in own])),
            first={way: float(mean[0]) for way, mean in means.items()},
            five={way: float(mean[1]) for way, mean in means.items()},
        )

    def _found(self, query: Specimen) -> list[Specimen]:
        return [one for one in self._gallery if one.example.patient != query.example.patient]

    def _measured(self, query: Specimen) -> tuple[Measured, Measured]:
        """Precision of every way where the same finding is relevant, and where it has to be of the same size."""
        own = frozenset({query.example.patient})
        mean, scale = self._whole(query.example.patient)
        found = self._found(query)
        ways: dict[str, Callable[[Specimen], Rows]] = {
            TRAINED: lambda one: self._trained(own, one),
            PLAIN: lambda one: _plainly(self._region(own), one),
            WHOLE: lambda one: np.clip((one.whole - mean) / scale, -5.0, 5.0),
            HISTOGRAM: lambda one: one.histogram,
            CHANCE: lambda one: np.zeros(1, np.float32),
        }
        near = {way: self._near(query, found, describe) for way, describe in ways.items()}
        if len(self._patients) > 2:
            near[UNSEEN] = np.concatenate([self._near_unseen(query, one) for one in found])
        relevant = _relevant(query, found)
        same_size = np.array([one.example.label == query.example.label for one in found])
        finding = {way: _precision(one, relevant) for way, one in near.items()}
        return finding, {way: _precision(one, same_size) for way, one in near.items()}

    @staticmethod
    def _near(
        query: Specimen, found: Sequence[Specimen], describe: Callable[[Specimen], Rows]
    ) -> NDArray[np.float64]:
        own = _unit(describe(query))
        return np.array([float(own @ _unit(describe(one))) for one in found])

    def _near_unseen(self, query: Specimen, one: Specimen) -> NDArray[np.float64]:
        left = self._group_of[query.example.patient] | self._group_of[one.example.patient]
        return self._near(query, [one], lambda which: self._trained(left, which))

    def _trained(self, left: frozenset[str], one: Specimen) -> Rows:
        """A compartment as it is embedded by what was fitted without some patients."""
        return _by_scores(self._scored(left), one) if self._kind in SCORED else _embedded(self._region(left), one)

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the trial does
    def _scored(self, left: frozenset[str]) -> ScoredKind:
        return fit_scored(self._kind, [_fine(one) for one in self._teaching(left)])

    @lru_cache(maxsize=64)  # noqa: B019 - lives as long as the trial does
    def _region(self, left: frozenset[str]) -> Region:
        others = [one.example for one in self._teaching(left)]
        return fit_region([one for one in others if not (one.findings and self._kind in SCORED)])

    def _teaching(self, left: frozenset[str]) -> list[Specimen]:
        return [one for one in self._training if one.example.patient not in left]

    def _whole(self, patient: str) -> tuple[Rows, Rows]:
        others = [one.whole for one in self._training if one.role == "clean" and one.example.patient != patient]
        return np.mean(others, axis=0), np.std(others, axis=0) + 1e-6

    def _on_finding(self, rows: Sequence["_Row"]) -> dict[str, float]:
        """Of right first hits: whether the query's cell that looks most like the finding shows it.

        The head has not seen the patient.
        """
        shares: dict[str, list[bool]] = {}
        names = sorted({name for one in self._training for name in one.example.findings})
        for query in (row.query for row in rows if row.same_finding[TRAINED][0] == 1):
            name = query.finding.name if query.finding else ""
            scores, of_places = self._placed(query)
            shares.setdefault(name, []).append(bool(of_places[name][scores[:, names.index(name)].argmax()] > 0))
        return {name: float(np.mean(values)) for name, values in shares.items()}

    def _placed(self, query: Specimen) -> tuple[Rows, dict[str, Rows]]:
        """Scores (n, K) of a query's places, by what was fitted to others, and each finding's share of them."""
        own = frozenset({query.example.patient})
        if self._kind in SCORED:
            return _scores(self._scored(own), query), _fine(query).findings
        region = self._region(own)
        return region.scores(region.standard(query.example.features)), query.example.findings


@lru_cache(maxsize=4096)
def _by_scores(scored: ScoredKind, one: Specimen) -> Rows:
    return scored(_scores(scored, one))


def _scores(scored: ScoredKind, one: Specimen) -> Rows:
    places = _fine(one)
    return scored.scores(places.first.astype(np.float32), places.second.astype(np.float32))


def _fine(one: Specimen) -> FineExample:
    if one.fine is None:
        raise TypeError(f"{one.slab}: a specimen without places of the first layer")
    return one.fine


@lru_cache(maxsize=4096)
def _embedded(region: Region, one: Specimen) -> Rows:
    return region(one.example.features, one.example.shares)


@lru_cache(maxsize=4096)
def _plainly(region: Region, one: Specimen) -> Rows:
    return region.plain(region.standard(one.example.features), one.example.shares) - region.centre


def _ask(one: Specimen) -> tuple[str, bool]:
    """What a query is reported under, and whether galleries hold the like."""
    if one.in_gallery or one.finding is None:
        return one.example.label, True
    return f"{one.finding.name} {one.size_mm:g} mm", False


def _relevant(query: Specimen, found: Sequence[Specimen]) -> NDArray[np.bool_]:
    return np.array([one.finding == query.finding for one in found])


def _precision(near: NDArray[np.float64], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not relevant.any():
        return np.zeros(len(CUTOFFS))
    judged = Judged(relevant, relevant.astype(np.float64), relevant)
    return figures(near, judged, CUTOFFS, hierarchical=False)[1 : 1 + len(CUTOFFS)]


def _overall(what: str, rows: Sequence["_Row"], measured: Sequence[Measured]) -> Overall:
    """Mean over findings, all with the same weight, and its interval when patients are drawn anew."""
    first, five = dict[str, Estimate](), dict[str, Estimate]()
    for way in dict.fromkeys(way for one in measured for way in one):
        asking = [(row, one[way]) for row, one in zip(rows, measured, strict=True) if way in one]
        first[way], five[way] = _estimates([row.query for row, _ in asking], np.stack([one for _, one in asking]))
    return Overall(what=what, first=first, five=five)


def _estimates(queries: Sequence[Specimen], values: NDArray[np.float64]) -> list[Estimate]:
    """Of each column of values (n, m): mean over findings of the mean over queries."""
    names = [one.finding.name if one.finding else "" for one in queries]
    codes = np.array([sorted(set(names)).index(name) for name in names])
    asking = np.arange(len(queries))
    table = MeasuredQueries(asking, values, asking, codes, values, asking)
    drawn = Bootstrap([one.example.patient for one in queries], asking, resamples=_RESAMPLES, seed=_SEED)
    return drawn.macro(table).estimates(_CONFIDENCE)


def _smallest(rows: Sequence["_Row"]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for finding in dict.fromkeys(row.query.finding for row in rows if row.query.finding):
        smallest = None
        for size in sorted(finding.sizes_mm, reverse=True):
            asked = [row for row in rows if (row.query.finding, row.query.size_mm) == (finding, size)]
            if asked and np.mean([row.same_finding[TRAINED][0] for row in asked]) < _PASSED:
                break
            smallest = size if asked else smallest
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
