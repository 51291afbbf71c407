"""An evaluation's figures, in a form that tables, JSON and the HTML report are all made of."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from indexer.evaluate.estimates import Estimate
from indexer.evaluate.pictures import Picture

Figures = dict[str, Estimate]
"""Name of a figure ("mAP", "P@1", …) to its value."""


@dataclass(frozen=True)
class LabelResult:
    """Figures under one label: `patients` is how many patients' queries they rest on."""

    label: str
    queries: int
    patients: int
    figures: Figures


@dataclass(frozen=True)
class WayResult:
    """Figures of one way of ranking.

    Attributes
    ----------
    fit : str
        What it was fitted to.
    macro, micro : Figures
        Mean over labels of the mean over each label's queries; mean over queries.
    headline_minus : Figures
        What the headline is ahead, both under the same resamplings.
    """

    key: str
    title: str
    fit: str
    macro: Figures
    micro: Figures
    headline_minus: Figures
    labels: tuple[LabelResult, ...]


@dataclass(frozen=True)
class GroupResult:
    """Figures (micro) of the queries of one group; `by` is what the groups differ in."""

    by: str
    group: str
    queries: int
    patients: int
    headline: Figures
    random_order: Figures


@dataclass(frozen=True)
class Place:
    """Which item, by UIDs only.

    Attributes
    ----------
    span_mm : tuple of float or None
        From the inferior end of the series along the patient's z axis; None: all of it.
    """

    item: int
    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    span_mm: tuple[float, float] | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class HitResult:
    """An answer to a query."""

    place: Place
    similarity: float
    relevant: bool


@dataclass(frozen=True)
class WorstQuery:
    """A query that went badly, with its first hits."""

    place: Place
    average_precision: float
    hits: tuple[HitResult, ...]


@dataclass(frozen=True)
class Counts:
    """How much was measured.

    Attributes
    ----------
    excluded : dict of str to int
        Reason to labelled rows that are in no figure.
    unanswerable : int
        Items without any relevant item of another patient: not asked, though they are in others' galleries.
    """

    items: int
    queries: int
    patients: int
    labels: int
    mean_gallery: float
    unanswerable: int
    excluded: dict[str, int]


@dataclass(frozen=True)
class Findings:
    """How good the answers are, beside what needs no encoder and beside chance.

    Attributes
    ----------
    facts : dict of str to str
        What was evaluated, and how.
    warnings : tuple of str
        Why a figure may say less than it seems to.
    headline : str
        Key of the way that groups, confusions and worst queries are of.
    first_hits : dict of str to dict of str to int
        Labels of the query to those of its first hit, to how often.
    index_recall : dict of str to float
        Of the approximate index against exact search, by k; has no part in any other figure.
    pictures : dict of int to tuple of Picture
        Of the items shown in `worst`; not part of the JSON.
    """

    facts: dict[str, str]
    warnings: tuple[str, ...]
    counts: Counts
    headline: str
    ways: tuple[WayResult, ...]
    groups: tuple[GroupResult, ...]
    first_hits: dict[str, dict[str, int]]
    worst: tuple[WorstQuery, ...]
    index_recall: dict[str, float]
    pictures: Mapping[int, tuple[Picture, ...]] = field(default_factory=dict, repr=False)

    def way(self, key: str) -> WayResult:
        """Figures of one way of ranking.

        Raises
        ------
        KeyError
            There is none of that key.
        """
        for one in self.ways:
            if one.key == key:
                return one
        raise KeyError(key)

    def to_json(self) -> str:
        """Everything but the pictures, as JSON."""
        whole = asdict(replace(self, pictures={}))
        del whole["pictures"]
        return json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False)
