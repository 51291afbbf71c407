from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from config.errors import ConfigError
from indexer import network as module
from indexer.bundle import Bundle, read_bundle
from indexer.network import FeatureNetwork, load_network

needs_einops = pytest.mark.skipif(find_spec("einops") is None, reason="MONAI's Swin needs einops")
TINY = read_bundle("tiny")
LAYERS = ["layer1", "layer2", "layer3", "layer4"]


def residual(layer: str = "layer2", **network: object) -> FeatureNetwork:
    spec = TINY.network.model_copy(update=network)
    pooling = TINY.pooling.model_copy(update={"layer": layer})
    return load_network(TINY.model_copy(update={"network": spec, "pooling": pooling}))


def transformer(layer: str = "layer2", **network: object) -> FeatureNetwork:
    spec = {
        "kind": "swin",
        "input_channels": 1,
        "embed_dim": 6,
        "window_size": 3,
        "depths": (2, 2, 2, 2),
        "heads": (1, 1, 1, 1),
    }
    table = TINY.model_dump() | {"network": spec | network, "folder": Path()}
    table["pooling"] = table["pooling"] | {"layer": layer}
    return load_network(Bundle.model_validate(table))


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 64, 47), (16, 31, 32)])
def test_one_feature_for_every_stride_or_part_of_it(layer: str, shape: tuple[int, int, int]) -> None:
    network = residual(layer)

    with torch.inference_mode():
        features = network(noise(*shape)).layer

    expected = [-(-n // step) for n, step in zip(shape, network.lattice.stride, strict=True)]
    assert list(features.shape) == [1, network.channels, *expected]


@pytest.mark.parametrize("layer", LAYERS[:3])
def test_features_are_centred_where_the_lattice_says(layer: str) -> None:
    """With positive, symmetric weights the influence of the voxels is symmetric about a feature's centre."""
    network = residual(layer)
    for one in network.modules():
        if isinstance(one, nn.Conv3d):
            nn.init.constant_(one.weight, 0.01)
            if one.bias is not None:
                nn.init.zeros_(one.bias)
        elif isinstance(one, nn.MaxPool3d):
            one.forward = lambda image: functional.avg_pool3d(image, 3, 2, 1)  # type: ignore[assignment]
    cell, places = (4, 3, 2), (network.lattice.first, network.lattice.stride)
    shape = [2 * (int(first) + step * at) + 1 for first, step, at in zip(*places, cell, strict=True)]
    image = torch.ones(1, 1, *shape, requires_grad=True)

    network(image).layer[(0, 0, *cell)].backward()

    influence = image.grad
    assert influence is not None
    assert influence.abs().max() > 0
    assert torch.allclose(influence, influence.flip(2, 3, 4), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 40, 30), (9, 30, 1), (9, 1, 30), (1, 1, 1), (3, 40, 5)])
@pytest.mark.parametrize("layer", LAYERS)
def test_thin_images_are_computed_in_bfloat16_as_in_float32(layer: str, shape: tuple[int, int, int]) -> None:
    network, reduced = residual(layer), residual(layer).bfloat16()

    for seed in range(3):
        image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
        scratch = [torch.full((n,), torch.nan, dtype=torch.bfloat16) for n in (10**3, 10**4, 10**5, 10**6)]
        del scratch  # memory that the convolutions get next
        with torch.inference_mode():
            expected, found = network(image).layer, reduced(image.bfloat16()).layer.float()
        assert torch.allclose(found, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


@needs_einops
def test_patches_of_a_transformer_begin_at_the_first_voxel() -> None:
    network = transformer("layer1")
    side = network.lattice.stride[0]

    assert network.lattice.stride == (4, 4, 4)
    assert network.lattice.first == (1.5, 1.5, 1.5)
    with torch.inference_mode():
        assert network(noise(9, 8, 7)).layer.shape[2:] == (3, 2, 2)
    assert side == 4


@needs_einops
@pytest.mark.parametrize("layer", LAYERS)
def test_a_transformer_has_the_channels_and_the_stride_of_its_layer(layer: str) -> None:
    network = transformer(layer, use_v2=True)

    with torch.inference_mode():
        features = network(noise(64, 64, 64)).layer

    assert list(features.shape[1:]) == [network.channels, *(64 // step for step in network.lattice.stride)]


@pytest.mark.parametrize("axes", ["zxy", "xyz", "zyx", "yxz"])
def test_the_network_sees_the_axes_in_its_own_order(axes: str) -> None:
    network, image = residual(axes=axes), noise(24, 40, 64)
    assert isinstance(network, module.ResNetFeatures)

    turned = image.permute(0, 1, *(2 + "zxy".index(axis) for axis in axes)).contiguous()
    with torch.inference_mode():
        expected = network.layers(network.stem(turned)).permute(0, 1, *(2 + axes.index(axis) for axis in "zxy"))
        assert torch.allclose(network(image).layer, expected, atol=1e-6)
    by_axis = dict(zip(axes, (4, 8, 8), strict=True))
    assert network.lattice.stride == tuple(by_axis[axis] for axis in "zxy")


def test_a_dilated_layer_computes_what_its_definition_says() -> None:
    strided, dilated = residual("layer2"), residual("layer2", dilation=(1, 2, 1, 1))
    assert isinstance(dilated, module.ResNetFeatures)
    assert dilated.lattice.stride == (2, 4, 4)
    assert strided.lattice.stride == (4, 8, 8)
    block = dilated.layers[1][0]

    with torch.inference_mode():
        x = dilated.layers[0](dilated.stem(noise(12, 24, 24)))
        first = functional.conv3d(x, block.conv1.weight, block.conv1.bias, 1, 2, 2).relu()
        second = functional.conv3d(first, block.conv2.weight, block.conv2.bias, 1, 2, 2)
        short = functional.conv3d(x, block.downsample[0].weight, block.downsample[0].bias)
        assert torch.allclose(dilated.layers[1](x.clone()), (second + short).relu(), atol=1e-5)


def test_a_dilated_layer_with_parameter_free_shortcuts_keeps_its_size() -> None:
    network = residual("layer2", dilation=(1, 2, 1, 1), shortcut="A")

    with torch.inference_mode():
        assert network(noise(12, 24, 24)).layer.shape[2:] == (6, 6, 6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_folding_changes_nothing_but_speed(block: str, channels: int) -> None:
    spec = TINY.network.model_copy(update={"block": block, "input_channels": channels})
    torch.manual_seed(3)
    network = module._build_resnet(spec)  # type: ignore[arg-type]
    for one in network.modules():
        if isinstance(one, nn.BatchNorm3d):
            for values in (one.running_mean, one.bias):
                nn.init.normal_(values)  # type: ignore[arg-type]
            for values in (one.running_var, one.weight):
                nn.init.uniform_(values, 0.5, 2.0)  # type: ignore[arg-type]
    network.eval().requires_grad_(False)
    image = noise(12, 24, 24)

    expected = network.layer1(
        network.maxpool(network.act(network.bn1(network.conv1(image.expand(-1, channels, -1, -1, -1)))))
    )
    module._fold(network)
    module._sum_input_channels(network)
    folded = network.layer1(network.maxpool(network.act(network.bn1(network.conv1(image)))))

    assert not any(isinstance(one, nn.BatchNorm3d) for one in network.modules())
    assert torch.allclose(folded, expected, rtol=1e-4, atol=1e-4)


def test_random_weights_are_those_of_their_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same = residual(), residual()
    other = load_network(TINY.model_copy(update={"weights": TINY.weights.model_copy(update={"seed": 1})}))

    assert torch.equal(torch.get_rng_state(), before)
    image = noise(12, 24, 24)
    assert torch.equal(one(image).layer, same(image).layer)
    assert not torch.allclose(one(image).layer, other(image).layer)


def test_a_swin_network_without_einops_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ConfigError, match="pip install einops"):
        transformer()
