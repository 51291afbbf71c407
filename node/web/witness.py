"""What is done over HTTP, as audit messages."""

import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import AbstractContextManager

from indexer.catalog import Catalog, Lookup
from indexer.catalog.tombstones import Target
from node import audit_messages as messages
from node.audit import AuditTrail
from node.audit_messages import About, Code, Event, Outcome, Participant
from node.audit_subjects import deletion, of_study

_SAME_VISIT_S = 900.0
_MOST_VISITS = 10_000


class HttpWitness:
    """Tells an audit trail who logged in, asked, was given images, and had something forgotten.

    Parameters
    ----------
    aet : str
        The node's own AE title.
    """

    def __init__(self, trail: AuditTrail, catalog: Catalog, aet: str) -> None:
        self._trail = trail
        self._catalog = catalog
        self._aet = aet
        self._lock = threading.Lock()
        self._visits: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def refused(self, address: str) -> None:
        """A token was not valid."""
        self._authenticated("unknown", address, messages.LOGIN, Outcome.MINOR_FAILURE)

    def logged_in(self, user: str, address: str) -> None:
        """A browser got in."""
        self._authenticated(user, address, messages.LOGIN, Outcome.SUCCESS)

    def logged_out(self, user: str, address: str) -> None:
        """A browser left."""
        self._authenticated(user, address, messages.LOGOUT, Outcome.SUCCESS)

    def asked(self, user: str, address: str, route: str, url: str) -> None:
        """Somebody asks which studies there are.

        Parameters
        ----------
        route : str
            Path of the route, with the names of what varies.
        url : str
            What was asked, as it came.
        """
        if self._trail.is_on:
            question = About(route, messages.URI, "2", "24", query=url.encode())
            self._trail.add(Event(messages.QUERY, "E", self._both(user, address), [question]))

    def gives(self, user: str, address: str, study_uid: str, lookup: Lookup) -> None:
        """Images of a study are about to be given away; told once for all that follows within a quarter of an hour.

        Parameters
        ----------
        lookup : Lookup
            Of what the user may see: nothing else is given.

        Raises
        ------
        Transient
            It cannot be taken down; nothing is to be given.
        """
        if not self._trail.is_on or self._is_told((user, address, study_uid)):
            return
        if about := of_study(lookup, study_uid):
            participants = [
                Participant(self._aet, [messages.SOURCE], is_requestor=False),
                Participant(user, [messages.DESTINATION], is_requestor=True, address=address),
            ]
            self._trail.demand(Event(messages.BEGIN_TRANSFERRING, "E", participants, about))
            self._note((user, address, study_uid))

    def created(self, user: str, address: str, study_uid: str) -> None:
        """An instance of a study is about to be made."""
        if about := of_study(self._catalog.lookup, study_uid) if self._trail.is_on else []:
            self._trail.demand(Event(messages.INSTANCES_ACCESSED, "C", self._both(user, address), about))

    def deleting(self, user: str, address: str, targets: Collection[Target]) -> AbstractContextManager[None]:
        """Something is about to be forgotten; see `deletion`."""
        return deletion(self._trail, self._catalog.lookup, self._both(user, address), targets)

    def index_changed(self, user: str, address: str, description: str) -> None:
        """Something is embedded again."""
        who = Participant(user, [messages.SOURCE], is_requestor=True, address=address)
        self._trail.add(messages.index_changed(who, description))

    def _authenticated(self, user: str, address: str, what: Code, outcome: Outcome) -> None:
        participants = [
            Participant(user, [], is_requestor=True, address=address),
            Participant(self._aet, [messages.APPLICATION], is_requestor=False),
        ]
        event = Event(messages.USER_AUTHENTICATION, "E", participants, outcome=outcome, type_code=what)
        self._trail.add(event)

    def _both(self, user: str, address: str) -> list[Participant]:
        return [
            Participant(user, [messages.SOURCE], is_requestor=True, address=address),
            Participant(self._aet, [messages.DESTINATION], is_requestor=False),
        ]

    def _is_told(self, visit: tuple[str, str, str]) -> bool:
        with self._lock:
            at = self._visits.get(visit)
        return at is not None and time.monotonic() - at < _SAME_VISIT_S

    def _note(self, visit: tuple[str, str, str]) -> None:
        with self._lock:
            self._visits[visit] = time.monotonic()
            self._visits.move_to_end(visit)
            if len(self._visits) > _MOST_VISITS:
                self._visits.popitem(last=False)
