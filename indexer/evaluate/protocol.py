"""Who is compared with whom: every labelled item asks, and only items of other patients may answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.evaluate.items import Item
from indexer.evaluate.labels import Label
from indexer.evaluate.metrics import Judged, figures

Similarities = Callable[[int], NDArray[np.float64]]
"""Query to its similarity to every item, (N,)."""


@dataclass(frozen=True, eq=False)
class Question:
    """One query with its gallery.

    Attributes
    ----------
    query : int
        Index of the asking item.
    gallery : (G,) int64
        Indices of the items that may answer, ascending: never one of the query's patient or study.
    judged : Judged
        Under any label of the query.
    by_label : tuple of (int, Judged)
        Under each single label that is relevant to something in the gallery; the label as its index in
        `Protocol.labels`.
    """

    query: int
    gallery: NDArray[np.int64]
    judged: Judged
    by_label: tuple[tuple[int, Judged], ...]


class Protocol:
    """The galleries of a set of items, and what in them is relevant.

    Relevant is what shares a whole label with the query. For nDCG an item is worth the longest common beginning of
    two labels as a share of the longer one (1 for the same label), times the item's own relevance.

    Parameters
    ----------
    items : sequence of Item
        Each asks, and each answers other patients' questions.
    within_modality : bool
        A gallery holds only items that share a modality with the query.

    Attributes
    ----------
    labels : tuple of Label
        All that occur, sorted.
    unanswerable : int
        Queries without any relevant item in their gallery: not asked.
    hierarchical : bool
        Whether any label has branches.
    """

    def __init__(self, items: Sequence[Item], *, within_modality: bool = False) -> None:
        self.items = items
        self.labels: tuple[Label, ...] = tuple(sorted({label for item in items for label in item.labels}))
        self.hierarchical = any(len(label) > 1 for label in self.labels)
        self._has = np.array([[label in item.labels for label in self.labels] for item in items], dtype=bool)
        self._common = _common(self.labels)
        self._relevance = np.array([item.relevance for item in items])
        self._patients = np.array([item.patient for item in items])
        self._studies = np.array([item.study_instance_uid for item in items])
        self._modalities = [frozenset(item.modalities) for item in items] if within_modality else None
        self.questions = tuple(self._questions())
        self.unanswerable = len(items) - len(self.questions)

    def gallery(self, query: int) -> NDArray[np.int64]:
        """Indices of the items that may answer a query: none of its patient, none of its study, not itself."""
        allowed = self._patients != self._patients[query]
        if self._studies[query]:
            allowed &= self._studies != self._studies[query]
        if self._modalities is not None:
            own = self._modalities[query]
            allowed &= np.array([bool(own & other) for other in self._modalities])
        return np.flatnonzero(allowed)

    def _questions(self) -> Iterator[Question]:
        """Questions in the order of patients, so that what is fitted without a patient is fitted once."""
        for query in np.argsort(self._patients, kind="stable").tolist():
            gallery = self.gallery(query)
            own = np.flatnonzero(self._has[query])
            judged = self._judge(gallery, own)
            if not judged.relevant.any():
                continue
            each = [(int(label), self._judge(gallery, np.array([label]))) for label in own]
            by_label = tuple((label, one) for label, one in each if one.relevant.any())
            yield Question(query, gallery, judged, by_label)

    def _judge(self, gallery: NDArray[np.int64], asked: NDArray[np.int64]) -> Judged:
        has = self._has[gallery]
        worth = self._common[asked].max(axis=0)
        return Judged(
            relevant=np.asarray(has[:, asked].any(axis=1)),
            gains=(has * worth).max(axis=1, initial=0.0) * self._relevance[gallery],
            same_branch=np.asarray((has & (worth > 0)).any(axis=1)),
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of one way of ranking; M as in `indexer.evaluate.metrics.names`.

    Attributes
    ----------
    queries : (Q,) int64
        The items that asked.
    figures : (Q, M) float64
        Under any label of the query.
    label_queries, label_of : (T,) int64
        Query and label of each single label asked about.
    label_figures : (T, M) float64
        Under that label alone.
    first_hits : (Q,) int64
        Most similar item; of several, the one that comes first in the table.
    """

    queries: NDArray[np.int64]
    figures: NDArray[np.float64]
    label_queries: NDArray[np.int64]
    label_of: NDArray[np.int64]
    label_figures: NDArray[np.float64]
    first_hits: NDArray[np.int64]


def measure(protocol: Protocol, similarities: Similarities, cutoffs: Sequence[int]) -> Measured:
    """Ask every question of the protocol.

    Parameters
    ----------
    similarities : callable
        Of a query to every item; only those of the gallery are looked at.

    Raises
    ------
    ValueError
        There is no question, or a similarity is not finite.
    """
    if not protocol.questions:
        raise ValueError("expected at least one query with a relevant item of another patient, got none")
    rows, label_rows, first = [], [], []
    for question in protocol.questions:
        near = similarities(question.query)[question.gallery]
        if not np.isfinite(near).all():
            raise ValueError("expected finite similarities")
        each = [(label, judged) for label, judged in question.by_label]
        rows.append(figures(near, question.judged, cutoffs, hierarchical=protocol.hierarchical))
        label_rows += [
            (question.query, label, figures(near, judged, cutoffs, hierarchical=protocol.hierarchical))
            for label, judged in each
        ]
        first.append(question.gallery[np.argmax(np.round(near, 6))])
    queries, labels, per_label = zip(*label_rows, strict=True)
    return Measured(
        queries=np.array([question.query for question in protocol.questions]),
        figures=np.stack(rows),
        label_queries=np.array(queries),
        label_of=np.array(labels),
        label_figures=np.stack(per_label),
        first_hits=np.array(first),
    )


def random_order(items: int) -> Similarities:
    """Rank by nothing: all items tie, which is the expectation over every order."""
    nothing = np.zeros(items)
    return lambda query: nothing


def _common(labels: Sequence[Label]) -> NDArray[np.float64]:
    """Longest common beginning of every two labels as a share of the longer one, (L, L)."""

    def shared(first: Label, second: Label) -> float:
        pairs = zip(first, second, strict=False)
        agreeing = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
        return agreeing / max(len(first), len(second))

    return np.array([[shared(first, second) for second in labels] for first in labels])
