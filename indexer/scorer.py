"""Scores of findings at every place of a network's first layer, from its features and those of the second there."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.scored import ScoredKind

NOWHERE = -30.0
"""Score of places that no one asks for."""
Onto = Callable[[Tensor, Tensor], Tensor]
"""Brings features (B, ..., C) of the second layer to the places of the first, whose features say which they are."""


class Scorer(nn.Module):
    """A perceptron for each of several compartments; K findings in all.

    A finding's score is a logit.
    """

    def __init__(self, kinds: Sequence[ScoredKind]) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(_Perceptron(one) for one in kinds)
        self.findings = sum(len(one.findings) for one in kinds)

    def forward(self, first: Tensor, second: Tensor, onto: Onto, where: Tensor | None = None) -> Tensor:
        """Score features of both layers: (B, K, ...) at the places of the first.

        Parameters
        ----------
        first, second : (B, C1, ...) and (B, C2, ...) Tensor
        where : (B, compartments, ...) bool Tensor, optional
            At which places of the first layer each compartment's findings are scored; all others are `NOWHERE`.
        """
        here, beside = first.movedim(1, -1), second.movedim(1, -1)
        scores = [
            one(here, beside, onto, None if where is None else where[:, number])
            for number, one in enumerate(self.kinds)
        ]
        return torch.cat(scores, dim=-1).movedim(-1, 1)


class _Perceptron(nn.Module):
    """Scores findings of one compartment from features (B, ..., C1) and (B, ..., C2).

    Features of the second layer are weighed on their own, coarser lattice, before they are brought to that of the
    first: interpolation and weights commute.
    """

    def __init__(self, kind: ScoredKind) -> None:
        super().__init__()
        self.first, self.second = _linear(kind.first, kind.offset), _linear(kind.second, None)
        self.hidden, self.last = _linear(kind.hidden, kind.hidden_offset), _linear(kind.last, kind.last_offset)

    def forward(self, first: Tensor, second: Tensor, onto: Onto, where: Tensor | None) -> Tensor:
        if where is None:
            return self._scores(first, onto(self.second(second), first))
        scores = first.new_full((*first.shape[:-1], self.last.out_features), NOWHERE)
        at = where.flatten().nonzero().squeeze(1)
        if len(at):
            rows = [one.flatten(0, -2).index_select(0, at) for one in (first, onto(self.second(second), first))]
            scores.flatten(0, -2)[at] = self._scores(*rows).to(scores.dtype)
        return scores

    def _scores(self, first: Tensor, second: Tensor) -> Tensor:
        seen = torch.relu_(self.first(first).add_(second))
        scores: Tensor = self.last(torch.relu_(self.hidden(seen)))
        return scores


def joined(first: Tensor, second: Tensor, onto: Onto) -> Tensor:
    """Features of both layers (B, C1 + C2, ...) at the places of the first."""
    here = first.movedim(1, -1)
    return torch.cat([here, onto(second.movedim(1, -1), here)], dim=-1).movedim(-1, 1)


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


def extended(places: Tensor, shape: Sequence[int]) -> Tensor:
    """Extend the last axes of something, at their ends and with zeros, to a shape."""
    ends = [wanted - have for wanted, have in zip(shape, places.shape[-len(shape) :], strict=True)]
    return functional.pad(places, [n for end in reversed(ends) for n in (0, end)])
