"""Waiting for a seed: while it is fetched, while it settles, while it is indexed; never beyond a deadline."""

import copy
import time
from collections.abc import Callable, Collection
from typing import Self

from config.access import Cohort
from indexer.answer import Answer, Finder, Seed
from indexer.catalog import Catalog, Lookup, SeriesState
from indexer.catalog.lookup import SeriesInfo
from indexer.errors import Transient
from indexer.uids import SeriesInstanceUID, StudyInstanceUID

_POLL_S = 0.2
_SETTLE_S = 0.5
"""A series that somebody waits for settles so long after its last instance, once its sender's association ended."""
_ON_THE_WAY = frozenset({SeriesState.RECEIVING, SeriesState.SETTLED, SeriesState.INDEXING})


class Patience:
    """How long an asker waits.

    Parameters
    ----------
    wait_s : float
        From now on.
    ended : callable
        Whether the asker has cancelled or is gone.
    """

    def __init__(self, wait_s: float, ended: Callable[[], bool]) -> None:
        self.ended = ended
        self._deadline = time.monotonic() + wait_s

    def lasts(self) -> bool:
        """Whether the asker still waits."""
        return time.monotonic() < self._deadline and not self.ended()

    def pause(self) -> None:
        """Let a moment pass."""
        time.sleep(_POLL_S)


class WaitingFinder:
    """Lets a question about a seed that is not indexed yet wait until it is; see `indexer.answer.Finder`.

    Parameters
    ----------
    being_sent : callable
        Series to which open associations are sending.
    waited_for : callable
        Told again and again which study is waited for: one that is to be forgotten stays meanwhile.
    """

    def __init__(
        self,
        finder: Finder,
        catalog: Catalog,
        being_sent: Callable[[], Collection[SeriesInstanceUID]],
        patience: Patience,
        waited_for: Callable[[StudyInstanceUID], None],
    ) -> None:
        self._finder = finder
        self._catalog = catalog
        self._lookup = catalog.lookup
        self._being_sent = being_sent
        self._patience = patience
        self._waited_for = waited_for

    def within(self, cohort: Cohort | None) -> Self:
        """Answer as if only the studies of a cohort were there; see `indexer.answer.Finder.within`."""
        seen = copy.copy(self)
        seen._finder, seen._lookup = self._finder.within(cohort), self._catalog.within(cohort).lookup
        return seen

    def similar(
        self,
        seed: Seed,
        *,
        limit: int,
        allowed_series: frozenset[int] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        explained: bool = True,
    ) -> Answer:
        """Find the studies that look like the seed; see `indexer.answer.Finder.similar`."""

        def ask() -> Answer:
            return self._finder.similar(
                seed, limit=limit, allowed_series=allowed_series, cancelled=cancelled, explained=explained
            )

        try:
            return ask()
        except Transient:
            self.wait(seed)
            return ask()

    def wait(self, seed: Seed) -> None:
        """Wait until every series of the seed is indexed, parked or of no images, or patience ends."""
        while self._patience.lasts():
            infos = [info for info in seed_series(self._lookup, seed) if info.state in _ON_THE_WAY]
            if not infos:
                return
            for study in {info.study_instance_uid for info in infos}:
                self._waited_for(study)
            pks = {info.series_pk for info in infos}
            self._catalog.progress.hurry(pks)
            self._catalog.progress.settle(_SETTLE_S, self._being_sent(), only=pks)
            self._patience.pause()


def seed_series(lookup: Lookup, seed: Seed) -> list[SeriesInfo]:
    """The series that a seed names; empty if it is not known here."""
    if seed.sop_instance_uids:
        return list(lookup.series_of_instances(seed.sop_instance_uids))
    if seed.series_instance_uid is not None:
        info = lookup.series_by_uid(seed.series_instance_uid)
        return [info] if info else []
    if seed.study_instance_uid is not None:
        return list(lookup.series_of_study(seed.study_instance_uid))
    return []
