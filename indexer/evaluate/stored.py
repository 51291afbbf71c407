"""Embeddings as a node's catalog holds them: nothing is computed again, labels are joined by UID."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.attributes import first_value
from indexer.catalog import Catalog
from indexer.catalog.embeddings import EmbeddingSequence, StoredChunk
from indexer.catalog.lookup import Entity, Level
from indexer.errors import Parked, Transient
from indexer.evaluate.collection import ENCODER, Collection, Plan, Way
from indexer.evaluate.items import Item, SpanMm, Subject, Wanted, item_of, match, subject_of
from indexer.evaluate.labels import LabelTable
from indexer.evaluate.pictures import Picture, pictures
from indexer.evaluate.similarity import Evidence, similarities_of
from indexer.evaluate.subjects import folder_names
from indexer.resample import resample
from indexer.sealing import InstanceFolder
from indexer.uids import EncoderId
from indexer.vectors import Neighbours, VectorIndex, recall
from indexer.vectors.exact import ExactIndex
from indexer.volume import load_volume, plan_series

_PICTURE_SPACING_MM = (3.0, 2.0, 2.0)
_RECALL_QUERIES = 1000


@dataclass(frozen=True, eq=False)
class _Found:
    """What the catalog holds of one labelled item.

    Attributes
    ----------
    off_mm : float or None
        How far the centre of the nearest chunk lies from that of the labelled slab.
    shown : StoredChunk
        The chunk that stands for it in pictures.
    """

    item: Item
    evidence: Evidence
    off_mm: float | None
    shown: StoredChunk


class CatalogSource:
    """The embeddings of a node.

    Parameters
    ----------
    encoder_id : EncoderId, optional
        Whose embeddings; the active encoder's by default.
    index : VectorIndex, optional
        The node's index, to be held against exact search over the same embeddings.
    spool : InstanceFolder, optional
        Folder of the stored instances, for pictures.
    names : Path, optional
        A folder of series: labels that name its folders are joined by the Series Instance UIDs found there.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        encoder_id: EncoderId | None = None,
        index: VectorIndex | None = None,
        spool: InstanceFolder | None = None,
        names: Path | None = None,
    ) -> None:
        self._catalog = catalog
        self._encoder_id = encoder_id
        self._index = index
        self._spool = spool
        self._names = names

    def collect(self, table: LabelTable, plan: Plan) -> Collection:
        """Join labels with stored embeddings; see `indexer.evaluate.collection.Source`."""
        if plan.cross_validate or plan.both_out:
            raise ConfigError(
                ["a catalog keeps no features to refit a projection to: cross-validate with a folder"]
            )
        encoder_id = self._encoder_id or self._catalog.embeddings.active_encoder()
        if encoder_id is None:
            raise ConfigError(["the catalog holds no embeddings"])
        names = {uid: name for name, uid in folder_names(self._names).items()} if self._names else {}
        entities = list(self._catalog.lookup.entities(Level.SERIES))
        subjects = [_subject(one, names) for one in entities]
        wanted, unmatched = match(table.rows, subjects)
        excluded = Counter({"no such series or study in the catalog": unmatched} if unmatched else {})
        stored = _Stored(self._catalog, encoder_id, [one.series_pk for one in entities], subjects)
        found = [result for one in wanted if (result := stored.find(one, plan.slab_mm)) is not None]
        if missing := len(wanted) - len(found):
            excluded["no embedding by this encoder"] = missing
        if not found:
            raise ConfigError(["none of the labelled series or studies is embedded in the catalog"])
        fit = "projection as stored; what it was fitted to is not known here"
        evidence = [one.evidence for one in found]
        return Collection(
            items=tuple(one.item for one in found),
            ways=(Way(ENCODER, f"{encoder_id} as stored", fit, similarities_of(evidence)),),
            headline=ENCODER,
            pictures=tuple(self._showing(one.shown) for one in found),
            excluded=dict(excluded),
            facts=_facts(encoder_id, found, plan),
            index_recall=self._recall(encoder_id, plan.cutoffs),
        )

    def _recall(self, encoder_id: EncoderId, cutoffs: Sequence[int]) -> dict[str, float]:
        """Share of the exact neighbours that the index finds, each embedding's own row left out."""
        if self._index is None:
            return {}
        if self._index.encoder_id != encoder_id:
            raise ConfigError([f"the index holds embeddings of {self._index.encoder_id}, not of {encoder_id}"])
        blocks = list(self._catalog.embeddings.vectors(encoder_id))
        ids = np.concatenate([block for block, _ in blocks])
        vectors = np.concatenate([block for _, block in blocks])
        return index_recall(self._index, ids, vectors, cutoffs)

    def _showing(self, chunk: StoredChunk) -> Callable[[], tuple[Picture, ...]]:
        return lambda: self._pictures(chunk)

    def _pictures(self, chunk: StoredChunk) -> tuple[Picture, ...]:
        """Pictures of a chunk from its stored instances; none where they are elsewhere or cannot be read."""
        if self._spool is None:
            return ()
        uids = dict.fromkeys(ref.sop_instance_uid for ref in chunk.slices)
        known = [self._catalog.lookup.instance_path(uid) for uid in uids]
        paths = [self._spool / path for path in known if path and (self._spool / path).is_file()]
        try:
            volume = load_volume(plan_series(paths).stacks[0]) if paths else None
            return () if volume is None else pictures(resample(volume, _PICTURE_SPACING_MM), None)
        except (Parked, Transient):
            return ()


class _Stored:
    """The sequences and chunks of labelled series, read as they are asked for."""

    def __init__(
        self, catalog: Catalog, encoder_id: EncoderId, series_pks: Sequence[int], subjects: Sequence[Subject]
    ) -> None:
        self._catalog, self._encoder_id = catalog, encoder_id
        self._series_pks, self._subjects = series_pks, subjects

    def find(self, one: Wanted, slab_mm: float) -> _Found | None:
        """Gather what is stored of a labelled item; None if nothing is."""
        by_key = {self._series_pks[index]: self._subjects[index] for index in one.subjects}
        sequences = self._catalog.embeddings.sequences(sorted(by_key), self._encoder_id)
        if not sequences:
            return None
        chunks = {
            chunk.chunk_pk: chunk for chunk in self._catalog.embeddings.chunks(sorted(sequences), self._encoder_id)
        }
        item = item_of(one.row, [by_key[key] for key in sequences], slab_mm)
        if item.span_mm is None:
            evidence = tuple(tuple(one.looks for one in whole.by_volume()) for whole in sequences.values())
            first = next(iter(sequences.values())).chunk_pks
            return _Found(item, evidence, None, chunks[first[len(first) // 2]])
        return _nearest(item, item.span_mm, sequences, chunks)


def index_recall(
    index: VectorIndex, ids: NDArray[np.int64], vectors: NDArray[np.float32], cutoffs: Sequence[int]
) -> dict[str, float]:
    """Hold an index against exact search over the same vectors.

    Parameters
    ----------
    ids, vectors : (N,) int64 and (N, D) float32
        What the index ought to hold; at most 1000 of them ask, evenly spread. None finds itself.

    Returns
    -------
    dict of str to float
        k to the mean share of the k nearest that the index names.
    """
    exact = ExactIndex(dim=vectors.shape[1], encoder_id=index.encoder_id)
    exact.add(ids, vectors)
    asking = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _RECALL_QUERIES)).astype(int))
    found = {}
    for k in cutoffs:
        answers = (one.search(vectors[asking], k + 1) for one in (index, exact))
        approximate, right = (_others(answer, ids[asking], k) for answer in answers)
        found[str(k)] = recall(approximate, right)
    return found


def _others(answer: Neighbours, own: NDArray[np.int64], k: int) -> Neighbours:
    """The first k of an answer that are not the asking vector itself."""
    order = np.argsort(answer.ids == own[:, None], axis=1, kind="stable")[:, :k]
    ids = np.take_along_axis(answer.ids, order, axis=1)
    similarities = np.take_along_axis(answer.similarities, order, axis=1)
    return Neighbours(np.where(ids == own[:, None], -1, ids), similarities)


def _subject(entity: Entity, names: Mapping[str, str]) -> Subject:
    """Who a stored series is, with the folder name of its UID; the catalog knows whose it is."""

    def value(keyword: str) -> str:
        return first_value(entity.attributes, keyword)

    subject = subject_of(value, patient=f"patient {entity.patient_pk}")
    return replace(subject, name=names.get(subject.series_instance_uid, ""))


def _nearest(
    item: Item,
    span_mm: SpanMm,
    sequences: Mapping[int, EmbeddingSequence],
    chunks: Mapping[int, StoredChunk],
) -> _Found:
    """The stored chunk whose middle lies nearest to that of a labelled slab."""
    bottom = min(chunk.box_lps_mm[2] for chunk in chunks.values())
    wanted_mm = bottom + sum(span_mm) / 2
    sequence = next(iter(sequences.values()))
    boxes = [chunks[key].box_lps_mm for key in sequence.chunk_pks]
    off_mm = np.abs([(box[2] + box[5]) / 2 - wanted_mm for box in boxes])
    row = int(off_mm.argmin())
    return _Found(item, ((sequence.looks[row : row + 1],),), float(off_mm[row]), chunks[sequence.chunk_pks[row]])


def _facts(encoder_id: EncoderId, found: Sequence[_Found], plan: Plan) -> dict[str, str]:
    facts = {
        "source": "a node's catalog: embeddings as stored, nothing computed again",
        "encoder": str(encoder_id),
        "baselines": "only chance: the others need the images (evaluate a folder)",
    }
    off = [one.off_mm for one in found if one.off_mm is not None]
    if off:
        facts["z-level labels"] = (
            f"the stored chunk nearest to each labelled slab of {plan.slab_mm:g} mm stands for it; "
            f"its middle lies {np.mean(off):.0f} mm off on average, {max(off):.0f} mm at most"
        )
    return facts
