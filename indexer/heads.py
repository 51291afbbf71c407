"""Heads in MR: found by laying a volume on heads of an atlas, told apart by which neighbouring voxels are alike.

Nothing of it depends on contrast, so that another sequence of the same patient is nearer than another patient.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.body import Mask
from indexer.laying import SHAPE, MeanHead, Pose
from indexer.levels import owner_of
from indexer.places import HEAD_CODE_DIM, with_heads
from indexer.resample import PatientGrid
from indexer.self_similarity import CELL_MM, CHANNELS, Box, SelfSimilarity, self_similarity
from indexer.uids import SeriesInstanceUID

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

LEAST_AGREEMENT, LEAST_SHOWN = 0.5, 0.6
"""Of a volume with the mean head: less is no head, or too little of one."""
REACH_MM = 90.0
"""Chunks whose middle lies within it of the head's, along z, show the head."""
_TOP_CM2, _MOST_CM2 = 40.0, 450.0
"""The top of a head is as wide as the first; no head is wider than the second."""
_BELOW_MM, _ABOVE_MM, _ASIDE_MM = 186.0, 18.0, 120.0
"""Of the top of a head, and of its middle: what is looked at."""
_MIDDLE_BELOW_TOP_MM = 66.0
_COARSE, _FINE = 8, 4
"""Iterations."""
_ROUNDS = 3
_LEAST_SHARE = 0.3
"""Of heads whose body is in a cell that descriptors count."""
_SEED = 0


@dataclass(frozen=True, eq=False)
class HeadView:
    """What may be a head in a volume.

    Attributes
    ----------
    similarity : SelfSimilarity
    middle : (3,) float64
        Where the middle of a head is looked for, as a cell's index along z, x, y.
    """

    similarity: SelfSimilarity
    middle: Floats

    def height_mm(self, pose: Pose) -> float:
        """Height of the middle of a head above the lower edge of the volume's grid."""
        return float(self.similarity.corner_mm[0] + (pose.middle[0] + 0.5) * CELL_MM)


@dataclass(frozen=True, eq=False)
class HeadAtlas:
    """Heads, each laid on their mean.

    Attributes
    ----------
    channels : (N, 6, z, x, y) uint8
        255 times those of `SelfSimilarity`.
    weights : (N, z, x, y) uint8
        255 times the share of body.
    patients : (N,) int64
        Equal for series of the same patient, which count together as much as the one of another.
    owners : (N,) str
        Whose they are, see `indexer.levels.owner_of`.
    """

    channels: Bytes
    weights: Bytes
    patients: NDArray[np.int64]
    owners: NDArray[np.str_]

    def without(self, series: Collection[SeriesInstanceUID]) -> "HeadAtlas":
        """The atlas as if it had never seen some series; where none is left, as it is."""
        kept = ~np.isin(self.owners, [owner_of(uid) for uid in series])
        if not kept.any():
            return self
        return HeadAtlas(self.channels[kept], self.weights[kept], self.patients[kept], self.owners[kept])

    def mean(self) -> MeanHead:
        """The mean of the heads and of their mirror images."""
        weights, channels = (torch.from_numpy(stored).float() / 255 for stored in (self.weights, self.channels))
        shares = torch.from_numpy(1 / np.array([(self.patients == one).sum() for one in self.patients])).float()
        weights = weights * shares[:, None, None, None]
        total, summed = weights.sum(dim=0), (channels * weights[:, None]).sum(dim=0)
        total, summed = total + total.flip(1), summed + summed.flip(2)
        return MeanHead(summed / total.clamp(min=1e-3), total / (2 * shares.sum()))


class HeadFinder:
    """Says in embeddings whose head they show."""

    def __init__(self, atlas: HeadAtlas) -> None:
        self._mean = atlas.mean()
        self._coarse = self._mean.coarser()
        self._counts = (self._mean.weights > _LEAST_SHARE).flatten()
        self._expected = self._mean.channels.flatten(1)[:, self._counts]
        count = CHANNELS * int(self._counts.sum())
        drawn = np.random.PCG64(_SEED).random_raw(count)  # its stream is the same for all versions of numpy
        self._dimensions = (drawn % np.uint64(HEAD_CODE_DIM)).astype(np.intp)
        self._signs = np.where(drawn >> np.uint64(40) & np.uint64(1), 1.0, -1.0)

    def placed(self, vectors: Rows, view: HeadView | None, heights_mm: Floats) -> Rows:
        """Say in embeddings (N, 256) which head they show, given their heights (N,) in the volume, if any."""
        pose = self.pose(view) if view is not None else None
        if view is None or pose is None:
            return with_heads(vectors, np.zeros(HEAD_CODE_DIM), np.zeros(len(vectors), np.bool_))
        near = np.abs(heights_mm - view.height_mm(pose)) <= REACH_MM
        return with_heads(vectors, self._code(view, pose), near)

    def pose(self, view: HeadView) -> Pose | None:
        """Lay a volume on the mean head; None where it is no head."""
        weighted = view.similarity.weighted
        pose = self._coarse.laid(weighted, Pose(np.eye(3), view.middle), _COARSE)
        pose = self._mean.laid(weighted, pose, _FINE)
        agreement, shown = self._mean.agreement(weighted, pose)
        return pose if agreement >= LEAST_AGREEMENT and shown >= LEAST_SHOWN else None

    def _code(self, view: HeadView, pose: Pose) -> Floats:
        """What sets a head apart from the mean one, (HEAD_CODE_DIM,): each value added to or taken from one sum."""
        channels, weights = self._mean.seen(view.similarity.weighted, pose, self._counts)
        unlike = ((channels - self._expected) * weights).flatten().double().numpy()
        return np.asarray(np.bincount(self._dimensions, unlike * self._signs, HEAD_CODE_DIM), dtype=np.float64)


def head_view(grid: PatientGrid, body: Mask) -> HeadView | None:
    """Look at what may be a head, from its top down; None where the body is nowhere as narrow as one.

    Parameters
    ----------
    body : (Z, X, Y) bool
    """
    step = grid.spacing_mm
    areas_cm2 = body.sum(axis=(1, 2)) * step[1] * step[2] / 100
    wide = np.flatnonzero(areas_cm2 > _TOP_CM2)
    if not wide.size:
        return None
    top = int(wide[-1])
    lowest = max(0, top + 1 - round(_BELOW_MM / step[0]))
    if np.median(areas_cm2[lowest : top + 1]) > _MOST_CM2:
        return None
    of_head = body[max(0, top + 1 - round(2 * _MIDDLE_BELOW_TOP_MM / step[0])) : top + 1]
    of_x, of_y = of_head.sum(axis=(0, 2)), of_head.sum(axis=(0, 1))
    x, y = (float(np.average(np.arange(len(counts)), weights=counts)) for counts in (of_x, of_y))
    above = min(len(body), top + 1 + round(_ABOVE_MM / step[0]))
    box: Box = (slice(lowest, above), _around(x, step[1], len(of_x)), _around(y, step[2], len(of_y)))
    similarity = self_similarity(grid, body, box)
    middle_mm = np.array([top + 1 - _MIDDLE_BELOW_TOP_MM / step[0], x + 0.5, y + 0.5]) * step
    return HeadView(similarity, (middle_mm - similarity.corner_mm) / CELL_MM - 0.5)


def _around(place: float, step_mm: float, count: int) -> slice:
    """Voxels aside of a head's middle."""
    reach = _ASIDE_MM / step_mm
    return slice(max(0, int(place - reach)), min(count, int(place + reach) + 1))


def fit_heads(views: Sequence[HeadView], patients: Sequence[str], series: Sequence[SeriesInstanceUID]) -> HeadAtlas:
    """Make an atlas of heads: each is laid on the first, then on the mean, and again.

    Parameters
    ----------
    patients, series : sequence of str
        Whose the N heads are.

    Raises
    ------
    ConfigError
        There is no head.
    """
    if not views:
        raise ConfigError(["no head to make an atlas of"])
    numbers = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    owners = np.array([owner_of(uid) for uid in series])
    poses = [Pose(np.eye(3), view.middle) for view in views]
    blank = MeanHead(torch.zeros(CHANNELS, *SHAPE), torch.ones(SHAPE))
    atlas = _laid(views[:1], poses[:1], blank, numbers[:1], owners[:1])
    for _ in range(_ROUNDS):
        mean = atlas.mean()
        coarse = mean.coarser()
        found = [
            mean.laid(view.similarity.weighted, coarse.laid(view.similarity.weighted, pose, _COARSE), _FINE)
            for view, pose in zip(views, poses, strict=True)
        ]
        atlas = _laid(views, found, mean, numbers, owners)
    return atlas


def _laid(
    views: Sequence[HeadView],
    poses: Sequence[Pose],
    mean: MeanHead,
    patients: NDArray[np.int64],
    owners: NDArray[np.str_],
) -> HeadAtlas:
    seen = [mean.seen(view.similarity.weighted, pose) for view, pose in zip(views, poses, strict=True)]
    channels = torch.stack([one.reshape(CHANNELS, *SHAPE) for one, _ in seen]).clamp(0, 1)
    weights = torch.stack([one.reshape(SHAPE) for _, one in seen]).clamp(0, 1)
    return HeadAtlas(_bytes(channels), _bytes(weights), patients, owners)


def _bytes(values: torch.Tensor) -> Bytes:
    return np.asarray((values * 255).round().to(torch.uint8).numpy())


def save(path: Path, atlas: HeadAtlas) -> None:
    """Write an atlas."""
    arrays: Mapping[str, NDArray[np.generic]] = {
        "channels": atlas.channels,
        "weights": atlas.weights,
        "patients": atlas.patients,
        "owners": atlas.owners,
    }
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as file:  # numpy would append a suffix to a path that has none
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for `allow_pickle`
    unfinished.replace(path)


def load(path: Path) -> HeadAtlas:
    """Read what `save` wrote.

    Raises
    ------
    ConfigError
        The file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            atlas = HeadAtlas(*(arrays[name] for name in ("channels", "weights", "patients", "owners")))
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ConfigError([f"heads {path}: cannot be read: {error}"]) from error
    count = len(atlas.owners)
    shapes = (atlas.channels.shape, atlas.weights.shape, atlas.patients.shape)
    if not count or shapes != ((count, CHANNELS, *SHAPE), (count, *SHAPE), (count,)):
        raise ConfigError([f"heads {path}: not made of {CHANNELS} channels on {SHAPE} cells: fit them anew"])
    if atlas.channels.dtype != np.uint8 or atlas.weights.dtype != np.uint8:
        raise ConfigError([f"heads {path}: holds values that are no heads"])
    return atlas
