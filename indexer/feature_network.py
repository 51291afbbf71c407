"""What every network that embeds is to the encoder: features on a lattice in the patient's axes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer.chunks import Lattice
from indexer.network_specs import Sizes3
from indexer.scorer import Scorer


class Features(NamedTuple):
    """What a network makes of an image.

    Attributes
    ----------
    layer : (B, C, z, x, y) Tensor
        Of the layer that is pooled.
    finer : (B, F, z, x, y) Tensor
        A finer layer's features averaged over, then their greatest around, each of the same places; F may be 0.
    scores : (B, K, z', x', y') Tensor
        Logits of findings at the places of the first layer; K may be 0.
    """

    layer: Tensor
    finer: Tensor
    scores: Tensor


class FeatureNetwork(nn.Module):
    """Runs a network up to one layer.

    Input (B, 1, Z, X, Y); one feature for every `stride` voxels or part of them.

    Attributes
    ----------
    lattice : Lattice
        Where the features lie.
    channels : int
        C, of the layer itself.
    finer_channels : int
        F, of the finer layer.
    memory_format : torch.memory_format
        In which its weights are quickest.
    fine_lattice : Lattice
        Where the features of its first layer lie.
    fine_channels : tuple of int
        Features of its first and second layer; (0, 0) for a network that cannot show them.
    scorer : Scorer or None
        What looks for findings in these.
    """

    lattice: Lattice
    channels: int
    finer_channels: int = 0
    memory_format: torch.memory_format = torch.channels_last_3d
    fine_lattice: Lattice
    fine_channels: tuple[int, int] = (0, 0)
    scorer: Scorer | None

    def __init__(self, axes: str) -> None:
        super().__init__()
        self.axes, self.scorer = axes, None
        self._inwards = (0, 1, *(2 + "zxy".index(axis) for axis in axes))
        self._outwards = (0, 1, *(2 + axes.index(axis) for axis in "zxy"))

    def forward(self, image: Tensor, where: Tensor | None = None) -> Features:
        """Features of an image; see the class.

        Parameters
        ----------
        where : (compartments, z', x', y') bool Tensor, optional
            At which places of the first layer each compartment's findings are scored; a network may score all.
        """
        if where is not None:
            where = where.permute(0, *(one - 1 for one in self._inwards[2:]))
        layer, finer, scores = self._features(self._turned(image), where)
        layer, finer = (self._cut(one, image, self.lattice) for one in (layer, finer))
        return Features(layer, finer, self._cut(scores, image, self.fine_lattice) if scores.shape[1] else scores)

    def fine(self, image: Tensor) -> Tensor:
        """Features of the first two layers at the places of the first, as a scorer sees: (B, C1 + C2, z, x, y)."""
        return self._cut(self._fine(self._turned(image)).float(), image, self.fine_lattice)

    def _turned(self, image: Tensor) -> Tensor:
        padded = functional.pad(image, self._least_padding(image))
        return padded.permute(self._inwards).contiguous(memory_format=torch.channels_last_3d)

    def _cut(self, features: Tensor, image: Tensor, lattice: Lattice) -> Tensor:
        count = [-(-n // step) for n, step in zip(image.shape[2:], lattice.stride, strict=True)]
        return features.permute(self._outwards)[:, :, : count[0], : count[1], : count[2]]

    @property
    def score_ratio(self) -> Sizes3:
        """Places of the first layer for each of the lattice, along z, x, y."""
        steps = zip(self.lattice.stride, self.fine_lattice.stride, strict=True)
        z, x, y = (coarse // fine for coarse, fine in steps)
        return z, x, y

    def _least_padding(self, image: Tensor) -> list[int]:
        """Zeros after the last voxel that make two features of any image, from the last axis to the first.

        In bfloat16, oneDNN's convolutions read memory that is not theirs where an axis has the length 1.
        """
        lengths = zip(image.shape[2:], self.lattice.stride, strict=True)
        return [n for length, step in reversed(list(lengths)) for n in (0, max(0, step + 1 - length))]

    def _features(self, image: Tensor, where: Tensor | None) -> Features:
        raise NotImplementedError

    def _fine(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def turned(self, sizes: Sizes3) -> Sizes3:
        """Sizes along the patient's axes, in the order of the network's own."""
        z, x, y = (sizes[axis - 2] for axis in self._inwards[2:])
        return z, x, y

    def _in_patient_axes(self, sizes: Sizes3) -> Sizes3:
        z, x, y = (sizes[axis - 2] for axis in self._outwards[2:])
        return z, x, y
