"""What a score means: the same for both modalities and after another encoder, and nothing where little is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.alignment import align
from indexer.calibration import LEAST_PATIENTS, UNUSUAL_SHARE, Calibration, Scale, calibrate
from indexer.catalog import SeriesState
from indexer.catalog.embeddings import EmbeddingSequence
from indexer.catalog.lookup import SeriesInfo
from indexer.uids import SeriesInstanceUID, StudyInstanceUID

Vectors = NDArray[np.float32]
TURN = np.linalg.qr(np.random.default_rng(3).standard_normal((64, 64)))[0]


def unit(vectors: NDArray[Any]) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def drawn(person: int, common: float, chunks: int = 6) -> Vectors:
    """A person's chunks: the more they have in `common` with everybody's, the higher all cosines are."""
    everybody = np.random.default_rng(0).standard_normal((chunks, 64))
    return unit(common * everybody + np.random.default_rng(1 + person).standard_normal((chunks, 64)))


def info(pk: int, modality: str, patient: int) -> SeriesInfo:
    fields: dict[str, Any] = dict.fromkeys(SeriesInfo.__dataclass_fields__)
    fields |= {
        "series_pk": pk,
        "series_instance_uid": SeriesInstanceUID(f"2.25.{pk}.1"),
        "study_pk": pk,
        "study_instance_uid": StudyInstanceUID(f"2.25.{pk}"),
        "patient_pk": patient,
        "modality": modality,
        "state": SeriesState.INDEXED,
    }
    return SeriesInfo(**fields)


def archive(
    people: dict[str, list[int]], common: dict[str, float], turn: NDArray[Any] | None = None
) -> tuple[dict[int, SeriesInfo], dict[int, EmbeddingSequence]]:
    infos, sequences = {}, {}
    for modality, persons in people.items():
        for person in persons:
            pk = len(infos)
            vectors = drawn(person, common[modality])
            vectors = vectors if turn is None else (vectors @ turn).astype(np.float32)
            infos[pk] = info(pk, modality, person)
            sequences[pk] = EmbeddingSequence(tuple(range(len(vectors))), (0,) * len(vectors), vectors)
    return infos, sequences


@pytest.fixture(scope="module")
def both() -> Calibration:
    return calibrate(*archive({"CT": list(range(40)), "MR": list(range(100, 140))}, {"CT": 2.0, "MR": 0.4}))


def shown(calibration: Calibration, modality: str, score: float) -> float:
    scales = calibration.scales({modality})
    assert scales is not None
    scale = scales[modality].series
    return scale.similarity(scale.standing(score))


@pytest.mark.parametrize(("modality", "common", "first"), [("CT", 2.0, 200), ("MR", 0.4, 300)])
def test_unrelated_series_come_to_one_half_whatever_the_modality(
    both: Calibration, modality: str, common: float, first: int
) -> None:
    unseen = [drawn(first + n, common) for n in range(80)]
    scores = [align(one, other).score for one in unseen for other in unseen if one is not other]
    similarities = [shown(both, modality, score) for score in scores]
    assert np.mean(similarities) == pytest.approx(0.5, abs=0.1)
    assert np.quantile(similarities, 0.95) == pytest.approx(0.95, abs=0.05)


def test_the_scores_themselves_are_far_apart(both: Calibration) -> None:
    ct, mr = both.backgrounds["CT"].scales.series, both.backgrounds["MR"].scales.series
    assert isinstance(ct, Scale)
    assert isinstance(mr, Scale)
    assert np.tanh(ct.centre) - np.tanh(mr.centre) > 0.5


def test_an_encoder_that_turns_the_space_changes_no_similarity(both: Calibration) -> None:
    turned = calibrate(*archive({"CT": list(range(40))}, {"CT": 2.0}, TURN))
    for score in (-0.5, 0.0, 0.6, 0.9):
        assert shown(turned, "CT", score) == pytest.approx(shown(both, "CT", score), abs=1e-3)


def test_it_grows_with_the_score(both: Calibration) -> None:
    scales = both.scales({"CT", "MR"})
    assert scales is not None
    for of_modality in scales.values():
        for scale in (of_modality.series, of_modality.chunk):
            standings = [scale.standing(score) for score in np.linspace(-1, 1, 41)]
            assert standings == sorted(standings)
            similarities = [scale.similarity(standing) for standing in standings]
            assert similarities == sorted(similarities)
            assert similarities[0] >= 0
            assert similarities[-1] <= 1


def test_unlike_anything(both: Calibration) -> None:
    usual = [drawn(500 + n, 2.0) for n in range(60)]
    called = sum(both.is_unusual("CT", one, 500) for one in usual)
    assert called / len(usual) <= UNUSUAL_SHARE + 0.09  # two standard deviations of a share of 60
    strange = unit(np.random.default_rng(77).standard_normal((6, 64)))
    assert both.is_unusual("CT", strange, 500)
    assert not both.is_unusual("US", strange, 500)


def test_the_own_patient_makes_nothing_usual(both: Calibration) -> None:
    strange = unit(np.random.default_rng(77).standard_normal((6, 64)))
    infos, sequences = archive({"CT": list(range(40))}, {"CT": 2.0})
    infos[99] = info(99, "CT", 999)
    sequences[99] = EmbeddingSequence(tuple(range(6)), (0,) * 6, strange)
    found = calibrate(dict(sorted(infos.items(), reverse=True)), dict(sorted(sequences.items(), reverse=True)))
    assert found.is_unusual("CT", strange, 999)
    assert not found.is_unusual("CT", strange, 1)


@pytest.mark.parametrize("make", [lambda n: n, lambda _: 0])
def test_too_few_patients_say_nothing(make: Callable[[int], int]) -> None:
    infos, sequences = archive({"CT": list(range(30))}, {"CT": 2.0})
    patients = LEAST_PATIENTS - 1
    kept = {pk: info(pk, "CT", make(pk) % patients) for pk in infos}
    assert calibrate(kept, sequences).scales({"CT"}) is None
    assert Calibration().scales({"CT"}) is None


def test_equal_images_say_nothing() -> None:
    infos, sequences = archive({"CT": [1] * 9}, {"CT": 2.0})
    alike = {pk: info(pk, "CT", pk) for pk in infos}
    assert calibrate(alike, sequences).scales({"CT"}) is None
