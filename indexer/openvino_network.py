"""A network that OpenVINO runs in the place of PyTorch: quicker on processors, above all those without bfloat16."""

import os
import warnings
from itertools import compress

import torch
from torch import Tensor

from config.errors import ConfigError
from indexer.feature_network import FeatureNetwork, Features
from indexer.hiding import hidden

_EXAMPLE_STEPS = 2
"""Features along each axis of the image that the network is traced with."""


class OpenVinoNetwork(FeatureNetwork):
    """The same features as a network's, up to rounding.

    Parameters
    ----------
    network : FeatureNetwork
        In float32 on the CPU.
    dtype : torch.dtype
        What to compute in, bfloat16 or float32.
    threads : int
        0 is one for each core.

    Raises
    ------
    ConfigError
        OpenVINO is not installed.
    """

    memory_format = torch.contiguous_format

    def __init__(self, network: FeatureNetwork, dtype: torch.dtype, threads: int = 0) -> None:
        super().__init__(network.axes)
        self.lattice, self.channels = network.lattice, network.channels
        self.finer_channels, self.fine_lattice = network.finer_channels, network.fine_lattice
        try:
            with hidden("openvino_telemetry"):  # which tells its makers of every import and conversion
                import openvino
                from openvino.tools.ovc import convert_model
        except ImportError as error:
            why = 'indexing.engine = "openvino": OpenVINO cannot be loaded (pip install "pacsimile[openvino]")'
            raise ConfigError([f"{why}: {error}"]) from error
        example = torch.zeros(1, 1, *(_EXAMPLE_STEPS * step for step in network.turned(self.lattice.stride)))
        shape = openvino.PartialShape([1, 1, -1, -1, -1])
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # OpenVINO traces as PyTorch would no longer have it
            model = convert_model(_Untouched(network), example_input=example, input=[shape])
        settings = {
            "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
            "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)

    def _features(self, image: Tensor, where: Tensor | None) -> Features:
        found = self._compiled(image.float().numpy())
        layer, *others = (torch.from_numpy(found[number]) for number in range(len(found)))
        finer = others.pop(0) if self.finer_channels else layer[:, :0]
        return Features(layer, finer, others[0] if others else layer[:, :0])


class _Untouched(torch.nn.Module):
    """A network's layers without what `FeatureNetwork.forward` does before and after: that depends on the image."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network
        self.there = (True, bool(network.finer_channels), network.scorer is not None)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """What there is of layer, finer layer and scores; scores at all places, whoever asks."""
        return tuple(compress(self.network._features(image, None), self.there))
