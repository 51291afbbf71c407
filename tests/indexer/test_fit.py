from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from config.errors import ConfigError
from indexer import fit as module
from indexer import projection
from indexer.bundle import Bundle, read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.encoder import MonaiEncoder
from indexer.fit import ReferenceFeatures, fit, save_fitted, volumes_below
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

TINY = read_bundle("tiny")


def a_volume(seed: int, modality: str = "CT") -> Volume:
    generator = np.random.default_rng(seed)
    voxels = generator.normal(0, 200, (40, 24, 24)).astype(np.float32) + 100 * (seed + 1)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 5.0], [0, 5.0, 0], [6.0, 0, 0]])
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(40))
    return Volume(voxels, affine, slices, modality, "", ())  # type: ignore[arg-type]


def volumes(modalities: str = "CT CT CT MR MR MR") -> list[tuple[str, Volume]]:
    return [(str(k), a_volume(k, modality)) for k, modality in enumerate(modalities.split())]


@pytest.fixture(autouse=True)
def few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_WINDOWS", 60)


def fitted_bundle(folder: Path) -> Bundle:
    spec = TINY.projection.model_copy(update={"file": "my.npz", "seed": None})
    return TINY.model_copy(update={"projection": spec, "folder": folder})


def test_a_fitted_projection_is_what_the_encoder_then_uses(tmp_path: Path) -> None:
    bundle = fitted_bundle(tmp_path)

    counts = fit(bundle, volumes(), tmp_path / "my.npz")

    assert set(counts) == {"CT", "MR"}
    encoder = MonaiEncoder(bundle, "cpu")
    vectors = [encoder.encode(volume).chunks[0].embeddings[GLOBAL] for _, volume in volumes()]
    assert np.allclose([np.linalg.norm(vector) for vector in vectors], 1, atol=1e-5)
    assert min(float(vectors[i] @ vectors[i]) for i in range(6)) > max(
        float(vectors[i] @ vectors[j]) for i in range(6) for j in range(i)
    )


def test_the_same_volumes_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        fit(TINY, volumes(), tmp_path / name)

    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_volume_that_cannot_be_embedded_is_passed_over(tmp_path: Path) -> None:
    damaged = a_volume(9)
    damaged.voxels[0, 0, 0] = np.nan

    counts = fit(TINY, [*volumes("CT CT CT"), ("9", damaged)], tmp_path / "a.npz")

    assert counts == fit(TINY, volumes("CT CT CT"), tmp_path / "b.npz")


def test_too_few_windows_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\d+ windows of MR, expected at least 60") as caught:
        fit(TINY, volumes("CT CT CT MR"), tmp_path / "a.npz")

    assert len(caught.value.problems) == 1
    assert not list(tmp_path.iterdir())


def test_no_volume_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no volume"):
        fit(TINY, [], tmp_path / "a.npz")


def test_windows_as_many_as_dimensions_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rows = np.random.default_rng(0).normal(size=(module.MIN_WINDOWS, 300)).astype(np.float32)

    assert module.MIN_WINDOWS == 256
    features = ReferenceFeatures(rows, rows[:0])
    assert save_fitted({"CT": features}, tmp_path / "a.npz") == {"CT": 256}
    assert projection.load(tmp_path / "a.npz", 300)["CT"].matrix.shape == (300, 256)
    with pytest.raises(ConfigError, match="255 windows of CT"):
        save_fitted({"CT": ReferenceFeatures(rows[1:], rows[:0])}, tmp_path / "b.npz")


def test_folders_that_hold_no_volume_are_passed_over(
    tmp_path: Path, a_stack: Callable[..., list[Dataset]], save: Callable[[list[Dataset]], list[Path]]
) -> None:
    for name in ("empty", "mixed", "sound", "text"):
        (tmp_path / "archive" / name).mkdir(parents=True)
    (tmp_path / "archive" / "text" / "readme.txt").write_text("no image", encoding="utf-8")
    stack, other = a_stack(range(0, 50, 5)), a_stack(range(0, 50, 5), SeriesInstanceUID="2.25.77")
    for folder, datasets in (("sound", stack), ("mixed", [*stack, *other])):
        for path in save(datasets):
            path.rename(tmp_path / "archive" / folder / path.name)

    found = list(volumes_below(tmp_path / "archive"))

    assert [name for name, _ in found] == ["sound"]
