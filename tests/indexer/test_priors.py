"""A patient's other studies: which, in what order, and which levels lie beside which."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from engines import catalog_url
from numpy.typing import NDArray
from pydicom.uid import UID, ExplicitVRLittleEndian

from indexer.answer import Completeness, Relation
from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.receipts import StoredFile
from indexer.errors import NotFound, Parked
from indexer.priors import Priors
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

ENCODER = EncoderId("encoder-a")
NOW = StudyInstanceUID("2.25.1")
_BODY = np.linalg.qr(np.random.default_rng(3).standard_normal((64, 20)))[0].T


def look(heights: Sequence[int], difference: float, person: int = 0) -> list[NDArray[np.float32]]:
    own = np.random.default_rng(person).standard_normal((20, 64)) / 8
    found = [_BODY[height] + difference * own[height] for height in heights]
    return [(one / np.linalg.norm(one)).astype(np.float32) for one in found]


def _text(vr: str, value: str) -> dict[str, object]:
    return {"vr": vr, "Value": [value]}


def enter(
    catalog: Catalog,
    study: str,
    date: str,
    vectors: Sequence[NDArray[np.float32]],
    *,
    patient: str = "P1",
    modality: str = "CT",
    from_z_mm: float = 0.0,
) -> None:
    """A study of one series, a slice a chunk, indexed."""
    for number in range(len(vectors)):
        sop = f"{study}.1.{number}"
        header = InstanceHeader(
            sop_instance_uid=SOPInstanceUID(sop),
            sop_class_uid=UID("1.2.840.10008.5.1.4.1.1.2"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_instance_uid=SeriesInstanceUID(f"{study}.1"),
            study_instance_uid=StudyInstanceUID(study),
            patient={"00100020": _text("LO", patient)},
            study={"0020000D": _text("UI", study), "00080020": _text("DA", date)},
            series={"00080060": _text("CS", modality)},
            instance={},
        )
        catalog.receipts.enter(header, StoredFile(f"{sop}.dcm", 1, sop.rjust(64, "0")), "keep-first")
    catalog.progress.settle(0.0)
    leased = catalog.progress.lease("w", 60.0)
    assert leased is not None
    chunks = [
        EmbeddedChunk(
            volume=0,
            position=n,
            box_lps_mm=(0.0, 0.0, from_z_mm + 40.0 * n, 9.0, 9.0, from_z_mm + 40.0 * n + 80.0),
            slices=(SliceRef(SOPInstanceUID(f"{study}.1.{n}"), None),),
            embeddings={GLOBAL: vector},
        )
        for n, vector in enumerate(vectors)
    ]
    catalog.embeddings.finish(leased, "w", ENCODER, chunks, seconds={}, notes=[])


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(catalog_url(tmp_path)) as opened:
        enter(opened, NOW, "20240501", look(range(4, 10), 0.0), from_z_mm=160.0)
        enter(opened, "2.25.2", "20200101", look(range(0, 12), 0.5, person=1))
        enter(opened, "2.25.3", "20230101", look(range(5, 9), 0.9, person=2), from_z_mm=1000.0)
        enter(opened, "2.25.4", "", look(range(4, 10), 0.5, person=3))
        enter(opened, "2.25.5", "20240502", look(range(4, 10), 0.01, person=4))
        enter(opened, "2.25.6", "20210101", look(range(4, 10), 0.1, person=5), patient="P2")
        enter(opened, "2.25.7", "20210101", look(range(4, 10), 0.1, person=6), modality="MR")
        opened.embeddings.activate(ENCODER)
        yield opened


def test_newest_first_and_duplicates_apart(catalog: Catalog) -> None:
    answer = Priors(catalog).of_study(NOW, 10)
    found = [(one.study_instance_uid, one.study_date, one.relation) for one in answer.priors]
    assert found == [
        ("2.25.3", "20230101", Relation.PRIOR),
        ("2.25.2", "20200101", Relation.PRIOR),
        ("2.25.4", "", Relation.PRIOR),
    ]
    assert answer.priors[0].similarity < answer.priors[1].similarity  # the date decides, not the likeness
    assert [(one.study_instance_uid, one.relation) for one in answer.duplicates] == [("2.25.5", Relation.DUPLICATE)]
    assert {one.completeness for one in answer.priors} == {Completeness.COMPLETE}
    assert len(Priors(catalog).of_study(NOW, 1).priors) == 1


def test_levels_lie_side_by_side_in_the_order_of_z(catalog: Catalog) -> None:
    prior = next(one for one in Priors(catalog).of_study(NOW, 10).priors if one.study_instance_uid == "2.25.2")
    (series,) = prior.series
    assert (series.series_instance_uid, series.present_series_instance_uid) == ("2.25.2.1", "2.25.1.1")
    assert [level.query_z_mm[0] for level in series.levels] == [160.0 + 40.0 * n for n in range(6)]
    assert [level.found_z_mm for level in series.levels] == [level.query_z_mm for level in series.levels]
    pairs = [(a.query_slices[0].sop_instance_uid, a.found_slices[0].sop_instance_uid) for a in series.levels]
    assert pairs == [(f"2.25.1.1.{n}", f"2.25.2.1.{n + 4}") for n in range(6)]


def test_a_late_image_makes_a_prior_provisional(catalog: Catalog) -> None:
    catalog.progress.settle_again(StudyInstanceUID("2.25.3"))
    by_study = {one.study_instance_uid: one for one in Priors(catalog).of_study(NOW, 10).priors}
    assert by_study[StudyInstanceUID("2.25.3")].completeness is Completeness.PROVISIONAL
    assert by_study[StudyInstanceUID("2.25.2")].completeness is Completeness.COMPLETE


def test_questions_without_an_answer(catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        Priors(catalog).of_study(StudyInstanceUID("2.25.99"), 10)
    catalog.embeddings.activate(EncoderId("encoder-b"))
    with pytest.raises(Parked):
        Priors(catalog).of_study(NOW, 10)
    catalog.embeddings.activate(ENCODER)
    alone = Priors(catalog).of_study(StudyInstanceUID("2.25.6"), 10)
    assert (alone.priors, alone.duplicates) == ((), ())
