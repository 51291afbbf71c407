"""Fitting a bundle's projection to a reference archive: no labels, one pass, reproducible."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer import projection
from indexer.bundle import EMBEDDING_DIM, Bundle
from indexer.chunks import windows
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.volume import Volume, load_volume, plan_series

log = logging.getLogger(__name__)

MIN_WINDOWS = EMBEDDING_DIM
"""Pooled windows a modality: with fewer there are fewer directions than dimensions."""
_WINDOW_CELLS = (1, 2, 4)
"""Lengths of the windows that features are pooled over: many short ones tell how features vary."""
_SEEDS = {"CT": 1, "MR": 2}


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


def reference_features(encoder: MonaiEncoder, volume: Volume) -> NDArray[np.float32]:
    """Pool a volume's features over short and long windows: (N, 2 C)."""
    seen = encoder.feature_map(volume)
    count = seen.features.shape[1]
    return np.concatenate([seen.pooled(windows(count, length, 1)) for length in _WINDOW_CELLS])


def fit(bundle: Bundle, volumes: Iterable[tuple[str, Volume]], out: Path) -> dict[str, int]:
    """Fit a projection for each modality of the reference volumes and write it.

    A volume that cannot be embedded is passed over.

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
    drawn = bundle.model_copy(update={"projection": bundle.projection.model_copy(update={"file": "", "seed": 0})})
    encoder = MonaiEncoder(drawn)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for _, volume in volumes:
        try:
            features = reference_features(encoder, volume)
        except Parked as reason:
            log.warning("a volume is passed over: %s", reason)
            continue
        rows.setdefault(volume.modality, []).append(features)
    return save_fitted({modality: np.concatenate(parts) for modality, parts in rows.items()}, out)


def save_fitted(features: dict[str, NDArray[np.float32]], out: Path) -> dict[str, int]:
    """Fit and write the projection of each modality's features (N, F); returns N by modality.

    Raises
    ------
    ConfigError
        There are fewer than `MIN_WINDOWS` rows of a modality, or none of any.
    """
    problems = [
        f"{len(rows)} windows of {modality}, expected at least {MIN_WINDOWS}: add volumes or leave {modality} out"
        for modality, rows in sorted(features.items())
        if len(rows) < MIN_WINDOWS
    ]
    if problems or not features:
        raise ConfigError(problems or ["no volume to fit a projection to"])
    projection.save(out, {m: projection.fitted(rows, _SEEDS.get(m, 0)) for m, rows in sorted(features.items())})
    return {modality: len(rows) for modality, rows in features.items()}
