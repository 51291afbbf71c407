"""A two-dimensional network run slice by slice: features of axial slices, in the same frame as those of volumes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from config.errors import ConfigError
from indexer.chunks import Lattice
from indexer.feature_network import FeatureNetwork, Features
from indexer.monai_networks import EfficientNet
from indexer.network_specs import LAYERS, EfficientNetSpec
from indexer.scorer import extended, joined, repeated

_COARSEST = 32
"""Sides of a slice are made a multiple of this: MONAI pads as for the image size that it was built with."""
_FIRST = 4
"""Pixels each way that a feature of the first layer stands for."""
_SLICES = 16
"""Slices of one pass: bounds the memory."""


def build_efficientnet(spec: EfficientNetSpec) -> EfficientNet:
    """Build MONAI's EfficientNet without drop-out; untrained."""
    try:
        network = EfficientNet(list(spec.blocks), spatial_dims=2, in_channels=spec.input_channels)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"network.blocks: not as MONAI's EfficientNet writes them: {error}"]) from error
    if spec.activation == "relu6":
        for module in network.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.ReLU6()
    return network


class SliceFeatures(FeatureNetwork):
    """Layers of an EfficientNet, on each axial slice by itself.

    Feature i stands for voxels ``stride * i`` and on; what it sees is wider by far.
    """

    memory_format = torch.channels_last

    def __init__(self, network: nn.Module, spec: EfficientNetSpec, layer: str) -> None:
        super().__init__("zxy")
        if not isinstance(network, EfficientNet):
            raise TypeError(f"expected an EfficientNet, got {type(network).__name__}")
        side = 2 ** (LAYERS.index(layer) + 2)
        self.stem = nn.Sequential(network._conv_stem_padding, network._conv_stem, network._bn0, network._swish)
        self.blocks = _until(network, spec, side)
        self.channels = int(network._blocks_args[len(self.blocks) - 1].output_filters)
        self.lattice = Lattice((1, side, side), (0.0, (side - 1) / 2, (side - 1) / 2))
        self.fine_lattice = Lattice((1, _FIRST, _FIRST), (0.0, (_FIRST - 1) / 2, (_FIRST - 1) / 2))
        self._ends = tuple(len(_until(network, spec, of)) for of in (_FIRST, 2 * _FIRST))
        if self._ends[1] < len(self.blocks):
            first, second = (int(network._blocks_args[end - 1].output_filters) for end in self._ends)
            self.fine_channels = first, second
        self._mean, self._deviation, self._channels_in = spec.mean, spec.deviation, spec.input_channels

    def _features(self, image: Tensor, where: Tensor | None) -> Features:
        whole, *scores = self._by_slices(image, self._of_slices, where)
        nothing = whole[:, :0]
        return Features(whole, nothing, scores[0] if scores else nothing)

    def _fine(self, image: Tensor) -> Tensor:
        (both,) = self._by_slices(image, self._fine_of_slices, None)
        return both

    def _by_slices(
        self, image: Tensor, see: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]], where: Tensor | None
    ) -> list[Tensor]:
        """Apply a function to all axial slices: each of its results (B, C, Z, x, y).

        It is given pictures (N, C, Y, X) and, of an image's compartments, the places (N, compartments, y, x).
        """
        x, y = image.shape[3:]
        filled = functional.pad(image[:, 0], (0, -y % _COARSEST, 0, -x % _COARSEST))
        slices = ((filled - self._mean) / self._deviation).flatten(0, 1).transpose(1, 2).flip(1)
        pictures = slices[:, None].expand(-1, self._channels_in, -1, -1)
        batches = [part.contiguous(memory_format=self.memory_format) for part in torch.split(pictures, _SLICES)]
        asked = [None] * len(batches) if where is None else torch.split(_turned(where, filled.shape[1:]), _SLICES)
        parts = [see(batch, at) for batch, at in zip(batches, asked, strict=True)]
        joined = [torch.cat(part).flip(2).transpose(2, 3) for part in zip(*parts, strict=True)]  # (B Z, C, x, y)
        return [one.reshape(image.shape[0], -1, *one.shape[1:]).transpose(1, 2) for one in joined]

    def _of_slices(self, pictures: Tensor, where: Tensor | None) -> tuple[Tensor, ...]:
        """Features (N, C, y, x), and scores if there is a scorer."""
        first, second = self._first_two(pictures)
        features: Tensor = self.blocks[self._ends[1] :](second)
        return (features, self.scorer(first, second, repeated, where)) if self.scorer else (features,)

    def _fine_of_slices(self, pictures: Tensor, _: Tensor | None) -> tuple[Tensor]:
        first, second = self._first_two(pictures)
        return (joined(first, second, repeated),)

    def _first_two(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the first two layers, at most up to the last block."""
        first = self.blocks[: self._ends[0]](self.stem(pictures))
        return first, self.blocks[self._ends[0] : self._ends[1]](first)


def _turned(where: Tensor, shape: Sequence[int]) -> Tensor:
    """Turn places (compartments, Z, x, y) of an image (Z, X, Y) as pictures are: (Z, compartments, y, x)."""
    slices, *sides = shape
    return extended(where, (slices, *(side // _FIRST for side in sides))).permute(1, 0, 3, 2).flip(2)


def _until(network: EfficientNet, spec: EfficientNetSpec, side: int) -> nn.Sequential:
    """The blocks that end with one feature for `side` pixels."""
    reached, kept = 2, []
    for stage, text in zip(network._blocks, spec.blocks, strict=True):
        reached *= 2 if "_s2" in text else 1
        if reached > side:
            break
        kept.append(stage)
    if not kept or min(reached, side) != side:
        raise ConfigError([f"network.blocks: no block ends with one feature for {side} pixels"])
    return nn.Sequential(*kept)
