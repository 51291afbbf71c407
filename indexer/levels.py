"""Where along the body a chunk lies: a continuous anatomical place, found by laying a whole volume on an atlas.

The atlas holds features of CT series with landmarks, each at its place on one axis. A volume's column of features
is moved and stretched along it as a whole, then bent a little: its chunks keep their order and distance, so that
one that looks like two levels is told by its neighbours.
"""

import hashlib
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.domes import right_dome_mm
from indexer.feature_map import FeatureMap
from indexer.places import with_places
from indexer.projection import Projection
from indexer.uids import SeriesInstanceUID

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

LANDMARKS_MM = {
    "femoral_head_top": 0.0,
    "iliac_crest": 110.0,
    "right_diaphragm_dome": 320.0,
    "lung_apex": 490.0,
    "skull_base": 700.0,
    "vertex": 815.0,
}
"""Places of landmarks on the axis of the atlas: an adult's, head upwards; 0 is the hip joint."""
REACH_MM = 200.0
"""Beyond its last landmark a series says so far what a place looks like."""

_AXIS_MM = np.arange(-150.0, 960.0, 12.0)
_ATLAS_SIGMA_MM = 20.0
_DOUBT = 1.0
"""A place that n series show counts n / (n + 1): what one patient alone looks like is no more than a hint."""
_COLUMN_CELLS = 3
_LEAST_BODY = 0.05
_SHIFTS_MM = np.arange(-400.0, 960.0, 6.0)
_STRETCHES = (1.0, 0.85, 1.15)
_STRETCH_COST = 0.02
_BENDS_MM = np.arange(-60.0, 61.0, 6.0)
_BEND_COST = 0.003
_BEND_SQUARE_COST = 1e-5
_STEEPEST_BEND = 0.6


@dataclass(frozen=True, eq=False)
class Column:
    """A volume from bottom to top.

    Attributes
    ----------
    rows : (n, 2 C) float32
        Features pooled around each place along z where there is any body.
    heights_mm : (n,) float64
        Of those places, above the lower edge of the grid.
    dome_mm : float or None
        Height of the right dome of the diaphragm, where it is known.
    """

    rows: Rows
    heights_mm: Floats
    dome_mm: float | None = None


@dataclass(frozen=True, eq=False)
class Atlas:
    """What places along the body look like.

    Attributes
    ----------
    rows : (N, 2 C) float32
        As those of a `Column`.
    places_mm : (N,) float64
        On the axis of the atlas.
    owners : (N,) str
        Whose they are, see `owner_of`.
    """

    rows: Rows
    places_mm: Floats
    owners: NDArray[np.str_]

    def without(self, series: Collection[SeriesInstanceUID]) -> "Atlas":
        """The atlas as if it had never seen some series."""
        kept = ~np.isin(self.owners, [owner_of(uid) for uid in series])
        return Atlas(self.rows[kept], self.places_mm[kept], self.owners[kept])


class LevelFinder:
    """Finds places on an atlas.

    Parameters
    ----------
    project : Projection
        With which features are compared.
    """

    def __init__(self, atlas: Atlas, project: Projection) -> None:
        self._project = project
        vectors = project(atlas.rows).astype(np.float64)
        total = np.zeros((len(_AXIS_MM), vectors.shape[1]))
        cover = np.zeros(len(_AXIS_MM))
        for owner in np.unique(atlas.owners):
            own = atlas.owners == owner
            near = np.exp(-0.5 * ((_AXIS_MM[:, None] - atlas.places_mm[own]) / _ATLAS_SIGMA_MM) ** 2)
            share = near.max(axis=1)
            total += share[:, None] * (near / np.maximum(near.sum(axis=1, keepdims=True), 1e-9)) @ vectors[own]
            cover += share
        usual = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
        self._looks = usual * (cover / (cover + _DOUBT))[:, None]

    def placed(self, vectors: Rows, column: Column, heights_mm: Floats) -> Rows:
        """Say in embeddings (N, 256) where they lie, given their heights (N,) in the volume."""
        dome_mm = np.nan if column.dome_mm is None else column.dome_mm
        return with_places(vectors, self.places(column, heights_mm), heights_mm - dome_mm)

    def places(self, column: Column, heights_mm: Floats) -> Floats:
        """Places (N,) on the axis of the atlas of heights (N,) in a volume."""
        heights = column.heights_mm
        alike = self._project(column.rows).astype(np.float64) @ self._looks.T
        found = _bent(alike, heights, _laid(alike, heights))
        inside = np.interp(heights_mm, heights, found)
        beyond = np.where(heights_mm < heights[0], heights_mm - heights[0], heights_mm - heights[-1])
        outside = (heights_mm < heights[0]) | (heights_mm > heights[-1])
        return np.asarray(inside + np.where(outside, beyond, 0.0))


def column_of(seen: FeatureMap, *, dome: bool = False) -> Column:
    """Pool a volume's features around each place along z; all of them where there is no body at all.

    Parameters
    ----------
    dome : bool
        Look for the right dome of the diaphragm as well.
    """
    count = seen.weights.shape[0]
    body = seen.weights.sum(axis=(1, 2))
    present = np.flatnonzero(body > _LEAST_BODY * body.max()) if body.any() else np.arange(count)
    half = _COLUMN_CELLS // 2
    around = [slice(max(0, cell - half), min(count, cell + half + 1)) for cell in present.tolist()]
    edges = np.array([seen.lattice.edges_z(slice(cell, cell + 1)) for cell in present.tolist()])
    heights = (edges.mean(axis=1) + 0.5) * seen.grid.spacing_mm[0]
    return Column(seen.pooled(around), heights, right_dome_mm(seen.thinned) if dome else None)


def reference(column: Column, landmarks_mm: dict[str, float], series: SeriesInstanceUID) -> Atlas:
    """What one series says of the places around its landmarks.

    Parameters
    ----------
    landmarks_mm : dict
        Name, one of `LANDMARKS_MM`, to height above the lower edge of the grid.

    Raises
    ------
    ConfigError
        There is no landmark that the atlas knows, or they are not in the order of the body.
    """
    known = sorted((height, LANDMARKS_MM[name]) for name, height in landmarks_mm.items() if name in LANDMARKS_MM)
    if not known:
        raise ConfigError([f"expected a landmark of {', '.join(LANDMARKS_MM)}, got {', '.join(landmarks_mm)}"])
    heights, places = np.array(known).T
    if (np.diff(places) <= 0).any():
        raise ConfigError(["landmarks of a series do not follow each other as in the body"])
    at = column.heights_mm
    found = np.interp(at, heights, places)
    found += np.minimum(at - heights[0], 0) + np.maximum(at - heights[-1], 0)
    kept = (at > heights[0] - REACH_MM) & (at < heights[-1] + REACH_MM)
    return Atlas(column.rows[kept], found[kept], np.full(int(kept.sum()), owner_of(series)))


def owner_of(series: SeriesInstanceUID) -> str:
    """Name of a series in an atlas: it can be recognised, and not be read."""
    return hashlib.sha256(series.encode()).hexdigest()[:16]


def join(atlases: Sequence[Atlas]) -> Atlas:
    """One atlas of several."""
    return Atlas(
        np.concatenate([one.rows for one in atlases]),
        np.concatenate([one.places_mm for one in atlases]),
        np.concatenate([one.owners for one in atlases]),
    )


def save(path: Path, atlas: Atlas) -> None:
    """Write an atlas; features as float16."""
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as file:  # numpy would append a suffix to a path that has none
        np.savez_compressed(
            file, rows=atlas.rows.astype(np.float16), places_mm=atlas.places_mm, owners=atlas.owners
        )
    unfinished.replace(path)


def load(path: Path, features: int) -> Atlas:
    """Read what `save` wrote.

    Raises
    ------
    ConfigError
        The file is missing or damaged, or made for another number of features.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            atlas = Atlas(arrays["rows"].astype(np.float32), arrays["places_mm"], arrays["owners"])
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ConfigError([f"levels {path}: cannot be read: {error}"]) from error
    count = len(atlas.places_mm)
    if not count or atlas.rows.shape != (count, features) or atlas.owners.shape != (count,):
        raise ConfigError([f"levels {path}: not for {features} features: fit them anew"])
    if not (np.isfinite(atlas.rows).all() and np.isfinite(atlas.places_mm).all()):
        raise ConfigError([f"levels {path}: holds values that are not finite"])
    return atlas


def _laid(alike: Floats, heights: Floats) -> Floats:
    """Places (n,) of a column laid on the atlas as a whole, where it looks most like it."""
    middle, best, found = heights.mean(), -np.inf, heights
    for stretch in _STRETCHES:
        start = stretch * (heights - middle) + middle
        places = start[:, None] + _SHIFTS_MM
        scores = np.mean([_at(row, place) for row, place in zip(alike, places, strict=True)], axis=0)
        scores -= _STRETCH_COST * (stretch != 1.0)
        if scores.max() > best:
            best, found = scores.max(), places[:, scores.argmax()]
    return found


def _bent(alike: Floats, heights: Floats, places: Floats) -> Floats:
    """Move each place of a column by up to 60 mm, neighbours nearly alike, to where it looks like the atlas."""
    gains = np.array([_at(row, place + _BENDS_MM) for row, place in zip(alike, places, strict=True)])
    gains -= _BEND_SQUARE_COST * _BENDS_MM**2
    apart = np.abs(_BENDS_MM[:, None] - _BENDS_MM)
    total, came_from = gains[0], []
    for gain, step in zip(gains[1:], np.diff(heights), strict=True):
        cost = np.where(apart > _STEEPEST_BEND * step, np.inf, _BEND_COST * apart * 24.0 / step)
        reached = total - cost
        came_from.append(reached.argmax(axis=1))
        total = reached.max(axis=1) + gain
    path = [int(total.argmax())]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    return np.asarray(places + _BENDS_MM[path[::-1]])


def _at(row: Floats, places: Floats) -> Floats:
    return np.interp(places, _AXIS_MM, row, left=0.0, right=0.0)
