"""Works off the outbox: reports to peers, answers to web hooks; again and again until they have arrived.

Nothing here holds up receiving or indexing. What was not delivered when the node stopped is due at its next start.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import requests

from config.model import Rule, Settings
from dicom_scp.spool import Spool
from indexer.answer import Answer, Finder, Seed
from indexer.catalog import Catalog
from indexer.catalog.outbox import REQUESTED, Delivery
from indexer.errors import Damaged, NotFound, Parked, Refused, Transient
from indexer.uids import SOPInstanceUID
from node.describe import answer_json
from node.reports import Reports
from node.rules import traits_of, wanted

log = logging.getLogger(__name__)

REPORT, WEBHOOK = "report", "webhook"
_LEASE_S = 120.0
"""A delivery whose node died meanwhile is tried again so long after it was begun."""
_IDLE_S = 0.25
_PAUSE_S = 5.0
_DELIVERERS = 2
"""So that one receiver that does not answer does not keep the others waiting."""
_HOUR_S = 3600.0
_PASSING = frozenset({408, 425, 429})
"""HTTP statuses below 500 that ask to try again later (RFC 9110, 8470, 6585)."""


class Courier:
    """Enters what the rules ask for, and delivers what is in the outbox.

    Parameters
    ----------
    finder : Finder
        Who answers for web hooks.
    reports : Reports
        Who makes and sends reports.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, spool: Spool, finder: Finder, reports: Reports
    ) -> None:
        self._settings = settings.delivery
        self._rules = {rule.name: rule for rule in settings.rules}
        self._catalog = catalog
        self._outbox = catalog.outbox
        self._spool = spool
        self._finder = finder
        self._reports = reports
        self._making = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin; without rules only what is in the outbox already, and what people ask for, is delivered."""
        if not self._rules:
            self._outbox.forget_watch()
        roles = [self._look] * bool(self._rules) + [self._deliver_next] * _DELIVERERS
        self._threads = [
            threading.Thread(target=self._run, args=(role,), name=f"courier-{number}", daemon=True)
            for number, role in enumerate(roles)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, deadline_s: float) -> None:
        """Begin nothing more, and wait so long for what is under way."""
        self._stopping.set()
        until = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, work: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            try:
                if not work():
                    self._stopping.wait(_IDLE_S)
            except Transient as error:
                log.warning("tried again soon: %s", error)
                self._stopping.wait(_PAUSE_S)
            except Exception:  # whatever happens, the next round is worth trying
                log.exception("deliveries")
                self._stopping.wait(_PAUSE_S)

    def _look(self) -> bool:
        """Enter what the rules ask for about studies that have come to rest."""
        self._outbox.watch()
        quiet_s = self._settings.study_quiet_s
        for resting in self._outbox.resting(quiet_s):
            traits = traits_of(resting.study_instance_uid, self._catalog.lookup, self._spool)
            entered = self._outbox.enter(resting, wanted(list(self._rules.values()), traits), quiet_s)
            log.info("study %s has come to rest: %d deliveries", resting.study_instance_uid, entered)
        return False

    def _deliver_next(self) -> bool:
        taken = self._outbox.take(_LEASE_S)
        if taken is None:
            return False
        try:
            self._deliver(taken)
        except Transient as error:
            self._try_later(taken, str(error))
        except (Refused, NotFound, Parked, Damaged) as error:
            log.error("%s: given up: %s", _title(taken), error)
            self._outbox.fail(taken, str(error))
        except Exception as error:  # a delivery that breaks must neither stop the others nor come back at once
            self._try_later(taken, f"unexpected {type(error).__name__}")
            raise
        else:
            log.info("%s: delivered", _title(taken))
            self._outbox.done(taken)
        return True

    def _deliver(self, taken: Delivery) -> None:
        rule = self._rules.get(taken.rule)
        if rule is None and taken.rule != REQUESTED:
            raise Refused("its rule is no longer in the settings")
        payload = taken.payload or self._prepared(taken, rule)
        if taken.action == REPORT:
            self._reports.send(SOPInstanceUID(payload["sop_instance_uid"]), taken.target)
        elif rule is not None:
            post(rule.url, payload, rule.timeout_s)

    def _prepared(self, taken: Delivery, rule: Rule | None) -> dict[str, Any]:
        """Make what is told, once for all targets of the rule, and keep it before anybody is told."""
        with self._making:
            payload = self._outbox.payload_of(taken)
            if payload is None:
                payload = self._made(taken, rule.results if rule else 0)
                self._outbox.prepared(taken, payload)
        return payload

    def _made(self, taken: Delivery, results: int) -> dict[str, Any]:
        seed = Seed(study_instance_uid=taken.study_instance_uid)
        if taken.action == REPORT:
            return {"sop_instance_uid": self._reports.make(seed, results).sop_instance_uid}
        return webhook_payload(taken, self._finder.similar(seed, limit=results))

    def _try_later(self, taken: Delivery, reason: str) -> None:
        settings, now = self._settings, time.time()
        if now - taken.entered_at > settings.give_up_after_hours * _HOUR_S:
            log.error("%s: given up: %s", _title(taken), reason)
            self._outbox.fail(taken, reason)
            return
        pause_s = min(settings.first_retry_s * 2.0 ** min(taken.attempts, 64), settings.longest_retry_s)
        log.warning("%s: tried again in %.0f s: %s", _title(taken), pause_s, reason)
        self._outbox.postpone(taken, now + pause_s, reason)


def webhook_payload(taken: Delivery, answer: Answer) -> dict[str, Any]:
    """Say what a web hook is told: UIDs, ranks, similarities, z ranges in LPS mm; nothing else of any patient."""
    return {
        "event": "indexed",
        "rule": taken.rule,
        "delivery": f"{taken.study_instance_uid}/{taken.revision}/{taken.rule}",
        "study_instance_uid": taken.study_instance_uid,
        "revision": taken.revision,
        **answer_json(answer),
    }


def post(url: str, payload: dict[str, Any], timeout_s: float) -> None:
    """POST JSON; any 2xx is arrival. ``Idempotency-Key`` is the same for every try of one delivery.

    Redirects are not followed: the answer goes to the address in the settings and to no other.

    Raises
    ------
    Transient
        Nobody answers, or the receiver cannot take it now.
    Refused
        The receiver does not want it.
    """
    try:
        answered = requests.post(
            url,
            json=payload,
            timeout=timeout_s,
            allow_redirects=False,
            headers={"Idempotency-Key": payload["delivery"], "User-Agent": "Pacsimile"},
        )
    except requests.RequestException as error:  # its text repeats the address
        raise Transient(f"the web hook does not answer: {type(error).__name__}") from None
    with answered:
        code = answered.status_code
    if code >= 500 or code in _PASSING:
        raise Transient(f"the web hook answered {code}")
    if not 200 <= code < 300:
        raise Refused(f"the web hook answered {code}")


def _title(taken: Delivery) -> str:
    return f"{taken.action} on study {taken.study_instance_uid} ({taken.rule}) to {taken.target or 'its address'}"
