"""Scores of findings at every place of a network's first layer, from its features and those of the second there."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.scored import ScoredKind

NOWHERE = -30.0
"""Score of places beyond the image."""
Onto = Callable[[Tensor, Tensor], Tensor]
"""Brings features (B, C, ...) of the second layer to the places of the first, whose features say which they are."""


class Scorer(nn.Module):
    """A perceptron for each of several compartments; K findings in all.

    A finding's score is a logit. Features of the second layer are weighed on their own, coarser lattice, before
    they are brought to that of the first: interpolation and weights commute.
    """

    def __init__(self, kinds: Sequence[ScoredKind]) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(_Perceptron(one) for one in kinds)
        self.findings = sum(len(one.findings) for one in kinds)

    def forward(self, first: Tensor, second: Tensor, onto: Onto) -> Tensor:
        """Score features (B, C1, ...) and (B, C2, ...) of both layers: (B, K, ...) at the places of the first."""
        return torch.cat([one(first, second, onto) for one in self.kinds], dim=1)


class _Perceptron(nn.Module):
    def __init__(self, kind: ScoredKind) -> None:
        super().__init__()
        self.first, self.second = _linear(kind.first, kind.offset), _linear(kind.second, None)
        self.hidden, self.last = _linear(kind.hidden, kind.hidden_offset), _linear(kind.last, kind.last_offset)

    def forward(self, first: Tensor, second: Tensor, onto: Onto) -> Tensor:
        seen = torch.relu(_at(self.first, first) + onto(_at(self.second, second), first))
        return _at(self.last, torch.relu(_at(self.hidden, seen)))


def _at(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply a linear layer at every place of features (B, C, ...)."""
    found: Tensor = layer(features.movedim(1, -1))
    return found.movedim(-1, 1)


def _linear(matrix: NDArray[np.float32], offset: NDArray[np.float32] | None) -> nn.Linear:
    inputs, outputs = matrix.shape
    layer = nn.Linear(inputs, outputs, bias=offset is not None)
    layer.weight = nn.Parameter(torch.from_numpy(matrix.T.copy()), requires_grad=False)
    if offset is not None:
        layer.bias = nn.Parameter(torch.from_numpy(offset.copy()), requires_grad=False)
    return layer


def between(features: Tensor, first: Tensor) -> Tensor:
    """Interpolate features (B, C, a, b, c) of a layer onto one of twice its resolution, both centred on voxel 0."""
    ends = [end for _ in range(3) for end in (0, 1)]
    finer = functional.interpolate(functional.pad(features, ends, mode="replicate"), scale_factor=2, mode="nearest")
    for axis in (2, 3, 4):
        length = first.shape[axis]
        finer = (finer.narrow(axis, 0, length) + finer.narrow(axis, 1, length)) / 2
    return finer


def repeated(features: Tensor, first: Tensor) -> Tensor:
    """Repeat features (N, C, y, x) of a layer whose places tile those of one of twice its resolution."""
    finer = functional.interpolate(features, scale_factor=2, mode="nearest")
    return finer[:, :, : first.shape[2], : first.shape[3]]


def folded(scores: Tensor, coarse: Tensor, ratio: tuple[int, int, int]) -> Tensor:
    """Fold scores (B, K, a, b, c) into channels (B, K r r r, a', b', c') of a lattice `ratio` times as coarse."""
    ends = [n * step - have for n, step, have in zip(coarse.shape[2:], ratio, scores.shape[2:], strict=True)]
    filled = functional.pad(scores, [end for one in reversed(ends) for end in (0, one)], value=NOWHERE)
    (a, b, c), (batch, count) = ratio, scores.shape[:2]
    (x, y, z) = coarse.shape[2:]
    apart = filled.reshape(batch, count, x, a, y, b, z, c).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return apart.reshape(batch, count * a * b * c, x, y, z)


def unfolded(channels: Tensor, ratio: tuple[int, int, int]) -> Tensor:
    """What `folded` folded, of one image: (K r r r, a', b', c') to (K, a, b, c) with the padding."""
    (a, b, c), (x, y, z) = ratio, channels.shape[1:]
    apart = channels.reshape(-1, a, b, c, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
    return apart.reshape(-1, x * a, y * b, z * c)
