"""The MONAI network of a bundle: built, loaded, folded for inference, run up to the layer that is pooled."""

import importlib.util
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from config.errors import ConfigError
from indexer.bundle import Bundle
from indexer.chunks import Lattice
from indexer.compartments import Kind
from indexer.feature_network import FeatureNetwork, Features
from indexer.monai_networks import ResNet, ResNetBlock, ResNetBottleneck, SwinTransformer
from indexer.network_specs import LAYERS, EfficientNetSpec, ResNetSpec, SwinSpec
from indexer.scored import ScoredKind
from indexer.scorer import Scorer, between, extended, joined
from indexer.slicewise import SliceFeatures, build_efficientnet
from indexer.weights import load_whole

__all__ = ["FeatureNetwork", "ResNetFeatures", "SwinFeatures", "load_network"]

_SCORED_LAYERS = 2
"""Findings are scored from the first two layers, before the one that is pooled."""


class ResNetFeatures(FeatureNetwork):
    """Layers 1 to 4 of MONAI's ResNet, with the stem in front.

    Feature i is centred on voxel ``stride * i``: every strided step pads half its odd kernel on both sides.
    """

    def __init__(self, network: ResNet, spec: ResNetSpec, layer: str, finer: str = "") -> None:
        super().__init__(spec.axes)
        wanted = LAYERS[: LAYERS.index(layer) + 1]
        self.stem = nn.Sequential(network.conv1, network.bn1, network.act, network.maxpool)
        self.layers = nn.Sequential(*(getattr(network, name) for name in wanted))
        self.lattice = Lattice(self._in_patient_axes(spec.stride(layer)), (0.0, 0.0, 0.0))
        expansion = 4 if spec.block == "bottleneck" else 1
        self.channels = spec.planes[len(wanted) - 1] * expansion
        self.fine_lattice = Lattice(self._in_patient_axes(spec.stride("layer1")), (0.0, 0.0, 0.0))
        if len(wanted) > _SCORED_LAYERS:
            self.fine_channels = spec.planes[0] * expansion, spec.planes[1] * expansion
        self._finer = 0
        if finer:
            self._finer = wanted.index(finer) + 1
            channels = spec.planes[self._finer - 1] * expansion
            self.finer_channels = 2 * channels
            steps = zip(spec.stride(layer), spec.stride(finer), strict=True)
            z, x, y = (coarse // fine for coarse, fine in steps)
            self._ratio, self._around = (z, x, y), (2 * (z // 2) + 1, 2 * (x // 2) + 1, 2 * (y // 2) + 1)
            self._ones = nn.Parameter(torch.ones(channels, 1, *self._around), requires_grad=False)

    def _features(self, image: Tensor, where: Tensor | None) -> Features:
        first = features = self.stem(image)
        finer: Tensor | None = None
        scores: Tensor | None = None
        for number, layer in enumerate(self.layers, start=1):
            features = layer(features)
            if number == self._finer:
                finer = torch.cat(self._onto_lattice(features), dim=1)
            if self.scorer is not None and number == 1:
                first = features
            elif self.scorer is not None and number == _SCORED_LAYERS:
                asked = None if where is None else extended(where, first.shape[2:])[None]
                scores = self.scorer(first, features, between, asked)
        nothing = features[:, :0]
        return Features(features, nothing if finer is None else finer, nothing if scores is None else scores)

    def _fine(self, image: Tensor) -> Tensor:
        first = self.layers[0](self.stem(image))
        return joined(first, self.layers[1](first), between)

    def _onto_lattice(self, finer: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and greatest of a finer layer's features around each place of the lattice, on which they centre.

        A convolution adds up: on the CPU, PyTorch's pooling averages nothing in bfloat16, and is slow in float32.
        """
        (z, x, y), ratio = self._around, self._ratio
        padding = (z // 2, x // 2, y // 2)
        total = functional.conv3d(finer, self._ones, None, ratio, padding, groups=finer.shape[1]).float()
        for axis, (around, step) in enumerate(zip(self._around, ratio, strict=True), start=2):
            there, window = total.new_ones(1, 1, finer.shape[axis]), total.new_ones(1, 1, around)
            counts = functional.conv1d(there, window, None, step, around // 2)  # fewer at either end
            total = total / counts.reshape([-1 if one == axis else 1 for one in range(5)])
        greatest = functional.max_pool3d(finer, self._around, ratio, padding)
        return total.to(finer.dtype), greatest


class SwinFeatures(FeatureNetwork):
    """The stages of MONAI's Swin transformer (the encoder of SwinUNETR).

    Patches do not overlap: feature 0 is centred on the middle of the first `stride` voxels.
    """

    def __init__(self, network: SwinTransformer, spec: SwinSpec, layer: str) -> None:
        super().__init__(spec.axes)
        self.network = network
        self.depth = LAYERS.index(layer) + 1
        self.input_channels = spec.input_channels
        stride = self._in_patient_axes(spec.stride(layer))
        z, x, y = ((step - 1) / 2 for step in stride)
        self.lattice = Lattice(stride, (z, x, y))
        self.channels = spec.embed_dim * 2**self.depth

    def _features(self, image: Tensor, where: Tensor | None) -> Features:
        repeated = image.expand(-1, self.input_channels, -1, -1, -1)
        features: Tensor = self.network(repeated, normalize=True)[self.depth]
        return Features(features, features[:, :0], features[:, :0])


def load_network(bundle: Bundle, scored: Mapping[Kind, ScoredKind] | None = None) -> FeatureNetwork:
    """Build a bundle's network in float32 on the CPU, load its weights whole, and fold it for inference.

    Batch normalisation is folded into the convolutions, and a first layer that expects several equal channels gets
    one channel, their sum: the same function, up to rounding.

    Parameters
    ----------
    scored : mapping of Kind to ScoredKind, optional
        What the network scores findings of each compartment with, in this order.

    Raises
    ------
    ConfigError
        Weights are missing, are not those that the bundle names, or do not fit the network.
    """
    spec = bundle.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bundle.weights.seed)
        network = _build(spec)
    if bundle.weights.source != "random":
        load_whole(network, bundle)
    network.eval().requires_grad_(False)
    features: FeatureNetwork
    if isinstance(spec, ResNetSpec):
        _fold(network)
        _sum_input_channels(network)
        features = ResNetFeatures(network, spec, bundle.pooling.layer, bundle.pooling.finer)
    elif bundle.pooling.finer:
        raise ConfigError([f"bundle {bundle.name}: `pooling.finer` is for residual networks"])
    elif isinstance(spec, EfficientNetSpec):
        features = SliceFeatures(network, spec, bundle.pooling.layer)
    else:
        features = SwinFeatures(network, spec, bundle.pooling.layer)
    if scored:
        _demand_channels(bundle, features.fine_channels, scored)
        features.scorer = Scorer(list(scored.values()))
    return features.eval()


def _demand_channels(bundle: Bundle, channels: tuple[int, int], scored: Mapping[Kind, ScoredKind]) -> None:
    for kind, one in scored.items():
        if (len(one.first), len(one.second)) != channels:
            raise ConfigError([f"bundle {bundle.name}: findings of {kind} are not for this network: fit them anew"])


def _build(spec: ResNetSpec | SwinSpec | EfficientNetSpec) -> nn.Module:
    network: nn.Module
    if isinstance(spec, ResNetSpec):
        network = _build_resnet(spec)
    elif isinstance(spec, EfficientNetSpec):
        network = build_efficientnet(spec)
    else:
        network = _build_swin(spec)
    return network


def _build_resnet(spec: ResNetSpec) -> ResNet:
    network = ResNet(
        {"basic": ResNetBlock, "bottleneck": ResNetBottleneck}[spec.block],
        list(spec.layers),
        list(spec.planes),
        spatial_dims=3,
        n_input_channels=spec.input_channels,
        conv1_t_size=spec.conv1_size,
        conv1_t_stride=spec.conv1_stride,
        shortcut_type=spec.shortcut,
        feed_forward=False,
        bias_downsample=spec.bias_downsample,
    )
    for name, dilation in zip(LAYERS, spec.dilation, strict=True):
        if dilation > 1:
            _dilate(getattr(network, name), dilation)
    return network


def _dilate(layer: nn.Module, dilation: int) -> None:
    """Trade a layer's stride for dilation: as far a view at the same weights, features left dense."""
    for module in layer.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (1, 1, 1)
            if module.kernel_size == (3, 3, 3):
                module.dilation = module.padding = (dilation,) * 3
            continue
        shortcut: object = getattr(module, "downsample", None)
        if isinstance(shortcut, partial):
            setattr(module, "downsample", partial(shortcut, stride=1))  # noqa: B010  # no tensor, no module


def _build_swin(spec: SwinSpec) -> SwinTransformer:
    if importlib.util.find_spec("einops") is None:
        raise ConfigError(["a swin network needs the package einops: pip install einops"])
    return SwinTransformer(
        in_chans=spec.input_channels,
        embed_dim=spec.embed_dim,
        window_size=(spec.window_size,) * 3,
        patch_size=(2, 2, 2),
        depths=spec.depths,
        num_heads=spec.heads,
        spatial_dims=3,
        use_v2=spec.use_v2,
    )


def _fold(module: nn.Module) -> None:
    """Fold each batch normalisation into the convolution that MONAI's ResNet puts right before it."""
    pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
    for child in module.children():
        _fold(child)
    for convolution, normalisation in pairs:
        conv, norm = getattr(module, convolution, None), getattr(module, normalisation, None)
        if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
            setattr(module, convolution, fuse_conv_bn_eval(conv, norm))
            setattr(module, normalisation, nn.Identity())
    if isinstance(module, nn.Sequential) and len(module) == 2:
        conv, norm = module[0], module[1]
        if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
            module[0], module[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def _sum_input_channels(network: ResNet) -> None:
    """Let the first layer take one channel: equal channels meet the sum of their weights."""
    conv = network.conv1
    if conv.in_channels > 1:
        conv.weight = nn.Parameter(conv.weight.sum(dim=1, keepdim=True), requires_grad=False)
        conv.in_channels = 1
