"""Who is sending what: for settling, and for the seed of an asker who has just sent a study."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from indexer.uids import SeriesInstanceUID, StudyInstanceUID

_MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer: its calling AE title and the address it calls from."""

    ae_title: str
    address: str


class Senders:
    """Kept in memory only, safe to share among threads.

    Parameters
    ----------
    remember_s : float
        So long a study sent to the similarity view stays its sender's seed.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, remember_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember_s = remember_s
        self._clock = clock
        self._lock = threading.Lock()
        self._sending: dict[Hashable, SeriesInstanceUID] = {}
        self._last_study: dict[Caller, tuple[float, StudyInstanceUID]] = {}

    def sent(self, association: Hashable, series_instance_uid: SeriesInstanceUID) -> None:
        """An open association sent an instance of a series."""
        with self._lock:
            self._sending[association] = series_instance_uid

    def closed(self, association: Hashable) -> None:
        """An association ended, one way or another."""
        with self._lock:
            self._sending.pop(association, None)

    def being_sent(self) -> set[SeriesInstanceUID]:
        """The series that open associations are sending: the last one of each."""
        with self._lock:
            return set(self._sending.values())

    def offered_as_seed(self, caller: Caller, study_instance_uid: StudyInstanceUID) -> None:
        """A peer sent an instance of a study to the similarity view."""
        with self._lock:
            self._last_study.pop(caller, None)
            self._last_study[caller] = (self._clock(), study_instance_uid)
            while len(self._last_study) > _MAX_REMEMBERED:
                del self._last_study[next(iter(self._last_study))]

    def last_study(self, caller: Caller) -> StudyInstanceUID | None:
        """The study that a peer last sent to the similarity view; None if that was too long ago."""
        with self._lock:
            at, study_instance_uid = self._last_study.get(caller, (0.0, None))
            if study_instance_uid is not None and self._clock() - at > self._remember_s:
                del self._last_study[caller]
                return None
            return study_instance_uid
