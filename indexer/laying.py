"""Laying a head on a mean head: the rigid motion after which neighbours are alike in the same places."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from indexer.self_similarity import CHANNELS, channels_of

Floats = NDArray[np.float64]

SHAPE = (28, 32, 38)
"""Cells of 6 mm of a mean head, along z, x, y: 168 x 192 x 228 mm."""
_LEAST_WEIGHT = 0.3
_LEAST_BODY = 0.05
"""Share of heads whose body is in a cell that is looked at."""
_RIGIDITY = 0.02
"""Of the mean of the normal matrix' diagonal: steps stay small where a head says little about them."""
_TURN_CELLS = 12.0
"""A turn is counted as what it moves at this distance from the middle, cells."""
_LONGEST_STEP, _WIDEST_TURN = 1.5, 0.12
"""Of one iteration: cells, radians."""
_STILL = 0.02
_GENERATORS = np.array(
    [
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, -1], [0, 0, 0], [1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 0]],
    ],
    dtype=np.float64,
)
"""Of turns about z, x and y, in the order z, x, y of coordinates."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a mean head lies in a volume.

    Attributes
    ----------
    turn : (3, 3) float64
    middle : (3,) float64
        Of the mean head, as a cell's index along z, x, y.
    """

    turn: Floats
    middle: Floats


@dataclass(frozen=True, eq=False)
class MeanHead:
    """What heads look like on the mean.

    Attributes
    ----------
    channels : (6, z, x, y) float32
        See `indexer.self_similarity`.
    weights : (z, x, y) float32
        Share of heads whose body is there.
    cell : int
        Length of its cells, in those of volumes.
    """

    channels: Tensor
    weights: Tensor
    cell: int = 1

    def coarser(self) -> "MeanHead":
        """The same on cells twice as long."""
        weights = functional.avg_pool3d(self.weights[None], 2)[0]
        channels = functional.avg_pool3d(self.channels * self.weights, 2) / weights.clamp(min=1e-3)
        return MeanHead(channels, weights, 2 * self.cell)

    def laid(self, weighted: Tensor, pose: Pose, iterations: int) -> Pose:
        """Better a pose by the inverse compositional algorithm of Lucas and Kanade [1]_.

        Parameters
        ----------
        weighted : (7, z, x, y) float32
            Of a volume, see `SelfSimilarity`.

        References
        ----------
        .. [1] Baker and Matthews, Lucas-Kanade 20 years on: a unifying framework, IJCV 2004.
        """
        turn, middle = pose.turn, pose.middle
        scale = np.array([1, 1, 1, *[1 / _TURN_CELLS] * 3])
        for _ in range(iterations):
            channels, weights = _at(weighted, self._sparse, Pose(turn, middle))
            weights *= self._sparse_weights
            unlike = (channels - self._sparse_channels) * weights
            normal = (self._powers @ weights).reshape(6, 6).double().numpy()
            right = (self._descent @ unlike.flatten()).double().numpy()
            normal += _RIGIDITY * max(np.trace(normal) / 6, 1e-9) * np.eye(6)
            step = np.linalg.solve(normal, right) * scale
            move = np.clip(step[:3], -_LONGEST_STEP, _LONGEST_STEP)
            turn = turn @ _turned(np.clip(step[3:], -_WIDEST_TURN, _WIDEST_TURN)).T
            middle = middle - turn @ move
            if np.abs(step / scale).max() < _STILL:
                break
        return Pose(turn, middle)

    def seen(self, weighted: Tensor, pose: Pose, cells: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Channels (6, n) and weights (n,) of a volume at this head's cells, or some of them by a mask (N,)."""
        return _at(weighted, self._cells if cells is None else self._cells[cells], pose)

    def agreement(self, weighted: Tensor, pose: Pose) -> tuple[float, float]:
        """Correlation of a volume's channels with this head's, and the share of this head that the volume shows."""
        channels, weights = _at(weighted, self._body, pose)
        own = self._body_weights
        middle = ((self._body_channels * own).sum(1) / own.sum())[:, None]
        weights = weights * own
        theirs, mine = channels - middle, self._body_channels - middle
        powers = (theirs.square() * weights).sum() * (mine.square() * weights).sum()
        correlation = (theirs * mine * weights).sum() / powers.sqrt().clamp(min=1e-6)
        return float(correlation), float(weights.sum() / own.sum())

    @cached_property
    def _cells(self) -> Tensor:
        """Places of cells (N, 3) from the middle."""
        axes = [(np.arange(n) - (n - 1) / 2) * self.cell for n in self.weights.shape]
        return torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32))

    @cached_property
    def _shows(self) -> Tensor:
        """Which cells (N,) of some head are body."""
        return self.weights.flatten() > _LEAST_BODY

    @cached_property
    def _body(self) -> Tensor:
        return self._cells[self._shows]

    @cached_property
    def _body_weights(self) -> Tensor:
        return self.weights.flatten()[self._shows]

    @cached_property
    def _body_channels(self) -> Tensor:
        return self.channels.flatten(1)[:, self._shows]

    @cached_property
    def _looked_at(self) -> Tensor:
        """Which cells (N,) a volume is laid by: of fine ones every second, as on a board of chess."""
        if self.cell > 1:
            return self._shows
        places = torch.from_numpy(np.indices(SHAPE).sum(axis=0).ravel())
        return self._shows & (places % 2 == 0)

    @cached_property
    def _sparse(self) -> Tensor:
        return self._cells[self._looked_at]

    @cached_property
    def _sparse_weights(self) -> Tensor:
        return self.weights.flatten()[self._looked_at]

    @cached_property
    def _sparse_channels(self) -> Tensor:
        return self.channels.flatten(1)[:, self._looked_at]

    @cached_property
    def _descent(self) -> Tensor:
        """How channels of the cells change (6, 6 n) along z, x, y and with turns about them."""
        slopes = torch.stack(torch.gradient(self.channels, dim=(1, 2, 3))).flatten(2)[:, :, self._looked_at]
        slopes = slopes / self.cell
        moved = torch.from_numpy(_GENERATORS.astype(np.float32)) @ self._sparse.T / _TURN_CELLS
        return torch.cat([slopes, torch.einsum("gan,acn->gcn", moved, slopes)]).flatten(1)

    @cached_property
    def _powers(self) -> Tensor:
        """What each cell adds to the normal matrix (36, n), channels together."""
        each = self._descent.reshape(6, CHANNELS, -1)
        return torch.einsum("gcn,hcn->ghn", each, each).flatten(0, 1)


def _at(weighted: Tensor, cells: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
    """Channels (6, n) and weights (n,) of a volume where cells (n, 3) of a mean head lie."""
    points = cells @ torch.from_numpy(pose.turn.T.astype(np.float32))
    points += torch.from_numpy(pose.middle.astype(np.float32))
    ends = torch.tensor([max(n - 1, 1) for n in weighted.shape[1:]], dtype=torch.float32)
    order = (2 * points / ends - 1).flip(1)[None, None, None]
    found = functional.grid_sample(weighted[None], order, align_corners=True)[0, :, 0, 0]
    channels, weights = channels_of(found)
    return channels, weights * (weights > _LEAST_WEIGHT)


def _turned(angles: Floats) -> Floats:
    """Turn by a vector of angles (3,), radians: Rodrigues' formula."""
    angle = float(np.linalg.norm(angles))
    if angle < 1e-9:
        return np.eye(3)
    axis = np.tensordot(angles / angle, _GENERATORS, 1)
    return np.asarray(np.eye(3) + math.sin(angle) * axis + (1 - math.cos(angle)) * axis @ axis)
