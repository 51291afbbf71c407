"""Fitting a compartment's embedding: what varies ordinarily, and what tells findings apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from indexer.insertion.findings import CLEAN
from indexer.regions import PLAIN_DIM, Region, Rows, pool_scores
from indexer.ridge import Sums

COMMON_DIRECTIONS = 96
"""In which clean cells vary most; the others are left as they are."""
_FLOOR = 0.1
"""Of the mean variance of a feature: no direction is blown up beyond it."""
_LEAST_VIEW = 1e-3
"""Of the greatest variance: no direction is blown up beyond it."""
_CELL_RIDGE, _SLAB_RIDGE = 1.0, 0.1
"""Shares of the mean variance of a feature that are added to every one."""
_SHOWS = 0.15
"""Share of a finding in a cell from which on the cell shows it."""
_FREE = 0.01
_THINNED = 5
"""Of the healthy cells beside a finding one in so many teaches: clean slabs teach them all."""
_CLEAN_WEIGHT = 5.0
_FEW_CELLS = 10
"""As if so many of a patient's cells at least showed a finding: one cell is not to weigh as much as many."""
_NO_FINDING = 0


@dataclass(frozen=True, eq=False)
class Example:
    """One slab of one patient.

    Attributes
    ----------
    features, shares : (n, F) and (n,) float32
        Cells of the compartment, and how much of it is in each.
    label : str
        Of the slab, as a gallery names it; empty: several findings at once, which teach cells only.
    findings : dict of str to (n,) float32
        Name to the share of each inserted finding in the cells; empty: as scanned.
    others : (m, F) float32
        Cells of the body beside the compartment; where there are hardly any, its own count as well.
    """

    patient: str
    features: Rows
    shares: Rows
    label: str
    findings: dict[str, Rows]
    others: Rows = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def fit_region(examples: Sequence[Example]) -> Region:
    """Fit a compartment's embedding.

    Parameters
    ----------
    examples : sequence of Example
        Clean slabs, and slabs with inserted findings; without any of these the trained part stays empty.
    """
    clean = [one for one in examples if not one.findings]
    cells = np.concatenate([one.features for one in clean])
    mean, scale = cells.mean(axis=0), cells.std(axis=0) + 1e-6
    empty = np.zeros((len(mean), 0), np.float32), *(np.zeros(0, np.float32),) * 3, np.zeros((0, 0), np.float32)
    common, damping = _ordinary(np.clip((cells - mean) / scale, -5.0, 5.0))
    plain = Region(mean, scale, common, damping, *(np.zeros(0, np.float32),) * 2, *empty)
    beside = [one.others for one in clean if len(one.others)]
    if sum(map(len, beside)) < PLAIN_DIM:
        beside.append(cells)
    views = _views(plain.unusual(plain.standard(np.concatenate(beside))))
    plain = replace(plain, views=views)
    centre = np.mean([plain.plain(plain.standard(one.features), one.shares) for one in clean], axis=0)
    plain = replace(plain, centre=centre.astype(np.float32))
    names = sorted({name for one in examples for name in one.findings})
    return _trained(plain, examples, names) if names else plain


def _views(unusual: Rows) -> Rows:
    """Directions in which other tissue differs from the compartment's (F, V), each divided by its extent.

    What disease puts in its place is tissue, fluid or air.
    """
    values, directions = np.linalg.eigh(unusual.T.astype(np.float64) @ unusual / len(unusual))
    greatest = slice(None, -min(PLAIN_DIM, len(unusual)) - 1, -1)
    extents = np.sqrt(values[greatest].clip(_LEAST_VIEW * values[-1]) / values[-1])
    return np.asarray(directions[:, greatest] / extents, dtype=np.float32)


def _ordinary(standard: Rows) -> tuple[Rows, Rows]:
    """Directions in which clean cells vary most, and what evens them out with the rest."""
    variances, directions = np.linalg.eigh(np.cov(standard.T.astype(np.float64)))
    floor = _FLOOR * variances.mean()
    kept = slice(-min(COMMON_DIRECTIONS, len(variances)), None)
    rest = variances[:-COMMON_DIRECTIONS].mean() if len(variances) > COMMON_DIRECTIONS else 0.0
    damping = np.sqrt((rest + floor) / (variances[kept].clip(0) + floor))
    return directions[:, kept].astype(np.float32), damping.astype(np.float32)


def _trained(plain: Region, examples: Sequence[Example], names: Sequence[str]) -> Region:
    """Add cells' scores, and directions of the pooled scores of slabs that the cells' scores were not fitted to."""
    patients = sorted({one.patient for one in examples})
    sums = {who: _cell_sums(plain, [one for one in examples if one.patient == who], names) for who in patients}
    cells, offset = reduce(add, sums.values()).ridge(_CELL_RIDGE)
    slabs = [one for one in examples if one.label]
    pooled: dict[int, Rows] = {}
    for patient in patients:
        others = [sums[who] for who in patients if who != patient]
        away = reduce(add, others).ridge(_CELL_RIDGE) if others else (cells, offset)
        for number, one in enumerate(slabs):
            if one.patient == patient:
                pooled[number] = pool_scores(plain.standard(one.features) @ away[0] + away[1], one.shares)
    rows = np.stack([pooled[number] for number in range(len(slabs))])
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    shown = [next(iter(one.findings), CLEAN) for one in slabs]
    codes = np.array([sorted(set(shown)).index(name) for name in shown])
    weights = (1.0 / np.bincount(codes)[codes]).astype(np.float32)
    targets = np.eye(codes.max() + 1, dtype=np.float32)[codes]
    trained, _ = Sums.of((rows - mean) / scale, targets, weights).ridge(_SLAB_RIDGE)
    return replace(plain, cells=cells, offset=offset, score_mean=mean, score_scale=scale, trained=trained)


def _cell_sums(plain: Region, examples: Sequence[Example], names: Sequence[str]) -> Sums:
    """Sum up one patient's cells; those that show a finding weigh the same together, whichever it is."""
    rows, codes = [], []
    for one in examples:
        seen, code = _taught(one, names)
        rows.append(plain.standard(one.features[seen]))
        codes.append(code[seen])
    code = np.concatenate(codes)
    counts = np.maximum(np.bincount(code, minlength=len(names) + 1), _FEW_CELLS)
    weights = np.where(code == _NO_FINDING, _CLEAN_WEIGHT, 1.0) / counts[code]
    targets = np.eye(len(names) + 1, dtype=np.float32)[code][:, 1:]
    return Sums.of(np.concatenate(rows), targets, weights.astype(np.float32))


def _taught(one: Example, names: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which cells of a slab teach, and which finding each of its cells shows (0 is none)."""
    count = len(one.features)
    if not one.findings:
        return np.arange(count), np.zeros(count, np.intp)
    shares = np.stack([one.findings.get(name, np.zeros(count, np.float32)) for name in names])
    enough = np.minimum(_SHOWS, 0.7 * shares.max(axis=1))  # a small one fills no cell
    shown = shares > np.maximum(enough, 1e-6)[:, None]
    code = np.where(shown.any(axis=0), 1 + np.where(shown, shares, 0).argmax(axis=0), _NO_FINDING)
    free = (shares.sum(axis=0) < _FREE) & (np.arange(count) % _THINNED == 0)
    return np.flatnonzero((code != _NO_FINDING) | free), code
