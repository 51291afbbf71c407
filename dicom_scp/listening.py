"""Accepting connections: as many as may be, each bounded, with a fast lane for C-STORE."""

import gc
import logging
import socket
import struct
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, Self

from pynetdicom import evt, pdu_items, pdu_primitives, presentation
from pynetdicom._handlers import (
    standard_dimse_recv_handler,
    standard_dimse_sent_handler,
    standard_pdu_recv_handler,
    standard_pdu_sent_handler,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, RequestHandler
from pynetdicom.utils import set_uid

from dicom_scp.fast_lane import FastLane, StorageScp
from dicom_scp.handover import Handover
from dicom_scp.transport import BoundedDimse, BoundedSocket
from dicom_scp.waiting_room import WaitingRoom

logger = logging.getLogger(__name__)

_LOGGERS = (
    (evt.EVT_DIMSE_RECV, standard_dimse_recv_handler),
    (evt.EVT_DIMSE_SENT, standard_dimse_sent_handler),
    (evt.EVT_PDU_RECV, standard_pdu_recv_handler),
    (evt.EVT_PDU_SENT, standard_pdu_sent_handler),
)


_COLLECT_EVERY, _COLLECT_EVERY_S = 64, 3.0
"""The library's associations are cycles, with open files: so many, or after so long, are worth a collection."""
_LOCAL_LIMIT_EXCEEDED = struct.pack(">BxLxBBB", 0x03, 4, 2, 3, 2)
"""A-ASSOCIATE-RJ: transient, by the service provider (presentation), local limit exceeded (PS3.8 9.3.4)."""


_MAX_REMEMBERED_UIDS = 4096


def _remember_uids() -> None:
    """Have the library judge a UID once: nearly all the hundreds of an association are those of the one before."""
    remembered = lru_cache(maxsize=_MAX_REMEMBERED_UIDS)(set_uid)
    for module in (pdu_items, pdu_primitives, presentation):
        module.set_uid = remembered


_remember_uids()


class _SharedContexts(list[PresentationContext]):
    """Supported contexts that every association has in a list of its own; nobody changes one of them.

    The library copies every one for each association, which takes 30 ms.
    """

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return type(self)(self)


class NodeRequestHandler(RequestHandler):  # type: ignore[misc]
    """Makes the association of a connection that asked for one, bounded."""

    server: "NodeServer"

    def _create_association(self) -> Any:  # noqa: ANN401 - the library has no types
        bounds = self.server
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.settimeout(bounds.timeout_s)
        association = super()._create_association()
        association.dimse = BoundedDimse(association, bounds.max_object_bytes)
        limits = bounds.max_pdu_bytes, bounds.timeout_s
        bounded = BoundedSocket(association.dul.socket, *limits, bounds.asked.pop(self.request, b""))
        association.dul.socket = bounded
        bounded.wait_for_events()
        if bounds.storage is not None:
            bounded.open_fast_lane(FastLane(association, bounds.storage, *limits))
        for event, handler in _LOGGERS:
            association.unbind(event, handler)
        bounds.made(association, self.request)
        return association


class NodeServer(AssociationServer):  # type: ignore[misc]
    """Listens, lets connections wait until they ask for an association, and bounds how many there are.

    Parameters
    ----------
    max_object_bytes, max_pdu_bytes, timeout_s
        Bounds of every association.
    max_associations, max_associations_per_host : int
        Beyond the first by so many again, or the second, an association is rejected before it costs anything.
    max_waiting : int
        Connections that may wait.
    negotiation_timeout_s : float
        So long.
    storage : StorageScp, optional
        Who stores what comes in by the fast lane; without one there is none.
    handover : Handover, optional
        Who hands connections over to other processes.
    """

    request_queue_size = 128

    def __init__(
        self,
        *positional: Any,  # noqa: ANN401 - what the library passes
        max_object_bytes: int,
        max_pdu_bytes: int,
        max_associations: int,
        max_associations_per_host: int,
        max_waiting: int,
        negotiation_timeout_s: float,
        timeout_s: float,
        storage: StorageScp | None,
        handover: Handover | None = None,
        **named: Any,  # noqa: ANN401 - what the library passes
    ) -> None:
        self.max_object_bytes = max_object_bytes
        self.max_pdu_bytes = max_pdu_bytes
        self.timeout_s = timeout_s
        self.storage = storage
        self._handover = handover
        self.asked: dict[socket.socket, bytes] = {}
        self._limits = max_associations, max_associations_per_host
        self._since_collection, self._collected_at = 0, time.monotonic()
        self._waiting: WaitingRoom | None = None  # the library closes what cannot listen
        super().__init__(*positional, request_handler=NodeRequestHandler, **named)
        self.contexts: list[PresentationContext] = _SharedContexts(self.contexts)
        self._waiting = WaitingRoom(self._admit, max_waiting, negotiation_timeout_s)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; a handshake of TLS is left to the waiting room."""
        connection, address = self.socket.accept()
        return connection, address

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Let a connection wait until it asks for an association."""
        assert self._waiting is not None  # noqa: S101 - it listens
        self._waiting.enter(request, client_address, self.ssl_context)

    def _admit(self, connection: socket.socket, address: Any, request: bytes) -> None:  # noqa: ANN401 - as above
        hosts = [str(one.requestor.address_info.address) for one in self.active_associations]
        elsewhere = self._handover.hosts if self._handover is not None else []
        hosts += elsewhere
        limit, per_host = self._limits
        in_all = limit if elsewhere else 2 * limit  # the library, which counts its own, rejects in a friendlier way
        of_host = hosts.count(str(address[0]))
        if len(hosts) >= in_all or of_host >= per_host:
            logger.warning("an association is rejected: %d are open, %d of its host", len(hosts), of_host)
            with suppress(OSError):
                connection.send(_LOCAL_LIMIT_EXCEEDED)
            connection.close()
            return
        if self._handover is None or not self._handover.take(connection, address, request):
            self.begin(connection, address, request)

    def begin(self, connection: socket.socket, address: Any, request: bytes) -> None:  # noqa: ANN401 - as above
        """Make an association of a connection and the A-ASSOCIATE-RQ that was read from it."""
        self.asked[connection] = request
        self._since_collection += 1
        self.finish_request(connection, address)

    def made(self, association: Any, connection: socket.socket) -> None:  # noqa: ANN401 - as above
        """An association was made of a connection, and starts in a moment."""

    def service_actions(self) -> None:
        """Collect what ended associations leave behind; the library would also where there was none."""
        now = time.monotonic()
        is_due = self._since_collection >= _COLLECT_EVERY or now - self._collected_at > _COLLECT_EVERY_S
        if self._since_collection and is_due:
            has_open = bool(self.active_associations)
            self._since_collection, self._collected_at = int(has_open), now
            gc.collect()

    def server_close(self) -> None:
        """Listen no more, and let nobody wait."""
        super().server_close()
        if self._waiting is not None:
            self._waiting.close()
