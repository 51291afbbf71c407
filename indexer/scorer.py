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
"""Brings features (B, ..., C) of the second layer to the places of the first, whose features say which they are."""


class Scorer(nn.Module):
    """A perceptron for each of several compartments; K findings in all.

    A finding's score is a logit. Features of the second layer are weighed on their own, coarser lattice, before
    they are brought to that of the first: interpolation and weights commute. All perceptrons' first units are
    weighed together.
    """

    def __init__(self, kinds: Sequence[ScoredKind]) -> None:
        super().__init__()
        self.first = _linear(_side_by_side(kinds, "first"), np.concatenate([one.offset for one in kinds]))
        self.second = _linear(_side_by_side(kinds, "second"), None)
        self.units = [len(one.offset) for one in kinds]
        self.hidden = nn.ModuleList(_linear(one.hidden, one.hidden_offset) for one in kinds)
        self.last = nn.ModuleList(_linear(one.last, one.last_offset) for one in kinds)
        self.findings = sum(len(one.findings) for one in kinds)

    def forward(self, first: Tensor, second: Tensor, onto: Onto) -> Tensor:
        """Score features (B, C1, ...) and (B, C2, ...) of both layers: (B, K, ...) at the places of the first."""
        here: Tensor = self.first(first.movedim(1, -1))
        seen = torch.relu_(onto(self.second(second.movedim(1, -1)), here).add_(here))
        apart = zip(torch.split(seen, self.units, dim=-1), self.hidden, self.last, strict=True)
        scores = [last(torch.relu_(hidden(own.contiguous()))) for own, hidden, last in apart]
        return torch.cat(scores, dim=-1).movedim(-1, 1)


def joined(first: Tensor, second: Tensor, onto: Onto) -> Tensor:
    """Features of both layers (B, C1 + C2, ...) at the places of the first."""
    here = first.movedim(1, -1)
    return torch.cat([here, onto(second.movedim(1, -1), here)], dim=-1).movedim(-1, 1)


def _side_by_side(kinds: Sequence[ScoredKind], name: str) -> NDArray[np.float32]:
    return np.concatenate([getattr(one, name) for one in kinds], axis=1)


def _linear(matrix: NDArray[np.float32], offset: NDArray[np.float32] | None) -> nn.Linear:
    inputs, outputs = matrix.shape
    layer = nn.Linear(inputs, outputs, bias=offset is not None)
    layer.weight = nn.Parameter(torch.from_numpy(matrix.T.copy()), requires_grad=False)
    if offset is not None:
        layer.bias = nn.Parameter(torch.from_numpy(offset.copy()), requires_grad=False)
    return layer


def between(features: Tensor, first: Tensor) -> Tensor:
    """Interpolate features (B, a, b, c, C) of a layer onto one of twice its resolution, both centred on voxel 0."""
    for axis in (1, 2, 3):
        length = features.shape[axis]
        following = torch.cat(
            [features.narrow(axis, 1, length - 1), features.narrow(axis, length - 1, 1)], dim=axis
        )
        pairs = torch.stack([features, following.add_(features).mul_(0.5)], dim=axis + 1)
        features = pairs.flatten(axis, axis + 1).narrow(axis, 0, first.shape[axis])
    return features


def repeated(features: Tensor, first: Tensor) -> Tensor:
    """Repeat features (N, y, x, C) of a layer whose places tile those of one of twice its resolution."""
    for axis in (1, 2):
        twice = torch.stack([features, features], dim=axis + 1)
        features = twice.flatten(axis, axis + 1).narrow(axis, 0, first.shape[axis])
    return features


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
