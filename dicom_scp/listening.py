"""Accepting connections: as many as may be, each bounded, with a fast lane for C-STORE."""

import socket
from typing import Any

from pynetdicom import evt
from pynetdicom._handlers import (
    standard_dimse_recv_handler,
    standard_dimse_sent_handler,
    standard_pdu_recv_handler,
    standard_pdu_sent_handler,
)
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_scp.fast_lane import FastLane, StorageScp
from dicom_scp.transport import BoundedDimse, BoundedSocket

_LOGGERS = (
    (evt.EVT_DIMSE_RECV, standard_dimse_recv_handler),
    (evt.EVT_DIMSE_SENT, standard_dimse_sent_handler),
    (evt.EVT_PDU_RECV, standard_pdu_recv_handler),
    (evt.EVT_PDU_SENT, standard_pdu_sent_handler),
)


class NodeRequestHandler(RequestHandler):  # type: ignore[misc]
    """Makes the association of an accepted connection, bounded."""

    server: "NodeServer"

    def _create_association(self) -> Any:  # noqa: ANN401 - the library has no types
        bounds = self.server
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.settimeout(bounds.timeout_s)
        association = super()._create_association()
        association.dimse = BoundedDimse(association, bounds.max_object_bytes)
        bounded = BoundedSocket(association.dul.socket, bounds.max_pdu_bytes, bounds.timeout_s)
        association.dul.socket = bounded
        bounded.wait_for_events()
        if bounds.storage is not None:
            limits = bounds.max_pdu_bytes, bounds.timeout_s
            bounded.open_fast_lane(FastLane(association, bounds.storage, *limits))
        for event, handler in _LOGGERS:
            association.unbind(event, handler)
        return association


class NodeServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Listens, and refuses connections while far too many are open.

    Parameters
    ----------
    max_object_bytes, max_pdu_bytes, max_connections, timeout_s
        Bounds of every association.
    storage : StorageScp, optional
        Who stores what comes in by the fast lane; without one there is none.
    """

    def __init__(
        self,
        *positional: Any,  # noqa: ANN401 - what the library passes
        max_object_bytes: int,
        max_pdu_bytes: int,
        max_connections: int,
        timeout_s: float,
        storage: StorageScp | None,
        **named: Any,  # noqa: ANN401 - what the library passes
    ) -> None:
        self.max_object_bytes = max_object_bytes
        self.max_pdu_bytes = max_pdu_bytes
        self.max_connections = max_connections
        self.timeout_s = timeout_s
        self.storage = storage
        super().__init__(*positional, request_handler=NodeRequestHandler, **named)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as in socketserver
        """Whether a connection may stay: rejecting it politely would cost two threads."""
        return len(self.active_associations) < self.max_connections
