from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import Dataset

from indexer.bundle import Bundle, read_bundle
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.evaluate.describe import Eye, LastLayer, Seen, histogram, thumbnail, untrained, window_of
from indexer.fit import reference_features
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume, load_volume, plan_series

TINY = read_bundle("tiny")


@pytest.fixture
def volume(scan: Callable[..., list[Dataset]], save: Callable[[Iterable[Dataset]], list[Path]]) -> Volume:
    paths = save(scan([(-30.0, -45.0, z) for z in np.arange(-60.0, 72.0, 6.0)]))
    return load_volume(plan_series(paths).stacks[0])


@pytest.fixture
def seen(volume: Volume) -> Seen:
    return Eye(TINY, "cpu").see(volume)


def test_a_slab_of_everything_is_a_pool_of_everything(seen: Seen) -> None:
    whole = seen.of_slab((-1000.0, 1000.0)).rows
    assert whole == pytest.approx(seen.map.pooled([slice(0, seen.map.features.shape[1])]), abs=1e-5)


def test_a_slab_of_one_cell_is_that_cell(seen: Seen) -> None:
    low, high = seen.lattice.edges_z(slice(2, 3))
    dz = seen.map.grid.spacing_mm[0]
    exact = seen.of_slab(((low + 0.5) * dz, (high + 0.5) * dz)).rows
    assert exact == pytest.approx(seen.map.pooled([slice(2, 3)]), abs=1e-5)


def test_a_slab_without_body_is_all_of_the_slab_and_not_of_the_volume(seen: Seen) -> None:
    airy = replace(seen, map=replace(seen.map, weights=np.zeros_like(seen.map.weights)))
    low, high = ((edge + 0.5) * seen.map.grid.spacing_mm[0] for edge in seen.lattice.edges_z(slice(1, 2)))
    assert airy.of_slab((low, high)).rows == pytest.approx(airy.map.pooled([slice(1, 2)]), abs=1e-5)


def test_features_at_the_ends_of_a_slab_count_by_their_share(seen: Seen) -> None:
    low, high = ((edge + 0.5) * seen.map.grid.spacing_mm[0] for edge in seen.lattice.edges_z(slice(2, 4)))
    middle = (low + high) / 2
    quarter = (high - low) / 4
    channels = seen.map.features.shape[0]
    half_and_all = seen.of_slab((low + quarter, high)).rows[0, :channels]
    features = seen.map.features.numpy().reshape(channels, seen.map.features.shape[1], -1)
    body = seen.map.weights.reshape(seen.map.weights.shape[0], -1)
    shares = 0.5 * body[2], body[3]
    expected = (features[:, 2] @ shares[0] + features[:, 3] @ shares[1]) / (shares[0].sum() + shares[1].sum())
    assert half_and_all == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(seen.of_slab((low, middle)).rows, seen.of_slab((middle, high)).rows)


def test_a_slab_outside_the_volume_is_refused(seen: Seen) -> None:
    with pytest.raises(Parked, match="outside"):
        seen.of_slab((500.0, 600.0))


def test_chunks_and_reference_are_those_of_the_encoder(seen: Seen, volume: Volume) -> None:
    assert len(seen.of_chunks().rows) == len(MonaiEncoder(TINY, "cpu").encode(volume).chunks)
    encoder = MonaiEncoder(TINY, "cpu")
    expected = reference_features(encoder, encoder.feature_map(volume))
    assert seen.reference.rows == pytest.approx(expected.rows, abs=1e-5)


@pytest.mark.parametrize("axes", ["zxy", "yxz"])
def test_the_last_layer_is_that_of_the_whole_network(axes: str) -> None:
    """Computed from the pooled layer's features, it is what a pass through the whole network gives."""
    voxels = np.random.default_rng(4).normal(0, 300, (40, 60, 60)).astype(np.float32)
    affine = np.array([[0, 0, 5.0, 0], [0, 5.0, 0, 0], [6.0, 0, 0, 0], [0, 0, 0, 1]])
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(40))
    large = Volume(voxels, affine, slices, "CT", "", ())
    bundle = TINY.model_copy(update={"network": TINY.network.model_copy(update={"axes": axes})})
    deepest = bundle.model_copy(update={"pooling": bundle.pooling.model_copy(update={"layer": "layer4"})})
    whole = Eye(deepest, "cpu").see(large).map.features
    described = LastLayer(bundle, "cpu", 0).describe(Eye(bundle, "cpu").see(large), [None, (0.0, 96.0)])
    assert whole.shape[1] > 1
    assert described[0][0] == pytest.approx(whole.mean(dim=(1, 2, 3)).numpy(), rel=2e-2, abs=1e-2)
    assert not np.allclose(described[0], described[1], rtol=1e-2)


def test_a_swin_network_runs_again_for_its_last_layer(volume: Volume) -> None:
    bundle = swin()
    found = LastLayer(bundle, "cpu", 0).describe(Eye(bundle, "cpu").see(volume), [None])
    assert found[0].shape == (1, 12 * 2**4)
    assert np.isfinite(found[0]).all()


def swin() -> Bundle:
    network = {
        "kind": "swin", "input_channels": 1, "embed_dim": 12, "window_size": 3,
        "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2),
    }  # fmt: skip
    return Bundle.model_validate({**TINY.model_dump(), "network": network, "folder": TINY.folder})


def test_random_weights_are_another_network_and_the_seed_says_which(volume: Volume) -> None:
    def features(bundle: Bundle) -> torch.Tensor:
        return Eye(bundle, "cpu").see(volume).map.features

    first = features(untrained(TINY, 1))
    assert torch.equal(first, features(untrained(TINY, 1)))
    assert not torch.allclose(first, features(untrained(TINY, 2)))
    assert not torch.allclose(first, features(TINY))


def test_a_histogram_is_of_the_slab_and_of_unit_length(seen: Seen) -> None:
    window = window_of(seen)
    middle, top = histogram(seen, window, (50.0, 80.0)), histogram(seen, window, (125.0, 132.0))
    assert np.linalg.norm(middle) == pytest.approx(1.0)
    assert float((middle * top).sum()) < 0.9
    assert window == (-1000.0, 1000.0)


def test_a_thumbnail_has_no_mean(seen: Seen) -> None:
    small = thumbnail(seen, window_of(seen), (30.0, 100.0))
    assert small.shape == (1, 4096)
    assert small.mean() == pytest.approx(0.0, abs=1e-6)
    assert small.std() > 0.05
