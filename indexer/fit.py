"""Fitting a bundle's projection to a reference archive: no labels, one pass, reproducible."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer import projection
from indexer.acquisitions import other_acquisitions
from indexer.bundle import EMBEDDING_DIM, Bundle
from indexer.chunks import windows
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.feature_map import FeatureMap
from indexer.volume import Volume, load_volume, plan_series

log = logging.getLogger(__name__)

MIN_WINDOWS = EMBEDDING_DIM
"""Pooled windows a modality: with fewer there are fewer directions than dimensions."""
_WINDOWS_MM = (24.0, 48.0, 96.0)
"""Lengths of the windows that features are pooled over, one every 24 mm: many short ones tell how features vary."""
SEEDS = {"CT": 1, "MR": 2}
MOST_ROWS = 4000


def volumes_below(folder: Path) -> Iterator[tuple[str, Volume]]:
    """Every volume of a folder that holds one folder a series: name of the series and volume.

    Series that cannot be read are passed over; the node would park them.
    """
    for series in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in series.iterdir() if path.is_file())
        try:
            for stack in plan_series(files).stacks:
                yield series.name, load_volume(stack)
        except (Parked, ValueError) as reason:  # ValueError: an empty folder, or several series in one
            log.warning("a folder is passed over: %s", reason)


@dataclass(frozen=True, eq=False)
class ReferenceFeatures:
    """What a volume teaches a projection.

    Attributes
    ----------
    rows : (N, 2 C) float32
        Features pooled over short and long windows.
    changes : (M, 2 C) float32
        How other acquisitions would have moved them; M may be 0.
    """

    rows: NDArray[np.float32]
    changes: NDArray[np.float32]


def reference_features(encoder: MonaiEncoder, seen: FeatureMap) -> ReferenceFeatures:
    """Pool a volume's features, and those of other acquisitions of it where the bundle asks for some."""
    rows = _over_windows(seen)
    count = encoder.bundle.projection.acquisitions if seen.grid.modality == "MR" else 0
    if not count:
        return ReferenceFeatures(rows, rows[:0])
    others = other_acquisitions(seen.grid, seen.body, count)
    every = np.stack([rows, *(_over_windows(encoder.map_of(one, seen.body)) for one in others)])
    return ReferenceFeatures(rows, (every - every.mean(axis=0)).reshape(-1, rows.shape[1]))


def _over_windows(seen: FeatureMap) -> NDArray[np.float32]:
    count = seen.features.shape[1]
    step, *longer = (max(1, round(mm / seen.cell_mm)) for mm in _WINDOWS_MM)
    return np.concatenate([seen.pooled(windows(count, length, step)) for length in (step, *longer)])


def fit(bundle: Bundle, volumes: Iterable[tuple[str, Volume]], out: Path) -> dict[str, int]:
    """Fit a projection for each modality of the reference volumes and write it.

    A volume that cannot be embedded is passed over, and so is one that the bundle leaves to another.

    Parameters
    ----------
    bundle : Bundle
        Its network is used; its own projection is not, and need not exist yet.
    out : Path
        The ``.npz`` file that the bundle's ``projection.file`` names.

    Returns
    -------
    dict of str to int
        Modality to the number of pooled windows it was fitted on.

    Raises
    ------
    ConfigError
        There are fewer than `MIN_WINDOWS` windows of a modality; nothing is written.
    """
    anything = bundle.projection.model_copy(update={"file": "", "seed": 0})
    drawn = bundle.model_copy(update={"projection": anything, "modalities": {}, "levels": None, "heads": None})
    encoder = MonaiEncoder(drawn)
    found: dict[str, list[ReferenceFeatures]] = {}
    for _, volume in volumes:
        if volume.modality in bundle.modalities:
            continue
        try:
            features = reference_features(encoder, encoder.feature_map(volume))
        except Parked as reason:
            log.warning("a volume is passed over: %s", reason)
            continue
        found.setdefault(volume.modality, []).append(features)
    return save_fitted({modality: joined(parts) for modality, parts in found.items()}, out)


def joined(parts: Sequence[ReferenceFeatures]) -> ReferenceFeatures:
    """What several volumes teach together."""
    return ReferenceFeatures(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "changes")))


def save_fitted(features: dict[str, ReferenceFeatures], out: Path) -> dict[str, int]:
    """Fit and write the projection of each modality; returns its number of rows.

    Raises
    ------
    ConfigError
        There are fewer than `MIN_WINDOWS` rows of a modality, or none of any.
    """
    problems = [
        f"{count} windows of {modality}, expected at least {MIN_WINDOWS}: add volumes or leave {modality} out"
        for modality, one in sorted(features.items())
        if (count := len(one.rows)) < MIN_WINDOWS
    ]
    if problems or not features:
        raise ConfigError(problems or ["no volume to fit a projection to"])
    projection.save(out, {modality: fit_projection(modality, one) for modality, one in sorted(features.items())})
    return {modality: len(one.rows) for modality, one in features.items()}


def fit_projection(modality: str, features: ReferenceFeatures) -> projection.Projection:
    """Fit the projection of one modality; more rows than `MOST_ROWS` add time, not directions."""
    changes = features.changes[:: -(-len(features.changes) // MOST_ROWS) or 1]
    return projection.fitted(features.rows, SEEDS.get(modality, 0), changes)
