from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer import projection
from indexer.bundle import EMBEDDING_DIM
from indexer.projection import Projection

FEATURES = 40


def features(count: int, seed: int = 0, size: int = FEATURES) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(12, size))
    return np.asarray(5 + generator.normal(size=(count, 12)) @ mixing, dtype=np.float32)


@pytest.mark.parametrize("one", [projection.drawn(FEATURES, 0), projection.fitted(features(300), 1)])
def test_embeddings_are_of_unit_length(one: Projection) -> None:
    embedded = one(features(20, seed=3))

    assert embedded.shape == (20, EMBEDDING_DIM)
    assert embedded.dtype == np.float32
    assert np.allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)


def test_a_fitted_projection_keeps_the_cosines_of_standardised_features() -> None:
    rows = features(300)
    one = projection.fitted(rows, 1)

    standard = np.clip((rows - one.mean) / one.scale, -5, 5)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    assert np.allclose(one(rows) @ one(rows).T, unit @ unit.T, atol=1e-3)


def test_embeddings_of_two_modalities_are_nearly_orthogonal() -> None:
    rows = features(400, size=600)
    ct, mr = projection.fitted(rows, 1)(rows), projection.fitted(rows, 2)(rows)

    assert np.abs((ct * mr).sum(axis=1)).mean() < 0.15


def test_one_runaway_feature_does_not_decide() -> None:
    one = projection.fitted(features(300), 1)
    row = features(1, seed=5)
    runaway = row.copy()
    runaway[0, 0] = 1e9

    assert float((one(row) @ one(runaway).T).item()) > 0.5


def test_features_that_never_vary_do_not_decide() -> None:
    rows = features(300)
    rows[:, 3] = 2.0
    one = projection.fitted(rows, 1)
    changed = rows.copy()
    changed[:, 3] = 9.0

    assert np.allclose(one(rows), one(changed), atol=1e-4)


def test_directions_are_orthonormal() -> None:
    for rows, columns in ((300, EMBEDDING_DIM), (EMBEDDING_DIM, 300)):
        matrix = projection.orthonormal(rows, columns, 4)
        gram = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
        assert np.allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_a_projection_comes_back_from_its_file_and_the_file_is_always_the_same(tmp_path: Path) -> None:
    one = projection.fitted(features(300), 1)
    for name in ("a.npz", "b.npz"):
        projection.save(tmp_path / name, {"CT": one, "MR": projection.fitted(features(300, 1), 2)})

    back = projection.load(tmp_path / "a.npz", FEATURES)

    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert set(back) == {"CT", "MR"}
    cosines = (back["CT"](features(20, 9)) * one(features(20, 9))).sum(axis=1)
    assert cosines.min() > 0.9999


def test_a_file_is_written_under_the_very_name(tmp_path: Path) -> None:
    projection.save(tmp_path / "my.projection", {"CT": projection.drawn(FEATURES, 0)})

    assert [path.name for path in tmp_path.iterdir()] == ["my.projection"]


def test_a_file_for_another_network_is_refused(tmp_path: Path) -> None:
    projection.save(tmp_path / "a.npz", {"CT": projection.drawn(FEATURES, 0)})

    with pytest.raises(ConfigError, match=r"CT is for 40 features, expected 64: fit it anew"):
        projection.load(tmp_path / "a.npz", 64)


def test_a_file_with_values_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    one = projection.drawn(FEATURES, 0)
    projection.save(tmp_path / "a.npz", {"CT": Projection(one.mean * np.nan, one.scale, one.matrix)})

    with pytest.raises(ConfigError, match="CT holds values that are no projection"):
        projection.load(tmp_path / "a.npz", FEATURES)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.npz"
    projection.save(path, {"CT": projection.drawn(FEATURES, 0)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    with pytest.raises(ConfigError, match="cannot be read"):
        projection.load(path, FEATURES)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    projection.save(path, {"CT": projection.drawn(FEATURES, 0)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(ConfigError, match="cannot be read"):
        projection.load(path, FEATURES)
