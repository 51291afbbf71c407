"""Landmarks found again: the slab around one in a patient's CT, looked for in other patients' CTs."""

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.evaluate.describe import Eye, Pooled, Seen
from indexer.evaluate.items import Subject
from indexer.evaluate.left_out import series_of
from indexer.evaluate.refit import Reference, Refit
from indexer.evaluate.subjects import subjects_below
from indexer.levels import LANDMARKS_MM, Atlas, LevelFinder, column_of, join, reference
from indexer.projection import Projection
from indexer.uids import SeriesInstanceUID
from indexer.volume import load_volume, plan_series

SLAB_MM = 96.0
STEP_MM = 12.0
NEAR_MM = 45.0

Floats = NDArray[np.float64]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Localised:
    """A landmark of one series looked for in another one's.

    Attributes
    ----------
    error_mm : float
        From the landmark there to the middle of the slab that looks most like the query's.
    """

    landmark: str
    patient: str
    error_mm: float


@dataclass(frozen=True, eq=False)
class _Marked:
    """A series with landmarks: slabs of it, every `STEP_MM` and around each landmark."""

    subject: Subject
    landmarks_mm: Mapping[str, float]
    middles_mm: Floats
    slabs: Pooled
    around: Pooled


def landmarks_of(table: Path) -> dict[str, dict[str, float]]:
    """Read a table of series, landmark and mm_from_inferior_end: series to its landmarks.

    Raises
    ------
    ConfigError
        It lacks a column, or a place is no number.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    try:
        with table.open(encoding="utf-8", newline="") as file:
            separator = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            for row in csv.DictReader(file, delimiter=separator):
                found[row["series"]][row["landmark"]] = float(row["mm_from_inferior_end"])
    except (OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        expected = "series, landmark, mm_from_inferior_end"
        raise ConfigError([f"landmarks {table}: expected columns {expected}: {error}"]) from error
    return dict(found)


def fit_atlas(eye: Eye, folder: Path, table: Path, on_progress: OnProgress = lambda done, total: None) -> Atlas:
    """Make the atlas of levels from a folder of CT series and their landmarks.

    Raises
    ------
    ConfigError
        No series of the folder has a landmark that the atlas knows.
    """
    parts = []
    for subject, landmarks, seen in _marked_series(eye, folder, table, on_progress):
        if landmarks.keys() & LANDMARKS_MM.keys():
            uid = SeriesInstanceUID(subject.series_instance_uid)
            parts.append(reference(column_of(seen.map), dict(landmarks), uid))
    if not parts:
        raise ConfigError([f"landmarks {table}: none of {', '.join(LANDMARKS_MM)} in a CT series of the folder"])
    return join(parts)


def localise(
    eye: Eye,
    folder: Path,
    table: Path,
    on_progress: OnProgress = lambda done, total: None,
    *,
    both_out: bool = False,
) -> list[Localised]:
    """Look for every landmark in every other patient's series that has it.

    The projection is refitted, and the atlas of levels used, without the query's patient.

    Parameters
    ----------
    both_out : bool
        Also without the patient who is looked at: a fit for every two patients.

    Raises
    ------
    ConfigError
        No landmark is there twice.
    """
    marked, references = [], []
    for subject, landmarks, seen in _marked_series(eye, folder, table, on_progress):
        marked.append(_slabs_of(subject, landmarks, seen))
        references.append(Reference(subject.patient, "CT", seen.reference))
    refit, atlas = Refit(references), eye.atlas
    patients = sorted({one.subject.patient for one in marked})
    found = []
    for left_out in combinations(patients, 2) if both_out else combinations(patients, 1):
        without = frozenset(left_out)
        uids = series_of([one.subject for one in marked], without)
        embedded = _Embedded(refit.without(without)["CT"], atlas.without(uids) if atlas is not None else None)
        compared = [one for one in marked if one.subject.patient in without] if both_out else marked
        for patient in left_out:
            found += _of_patient(patient, compared, embedded)
    if not found:
        raise ConfigError([f"landmarks {table}: no landmark is there in two patients' CT series of the folder"])
    return found


def summary(found: Sequence[Localised], resamples: int = 1000) -> dict[str, dict[str, float]]:
    """Number, median error and share within `NEAR_MM` for each landmark and all; 95 % intervals over patients."""
    groups = {name: [one for one in found if one.landmark == name] for name in sorted({f.landmark for f in found})}
    return {name: _figures(of, resamples) for name, of in [*groups.items(), ("all", list(found))]}


def _figures(found: Sequence[Localised], resamples: int) -> dict[str, float]:
    errors = np.array([one.error_mm for one in found])
    names = np.array([one.patient for one in found])
    by_patient = [errors[names == name] for name in np.unique(names)]
    draw = np.random.default_rng(0)
    drawn = [
        np.concatenate([by_patient[k] for k in draw.integers(len(by_patient), size=len(by_patient))])
        for _ in range(resamples)
    ]
    medians = np.percentile([np.median(one) for one in drawn], (2.5, 97.5))
    shares = np.percentile([(one <= NEAR_MM).mean() for one in drawn], (2.5, 97.5))
    return {
        "pairs": len(errors),
        "patients": len(by_patient),
        "median_mm": float(np.median(errors)),
        "median_mm_low": float(medians[0]),
        "median_mm_high": float(medians[1]),
        "near": float((errors <= NEAR_MM).mean()),
        "near_low": float(shares[0]),
        "near_high": float(shares[1]),
    }


def _marked_series(
    eye: Eye, folder: Path, table: Path, on_progress: OnProgress
) -> "list[tuple[Subject, Mapping[str, float], Seen]]":
    """CT series of the folder that the table names, seen by the network; of several volumes the first."""
    landmarks = landmarks_of(table)
    subjects, paths = subjects_below(folder)
    named = [
        (subject, files, marks)
        for subject, files in zip(subjects, paths, strict=True)
        if (marks := landmarks.get(subject.name) or landmarks.get(subject.series_instance_uid))
    ]
    found: list[tuple[Subject, Mapping[str, float], Seen]] = []
    for number, (subject, files, marks) in enumerate(named, start=1):
        volume = load_volume(plan_series(files).stacks[0])
        if volume.modality == "CT":
            found.append((subject, marks, eye.see(volume)))
        on_progress(number, len(named))
    return found


def _slabs_of(subject: Subject, landmarks: Mapping[str, float], seen: Seen) -> _Marked:
    height = float(seen.map.grid.voxels.shape[0] * seen.map.grid.spacing_mm[0])
    middles = np.arange(0.0, height + 1e-6, STEP_MM)
    around = [min(max(mm, 0.0), height) for mm in landmarks.values()]
    return _Marked(
        subject, landmarks, middles, _pooled_at(seen, middles, height), _pooled_at(seen, np.array(around), height)
    )


def _pooled_at(seen: Seen, middles_mm: Floats, height_mm: float) -> Pooled:
    """Slabs around some heights, as far as they were imaged."""
    half = SLAB_MM / 2
    spans = [(max(0.0, mm - half), min(height_mm, mm + half)) for mm in middles_mm.tolist()]
    slabs = [seen.of_slab(span) for span in spans]
    return Pooled(np.concatenate([slab.rows for slab in slabs]), middles_mm, slabs[0].column)


class _Embedded:
    """Embeds slabs by a projection and an atlas of levels, if there is one."""

    def __init__(self, project: Projection, atlas: Atlas | None) -> None:
        self._project = project
        self._finder = LevelFinder(atlas, project) if atlas is not None else None

    def __call__(self, pooled: Pooled) -> NDArray[np.float32]:
        """Unit vectors (n, 256)."""
        vectors = self._project(pooled.rows)
        if self._finder is None or pooled.column is None:
            return vectors
        return self._finder.placed(vectors, pooled.column, pooled.heights_mm)


def _of_patient(patient: str, compared: Sequence[_Marked], embedded: _Embedded) -> list[Localised]:
    others = [(one, embedded(one.slabs)) for one in compared if one.subject.patient != patient]
    found = []
    for own in (one for one in compared if one.subject.patient == patient):
        for name, vector in zip(own.landmarks_mm, embedded(own.around), strict=True):
            for other, slabs in others:
                if (there := other.landmarks_mm.get(name)) is not None:
                    error = abs(_nearest_mm(slabs @ vector, other.middles_mm) - there)
                    found.append(Localised(name, patient, error))
    return found


def _nearest_mm(alike: NDArray[np.float32], middles_mm: Floats) -> float:
    """Height of the greatest likeness, between steps by the parabola through it and its neighbours."""
    best = int(alike.argmax())
    if not 0 < best < len(alike) - 1:
        return float(middles_mm[best])
    before, here, after = alike[best - 1 : best + 2].astype(np.float64)
    bend = before - 2 * here + after
    return float(middles_mm[best] + (STEP_MM * 0.5 * (before - after) / bend if bend < 0 else 0.0))
