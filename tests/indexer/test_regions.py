"""Compartments' embeddings on cells made by hand: what is fitted, kept in a file, and told apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError
from indexer.bundle import EMBEDDING_DIM, Regions, read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.encoder import MonaiEncoder
from indexer.region_fit import Example, fit_region
from indexer.regions import PLAIN_DIM, Region, Rows, load, save
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

FEATURES, CELLS = 40, 60
_LOOKS = np.linalg.qr(np.random.default_rng(9).standard_normal((FEATURES, 12)))[0].T * 8


def cells_of(patient: int, finding: int | None, seed: int, shown: int = 3) -> tuple[Rows, Rows]:
    """Cells of a patient's lungs, the first few with a finding: features and which."""
    rng = np.random.default_rng(100 * patient + seed)
    own = np.random.default_rng(patient).standard_normal(4) @ _LOOKS[8:]  # what patients differ in
    features = rng.standard_normal((CELLS, FEATURES)) + own
    which = np.zeros(CELLS, np.float32)
    if finding is not None:
        features[:shown] += _LOOKS[finding]
        which[:shown] = 1.0
    return features.astype(np.float32), which


def example(patient: int, finding: int | None, seed: int = 0) -> Example:
    features, which = cells_of(patient, finding, seed)
    label = "clean" if finding is None else f"finding {finding}"
    return Example(
        f"P{patient}", features, np.ones(CELLS, np.float32), label, {label: which} if finding is not None else {}
    )


def examples(patients: range = range(5)) -> list[Example]:
    return [example(patient, finding) for patient in patients for finding in (None, 0, 1, 2)]


@pytest.fixture(scope="module")
def region() -> Region:
    return fit_region(examples())


@pytest.mark.parametrize("trained", [True, False])
def test_a_finding_is_nearer_to_the_same_in_another_patient_than_to_others(trained: bool) -> None:
    fitted = fit_region(examples() if trained else [example(patient, None) for patient in range(5)])
    seen = {(p, f): fitted(*_inputs(p, f)) for p in (7, 8) for f in (0, 1, 2)}

    for finding in range(3):
        near = [float(seen[7, finding] @ seen[8, other]) for other in range(3)]
        assert int(np.argmax(near)) == finding


def _inputs(patient: int, finding: int) -> tuple[Rows, Rows]:
    return cells_of(patient, finding, 5)[0], np.ones(CELLS, np.float32)


def test_embeddings_are_unit_vectors_of_the_common_length(region: Region) -> None:
    vector = region(*_inputs(7, 1))

    assert vector.shape == (EMBEDDING_DIM,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(vector[PLAIN_DIM:]) > 0.5


def test_chunks_that_share_cells_are_embedded_as_each_would_be_alone(region: Region) -> None:
    features, shares = _inputs(7, 1)
    chunks = [slice(0, 40), slice(20, CELLS), slice(5, 6)]

    for at, vector in zip(chunks, region.chunks(features, shares, chunks), strict=True):
        np.testing.assert_allclose(vector, region(features[at], shares[at]), atol=1e-5)


@pytest.mark.parametrize("direction", [0, 5])
def test_what_is_unusual_is_seen_from_where_other_tissue_differs(direction: int) -> None:
    signs = np.where(np.arange(CELLS) % 2, 1, -1)[:, None]
    clean = [example(patient, None) for patient in range(4)]
    beside = [one.features + 3 * signs.astype(np.float32) * _LOOKS[direction] for one in clean]

    fitted = fit_region([replace(one, others=others) for one, others in zip(clean, beside, strict=True)])

    (looks,) = fitted.unusual((_LOOKS[direction] / fitted.scale)[None].astype(np.float32))
    first = fitted.views[:, 0]
    assert abs(first @ looks) > 0.9 * np.linalg.norm(first) * np.linalg.norm(looks)
    assert len(fitted.centre) == FEATURES


def test_the_most_telling_cell_shows_the_finding(region: Region) -> None:
    features, which = cells_of(7, 2, 5)
    scores = region.scores(region.standard(features))

    assert which[scores[:, 2].argmax()] == 1


def test_without_findings_there_is_no_trained_part() -> None:
    fitted = fit_region([example(patient, None) for patient in range(4)])

    assert fitted.trained.size == 0
    assert not fitted(*_inputs(7, 1))[PLAIN_DIM:].any()


def test_a_file_gives_back_what_was_saved(region: Region, tmp_path: Path) -> None:
    save(tmp_path / "regions.npz", {"LUNGS": region})
    read = load(tmp_path / "regions.npz", FEATURES)

    assert set(read) == {"LUNGS"}
    assert float(read["LUNGS"](*_inputs(7, 1)) @ region(*_inputs(7, 1))) > 0.999


def test_a_file_for_other_features_or_kinds_is_refused(region: Region, tmp_path: Path) -> None:
    path = tmp_path / "regions.npz"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, FEATURES)
    save(path, {"LUNGS": region})
    with pytest.raises(ConfigError, match="not for 41 features"):
        load(path, 41)
    save(path, {"LUNGS": replace(region, centre=np.full(PLAIN_DIM, np.nan, np.float32))})
    with pytest.raises(ConfigError, match="no embedding's"):
        load(path, FEATURES)
    save(path, {"FOOT": region})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="got FOOT"):
        load(path, FEATURES)


def test_a_file_that_another_version_fitted_says_what_to_do(region: Region, tmp_path: Path) -> None:
    path = tmp_path / "regions.npz"
    save(path, {"LUNGS": region})
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "LUNGS.views"}
    np.savez(path, **kept)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"lacks LUNGS\.views; another version fitted it: fit it anew"):
        load(path, FEATURES)


def test_the_shipped_regions_are_small_and_fit_the_shipped_network() -> None:
    path = read_bundle("ct-astra").region_file()

    assert path.stat().st_size < 2**21
    assert set(load(path, 1024 + 2 * 512)) == {"LUNGS"}


def test_an_encoder_with_regions_embeds_them_beside_the_whole(tmp_path: Path) -> None:
    """A chest through a small network with random weights: chunks with lungs have two embeddings."""
    tiny = read_bundle("tiny")
    features = 16 + 2 * 8
    path = tmp_path / "regions.npz"
    rng = np.random.default_rng(0)
    clean = [Example(f"P{n}", _noise(rng, features), np.ones(CELLS, np.float32), "clean", {}) for n in range(3)]
    save(path, {"LUNGS": fit_region(clean)})
    pooling = tiny.pooling.model_copy(update={"finer": "layer1"})
    bundle = tiny.model_copy(update={"pooling": pooling, "regions": Regions(file=str(path))})

    (chunk, *_) = MonaiEncoder(bundle, "cpu", threads=1).encode(_chest()).chunks

    assert set(chunk.embeddings) == {GLOBAL, "LUNGS"}
    assert bundle.encoder_id != tiny.encoder_id


def _noise(rng: np.random.Generator, features: int) -> Rows:
    return rng.standard_normal((CELLS, features)).astype(np.float32)


def _chest() -> Volume:
    _, y, x = np.indices((40, 96, 130))
    body = ((x - 65) / 62) ** 2 + ((y - 48) / 44) ** 2 <= 1
    lungs = ((np.abs(x - 65) - 28) / 22) ** 2 + ((y - 48) / 32) ** 2 <= 1
    voxels = np.where(lungs, -840.0, np.where(body, 45.0, -1000.0)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 3.0], [0, 3.0, 0], [3.0, 0, 0]])
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(40))
    return Volume(voxels, affine, slices, "CT", "", ())  # type: ignore[arg-type]
