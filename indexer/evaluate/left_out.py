"""Ways to rank by what was fitted without the query's patient, or without both patients that are compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.evaluate.collection import Way
from indexer.evaluate.items import Item, Subject
from indexer.evaluate.refit import Anatomy, PooledEvidence, Refit, embed
from indexer.evaluate.similarity import Evidence, leaving_both_out, leaving_out, pairs_of
from indexer.uids import SeriesInstanceUID

LEFT_OUT, BOTH_OUT = "leave-one-patient-out", "leave-both-patients-out"
MOST_PAIRS = 150
"""Of patients: with more, both are left out only where that is asked for."""


def series_of(subjects: Sequence[Subject], patients: frozenset[str]) -> list[SeriesInstanceUID]:
    """Series of some patients."""
    return [SeriesInstanceUID(one.series_instance_uid) for one in subjects if one.patient in patients]


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Items with what a network's features say of them, embedded by fits that leave patients out.

    Attributes
    ----------
    subjects : sequence of Subject
        Whose series the atlases of `anatomy` may be made of.
    rows : sequence of PooledEvidence
        Of the items, in their order.
    """

    refit: Refit
    anatomy: Anatomy
    subjects: Sequence[Subject]
    items: Sequence[Item]
    rows: Sequence[PooledEvidence]

    @property
    def pairs(self) -> int:
        """How often both patients would be left out: a fit a pair."""
        return len(pairs_of(self._patients, self._modalities))

    def query(self, key: str, title: str, folds: int) -> Way:
        """Leave the query's patient out; with more patients than `folds`, so many groups of them."""
        how = LEFT_OUT if len(set(self._patients)) <= folds else f"patients left out in {folds} groups"
        everything = range(len(self.items))
        answers = leaving_out(self._patients, lambda patients: self._without(patients, everything), folds)
        fit = "projection refitted to the evaluated series without the query's patient"
        fit += f", who is left out of the {self.anatomy.names}" if self.anatomy.names else ""
        return Way(f"{key}, {LEFT_OUT}", f"{title}, {how}", fit, answers)

    def both(self, key: str, title: str) -> Way:
        """Leave both the query's patient and the one who answers out."""
        answers = leaving_both_out(self._patients, self._modalities, self._without)
        fit = "projection refitted for every two patients to the evaluated series of all others"
        fit += f"; both are left out of the {self.anatomy.names}" if self.anatomy.names else ""
        return Way(f"{key}, {BOTH_OUT}", f"{title}, {BOTH_OUT}", fit, answers)

    @property
    def _patients(self) -> list[str]:
        return [item.patient for item in self.items]

    @property
    def _modalities(self) -> list[frozenset[str]]:
        return [frozenset(item.modalities) for item in self.items]

    def _without(self, patients: frozenset[str], chosen: Sequence[int]) -> list[Evidence]:
        known = self.anatomy.without(series_of(self.subjects, patients))
        projections = self.refit.without(patients)
        return embed([self.items[n] for n in chosen], [self.rows[n] for n in chosen], projections, known)
