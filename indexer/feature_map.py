"""What a network makes of a volume: features on a lattice, and how they are pooled over the body."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.chunks import Lattice
from indexer.resample import PatientGrid
from indexer.thinned import Thinned

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """What the network makes of a volume.

    Attributes
    ----------
    features : (C, z, x, y) float32
        Over the body's bounding box in-plane, over the whole extent in z.
    finer : (F, z, x, y) float32
        Of a finer layer, brought to the same places; F may be 0.
    weights : (z, x, y) float32
        Share of body in each feature's surroundings.
    grid, body : PatientGrid and (Z, X, Y) bool
        The volume as the network saw it, and where in it the patient is.
    lattice : Lattice
        Where the features lie in the grid.
    scores : (K, z', x', y') float32
        Logits of findings at the places of the network's first layer; K may be 0.
    """

    features: Tensor
    finer: Tensor
    weights: NDArray[np.float32]
    grid: PatientGrid
    body: NDArray[np.bool_]
    lattice: Lattice
    scores: Tensor
    seconds: dict[str, float]

    @property
    def cell_mm(self) -> float:
        """From one feature to the next along z."""
        return float(self.lattice.stride[0] * self.grid.spacing_mm[0])

    @cached_property
    def thinned(self) -> Thinned:
        """The volume, averaged to coarser pixels."""
        return Thinned(self.grid, self.body)

    def pooled(self, cells: Sequence[slice]) -> NDArray[np.float32]:
        """Mean and deviation over the body within each of N windows along z: (N, 2 C)."""
        weight, total, squares = self._sums
        rows = []
        for one in cells:
            if body := float(weight[one].sum()):
                mean = total[one].sum(axis=0) / body
                variance = np.maximum(squares[one].sum(axis=0) / body - mean**2, 0.0)
                rows.append(np.concatenate([mean, np.sqrt(variance)]).astype(np.float32))
            else:
                rows.append(pool(self.features[:, one], self.weights[one]))
        return np.stack(rows)

    @cached_property
    def _sums(self) -> tuple[Floats, Floats, Floats]:
        """Of each plane: its weights (z,), its features and their squares so weighted (z, C); windows overlap."""
        planes = self.features.movedim(1, 0).flatten(2)
        weights = self.weights.reshape(len(planes), -1).astype(np.float64)
        sums = [
            (plane @ weight, plane**2 @ weight)
            for plane, weight in zip(map(_float64, planes), weights, strict=True)
        ]
        total, squares = (np.stack(one) for one in zip(*sums, strict=True))
        return weights.sum(axis=1), total, squares

    def cells(self, where: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Both layers' features in the cells that are marked (z, x, y), in their order: (n, C + F)."""
        at = torch.from_numpy(where)
        rows = [layer.movedim(0, -1)[at] for layer in (self.features, self.finer)]
        return np.asarray(torch.cat(rows, dim=1).numpy())


def pool(features: Tensor, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted mean and standard deviation (2 C,) of features (C, z, x, y); without any weight, all count alike."""
    flat = _float64(features.reshape(features.shape[0], -1))
    weight = weights.ravel().astype(np.float64)
    weight = weight / weight.sum() if weight.sum() > 0 else np.full(weight.size, 1 / weight.size)
    mean = flat @ weight
    variance = np.maximum((flat**2) @ weight - mean**2, 0.0)
    return np.concatenate([mean, np.sqrt(variance)]).astype(np.float32)


def _float64(features: Tensor) -> Floats:
    return np.asarray(features.numpy(), dtype=np.float64)
