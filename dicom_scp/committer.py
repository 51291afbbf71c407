"""The threads that check instances and deliver reports, away from those that serve associations."""

import logging
import threading
import time
from collections.abc import Callable, Collection

from config.access import Cohort
from config.model import CommitmentSettings
from dicom_scp.event_reports import EventReporter
from dicom_scp.safekeeping import COMMITTED, check
from dicom_scp.spool import Spool
from indexer.catalog import Commitments
from indexer.catalog.commitments import Commitment, CommitmentState
from indexer.errors import Transient

logger = logging.getLogger(__name__)

_CHECK_LEASE_S, _KEEP_S = 20.0, 5.0
_REPORT_LEASE_S = 180.0
"""More than every time-out of a delivery together."""
_IDLE_S = 0.25
_PAUSE_S = 5.0
_REPORTERS = 2
"""So that one peer that does not answer does not keep the others waiting."""
_HOUR_S = 3600.0


class _Stopped(Exception):  # noqa: N818 - no error: the node stops
    """The node stops in the middle of a check."""


class Committer:
    """Leads every request from REQUESTED to REPORTED or ABANDONED.

    What is due is in the catalog: a node that stopped goes on where it was.

    Parameters
    ----------
    supported_sop_classes : collection of str
        What the node can store at all.
    cohort_of : callable
        What the peer of an AE title may see.
    """

    def __init__(
        self,
        settings: CommitmentSettings,
        commitments: Commitments,
        spool: Spool,
        reporter: EventReporter,
        supported_sop_classes: Collection[str],
        cohort_of: Callable[[str], Cohort | None],
    ) -> None:
        self._settings = settings
        self._commitments = commitments
        self._spool = spool
        self._reporter = reporter
        self._supported = frozenset(supported_sop_classes)
        self._cohort_of = cohort_of
        self._stopping = threading.Event()
        self._requested, self._idle = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to work off what is due."""
        roles = [(self._check_next, self._requested), *[(self._report_next, self._idle)] * _REPORTERS]
        self._threads = [
            threading.Thread(target=self._run, args=role, name=f"commitment-{number}", daemon=True)
            for number, role in enumerate(roles)
        ]
        for thread in self._threads:
            thread.start()

    def recorded(self) -> None:
        """There is a new request."""
        self._requested.set()

    def stop(self, deadline_s: float) -> None:
        """Begin nothing more, and wait so long for what is under way; what is left is due at the next start."""
        for event in (self._stopping, self._requested, self._idle):
            event.set()
        until = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, work: Callable[[], bool], wake: threading.Event) -> None:
        while not self._stopping.is_set():
            try:
                wake.clear()
                if not work():
                    wake.wait(_IDLE_S)
            except Transient as error:
                logger.warning("tried again soon: %s", error)
                self._stopping.wait(_PAUSE_S)
            except Exception:  # whatever happens, the next round is worth trying
                logger.exception("storage commitment")
                self._stopping.wait(_PAUSE_S)

    def _check_next(self) -> bool:
        taken = self._commitments.take(CommitmentState.REQUESTED, _CHECK_LEASE_S)
        if taken is None:
            return False
        what = taken.references, self._commitments, self._spool, self._supported, self._holding(taken)
        try:
            reasons = list(check(*what, cohort=self._cohort_of(taken.requester)))
        except _Stopped:
            self._commitments.keep(taken, 0.0)
            return True
        self._commitments.checked(taken, reasons, taken.requested_at + self._settings.same_association_after_s)
        failed = len(reasons) - reasons.count(COMMITTED)
        logger.info(
            "storage commitment %s: %d of %d instances", taken.transaction_uid, len(reasons) - failed, len(reasons)
        )
        return True

    def _holding(self, taken: Commitment) -> Callable[[], None]:
        """What a check calls between files: it ends when the node stops, and goes on being ours meanwhile."""
        keep_at = time.monotonic() + _KEEP_S

        def between() -> None:
            nonlocal keep_at
            if self._stopping.is_set():
                raise _Stopped
            if time.monotonic() > keep_at:
                self._commitments.keep(taken, _CHECK_LEASE_S)
                keep_at = time.monotonic() + _KEEP_S

        return between

    def _report_next(self) -> bool:
        taken = self._commitments.take(CommitmentState.CHECKED, _REPORT_LEASE_S)
        if taken is None:
            return False
        try:
            self._reporter.deliver(taken)
        except Transient as error:
            self._try_later(taken, str(error))
        except Exception as error:  # whatever the peer did, others are waiting
            logger.exception("storage commitment")
            self._try_later(taken, f"unexpected {type(error).__name__}")
        else:
            self._commitments.reported(taken)
            self._reporter.forget(taken)
            logger.info("storage commitment %s reported", taken.transaction_uid)
        return True

    def _try_later(self, taken: Commitment, reason: str) -> None:
        settings, now = self._settings, time.time()
        if now - taken.requested_at > settings.give_up_after_hours * _HOUR_S:
            logger.error("storage commitment %s is not reported: %s", taken.transaction_uid, reason)
            self._commitments.abandon(taken, reason)
            self._reporter.forget(taken)
            return
        pause_s = min(settings.first_retry_s * 2.0 ** min(taken.attempts, 64), settings.longest_retry_s)
        logger.warning("storage commitment %s is reported later: %s", taken.transaction_uid, reason)
        self._commitments.postpone(taken, now + pause_s, reason)
