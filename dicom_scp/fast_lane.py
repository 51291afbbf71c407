"""Reception of C-STORE requests without the detour through the network library's queues and threads.

A loop in the association's upper-layer thread reads PDUs into one buffer, and writes the data set of a C-STORE
request from there straight to its file. What it is not made for - any other PDU or message, and whatever is not
quite in order - it leaves to the library, together with what came before of the same message: the library then does
what it always does.
"""

import logging
import os
import select
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pynetdicom.pdu_primitives import P_DATA

from dicom_scp import pdata
from dicom_scp.contexts import is_known_storage
from dicom_scp.draft import Draft
from dicom_scp.intake import Intake, StoreRequest
from dicom_scp.pdata import Fragment, StoreCommand
from dicom_scp.read_ahead import ReadAhead
from dicom_scp.reception import Affected
from dicom_scp.transport import Bell
from indexer.errors import Transient

logger = logging.getLogger(__name__)

Association = Any
"""`pynetdicom.association.Association`, which has no types."""

_READ_BYTES = 256 << 10
_WAIT_MS = 50
_CONNECTION_CLOSED, _UNRECOGNISED_PDU = "Evt17", "Evt19"
_DATA_TRANSFER = "Sta6"
"""Events and a state of the upper layer's state machine (PS3.8 table 9-10)."""
_SHORTEST_MAX_PDU = 1024
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only


class StorageScp(Protocol):
    """Who stores what the fast lane brings."""

    intake: Intake

    def store_request(self, association: Association, affected: Affected, transfer_syntax_uid: str) -> StoreRequest:
        """What a C-STORE request on an association means."""


@dataclass
class _Incoming:
    """A C-STORE request whose data set is coming in."""

    context_id: int
    encoded_command: bytes
    command: StoreCommand
    request: StoreRequest
    draft: Draft
    is_whole: bool = False


class FastLane:
    """The fast lane of one accepted association; all in the thread of its upper layer.

    Parameters
    ----------
    association : pynetdicom.association.Association
        Its `dimse` is a `transport.BoundedDimse`.
    scp : StorageScp
    longest_pdu_bytes : int
        Longest PDU that the node announced.
    timeout_s : float
        So long a PDU may take from its first byte to its last.
    """

    def __init__(self, association: Association, scp: StorageScp, longest_pdu_bytes: int, timeout_s: float) -> None:
        self._association = association
        self._dul = association.dul
        self._scp = scp
        self._timeout_s = timeout_s
        self._read_bytes = max(_READ_BYTES, longest_pdu_bytes + pdata.HEADER_BYTES)
        self._max_dataset_bytes = scp.intake.max_dataset_bytes
        self._incoming: _Incoming | None = None
        self._pdu_since = 0.0
        self._is_alone = False
        self._response = b""
        self.ahead = ReadAhead(0)

    @property
    def is_open(self) -> bool:
        """Whether the next PDU may be one for the lane, and no message is on its way through the library."""
        return (
            self._dul.state_machine.current_state == _DATA_TRANSFER
            and self._association.dimse.message is None
            and self._dul.event_queue.empty()
        )

    def run(self, connection: socket.socket, bell: Bell) -> bool:
        """Store what comes, until something else is to be done, or nothing comes for a moment.

        Parameters
        ----------
        connection : socket.socket
            Does not block.
        bell : Bell
            Rings when the library has something to send.

        Returns
        -------
        bool
            Whether a PDU for the library is at hand.
        """
        if not self.ahead.capacity:
            self.ahead = ReadAhead(self._read_bytes)
            self._connection = connection
            self._poll = select.poll()
            self._poll.register(connection, select.POLLIN)
            self._poll.register(bell, select.POLLIN)
            self._bell = bell
        try:
            while self._respond() and not self._dul.to_provider_queue.queue:
                if (length := self._pdu_length()) is None:
                    if not self._read():
                        return False
                elif length == 0 or not self._use(self.ahead.pending()[:length]):
                    self._leave_to_library()
                    return True
                else:
                    self.ahead.use(length)
                    self._pdu_since = time.monotonic()
            return False
        finally:
            self._let_association_run()

    def close(self) -> None:
        """Give up what is not whole: the association ends."""
        if self._incoming is not None:
            self._incoming.draft.discard()
            self._incoming = None

    def _pdu_length(self) -> int | None:
        """Length of the PDU at hand, all in all; None if it is not whole yet, 0 if it is not for the lane."""
        there = self.ahead.pending()
        if len(there) < pdata.HEADER_BYTES:
            return None
        kind, length = pdata.pdu_header(there)
        length += pdata.HEADER_BYTES
        if kind != pdata.P_DATA_TF or length > self.ahead.capacity:
            return 0
        return length if len(there) >= length else None

    def _read(self) -> bool:
        """Read what is there, or wait for it; whether something came."""
        if self.ahead and time.monotonic() - self._pdu_since > self._timeout_s:
            logger.error("PDU not complete after %s s", self._timeout_s)
            return self._lost()
        try:
            count = self._receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            return self._wait()
        except (OSError, ValueError):
            return self._lost()
        if count == 0:
            return self._lost()
        if not self.ahead:
            self._pdu_since = time.monotonic()
        self.ahead.came(count)
        self._dul._idle_timer.restart()
        return True

    def _receive(self) -> int:
        """Read once without waiting; returns how many bytes came, 0 where the peer closed the connection."""
        if not isinstance(self._connection, ssl.SSLSocket):
            return os.readv(self._connection.fileno(), [self.ahead.room()])
        timeout_s = self._connection.gettimeout()
        self._connection.settimeout(0.0)
        try:
            return self._connection.recv_into(self.ahead.room())
        finally:
            self._connection.settimeout(timeout_s)

    def _wait(self) -> bool:
        if _QUICKACK is not None:  # spares a peer without TCP_NODELAY the 40 ms of a delayed acknowledgement
            self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        ready = self._poll.poll(_WAIT_MS)
        if any(descriptor == self._bell.fileno() for descriptor, _ in ready):
            self._bell.silence()
            return False
        return bool(ready)

    def _lost(self) -> bool:
        self.close()
        self._dul.event_queue.put(_CONNECTION_CLOSED)
        return False

    def _use(self, pdu: memoryview) -> bool:
        """Take a whole P-DATA-TF PDU in; False, and nothing done, if it is not one of a C-STORE request."""
        found = pdata.fragments(pdu)
        if not found:
            return False
        data = found
        if self._incoming is None:
            command, *data = found
            if not _is_dataset(data, command.context_id) or not self._begin(command):
                return False
        elif not _is_dataset(found, self._incoming.context_id):
            return False
        self._append(data)
        return True

    def _begin(self, fragment: Fragment) -> bool:
        """Begin to receive, if this is the command set of a C-STORE request."""
        if fragment.control != pdata.COMMAND:
            return False
        encoded = bytes(fragment.data)
        command = pdata.store_command(encoded)
        context = self._association._accepted_cx.get(fragment.context_id)
        if command is None or context is None or not self._is_served(command.sop_class_uid) or not self._be_alone():
            return False
        affected = Affected(command.sop_class_uid, command.sop_instance_uid)
        request = self._scp.store_request(self._association, affected, str(context.transfer_syntax[0]))
        draft = self._scp.intake.draft(request)
        self._incoming = _Incoming(fragment.context_id, encoded, command, request, draft)
        return True

    def _is_served(self, sop_class_uid: str) -> bool:
        """Whether the library would take it for a storage SOP class, and the peer's PDUs are long enough."""
        return (
            is_known_storage(sop_class_uid)
            and sop_class_uid not in self._association.acceptor.accepted_common_extended
            and (self._association.dimse.maximum_pdu_size or _SHORTEST_MAX_PDU) >= _SHORTEST_MAX_PDU
        )

    def _be_alone(self) -> bool:
        """Halt the association's own thread; False if it is serving a request, and goes on doing so."""
        if not self._is_alone:
            if not self._association.dimse.wait_until_idle():
                return False
            self._association.dimse.halt()
            self._is_alone = True
        return True

    def _let_association_run(self) -> None:
        if self._is_alone:
            self._is_alone = False
            self._association.dimse.resume()

    def _append(self, data: Sequence[Fragment]) -> None:
        incoming = self._incoming
        if incoming is None or not data:
            return
        is_first = not incoming.draft.dataset_bytes
        room = self._max_dataset_bytes + 1 - incoming.draft.dataset_bytes
        if sum(len(fragment.data) for fragment in data) <= room:
            incoming.draft.append([fragment.data for fragment in data])
        elif room > 0:  # one byte more than allowed tells that it is too long
            incoming.draft.append([b"".join(fragment.data for fragment in data)[:room]])
        if data[-1].control == pdata.LAST_DATA:
            self._finish(incoming)
        elif is_first:
            self._scp.intake.look(incoming.draft)

    def _finish(self, incoming: _Incoming) -> None:
        """Store it, and answer."""
        self._incoming = None
        status = self._scp.intake.store_draft(incoming.request, incoming.draft)
        self._response = pdata.store_response(incoming.context_id, incoming.command, status)

    def _respond(self) -> bool:
        """Send the response that is due; False if the library has to send something before."""
        due = bool(self._response) and self._association.is_established
        if due and not self._association.dimse.send_encoded(self._response):
            return False
        self._response = b""
        return True

    def _leave_to_library(self) -> None:
        """Leave the message that has begun to the library, as if it had been read there."""
        kind, _ = pdata.pdu_header(self.ahead.pending())
        if kind != pdata.P_DATA_TF:  # it ends the association
            self.close()
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        try:
            dataset = incoming.draft.read()
        except Transient:
            self._dul.event_queue.put(_UNRECOGNISED_PDU)
            return
        finally:
            incoming.draft.discard()
        primitive = P_DATA()
        primitive.presentation_data_value_list = [
            [incoming.context_id, bytes([pdata.COMMAND]) + incoming.encoded_command],
            [incoming.context_id, bytes([pdata.DATA]) + dataset],
        ]
        self._association.dimse.receive_primitive(primitive)


def _is_dataset(found: Sequence[Fragment], context_id: int) -> bool:
    """Whether these are fragments of one data set, in order, and nothing follows the last one."""
    return all(
        one.context_id == context_id and one.control in (pdata.DATA, pdata.LAST_DATA) for one in found
    ) and not any(one.control == pdata.LAST_DATA for one in found[:-1])
