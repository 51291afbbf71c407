"""Notifications (PS3.7 10.1.1) that the node sends on associations which a peer opened."""

import queue
import threading
import time
from typing import Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_FIND, N_EVENT_REPORT
from pynetdicom.pdu_primitives import P_DATA

from dicom_scp import pdata

_ITEM_BYTES = 5
"""Length and context before the message control header of a presentation data value (PS3.8 9.3.5.1)."""
_POLL_S = 0.05
_PAUSE_POLL_S = 0.001


class _Sorter(queue.Queue[Any]):
    """The messages that came in, without the responses to notifications, which nobody else waits for."""

    def __init__(self, responses: queue.SimpleQueue[Any]) -> None:
        super().__init__()
        self._responses = responses

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401
        _, message = item
        if isinstance(message, N_EVENT_REPORT) and message.MessageIDBeingRespondedTo is not None:
            self._responses.put(message)
        else:
            super().put(item, block, timeout)


class NotifyingDimse(DIMSEServiceProvider):  # type: ignore[misc]
    """Lets any thread notify the peer of an association whose own thread serves requests.

    Requests and notifications may cross (PS3.7 8.1), so that the responses to notifications never reach the
    association's thread; the fragments of two messages may not, so that messages go out one after the other.
    """

    def __init__(self, association: Any) -> None:  # noqa: ANN401 - the library has no types
        super().__init__(association)
        self._sending = threading.Lock()
        self._notifying = threading.Lock()
        self._halting = threading.Lock()
        self._halts = 0
        self._responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.msg_queue = _Sorter(self._responses)

    def send_msg(self, primitive: Any, context_id: int) -> None:  # noqa: ANN401 - the library has no types
        """Send one message whole; a short response of C-FIND in a single PDU, which spares two encodings."""
        with self._sending:
            whole = self._in_one(primitive, context_id) if type(primitive) is C_FIND else None
            if whole is None:
                super().send_msg(primitive, context_id)
            else:
                self.dul.send_pdu(whole)

    def _in_one(self, primitive: C_FIND, context_id: int) -> P_DATA | None:
        """A C-FIND response as one P-DATA; None for what is more than status and identifier, or too long."""
        if primitive.Status is None or primitive.ErrorComment or primitive.OffendingElement:
            return None
        identifier = primitive.Identifier.getvalue() if primitive.Identifier is not None else b""
        command = pdata.find_response(
            str(primitive.AffectedSOPClassUID),
            primitive.MessageIDBeingRespondedTo,
            primitive.Status,
            has_identifier=bool(identifier),
        )
        values: list[list[Any]] = [[context_id, bytes([pdata.COMMAND]) + command]]
        if identifier:
            values.append([context_id, bytes([pdata.LAST_DATA]) + identifier])
        length = sum(_ITEM_BYTES + len(value) for _, value in values)
        if self.maximum_pdu_size and length > self.maximum_pdu_size:
            return None
        whole = P_DATA()
        whole.presentation_data_value_list = values
        return whole

    def halt(self) -> None:
        """Halt the association's thread as soon as it serves no request; `resume` as often as this was called."""
        with self._halting:
            self._halts += 1
            self.assoc._reactor_checkpoint.clear()

    def resume(self) -> None:
        """Let the association's thread go on, unless somebody else halts it as well."""
        with self._halting:
            self._halts -= 1
            if not self._halts:
                self.assoc._reactor_checkpoint.set()

    def notify(self, request: Any, context_id: int, timeout_s: float) -> int | None:  # noqa: ANN401 - as above
        """Send an N-EVENT-REPORT request between two requests of the peer, and wait for it to respond.

        Parameters
        ----------
        request : pynetdicom.dimse_primitives.N_EVENT_REPORT
        context_id : int
            Presentation context of the request's SOP class.

        Returns
        -------
        int or None
            Status (0000,0900) of the response; None if none came before the association ended or in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._notifying:
            if not self._send_between_requests(request, context_id, deadline):
                return None
            while self.assoc.is_established and time.monotonic() < deadline:
                try:
                    response = self._responses.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if response.MessageIDBeingRespondedTo == request.MessageID:
                    return int(response.Status)
        return None

    def _send_between_requests(self, request: Any, context_id: int, deadline: float) -> bool:  # noqa: ANN401
        """Send while the association's thread is halted; False if it served a request all the time, or is gone."""
        association = self.assoc
        self.halt()
        try:
            while not association._is_paused:
                if not association.is_established or time.monotonic() > deadline:
                    return False
                time.sleep(_PAUSE_POLL_S)
            if not association.is_established:
                return False
            self.send_msg(request, context_id)
            return True
        finally:
            self.resume()
