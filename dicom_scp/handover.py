"""Handing connections over to receiver processes: those that ask for nothing but storing instances.

Every connection is accepted, waits and is counted in the node's main process. What asks for queries, for storage
commitment or for the similarity view stays there, and so does everything while no receiver is there to take it.
"""

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from pynetdicom import evt

from dicom_scp.channel import Channel, Told
from dicom_scp.intake import StoreRequest
from dicom_scp.reception import Affected, Reception, Verdict
from dicom_scp.senders import Caller
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

logger = logging.getLogger(__name__)

_CALLED, _CALLING, _ITEMS = slice(10, 26), slice(26, 42), 74
_PRESENTATION_CONTEXT, _ABSTRACT_SYNTAX, _CONTEXT_HEADER_BYTES = 0x20, 0x30, 4
"""Places and item types of an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
_item_header = struct.Struct(">BxH")

READY, ACCEPTED, REJECTED, STORED, ENDED = "ready", "accepted", "rejected", "stored", "ended"
"""What a receiver tells of."""
_NOTIFICATION = {ACCEPTED: evt.EVT_ACCEPTED, REJECTED: evt.EVT_REJECTED, ENDED: evt.EVT_CONN_CLOSE}


@dataclass(frozen=True)
class Requestor:
    """Whose an association is that was handed over, in the network library's words."""

    ae_title: str
    address: str


@dataclass(frozen=True, eq=False)
class HandedAssociation:
    """An association that a receiver has."""

    requestor: Requestor


@dataclass(frozen=True)
class HandedEvent:
    """A notification of the network library that a receiver got: observers hear of it here."""

    assoc: HandedAssociation


class Listener(Protocol):
    """Who hears what receivers do; from several threads."""

    def stored_elsewhere(self, status: int, size_bytes: int, kept: tuple[StoreRequest, Reception] | None) -> None:
        """A C-STORE is about to be answered; what was taken in, if it was."""

    def ended_elsewhere(self, association: HandedAssociation) -> None:
        """An association has ended."""


@dataclass(eq=False)
class _Receiver:
    """A receiver process that can be reached."""

    channel: Channel
    associations: dict[int, HandedAssociation] = field(default_factory=dict)


class Handover:
    """Hands connections to the receiver that has fewest, and hears what becomes of them; safe to share.

    Parameters
    ----------
    called_ae_title : str
        Only associations that call it are handed over.
    kept_here : collection of str
        SOP classes of which none is.
    callers_kept_here : collection of str
        Calling AE titles of which none is: their notes may reject instances.
    observers : sequence
        Notifications of the network library, and who hears of them.
    """

    def __init__(
        self,
        called_ae_title: str,
        kept_here: Collection[str],
        callers_kept_here: Collection[str],
        listener: Listener,
        observers: Sequence[tuple[Any, Any]] = (),
    ) -> None:
        self._called_ae_title = called_ae_title
        self._kept_here = frozenset(kept_here)
        self._callers_kept_here = frozenset(callers_kept_here)
        self._listener = listener
        self._observers = observers
        self._lock = threading.Lock()
        self._receivers: list[_Receiver] = []
        self._numbers = count()

    @property
    def hosts(self) -> list[str]:
        """Address of the peer of every association that receivers have."""
        with self._lock:
            return [one.requestor.address for receiver in self._receivers for one in receiver.associations.values()]

    @property
    def receivers(self) -> int:
        """How many receivers there are."""
        return len(self._receivers)

    def take(self, connection: socket.socket, address: Any, request: bytes) -> bool:  # noqa: ANN401 - as the socket has it
        """Hand a connection over if it is one for a receiver; False, and nothing done, if it is not.

        Parameters
        ----------
        request : bytes
            The A-ASSOCIATE-RQ that was read from it.
        """
        if not self._receivers or isinstance(connection, ssl.SSLSocket) or not self._is_for_receivers(request):
            return False
        association = HandedAssociation(Requestor(_text(request[_CALLING]), str(address[0])))
        while (receiver := self._least_busy()) is not None:
            number = next(self._numbers)
            with self._lock:
                receiver.associations[number] = association
            try:
                receiver.channel.tell(Told({"number": number, "address": list(address)}, request, connection))
            except OSError:
                with self._lock:
                    receiver.associations.pop(number, None)
                    self._receivers = [one for one in self._receivers if one is not receiver]
                continue
            connection.close()
            return True
        return False

    def listen(self, channel: Channel) -> None:
        """Hand connections over to a receiver, and hear it, until it is gone."""
        receiver = _Receiver(channel)
        try:
            while (told := channel.hear()) is not None:
                if told.message["what"] == READY:
                    with self._lock:
                        self._receivers.append(receiver)
                else:
                    self._heard(receiver, told.message)
        finally:
            with self._lock:
                self._receivers = [one for one in self._receivers if one is not receiver]
            for number in list(receiver.associations):
                self._heard(receiver, {"what": ENDED, "number": number})

    def _heard(self, receiver: _Receiver, message: Any) -> None:  # noqa: ANN401 - JSON
        association = receiver.associations.get(message["number"])
        try:
            if message["what"] == STORED:
                kept = _kept(association, message["kept"]) if association and message["kept"] else None
                self._listener.stored_elsewhere(message["status"], message["size_bytes"], kept)
            elif association is not None:
                self._notify(association, message["what"])
        except Exception as error:  # one message must not silence the others
            logger.error("what a receiver told failed: %s", type(error).__name__)
        if message["what"] == ENDED:
            with self._lock:
                receiver.associations.pop(message["number"], None)

    def _notify(self, association: HandedAssociation, what: str) -> None:
        for event, handler in self._observers:
            if event == _NOTIFICATION[what]:
                handler(HandedEvent(association))
        if what == ENDED:
            self._listener.ended_elsewhere(association)

    def _least_busy(self) -> _Receiver | None:
        with self._lock:
            return min(self._receivers, key=lambda one: len(one.associations), default=None)

    def _is_for_receivers(self, request: bytes) -> bool:
        try:
            asked = set(abstract_syntaxes(request))
        except (ValueError, struct.error):
            return False
        is_elsewhere = _text(request[_CALLED]) != self._called_ae_title
        is_kept_here = _text(request[_CALLING]) in self._callers_kept_here or asked & self._kept_here
        return bool(asked) and not is_elsewhere and not is_kept_here


def _text(ae_title: bytes) -> str:
    return ae_title.decode("ascii", "replace").strip()


def abstract_syntaxes(request: bytes) -> Iterator[str]:
    """UIDs of what is asked for by an A-ASSOCIATE-RQ.

    Raises
    ------
    ValueError, struct.error
        It is not well-formed.
    """
    for kind, item in _items(request, _ITEMS):
        if kind == _PRESENTATION_CONTEXT:
            for part, value in _items(item, _CONTEXT_HEADER_BYTES):
                if part == _ABSTRACT_SYNTAX:
                    yield value.rstrip(b"\0").decode("ascii")


def _items(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at < len(data):
        kind, length = _item_header.unpack_from(data, at)
        at += _item_header.size
        if at + length > len(data):
            raise ValueError(f"expected an item of {length} bytes, got {len(data) - at}")
        yield kind, data[at : at + length]
        at += length


def told_of_kept(request: StoreRequest, reception: Reception) -> list[str | None]:
    """What a receiver tells of an instance that it has taken in."""
    return [
        request.affected.sop_class_uid,
        request.affected.sop_instance_uid,
        request.transfer_syntax_uid,
        request.caller.ae_title,
        request.caller.address,
        reception.verdict.value,
        reception.sop_instance_uid,
        reception.series_instance_uid,
        reception.study_instance_uid,
        reception.reason,
    ]


def _kept(association: HandedAssociation, told: list[Any]) -> tuple[StoreRequest, Reception]:
    sop_class, affected, syntax, ae_title, address, verdict, uid, series, study, reason = told
    request = StoreRequest(
        Affected(sop_class, affected), syntax, Caller(ae_title, address), id(association), as_seed=False
    )
    reception = Reception(
        Verdict(verdict),
        SOPInstanceUID(uid),
        SeriesInstanceUID(series) if series is not None else None,
        StudyInstanceUID(study) if study is not None else None,
        reason,
    )
    return request, reception
