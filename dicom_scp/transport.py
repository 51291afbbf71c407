"""The network side of associations: bounds on what a peer can make the node hold or wait for."""

import logging
import os
import queue
import select
import socket
import time
from contextlib import suppress
from typing import Any

from pynetdicom import evt
from pynetdicom._handlers import (
    standard_dimse_recv_handler,
    standard_dimse_sent_handler,
    standard_pdu_recv_handler,
    standard_pdu_sent_handler,
)
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from dicom_scp.notices import NotifyingDimse

logger = logging.getLogger(__name__)

_MAX_NEGOTIATION_BYTES = 1 << 20
"""An A-ASSOCIATE-RQ is bound by no announced length; 128 contexts of all transfer syntaxes need far less."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only
_MAX_COMMAND_BYTES = 1 << 16
_MAX_WAITING_MESSAGES = 16
_CONNECTION_CLOSED, _UNRECOGNISED_PDU = "Evt17", "Evt19"
"""Events of the upper layer's state machine (PS3.8 table 9-10)."""
_AWAITING_CLOSE = "Sta13"
_MAX_WAIT_S = 0.05
_CLOSED_POLL_S = 0.001
_LOGGERS = (
    (evt.EVT_DIMSE_RECV, standard_dimse_recv_handler),
    (evt.EVT_DIMSE_SENT, standard_dimse_sent_handler),
    (evt.EVT_PDU_RECV, standard_pdu_recv_handler),
    (evt.EVT_PDU_SENT, standard_pdu_sent_handler),
)


class _Bell:
    """Wakes a thread that waits in `select`; Linux only."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def ring(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def silence(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)


class _RingingQueue(queue.Queue[Any]):
    """A queue that rings when something comes in."""

    def __init__(self, bell: _Bell) -> None:
        super().__init__()
        self._bell = bell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401
        super().put(item, block, timeout)
        self._bell.ring()


class BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """The socket of an accepted association, which no peer can make read without end.

    Parameters
    ----------
    accepted : AssociationSocket
        What it takes the place of.
    max_pdu_bytes : int
        Longest PDU that the node announced (PS3.8 D.1).
    timeout_s : float
        So long a PDU may take from its first byte to its last.
    """

    def __init__(self, accepted: AssociationSocket, max_pdu_bytes: int, timeout_s: float) -> None:
        self.__dict__.update(accepted.__dict__)
        self._longest = max(max_pdu_bytes, _MAX_NEGOTIATION_BYTES)
        self._timeout_s = timeout_s
        self._bell: _Bell | None = None

    def wait_for_events(self) -> None:
        """Let the upper layer's thread wait for data or something to send, where it would sleep and look again.

        That is a thousand times a second for an idle association, and 2 ms for every instance of a busy one.
        """
        if not hasattr(os, "eventfd"):
            return
        provider = self.assoc.dul
        self._bell = _Bell()
        provider.to_provider_queue = _RingingQueue(self._bell)
        provider._run_loop_delay = 0.0

    @property
    def ready(self) -> bool:
        """Whether there is data to read; waits for it a moment if there is nothing else to do."""
        if self._bell is None:
            return bool(super().ready)
        if self.socket is None or not self._is_connected:
            time.sleep(_CLOSED_POLL_S)
            return False
        closing = self.assoc.dul.state_machine.current_state == _AWAITING_CLOSE
        wait_s = _MAX_WAIT_S if self.event_queue.empty() and not closing else 0.0
        try:
            readable, _, _ = select.select([self.socket, self._bell], [], [], wait_s)
        except (OSError, ValueError):
            self.event_queue.put(_CONNECTION_CLOSED)
            return False
        self._bell.silence()
        return self.socket in readable

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly so many bytes, or fewer if the peer closed the connection.

        Raises
        ------
        OSError
            More than the longest PDU is announced, or they take too long.
        """
        if nr_bytes > self._longest:
            raise OSError(f"PDU of {nr_bytes} bytes announced, longest {self._longest}")
        deadline = time.monotonic() + self._timeout_s
        self._acknowledge_at_once()
        data = bytearray(nr_bytes)
        read = 0
        with memoryview(data) as view:
            while read < nr_bytes:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"PDU not complete after {self._timeout_s} s")
                count = self.socket.recv_into(view[read:])
                if count == 0:
                    break
                read += count
        return data if read == nr_bytes else data[:read]

    def _acknowledge_at_once(self) -> None:
        """Spare a peer that sends small pieces without TCP_NODELAY the 40 ms of a delayed acknowledgement."""
        if _QUICKACK is not None and self.socket is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _shutdown_socket(self) -> None:
        """Close also where the peer is gone already and there is nothing to shut down."""
        open_socket = self.socket
        super()._shutdown_socket()
        if open_socket is not None:
            open_socket.close()


class BoundedDimse(NotifyingDimse):
    """Assembles messages from fragments without holding more than a data set may have.

    Of a longer data set one byte more than allowed is kept, so that the handler sees it and can say so.
    """

    def __init__(self, association: Any, max_object_bytes: int) -> None:  # noqa: ANN401 - the library has no types
        super().__init__(association)
        self._max_object_bytes = max_object_bytes

    def receive_primitive(self, primitive: Any) -> None:  # noqa: ANN401 - the library has no types
        """Take the fragments of one P-DATA (PS3.8 annex E); what cannot be understood aborts the association."""
        try:
            primitive.presentation_data_value_list = [
                [context_id, self._kept(data)] for context_id, data in primitive.presentation_data_value_list
            ]
            if self.msg_queue.qsize() > _MAX_WAITING_MESSAGES:
                raise ValueError("requests sent without waiting for responses")
            super().receive_primitive(primitive)
            if self.message is not None and self.message.encoded_command_set.tell() > _MAX_COMMAND_BYTES:
                raise ValueError(f"command set of more than {_MAX_COMMAND_BYTES} bytes")
        except Exception as error:  # hostile fragments raise anything at all
            logger.warning("association aborted: a message cannot be read (%s)", type(error).__name__)
            self.dul.event_queue.put(_UNRECOGNISED_PDU)

    def _kept(self, fragment: bytes) -> bytes:
        """A fragment with its message control header; cut where it is of a data set already too long."""
        if fragment[0] & 1 or self.message is None or self.message.data_set is None:
            return fragment
        room = max(0, self._max_object_bytes + 1 - self.message.data_set.tell())
        return fragment[: 1 + room]


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
        for event, handler in _LOGGERS:
            association.unbind(event, handler)
        return association


class NodeServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Listens, and refuses connections while far too many are open.

    Parameters
    ----------
    max_object_bytes, max_pdu_bytes, max_connections, timeout_s
        Bounds of every association.
    """

    def __init__(
        self,
        *positional: Any,  # noqa: ANN401 - what the library passes
        max_object_bytes: int,
        max_pdu_bytes: int,
        max_connections: int,
        timeout_s: float,
        **named: Any,  # noqa: ANN401 - what the library passes
    ) -> None:
        self.max_object_bytes = max_object_bytes
        self.max_pdu_bytes = max_pdu_bytes
        self.max_connections = max_connections
        self.timeout_s = timeout_s
        super().__init__(*positional, request_handler=NodeRequestHandler, **named)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as in socketserver
        """Whether a connection may stay: rejecting it politely would cost two threads."""
        return len(self.active_associations) < self.max_connections
