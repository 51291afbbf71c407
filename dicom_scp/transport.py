"""The network side of associations: bounds on what a peer can make the node hold or wait for."""

import logging
import os
import queue
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from pynetdicom.transport import AssociationSocket

from dicom_scp.notices import NotifyingDimse
from dicom_scp.read_ahead import ReadAhead
from dicom_scp.waiting_room import LONGEST_REQUEST_BYTES

logger = logging.getLogger(__name__)

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only
_MAX_COMMAND_BYTES = 1 << 16
_MAX_WAITING_MESSAGES = 16
_CONNECTION_CLOSED, _UNRECOGNISED_PDU = "Evt17", "Evt19"
"""Events of the upper layer's state machine (PS3.8 table 9-10)."""
_AWAITING_CLOSE = "Sta13"
_MAX_WAIT_S = 0.05
_MAX_IDLE_WAIT_S = 0.02
_CLOSED_POLL_S = 0.001


class Bell:
    """Wakes a thread that waits in `select`; Linux only."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The file descriptor to wait for."""
        return self._descriptor

    def ring(self) -> None:
        """Wake who waits, now or next time."""
        os.eventfd_write(self._descriptor, 1)

    def silence(self) -> None:
        """Ring no more."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)


class _RingingQueue(queue.Queue[Any]):
    """A queue that rings when something comes in."""

    def __init__(self, bell: Bell) -> None:
        super().__init__()
        self._bell = bell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401
        super().put(item, block, timeout)
        self._bell.ring()


class Lane(Protocol):
    """Somebody who reads PDUs before the network library does.

    Attributes
    ----------
    ahead : ReadAhead
        What it has read and not used; the library comes next.
    """

    ahead: ReadAhead

    @property
    def is_open(self) -> bool:
        """Whether it may read now."""

    def run(self, connection: socket.socket, bell: Bell) -> bool:
        """Read; whether a PDU for the library is at hand."""

    def close(self) -> None:
        """The association ends."""


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
    request : bytes
        The A-ASSOCIATE-RQ, which was read already.
    """

    def __init__(
        self, accepted: AssociationSocket, max_pdu_bytes: int, timeout_s: float, request: bytes = b""
    ) -> None:
        self.__dict__.update(accepted.__dict__)
        self._longest = max(max_pdu_bytes, LONGEST_REQUEST_BYTES)
        self._request = memoryview(request)
        self._timeout_s = timeout_s
        self._bell: Bell | None = None
        self._lane: Lane | None = None

    def wait_for_events(self) -> None:
        """Let the upper layer's thread wait for data or something to send, where it would sleep and look again.

        That is a thousand times a second for an idle association, and 2 ms for every instance of a busy one.
        """
        if not hasattr(os, "eventfd"):
            return
        provider = self.assoc.dul
        self._bell = Bell()
        provider.to_provider_queue = _RingingQueue(self._bell)
        provider._run_loop_delay = 0.0

    def open_fast_lane(self, lane: Lane) -> None:
        """Have C-STORE requests received by the fast lane; after `wait_for_events`, where that can be had."""
        if self._bell is not None:
            self._lane = lane

    def close_fast_lane(self) -> None:
        """Leave all requests to the library; before an association is accepted."""
        self._lane = None

    @property
    def ready(self) -> bool:
        """Whether there is data to read; waits for it a moment if there is nothing else to do.

        Before there is, the fast lane may have received any number of C-STORE requests.
        """
        if self._request:
            return True
        if self._bell is None:
            return bool(super().ready)
        if self.socket is None or not self._is_connected:
            time.sleep(_CLOSED_POLL_S)
            return False
        if (lane := self._lane) is not None:  # another thread may close it meanwhile
            if lane.is_open:
                return lane.run(self.socket, self._bell)
            if lane.ahead:
                return True
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():  # `select` knows nothing of it
            return True
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
        """Read exactly so many bytes, or fewer, which ends the association.

        That is so if the peer closed the connection or takes too long, or if it announced more than the longest
        PDU, which aborts it.
        """
        if nr_bytes > self._longest:
            logger.warning("PDU of %d bytes announced, longest %d: aborted", nr_bytes, self._longest)
            self.event_queue.put(_UNRECOGNISED_PDU)
            return bytearray()
        if self._request:
            begun, self._request = bytearray(self._request[:nr_bytes]), self._request[nr_bytes:]
            return begun
        data = bytearray(nr_bytes)
        read = 0
        if (lane := self._lane) is not None and lane.ahead:
            ahead = lane.ahead.take(nr_bytes)
            read = len(ahead)
            data[:read] = ahead
        with memoryview(data) as view, suppress(OSError):
            read = self._fill(view, read)
        return data if read == nr_bytes else data[:read]

    def _fill(self, view: memoryview, read: int) -> int:
        """Read until a buffer is full, or no more comes in time; returns how much of it is filled."""
        deadline = time.monotonic() + self._timeout_s
        self._acknowledge_at_once()
        while read < len(view):
            if time.monotonic() >= deadline:
                logger.warning("a PDU is not complete after %s s: closed", self._timeout_s)
                break
            count = self.socket.recv_into(view[read:])
            if count == 0:
                if read:
                    logger.warning("a peer closed the connection within a PDU")
                break
            read += count
        return read

    def _acknowledge_at_once(self) -> None:
        """Spare a peer that sends small pieces without TCP_NODELAY the 40 ms of a delayed acknowledgement."""
        if _QUICKACK is not None and self.socket is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _shutdown_socket(self) -> None:
        """Close also where the peer is gone already and there is nothing to shut down."""
        if (lane := self._lane) is not None:
            lane.close()
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
        self._handing_over = threading.Lock()
        self._idle = threading.Event()

    def get_msg(self, block: bool = False) -> Any:  # noqa: ANN401 - the library has no types
        """The next message; the association's thread asks without blocking once it has served the one before."""
        if block:
            return super().get_msg(block)
        with self._handing_over:
            found = super().get_msg(block)
            if found[1] is None:
                self._idle.set()
        return found

    def wait_until_idle(self) -> bool:
        """Whether the association's thread serves no request, now or in a moment."""
        return self._idle.wait(_MAX_IDLE_WAIT_S)

    def send_encoded(self, pdu: bytes) -> bool:
        """Send a whole message from the upper layer's thread; False if another one has to go out before."""
        with self._sending:
            if self.dul.to_provider_queue.queue:
                return False
            self.dul.socket.send(pdu)
            return True

    def receive_primitive(self, primitive: Any) -> None:  # noqa: ANN401 - the library has no types
        """Take the fragments of one P-DATA (PS3.8 annex E); what cannot be understood aborts the association."""
        try:
            primitive.presentation_data_value_list = [
                [context_id, self._kept(data)] for context_id, data in primitive.presentation_data_value_list
            ]
            if self.msg_queue.qsize() > _MAX_WAITING_MESSAGES:
                raise ValueError("requests sent without waiting for responses")
            with self._handing_over:
                self._idle.clear()
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
