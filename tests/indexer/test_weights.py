"""Checkpoints in the published key layouts, made small, loaded through the bundle files of the documentation."""

import hashlib
import pickle
import re
import tomllib
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn

from config.errors import ConfigError
from indexer.bundle import Bundle, read_bundle
from indexer.network import FeatureNetwork, ResNetFeatures, load_network

DOCS = Path(__file__).parents[2] / "docs" / "bundles.md"
EXAMPLES = {
    example["name"]: example
    for example in map(tomllib.loads, re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL))
}
needs_einops = pytest.mark.skipif(find_spec("einops") is None, reason="MONAI's Swin needs einops")
SMALL_RESNET = {"layers": (1, 1, 1, 1), "planes": (4, 8, 8, 8)}
SMALL_SWIN = {"embed_dim": 12, "depths": (2, 2, 2, 2), "heads": (1, 1, 2, 2), "window_size": 3}
PROJECTION = {"projection": {"seed": 0}}


def small_resnet(example: dict[str, Any]) -> ResNet:
    spec = example["network"]
    torch.manual_seed(0)
    network = ResNet(
        ResNetBottleneck if spec["block"] == "bottleneck" else ResNetBlock,
        list(SMALL_RESNET["layers"]),
        list(SMALL_RESNET["planes"]),
        n_input_channels=spec["input_channels"],
        conv1_t_size=tuple(spec["conv1_size"]),  # type: ignore[arg-type]
        conv1_t_stride=tuple(spec["conv1_stride"]),  # type: ignore[arg-type]
        feed_forward=False,
        bias_downsample=False,
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network


def small_swin() -> SwinUNETR:
    torch.manual_seed(0)
    return SwinUNETR(
        in_channels=1,
        out_channels=2,
        feature_size=SMALL_SWIN["embed_dim"],  # type: ignore[arg-type]
        depths=SMALL_SWIN["depths"],  # type: ignore[arg-type]
        num_heads=SMALL_SWIN["heads"],  # type: ignore[arg-type]
        window_size=SMALL_SWIN["window_size"],  # type: ignore[arg-type]
    )


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value.clone() for key, value in state.items()}


def merlin_checkpoint() -> dict[str, object]:
    """Keys of `MerlinArchitecture.state_dict()`: image backbone and heads, text encoder, scale."""
    return {
        **prefixed(small_resnet(EXAMPLES["merlin"]).state_dict(), "encode_image.i3_resnet."),
        "encode_image.i3_resnet.classifier.weight": torch.zeros(1692, 32, 1, 1, 1),
        "encode_image.i3_resnet.classifier.bias": torch.zeros(1692),
        "encode_image.i3_resnet.contrastive_head.weight": torch.zeros(512, 32, 1, 1, 1),
        "encode_image.i3_resnet.contrastive_head.bias": torch.zeros(512),
        "encode_text.linear_layer.weight": torch.zeros(4, 4),
        "logit_scale": torch.ones([]),
    }


def medicalnet_checkpoint() -> dict[str, object]:
    """Keys of a `DataParallel` ResNet with its segmentation head, as MedicalNet's training saves it."""
    state = prefixed(small_resnet(EXAMPLES["medicalnet-50"]).state_dict(), "module.")
    return {"state_dict": state | {"module.conv_seg.0.weight": torch.zeros(32, 32, 2, 2, 2)}, "epoch": 3}


def ssl_checkpoint() -> dict[str, object]:
    """Keys that `SwinUNETR.load_from` reads, and the heads of the pre-training."""
    state = prefixed(small_swin().swinViT.state_dict(), "module.")
    state = {key.replace("mlp.linear", "mlp.fc"): value for key, value in state.items()}
    heads = {"module.rotation_head.weight": torch.zeros(4, 4), "module.contrastive_head.bias": torch.zeros(4)}
    return {"state_dict": state | heads, "optimizer": {"lr": 0.1}}


def write(path: Path, checkpoint: object, member: str = "") -> str:
    torch.save(checkpoint, path)
    if member:
        data = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bundle_of(name: str, folder: Path, **weights: object) -> Bundle:
    """An example of the documentation with a small network and a projection of its own."""
    example = EXAMPLES[name]
    small = SMALL_SWIN if example["network"]["kind"] == "swin" else SMALL_RESNET
    return Bundle.model_validate(
        {
            **example,
            **PROJECTION,
            "network": example["network"] | small,
            "weights": example["weights"] | weights,
            "folder": folder,
        }
    )


CHECKPOINTS: dict[str, Callable[[], object]] = {
    "swin-btcv": lambda: small_swin().state_dict(),
    "merlin": merlin_checkpoint,
    "medicalnet-50": medicalnet_checkpoint,
    "swin-ssl": ssl_checkpoint,
}


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., FeatureNetwork]:
    def load(name: str, checkpoint: object | None = None, **weights: object) -> FeatureNetwork:
        member = str(EXAMPLES[name]["weights"].get("member", ""))
        digest = write(tmp_path / "model.pt", checkpoint or CHECKPOINTS[name](), member)
        return load_network(bundle_of(name, tmp_path, **({"file": "model.pt", "sha256": digest} | weights)))

    return load


def test_the_examples_of_the_documentation_are_bundles(tmp_path: Path) -> None:
    assert set(EXAMPLES) == set(CHECKPOINTS)
    for block in re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL):
        path = tmp_path / "my.toml"
        path.write_text(block, encoding="utf-8")
        bundle = read_bundle(str(path))
        with pytest.raises(ConfigError, match="no weights at"):
            bundle.weight_files()
        with pytest.raises(ConfigError, match=r"no projection at .*pacsimile fit"):
            _ = bundle.encoder_id


def test_the_documentation_names_every_key() -> None:
    text = DOCS.read_text(encoding="utf-8")
    tables = Bundle.model_json_schema()["$defs"]  # a bundle is among them: others may be named in it
    keys = {key for name, table in tables.items() if name != "Bundle" for key in table["properties"]}

    assert {key for key in keys if not re.search(rf"`(\w+\.)?{key}`", text)} == set()


@pytest.mark.parametrize("name", ["merlin", "medicalnet-50"])
def test_a_residual_network_is_loaded_as_published(name: str, loaded: Callable[..., FeatureNetwork]) -> None:
    reference = small_resnet(EXAMPLES[name]).eval()
    features = loaded(name)
    assert isinstance(features, ResNetFeatures)
    image = torch.rand(1, 1, 17, 24, 20, generator=torch.Generator().manual_seed(0))

    axes = EXAMPLES[name]["network"]["axes"]
    turned = image.permute(0, 1, *(2 + "zxy".index(axis) for axis in axes))
    x = turned.expand(-1, EXAMPLES[name]["network"]["input_channels"], -1, -1, -1)
    with torch.inference_mode():
        x = reference.maxpool(reference.act(reference.bn1(reference.conv1(x))))
        expected = reference.layer2(reference.layer1(x))
        shallow = features.layers[1](features.layers[0](features.stem(turned)))
    assert torch.allclose(shallow, expected, atol=1e-5)


@needs_einops
@pytest.mark.parametrize("name", ["swin-btcv", "swin-ssl"])
def test_a_transformer_is_loaded_as_published(name: str, loaded: Callable[..., FeatureNetwork]) -> None:
    reference = small_swin().swinViT.eval()
    features = loaded(name)
    image = torch.rand(1, 1, 32, 48, 40, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        expected = reference(image.permute(0, 1, 3, 4, 2))[3].permute(0, 1, 4, 2, 3)
        assert torch.allclose(features(image).layer, expected, atol=1e-5)


def test_weights_in_an_unpacked_bundle_and_in_the_old_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.pt"
    path.parent.mkdir()
    torch.save(medicalnet_checkpoint(), path, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    bundle = bundle_of("medicalnet-50", tmp_path, file="models/model.pt", sha256=digest)

    assert load_network(bundle).channels == 32


def test_another_digest_is_refused(loaded: Callable[..., FeatureNetwork]) -> None:
    with pytest.raises(ConfigError, match=rf"expected SHA-256 {'a' * 64}, got [0-9a-f]{{64}}"):
        loaded("merlin", sha256="a" * 64)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    digest = write(tmp_path / "model.pt", merlin_checkpoint())
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(data[: len(data) // 2])

    with pytest.raises(ConfigError, match=f"expected SHA-256 {digest}"):
        load_network(bundle_of("merlin", tmp_path, file="model.pt", sha256=digest))
    digest = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="not a checkpoint of tensors"):
        load_network(bundle_of("merlin", tmp_path, file="model.pt", sha256=digest))


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, plain: bool) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    if plain:
        path.write_bytes(pickle.dumps({"state_dict": Payload(trace)}))
    else:
        torch.save({"state_dict": Payload(trace)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    with pytest.raises(ConfigError, match="not a checkpoint of tensors"):
        load_network(bundle_of("merlin", tmp_path, file="model.pt", sha256=digest))
    assert not trace.exists()


def test_missing_entries_are_named(loaded: Callable[..., FeatureNetwork]) -> None:
    checkpoint = merlin_checkpoint()
    del checkpoint["encode_image.i3_resnet.layer3.0.bn2.running_var"]

    with pytest.raises(ConfigError, match=r"bundle merlin: .*missing layer3\.0\.bn2\.running_var$"):
        loaded("merlin", checkpoint)


def test_entries_that_nothing_takes_are_named(loaded: Callable[..., FeatureNetwork]) -> None:
    with pytest.raises(ConfigError, match=r"unexpected classifier\.weight; unexpected classifier\.bias$"):
        loaded("merlin", ignore=("contrastive_head.",))


def test_other_shapes_are_named(loaded: Callable[..., FeatureNetwork]) -> None:
    checkpoint = merlin_checkpoint() | {"encode_image.i3_resnet.conv1.weight": torch.zeros(4, 1, 7, 7, 7)}

    with pytest.raises(ConfigError, match=r"conv1\.weight is \(4, 1, 7, 7, 7\), expected \(4, 3, 3, 7, 7\)"):
        loaded("merlin", checkpoint)


def test_values_that_are_no_numbers_are_named(loaded: Callable[..., FeatureNetwork]) -> None:
    checkpoint = merlin_checkpoint() | {"encode_image.i3_resnet.bn1.bias": torch.full((4,), torch.nan)}

    with pytest.raises(ConfigError, match=r"bn1\.bias holds values that are not finite"):
        loaded("merlin", checkpoint)


def test_many_problems_are_counted(loaded: Callable[..., FeatureNetwork]) -> None:
    with pytest.raises(ConfigError, match=r"; and \d+ more$"):
        loaded("merlin", rename={"conv": "convolution"})


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"key": "model"}, r"expected a state dict in entry 'model'; the entries are"),
        ({"prefix": "backbone."}, r"no entry begins with 'backbone\.'; the entries are encode_image"),
        ({"rename": {"bn1.weight": "bn1.bias"}}, r"two entries become bn1\.bias"),
        ({"member": "models/model.pt"}, r"not a checkpoint of tensors: .*models/model\.pt"),
    ],
)
def test_a_wrong_description_is_refused(
    changed: dict[str, object], problem: str, loaded: Callable[..., FeatureNetwork]
) -> None:
    with pytest.raises(ConfigError, match=problem):
        loaded("merlin", **changed)


def test_something_else_than_a_mapping_is_refused(loaded: Callable[..., FeatureNetwork]) -> None:
    with pytest.raises(ConfigError, match="expected a mapping of tensors, got list"):
        loaded("merlin", [torch.zeros(3)])
