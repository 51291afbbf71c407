"""The whole evaluation: items from a source, every way of ranking measured on the same galleries."""

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.evaluate.collection import RANDOM_ORDER, THUMBNAIL, Collection, Plan, Source, Way
from indexer.evaluate.estimates import Bootstrap, Replicates
from indexer.evaluate.items import Group, Item
from indexer.evaluate.labels import label_text, read_labels
from indexer.evaluate.metrics import AP, names
from indexer.evaluate.protocol import Measured, Protocol, measure, random_order
from indexer.evaluate.report import Evaluation
from indexer.evaluate.result import (
    Counts,
    Figures,
    GroupResult,
    HitResult,
    LabelResult,
    Place,
    WayResult,
    WorstQuery,
)

COPY_SIMILARITY = 0.999
"""Two patients' items nearer than this are suspected to be the same images under two Patient IDs."""
_SHOWN_HITS = 5
_FEW_PATIENTS = 10


def evaluate(
    source: Source, labels: Path, *, label: str | None = None, depth: int | None = None, plan: Plan | None = None
) -> Evaluation:
    """Measure how well labelled studies, series or slabs find others of their label.

    Every labelled item asks once; items of its own patient or study are never in its gallery.

    Parameters
    ----------
    source : Source
        `FolderSource` or `CatalogSource`.
    labels : Path
        Table of labels; see `indexer.evaluate.labels.read_labels`.
    label : str, optional
        Which column; the last one by default.
    depth : int, optional
        Compare hierarchical labels down to this branch.
    plan : Plan, optional
        How; the defaults of `Plan` where None.

    Raises
    ------
    ConfigError
        The table, the plan or the source cannot be used, or no query has a relevant item of another patient.
    """
    plan = plan or Plan()
    if not plan.cutoffs or min(plan.cutoffs) < 1 or list(plan.cutoffs) != sorted(set(plan.cutoffs)):
        raise ConfigError([f"expected rising cutoffs from 1, got {plan.cutoffs}"])
    table = read_labels(labels, label, depth)
    collection = source.collect(table, plan)
    protocol = Protocol(collection.items, within_modality=plan.within_modality)
    if not protocol.questions:
        raise ConfigError(["no labelled item has a relevant one of another patient: nothing can be measured"])
    excluded = dict(collection.excluded)
    if table.unlabelled:
        excluded["the row has no label"] = table.unlabelled
    return _Measuring(collection, protocol, plan).evaluation(table.column, excluded)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """One way of ranking, measured."""

    way: Way
    measured: Measured
    macro: Replicates
    micro: Replicates


class _Measuring:
    """Figures of every way on one protocol, with one set of resamplings."""

    def __init__(self, collection: Collection, protocol: Protocol, plan: Plan) -> None:
        self._collection, self._protocol, self._plan = collection, protocol, plan
        self._items = collection.items
        self._names = names(plan.cutoffs, hierarchical=protocol.hierarchical)
        asking = np.array([question.query for question in protocol.questions])
        patients = [item.patient for item in self._items]
        self._bootstrap = Bootstrap(patients, asking, resamples=plan.resamples, seed=plan.seed)
        chance = Way(RANDOM_ORDER, "random order", "its expectation, exact", random_order(len(self._items)))
        self._ranked = {way.key: self._rank(way) for way in (*collection.ways, chance)}
        self._headline = self._ranked[collection.headline]

    def evaluation(self, column: str, excluded: dict[str, int]) -> Evaluation:
        """Gather everything that is reported."""
        worst = self._worst()
        shown = {one.place.item for one in worst} | {hit.place.item for one in worst for hit in one.hits}
        return Evaluation(
            facts=self._facts(column),
            warnings=tuple(self._warnings()),
            counts=self._counts(excluded),
            headline=self._collection.headline,
            ways=tuple(self._way_result(one) for one in self._ranked.values()),
            groups=tuple(self._groups()),
            first_hits=self._first_hits(),
            worst=worst,
            index_recall=self._collection.index_recall,
            pictures={item: self._collection.pictures[item]() for item in sorted(shown)},
        )

    def _rank(self, way: Way) -> _Ranked:
        measured = measure(self._protocol, way.similarities, self._plan.cutoffs)
        return _Ranked(way, measured, self._bootstrap.macro(measured), self._bootstrap.micro(measured))

    def _figures(self, replicates: Replicates) -> Figures:
        named = zip(self._names, replicates.estimates(self._plan.confidence), strict=True)
        return {"mAP" if name == AP else name: estimate for name, estimate in named}

    def _way_result(self, one: _Ranked) -> WayResult:
        macro = self._figures(self._headline.macro.minus(one.macro))
        micro = self._figures(self._headline.micro.minus(one.micro))
        first = f"P@{self._plan.cutoffs[0]}"
        return WayResult(
            key=one.way.key,
            title=one.way.title,
            fit=one.way.fit,
            macro=self._figures(one.macro),
            micro=self._figures(one.micro),
            headline_minus={"macro mAP": macro["mAP"], f"micro {first}": micro[first]},
            labels=tuple(self._label_results(one.measured)),
        )

    def _label_results(self, measured: Measured) -> list[LabelResult]:
        found = []
        for label in np.unique(measured.label_of).tolist():
            replicates = self._bootstrap.of_label(measured, label)
            name = label_text(self._protocol.labels[label])
            queries = int((measured.label_of == label).sum())
            found.append(LabelResult(name, queries, replicates.patients, self._figures(replicates)))
        return found

    def _groups(self) -> list[GroupResult]:
        """Micro figures of the queries of each group, beside chance on the same queries' galleries."""
        found = []
        headline, chance = self._headline.measured, self._ranked[RANDOM_ORDER].measured
        for by in (one.name for one in fields(Group)):
            values = np.array([getattr(self._items[query].group, by) for query in headline.queries])
            for value in np.unique(values).tolist():
                chosen = values == value
                own, random = (self._bootstrap.micro(one, chosen) for one in (headline, chance))
                found.append(
                    GroupResult(
                        by=by.replace("_", " "),
                        group=value,
                        queries=int(chosen.sum()),
                        patients=own.patients,
                        headline=self._figures(own),
                        random_order=self._figures(random),
                    )
                )
        return found

    def _first_hits(self) -> dict[str, dict[str, int]]:
        measured = self._headline.measured
        pairs = Counter(
            (_labels_of(self._items[query]), _labels_of(self._items[hit]))
            for query, hit in zip(measured.queries.tolist(), measured.first_hits.tolist(), strict=True)
        )
        table: dict[str, dict[str, int]] = {}
        for (asked, found), count in sorted(pairs.items()):
            table.setdefault(asked, {})[found] = count
        return table

    def _worst(self) -> tuple[WorstQuery, ...]:
        """The queries of least average precision with their first hits."""
        precision = self._headline.measured.figures[:, self._names.index(AP)]
        found = []
        for row in np.argsort(precision, kind="stable")[: self._plan.worst].tolist():
            question = self._protocol.questions[row]
            near = self._headline.way.similarities(question.query)[question.gallery]
            hits = tuple(
                HitResult(self._place(int(item)), float(value), bool(relevant))
                for item, value, relevant in _first(question.gallery, near, question.judged.relevant)
            )
            found.append(WorstQuery(self._place(question.query), float(precision[row]), hits))
        return tuple(found)

    def _place(self, item: int) -> Place:
        one = self._items[item]
        labels = tuple(sorted(map(label_text, one.labels)))
        return Place(item, one.study_instance_uid, one.series_instance_uids, one.span_mm, labels)

    def _facts(self, column: str) -> dict[str, str]:
        plan = self._plan
        of_modality = " and of the query's modality" if plan.within_modality else ""
        return self._collection.facts | {
            "labels": column,
            "gallery": f"all labelled items of other patients and other studies{of_modality}",
            "intervals": f"{plan.confidence:.0%} percentile bootstrap over patients, {plan.resamples} resamples",
            "headline": self._headline.way.title,
        }

    def _counts(self, excluded: dict[str, int]) -> Counts:
        questions = self._protocol.questions
        return Counts(
            items=len(self._items),
            queries=len(questions),
            patients=len({item.patient for item in self._items}),
            labels=len(self._protocol.labels),
            mean_gallery=float(np.mean([len(question.gallery) for question in questions])),
            unanswerable=self._protocol.unanswerable,
            excluded=excluded,
        )

    def _warnings(self) -> list[str]:
        found = []
        if self._headline.micro.patients < _FEW_PATIENTS:
            found.append(f"only {self._headline.micro.patients} patients ask: the intervals say little")
        asked = {label for question in self._protocol.questions for label, _ in question.by_label}
        silent = [label_text(one) for n, one in enumerate(self._protocol.labels) if n not in asked]
        if silent:
            found.append(f"labels of one patient only, in no figure: {', '.join(silent)}")
        copies = self._copies()
        if copies:
            found.append(
                f"{copies} queries have all but the same images in their gallery (similarity at least "
                f"{COPY_SIMILARITY}): perhaps one person under several Patient IDs"
            )
        return found

    def _copies(self) -> int:
        """Queries with a near copy among other patients, by thumbnails where there are any."""
        looked_at = self._ranked.get(THUMBNAIL, self._ranked[self._collection.ways[0].key])
        return sum(
            bool((looked_at.way.similarities(one.query)[one.gallery] >= COPY_SIMILARITY).any())
            for one in self._protocol.questions
        )


def _first(
    gallery: NDArray[np.int64], near: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> list[tuple[np.int64, np.float64, np.bool_]]:
    order = np.argsort(-np.round(near, 6), kind="stable")[:_SHOWN_HITS]
    return list(zip(gallery[order], near[order], relevant[order], strict=True))


def _labels_of(item: Item) -> str:
    return "; ".join(sorted(map(label_text, item.labels)))
