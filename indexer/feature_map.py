"""What a network makes of a volume: features on a lattice, and how they are pooled over the body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.body import Mask
from indexer.chunks import Lattice
from indexer.compartments import Kind
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
    finer : (F, z, x, y) Tensor
        Of a finer layer, brought to the same places, as the network computes them; F may be 0.
    weights : (z, x, y) float32
        Share of body in each feature's surroundings.
    thinned : Thinned
        The volume as the network saw it, where in it the patient is, and both averaged to coarser pixels.
    lattice : Lattice
        Where the features lie in the grid.
    masks : dict of Kind to (Z, X, Y) bool
        Compartments that the volume shows, within the body's box in-plane.
    asked : (kinds, z', x', y') bool
        At which places of the network's first layer each scored compartment's findings count.
    scores : (K, z', x', y') float32
        Logits of findings, at least there; K may be 0.
    """

    features: Tensor
    finer: Tensor
    weights: NDArray[np.float32]
    thinned: Thinned
    lattice: Lattice
    masks: Mapping[Kind, Mask]
    asked: Mask
    scores: Tensor
    seconds: dict[str, float]

    @property
    def grid(self) -> PatientGrid:
        """The volume as the network saw it."""
        return self.thinned.grid

    @property
    def body(self) -> Mask:
        """Where in it the patient is, (Z, X, Y)."""
        return self.thinned.body

    @property
    def cell_mm(self) -> float:
        """From one feature to the next along z."""
        return float(self.lattice.stride[0] * self.grid.spacing_mm[0])

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
        rows = [layer.movedim(0, -1)[at].float() for layer in (self.features, self.finer)]
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
