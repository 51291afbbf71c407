"""Compartments embedded by scores of findings: on places made by hand, and through whole networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scored_kinds import kind_of

from config.errors import ConfigError
from indexer import encoder as encoder_module
from indexer.bundle import EMBEDDING_DIM, Bundle, Findings, read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.chunks import share_of
from indexer.compartments import OF_MODALITY, compartments
from indexer.encoder import MonaiEncoder
from indexer.feature_network import Features
from indexer.network import load_network
from indexer.resample import resample
from indexer.scored import LEAST_PLACES, SCORED, SHOWN, ScoredKind, laid, load, pool_logits, save
from indexer.scored_fit import FineExample, fit_scored
from indexer.scorer import NOWHERE, between
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume

PLACES, FIRST, SECOND = 400, 12, 6
_LOOKS = np.linalg.qr(np.random.default_rng(4).standard_normal((FIRST, FIRST)))[0] * 3


def example(patient: int, finding: int | None, seed: int, shown: int = 40) -> FineExample:
    """Places of a patient, the first few with a finding that stands out either way: no plane tells it."""
    rng = np.random.default_rng(1000 * patient + seed)
    first = rng.standard_normal((PLACES, FIRST)) + 0.3 * np.random.default_rng(patient).standard_normal(FIRST)
    second = rng.standard_normal((PLACES, SECOND))
    share = np.zeros(PLACES, np.float32)
    if finding is not None:
        sides = rng.choice([-1.0, 1.0], size=(shown, 1))
        first[:shown] += sides * _LOOKS[finding]
        second[:shown, finding] += 3.0
        share[:shown] = 1.0
    label = "clean" if finding is None else f"finding {finding}"
    findings = {} if finding is None else {label: share}
    return FineExample(f"P{patient}", first.astype(np.float16), second.astype(np.float16), label, findings)


@pytest.fixture(scope="module")
def fitted() -> ScoredKind:
    made = [example(p, finding, n) for p in range(6) for n, finding in enumerate((None, 0, 1, None))]
    return fit_scored("INNER", made)


def scores_of(kind: ScoredKind, one: FineExample) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return kind.scores(one.first.astype(np.float32), one.second.astype(np.float32))


def embedded(kind: ScoredKind, one: FineExample) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return kind(scores_of(kind, one))


def test_places_that_show_a_finding_have_its_greatest_scores_in_another_patient(fitted: ScoredKind) -> None:
    for number in (0, 1):
        one = example(9, number, 5)
        scores = scores_of(fitted, one)[:, number]
        shown = one.findings[f"finding {number}"] > 0.5

        assert np.mean(np.argsort(-scores)[:40] < 40) > 0.8
        assert scores[shown].mean() > 0 > scores[~shown].mean()


def test_a_finding_is_nearer_to_the_same_in_another_patient_than_to_others(fitted: ScoredKind) -> None:
    seen = {(p, f): embedded(fitted, example(p, f, 6)) for p in (7, 8) for f in (0, 1, None)}

    for finding in (0, 1, None):
        near = {other: float(seen[7, finding] @ seen[8, other]) for other in (0, 1, None)}
        assert max(near, key=near.__getitem__) == finding
    for vector in seen.values():
        assert vector.shape == (EMBEDDING_DIM,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_how_clearly_a_finding_shows_is_told_as_well() -> None:
    """Of one finding and none alone, whatever tells them apart has one direction: it is more than a yes or no."""
    fitted = fit_scored("INNER", [example(p, finding, n) for p in range(4) for n, finding in enumerate((None, 0))])
    clear, fair, faint, none = (
        embedded(fitted, example(7, finding, 6, shown=shown))
        for finding, shown in ((0, 60), (0, 40), (0, 2), (None, 0))
    )

    assert float(clear @ fair) > float(clear @ faint) > float(clear @ none)
    assert float(none @ faint) > float(none @ fair)


def test_where_features_were_left_out_at_random_the_rest_finds_a_lesion_without_the_most_telling_one() -> None:
    made = [_telling_by_all(p, n, finding=bool(n)) for p in range(4) for n in range(2)]
    found = dict[str, list[float]]()
    for kind in ("ORGANS", "INNER"):
        fitted = fit_scored(kind, made)
        for patient in range(7, 13):
            one = _telling_by_all(patient, 5, finding=True)
            one.first[:, 0] = 0
            places = np.argsort(-scores_of(fitted, one)[:, 0])[:40]
            found.setdefault(kind, []).append(float(np.mean(places < 40)))

    assert np.mean(found["ORGANS"]) > np.mean(found["INNER"]) + 0.03


def _telling_by_all(patient: int, seed: int, *, finding: bool) -> FineExample:
    """The first feature tells a finding clearly, all of the second layer somewhat."""
    one = example(patient, None, seed)
    if not finding:
        return one
    one.first[:40, 0] += 6
    one.second[:40] += 1.2
    shown = (np.arange(PLACES) < 40).astype(np.float32)
    return replace(one, label="finding 0", findings={"finding 0": shown})


def test_the_same_examples_give_the_same_fit_and_leave_the_random_state_alone() -> None:
    examples = [example(p, finding, n) for p in range(3) for n, finding in enumerate((None, 0))]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second = (fit_scored("BRAIN", examples) for _ in range(2))

    np.testing.assert_allclose(first.last, second.last, atol=1e-5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_only_places_near_a_finding_and_some_others_teach() -> None:
    one = example(1, 0, 0)
    taught = one.teaching()

    assert len(taught.first) == 40 + len(range(40, PLACES, 8))
    assert (taught.findings["finding 0"] > 0.5).sum() == 40


def test_pooled_scores_say_the_greatest_and_how_many_there_are() -> None:
    scores = np.full((300, 2), -5.0, np.float32)
    scores[:8, 0] = 4.0
    pooled = pool_logits(scores).reshape(-1, 2)

    assert pooled[0].tolist() == [4.0, -5.0]
    assert pooled[1].tolist() == [4.0, -5.0]
    assert pooled[2, 0] == pytest.approx((8 * 4 - 22 * 5) / 30)
    assert pooled[5].tolist() == pytest.approx([np.log(9), 0.0])
    assert pool_logits(scores[:3]).shape == (12,)


def test_relative_scores_are_the_same_where_all_places_score_more(fitted: ScoredKind) -> None:
    """What another scanner adds to every place says nothing about a finding."""
    scores = scores_of(fitted, example(9, 0, 5))
    relative = replace(fitted, relative=np.array(1, np.float32))

    np.testing.assert_allclose(relative.pooled(scores + 3), relative.pooled(scores), atol=1e-4)
    assert not np.allclose(fitted.pooled(scores + 3), fitted.pooled(scores), atol=1)
    np.testing.assert_allclose(
        relative.pooled(scores), pool_logits(scores - np.percentile(scores, 90, axis=0)), atol=1e-4
    )


def test_compartments_of_one_modality_have_no_dimension_in_common(fitted: ScoredKind) -> None:
    vector = embedded(fitted, example(9, 0, 5))
    laid_apart = np.stack([laid(kind, vector) for kind in OF_MODALITY["CT"] if kind in SCORED])

    assert len(laid_apart) == 3
    np.testing.assert_allclose(laid_apart @ laid_apart.T, np.eye(3), atol=1e-5)


def test_a_file_gives_back_what_was_saved_in_the_order_of_compartments(fitted: ScoredKind, tmp_path: Path) -> None:
    path = tmp_path / "findings.npz"
    save(path, {"BONES": fitted, "ORGANS": fitted})
    read = load(path)

    assert list(read) == ["ORGANS", "BONES"]
    assert read["BONES"].findings.tolist() == ["finding 0", "finding 1"]
    one = example(9, 0, 5)
    assert float(embedded(read["BONES"], one) @ embedded(fitted, one)) > 0.999


def test_a_damaged_or_foreign_file_is_refused(fitted: ScoredKind, tmp_path: Path) -> None:
    path = tmp_path / "findings.npz"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    save(path, {"ORGANS": replace(fitted, hidden=fitted.hidden[:-1])})
    with pytest.raises(ConfigError, match="do not fit together"):
        load(path)
    too_wide = np.ones((len(fitted.told), 9), np.float32)  # it would reach into another compartment's dimensions
    save(path, {"ORGANS": replace(fitted, told=too_wide, told_offset=too_wide[0])})
    with pytest.raises(ConfigError, match="do not fit together"):
        load(path)
    save(path, {"ORGANS": replace(fitted, offset=np.full_like(fitted.offset, np.inf))})
    with pytest.raises(ConfigError, match="no embedding's"):
        load(path)
    save(path, {"LUNGS": fitted})
    with pytest.raises(ConfigError, match="got LUNGS"):
        load(path)


def test_features_between_places_are_means_of_their_neighbours() -> None:
    coarse, fine = torch.randn(1, 4, 5, 3, 2), torch.zeros(1, 7, 10, 6, 2)
    found = between(coarse, fine)

    assert found.shape == fine.shape
    torch.testing.assert_close(found[:, ::2, ::2, ::2], coarse)
    torch.testing.assert_close(found[0, 1, 0, 0], (coarse[0, 0, 0, 0] + coarse[0, 1, 0, 0]) / 2)
    torch.testing.assert_close(found[0, 0, 9, 5], coarse[0, 0, 4, 2])


def untrained(name: str, axes: str = "zxy") -> Bundle:
    """A bundle's network with random weights, which need no package; small where it is residual."""
    bundle = read_bundle(name if name != "ct-astra" else "tiny")
    network = (
        bundle.network.model_copy(update={"axes": axes}) if bundle.network.kind == "resnet" else bundle.network
    )
    weights = bundle.weights.model_copy(update={"source": "random"})
    pooling = bundle.pooling.model_copy(update={"layer": "layer3" if name == "ct-astra" else "layer4"})
    alone = {"network": network, "weights": weights, "pooling": pooling, "modalities": {}, "findings": None}
    return bundle.model_copy(update=alone)


@pytest.mark.parametrize(("name", "axes"), [("ct-astra", "zxy"), ("ct-astra", "yzx"), ("mr-slices", "zxy")])
def test_a_network_scores_places_as_their_features_say(name: str, axes: str) -> None:
    bundle = untrained(name, axes)
    channels = load_network(bundle).fine_channels
    kinds = {"ORGANS": kind_of(channels, 2, 1), "BONES": kind_of(channels, 1, 2)}
    plain, network = load_network(bundle), load_network(bundle, kinds)  # type: ignore[arg-type]
    image = torch.rand(1, 1, 20, 70, 52, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        seen, without, fine = network(image), plain(image), network.fine(image)[0]

    torch.testing.assert_close(seen.layer, without.layer, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.finer, without.finer, rtol=1e-4, atol=1e-4)
    assert not without.scores.numel()
    scores = seen.scores[0]
    rows = fine.flatten(1).T.numpy()
    wanted = np.hstack([one.scores(rows[:, : channels[0]], rows[:, channels[0] :]) for one in kinds.values()])
    assert scores.shape[1:] == fine.shape[1:]
    np.testing.assert_allclose(scores.flatten(1).T.numpy(), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize(("name", "axes"), [("ct-astra", "zxy"), ("ct-astra", "yzx"), ("mr-slices", "zxy")])
def test_a_network_scores_a_compartment_where_it_is_asked_for(name: str, axes: str) -> None:
    bundle = untrained(name, axes)
    channels = load_network(bundle).fine_channels
    network = load_network(bundle, {"ORGANS": kind_of(channels, 2, 1), "BONES": kind_of(channels, 1, 2)})
    image = torch.rand(1, 1, 20, 70, 52, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        whole = network(image).scores[0]
        asked = torch.rand(2, *whole.shape[1:], generator=torch.Generator().manual_seed(4)) < 0.2
        none = torch.zeros_like(asked)
        some, nothing = (network(image, where).scores[0] for where in (asked, none))

    where = asked[[0, 0, 1]]  # two findings of organs, one of bones
    torch.testing.assert_close(some[where], whole[where], rtol=1e-4, atol=1e-4)
    assert (some[~where] == NOWHERE).all()
    assert (nothing == NOWHERE).all()


def test_weights_for_another_network_are_refused() -> None:
    bundle = untrained("ct-astra")

    with pytest.raises(ConfigError, match="not for this network"):
        load_network(bundle, {"ORGANS": kind_of((3, 4), 1, 1)})


@pytest.mark.parametrize(("name", "kinds"), [("ct-astra", {"BRAIN", "ORGANS", "BONES"}), ("mr-slices", {"INNER"})])
def test_the_shipped_findings_are_small_and_fit_the_shipped_networks(name: str, kinds: set[str]) -> None:
    bundle = read_bundle(name)
    path = bundle.finding_file()
    found = load(path)

    assert path.stat().st_size < 2**20
    assert set(found) == kinds <= set(SCORED)
    channels = {"ct-astra": (256, 512), "mr-slices": (24, 40)}[name]
    assert all((len(one.first), len(one.second)) == channels for one in found.values())


def chest(count: int = 40) -> Volume:
    """A body with two lungs and a heart between them."""
    _, y, x = np.indices((count, 96, 130))
    body = ((x - 65) / 62) ** 2 + ((y - 48) / 44) ** 2 <= 1
    lungs = ((np.abs(x - 65) - 36) / 18) ** 2 + ((y - 48) / 32) ** 2 <= 1
    voxels = np.where(lungs, -840.0, np.where(body, 45.0, -1000.0)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 3.0], [0, 3.0, 0], [3.0, 0, 0]])
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k}"), None) for k in range(count))
    return Volume(voxels, affine, slices, "CT", "", ())


def test_an_encoder_with_findings_embeds_compartments_by_their_scores(tmp_path: Path) -> None:
    bundle = untrained("ct-astra")
    channels = load_network(bundle).fine_channels
    kinds = {"BONES": kind_of(channels, 1, 2), "ORGANS": kind_of(channels, 2, 1)}
    path = tmp_path / "findings.npz"
    save(path, kinds)  # type: ignore[arg-type]
    with_findings = bundle.model_copy(update={"findings": Findings(file=str(path))})
    encoder = MonaiEncoder(with_findings, "cpu", threads=1)
    chunks = encoder.encode(chest()).chunks
    seen = encoder.feature_map(chest())

    assert {kind for one in chunks for kind in one.embeddings} == {GLOBAL, "ORGANS"}  # there is no bone
    assert with_findings.encoder_id != bundle.encoder_id
    first = chunks[0].embeddings["ORGANS"]
    assert np.flatnonzero(first).min() == EMBEDDING_DIM - 2
    # The same by hand: scores of the organs' findings, those first in the order of compartments, where organs are.
    organs = compartments(seen.thinned)["ORGANS"][seen.thinned.window]
    shown = share_of(organs, encoder.fine_lattice, tuple(seen.scores.shape[1:])) > SHOWN
    cut = slice(0, round(bundle.pooling.chunk_mm / seen.cell_mm) * 4)
    rows = seen.scores[:2, cut].numpy()[:, shown[cut]].T
    assert len(rows) >= LEAST_PLACES
    np.testing.assert_allclose(first, kinds["ORGANS"](rows), atol=1e-3)


def test_a_tall_volume_is_scored_in_segments_as_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = untrained("ct-astra")
    path = tmp_path / "findings.npz"
    save(path, {"ORGANS": kind_of(load_network(bundle).fine_channels, 2, 1)})  # type: ignore[arg-type]
    pooling = bundle.pooling.model_copy(update={"finer": "layer2"})
    changed = bundle.model_copy(update={"findings": Findings(file=str(path)), "pooling": pooling})
    encoder = MonaiEncoder(changed, "cpu", threads=1)
    volume, run, passes = chest(400), MonaiEncoder._run, []
    volume.voxels[:] += np.random.default_rng(0).normal(0, 50, volume.voxels.shape)  # no slice is like the next
    whole = encoder.feature_map(volume)

    def counted(self: MonaiEncoder, image: NDArray[np.float32], asked: NDArray[np.bool_]) -> Features:
        passes.append(len(image))
        return run(self, image, asked)

    monkeypatch.setattr(MonaiEncoder, "_run", counted)
    monkeypatch.setattr(encoder_module, "_SEGMENT_VOXELS", 2**17)
    parts = encoder.feature_map(volume)

    assert len(passes) > 2
    assert max(passes) < 200
    assert parts.finer.shape == whole.finer.shape
    assert parts.scores.shape == whole.scores.shape
    assert np.array_equal(parts.asked, whole.asked)
    assert whole.asked.any()
    shown = torch.from_numpy(whole.asked[0])
    torch.testing.assert_close(parts.scores[:, shown], whole.scores[:, shown], rtol=0.05, atol=0.05)
    assert (parts.scores[:, ~shown] == NOWHERE).all()


def test_a_network_without_two_layers_before_the_pooled_one_scores_nothing() -> None:
    encoder = MonaiEncoder(read_bundle("tiny"), "cpu", threads=1)
    grid = resample(chest(), encoder.bundle.input.spacing_mm)

    with pytest.raises(ConfigError, match="two layers before the pooled one"):
        encoder.fine(grid, encoder.body_of(grid))
