"""A two-dimensional network run slice by slice: features of axial slices, in the same frame as those of volumes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from config.errors import ConfigError
from indexer.bundle import LAYERS, EfficientNetSpec
from indexer.chunks import Lattice
from indexer.feature_network import FeatureNetwork
from indexer.monai_networks import EfficientNet

_COARSEST = 32
"""Sides of a slice are made a multiple of this: MONAI pads as for the image size that it was built with."""
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
        self._mean, self._deviation, self._channels_in = spec.mean, spec.deviation, spec.input_channels

    def _features(self, image: Tensor) -> Tensor:
        x, y = image.shape[3:]
        filled = functional.pad(image[:, 0], (0, -y % _COARSEST, 0, -x % _COARSEST))
        slices = ((filled - self._mean) / self._deviation).flatten(0, 1).transpose(1, 2).flip(1)
        parts = [self._of_slices(part) for part in torch.split(slices, _SLICES)]
        features = torch.cat(parts).flip(2).transpose(2, 3)  # (B Z, C, x, y)
        return features.reshape(image.shape[0], -1, *features.shape[1:]).transpose(1, 2)

    def _of_slices(self, slices: Tensor) -> Tensor:
        """Features (N, C, y, x) of slices (N, Y, X)."""
        image = slices[:, None].expand(-1, self._channels_in, -1, -1).contiguous(memory_format=self.memory_format)
        features: Tensor = self.blocks(self.stem(image))
        return features


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
