"""Two studies side by side: how slices are ordered, which series are chosen, and what links them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from engines import catalog_url
from numpy.typing import NDArray
from pydicom.uid import UID, ExplicitVRLittleEndian

from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.receipts import StoredFile
from indexer.comparison import Comparisons, MatchedLevel, anchors_of
from indexer.errors import NotFound, Parked
from indexer.hanging import Plane
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

ENCODER = EncoderId("encoder-a")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_LOOKS = np.linalg.qr(np.random.default_rng(5).standard_normal((64, 20)))[0].T.astype(np.float32)
SLICE_MM, CHUNK_SLICES = 10.0, 4


def _value(vr: str, *values: object) -> dict[str, object]:
    return {"vr": vr, "Value": list(values)}


def _place(orientation: Sequence[float], at_mm: float) -> list[float]:
    return [0.0, 0.0, at_mm] if orientation == AXIAL else [0.0, at_mm, 0.0]


def enter(
    catalog: Catalog,
    uid: str,
    looks: Sequence[int],
    *,
    from_mm: float = 0.0,
    orientation: Sequence[float] = AXIAL,
    index: bool = True,
) -> None:
    """A study of one series: for each look a chunk of four slices, from feet to head or from front to back."""
    places = [from_mm + SLICE_MM * number for number in range(CHUNK_SLICES * len(looks))]
    for number, place in enumerate(places):
        sop = f"{uid}.1.{number}"
        header = InstanceHeader(
            sop_instance_uid=SOPInstanceUID(sop),
            sop_class_uid=UID("1.2.840.10008.5.1.4.1.1.2"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_instance_uid=SeriesInstanceUID(f"{uid}.1"),
            study_instance_uid=StudyInstanceUID(uid),
            patient={"00100020": _value("LO", uid)},
            study={"0020000D": _value("UI", uid)},
            series={"00080060": _value("CS", "CT"), "0020000E": _value("UI", f"{uid}.1")},
            instance={
                "00080016": _value("UI", "1.2.840.10008.5.1.4.1.1.2"),
                "00080018": _value("UI", sop),
                "00200032": _value("DS", *_place(orientation, place)),
                "00200037": _value("DS", *orientation),
                "00280030": _value("DS", 1.0, 1.0),
                "00280010": _value("US", 64),
                "00280011": _value("US", 64),
            },
        )
        catalog.receipts.enter(header, StoredFile(f"{sop}.dcm", 1, sop.rjust(64, "0")), "keep-first")
    if index:
        _index(catalog, uid, looks, places, orientation)


def _index(
    catalog: Catalog, uid: str, looks: Sequence[int], places: Sequence[float], orientation: Sequence[float]
) -> None:
    catalog.progress.settle(0.0)
    leased = catalog.progress.lease("w", 60.0)
    assert leased is not None
    chunks = []
    for number, look in enumerate(looks):
        mine = range(CHUNK_SLICES * number, CHUNK_SLICES * (number + 1))
        low, high = places[mine[0]] - SLICE_MM / 2, places[mine[-1]] + SLICE_MM / 2
        box = (0.0, 0.0, low, 64.0, 64.0, high) if orientation == AXIAL else (0.0, low, 0.0, 64.0, high, 64.0)
        slices = tuple(SliceRef(SOPInstanceUID(f"{uid}.1.{k}"), None) for k in mine)
        chunks.append(EmbeddedChunk(0, number, box, slices, {GLOBAL: _look(look)}))
    catalog.embeddings.finish(leased, "w", ENCODER, chunks, seconds={}, notes=[])
    catalog.embeddings.activate(ENCODER)


def _look(number: int) -> NDArray[np.float32]:
    return np.asarray(_LOOKS[number] / np.linalg.norm(_LOOKS[number]), dtype=np.float32)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(catalog_url(tmp_path)) as opened:
        yield opened


@pytest.fixture
def comparisons(catalog: Catalog, tmp_path: Path) -> Comparisons:
    return Comparisons(catalog, tmp_path, lambda modalities: None)


def test_the_same_levels_are_linked_wherever_they_lie(catalog: Catalog, comparisons: Comparisons) -> None:
    enter(catalog, "2.25.1", [3, 4, 5])
    enter(catalog, "2.25.2", [1, 2, 3, 4, 5, 6], from_mm=-500.0)
    found = comparisons.of("2.25.1", "2.25.2.1")
    assert found.similarity == pytest.approx(1.0)
    assert (found.left.plane, found.left.towards) == (Plane.AXIAL, ("L", "P"))
    assert [one.at_mm for one in found.left.slices] == sorted(
        (one.at_mm for one in found.left.slices), reverse=True
    )
    assert len(found.right.slices) == 24
    shift = -500.0 + 2 * CHUNK_SLICES * SLICE_MM
    assert len(found.anchors) == 3
    for anchor in found.anchors:
        assert anchor.right_mm - anchor.left_mm == pytest.approx(shift)
    assert [level.similarity for level in found.levels] == pytest.approx([1.0] * 3)


def test_slices_seen_from_the_front_are_linked_by_the_body(catalog: Catalog, comparisons: Comparisons) -> None:
    enter(catalog, "2.25.1", [3, 4], orientation=CORONAL)
    enter(catalog, "2.25.2", [3, 4], orientation=CORONAL, from_mm=100.0)
    enter(catalog, "2.25.3", [3, 4])
    found = comparisons.of("2.25.1", "2.25.2")
    assert (found.left.plane, found.left.towards) == (Plane.CORONAL, ("L", "F"))
    assert [one.at_mm for one in found.left.slices] == sorted(one.at_mm for one in found.left.slices)
    assert [anchor.right_mm - anchor.left_mm for anchor in found.anchors] == pytest.approx([100.0, 100.0])
    assert comparisons.of("2.25.1", "2.25.3").anchors == ()


def test_what_is_not_indexed_is_shown_and_not_linked(catalog: Catalog, comparisons: Comparisons) -> None:
    enter(catalog, "2.25.1", [3, 4])
    enter(catalog, "2.25.2", [3], index=False)
    found = comparisons.of("2.25.1", "2.25.2")
    assert (found.similarity, found.levels, found.anchors) == (None, (), ())
    assert (len(found.left.slices), len(found.right.slices)) == (8, 4)


def test_what_cannot_be_compared(catalog: Catalog, comparisons: Comparisons) -> None:
    enter(catalog, "2.25.1", [3], index=False)
    with pytest.raises(NotFound):
        comparisons.of("2.25.1", "2.25.404")
    enter(catalog, "2.25.2", [3], index=False, orientation=(0.0,) * 6)
    with pytest.raises(Parked):
        comparisons.of("2.25.1", "2.25.2")


def test_anchors_that_would_bend_the_way_are_left_out() -> None:
    def level(left: float, right: float, similarity: float) -> MatchedLevel:
        return MatchedLevel((left - 5, left + 5), (right - 5, right + 5), similarity)

    levels = [
        level(0, 100, 0.9),
        level(50, 150, 0.8),
        level(60, 400, 0.7),
        level(100, 60, 0.6),
        level(100, 210, 0.5),
    ]
    assert [(anchor.left_mm, anchor.right_mm) for anchor in anchors_of(levels)] == [(0, 100), (50, 150), (100, 210)]
    assert anchors_of([]) == ()
