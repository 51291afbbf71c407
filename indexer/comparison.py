"""Two studies side by side: the series that fit each other best, and how to scroll through them together."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from config.access import Cohort
from indexer.calibration import UNCALIBRATED, Scale, Scales, Uncalibrated
from indexer.catalog import Catalog
from indexer.catalog.embeddings import StoredChunk
from indexer.catalog.lookup import SeriesInfo
from indexer.errors import NotFound, Parked
from indexer.hanging import HungSeries, Plane, hang
from indexer.pairing import SeriesPair, best_pair
from indexer.sealing import InstanceFolder
from indexer.uids import EncoderId, SliceRef

SLOPES = (0.4, 2.5)
"""Between two anchors one side may run so much slower or faster than the other; people differ by less."""
_NEAR_MM = 1.0
"""Anchors closer than this are one."""

ScalesOf = Callable[[Set[str]], Mapping[str, Scales] | None]


@dataclass(frozen=True)
class Anchor:
    """The same level on both sides: places along the axis of the slices, LPS mm."""

    left_mm: float
    right_mm: float


@dataclass(frozen=True)
class MatchedLevel:
    """A pair of chunks that look alike, as extents along the axis of the slices, LPS mm; similarity 0 to 1."""

    left_mm: tuple[float, float]
    right_mm: tuple[float, float]
    similarity: float


@dataclass(frozen=True)
class Comparison:
    """Two series to look at side by side.

    Attributes
    ----------
    left, right : HungSeries
        What is looked at.
    similarity : float or None
        0 to 1, how well the left one is found in the right one; None where they cannot be compared.
    levels : tuple of MatchedLevel
        Best first; empty where they cannot be compared.
    anchors : tuple of Anchor
        Strictly increasing on both sides; between them one side is interpolated, beyond them it runs along. Empty
        where the planes differ.
    """

    left: HungSeries
    right: HungSeries
    similarity: float | None
    levels: tuple[MatchedLevel, ...]
    anchors: tuple[Anchor, ...]


class Comparisons:
    """Puts studies or series side by side.

    Parameters
    ----------
    spool_dir : InstanceFolder
        Folder of the stored instances.
    scales : callable
        How scores are read as similarities (`indexer.search.Search.scales`).
    cohort : Cohort, optional
        The studies that are there for who asks; None: all.
    """

    def __init__(
        self, catalog: Catalog, spool_dir: InstanceFolder, scales: ScalesOf, cohort: Cohort | None = None
    ) -> None:
        self._embeddings = catalog.embeddings
        self._lookup = catalog.within(cohort).lookup
        self._spool_dir = spool_dir
        self._scales = scales

    def of(self, left_uid: str, right_uid: str) -> Comparison:
        """Compare two studies or series, by Study or Series Instance UID.

        Raises
        ------
        NotFound
            One is not in the catalog.
        Parked
            One holds no CT or MR slices that have a place in the patient.
        """
        left, right = self._series(left_uid), self._series(right_uid)
        encoder_id = self._embeddings.active_encoder()
        pair = self._best_pair(left, right, encoder_id) if encoder_id is not None else None
        if pair is None or encoder_id is None:
            return self._without_embeddings(left, right)
        chunks = self._embeddings.chunks([pair.present.series_pk, pair.other.series_pk], encoder_id)
        shown_left = self._hung(pair.present, _slices_of(chunks, pair.present_sequence.chunk_pks))
        shown_right = self._hung(pair.other, _slices_of(chunks, pair.other_sequence.chunk_pks))
        if shown_left is None or shown_right is None:
            return self._without_embeddings(left, right)
        by_pk = {chunk.chunk_pk: chunk for chunk in chunks}
        modality = pair.present.modality
        scales = (self._scales({modality}) or {}).get(modality, UNCALIBRATED)
        levels = _levels(pair, by_pk, shown_left, shown_right, scales.chunk)
        if shown_left.plane is not shown_right.plane:
            anchors: tuple[Anchor, ...] = ()
        elif shown_left.plane is Plane.AXIAL:
            anchors = anchors_of(levels)
        else:
            anchors = _body_edges(pair, by_pk, shown_left.axis)
        similarity = _similarity(scales.series, pair.alignment.score)
        return Comparison(shown_left, shown_right, similarity, levels, anchors)

    def _series(self, uid: str) -> Sequence[SeriesInfo]:
        of_study = self._lookup.series_of_study(uid)
        if of_study:
            return of_study
        one = self._lookup.series_by_uid(uid)
        if one is None:
            raise NotFound("no such study or series is held")
        return [one]

    def _best_pair(
        self, left: Sequence[SeriesInfo], right: Sequence[SeriesInfo], encoder_id: EncoderId
    ) -> SeriesPair | None:
        pks = [info.series_pk for info in (*left, *right)]
        sequences = self._embeddings.sequences(pks, encoder_id)
        own = [info for info in left if info.series_pk in sequences]
        pairs = [best_pair(own, info, sequences) for info in right if info.series_pk in sequences]
        found = [pair for pair in pairs if pair is not None]
        return max(found, key=lambda pair: pair.alignment.score, default=None)

    def _without_embeddings(self, left: Sequence[SeriesInfo], right: Sequence[SeriesInfo]) -> Comparison:
        shown = [next((hung for one in side if (hung := self._hung(one))), None) for side in (left, right)]
        if shown[0] is None or shown[1] is None:
            raise Parked("no CT or MR slices with a place in the patient on one of the sides")
        return Comparison(shown[0], shown[1], None, (), ())

    def _hung(self, info: SeriesInfo, wanted: Collection[SliceRef] | None = None) -> HungSeries | None:
        return hang(self._lookup, self._spool_dir, info, wanted)


def anchors_of(levels: Sequence[MatchedLevel]) -> tuple[Anchor, ...]:
    """Turn matched levels into anchors, the most alike first; one that would bend the way too much is left out."""
    accepted: list[Anchor] = []
    for level in sorted(levels, key=lambda level: -level.similarity):
        anchor = Anchor(sum(level.left_mm) / 2, sum(level.right_mm) / 2)
        if all(_go_together(anchor, other) for other in accepted):
            accepted.append(anchor)
    return tuple(sorted(accepted, key=lambda anchor: anchor.left_mm))


def _go_together(one: Anchor, other: Anchor) -> bool:
    left, right = one.left_mm - other.left_mm, one.right_mm - other.right_mm
    if abs(left) < _NEAR_MM or abs(right) < _NEAR_MM:
        return False
    return SLOPES[0] <= right / left <= SLOPES[1]


def _levels(
    pair: SeriesPair,
    chunks: Mapping[int, StoredChunk],
    left: HungSeries,
    right: HungSeries,
    scale: Scale | Uncalibrated,
) -> tuple[MatchedLevel, ...]:
    """Extents of the matched chunks along the axes of what is shown, best first, each place on the right once."""
    found: list[MatchedLevel] = []
    for row, pk in enumerate(pair.present_sequence.chunk_pks):
        here, there = chunks.get(pk), chunks.get(pair.other_sequence.chunk_pks[int(pair.alignment.pairs[row])])
        if here is not None and there is not None:
            similarity = _similarity(scale, float(pair.alignment.cosines[row]))
            found.append(MatchedLevel(_extent(here, left.axis), _extent(there, right.axis), similarity))
    best: dict[tuple[float, float], MatchedLevel] = {}
    for level in sorted(found, key=lambda level: -level.similarity):
        best.setdefault(level.right_mm, level)
    return tuple(best.values())


def _extent(chunk: StoredChunk, axis: int) -> tuple[float, float]:
    return chunk.box_lps_mm[axis], chunk.box_lps_mm[axis + 3]


def _body_edges(pair: SeriesPair, chunks: Mapping[int, StoredChunk], axis: int) -> tuple[Anchor, ...]:
    """Where the body begins and ends on both sides: what links slices that do not follow each other along z."""
    sides = []
    for sequence in (pair.present_sequence, pair.other_sequence):
        extents = [_extent(chunks[pk], axis) for pk in sequence.chunk_pks if pk in chunks]
        if not extents:
            return ()
        sides.append((min(low for low, _ in extents), max(high for _, high in extents)))
    (left, right) = sides
    edges = (Anchor(left[0], right[0]), Anchor(left[1], right[1]))
    return edges if _go_together(*edges) else ()


def _slices_of(chunks: Sequence[StoredChunk], pks: Collection[int]) -> frozenset[SliceRef]:
    return frozenset(ref for chunk in chunks if chunk.chunk_pk in pks for ref in chunk.slices)


def _similarity(scale: Scale | Uncalibrated, score: float) -> float:
    return scale.similarity(scale.standing(score))
