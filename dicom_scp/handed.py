"""A receiver's side of the handover: it serves connections that the node's main process has accepted."""

import socket
import threading
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from pynetdicom import evt

from dicom_scp.channel import Channel, Told
from dicom_scp.handover import ACCEPTED, ENDED, REJECTED, STORED, told_of_kept
from dicom_scp.intake import StoreRequest
from dicom_scp.listening import NodeServer
from dicom_scp.reception import Reception

Association = Any
"""`pynetdicom.association.Association`, which has no types."""


class Reporter:
    """Tells the main process what this one does (`metering.Meter`): an instance before its sender hears of it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers: dict[Hashable, int] = {}
        self._here = threading.local()

    def begun(self, association: Association, number: int) -> None:
        """An association has the main process's number."""
        self._numbers[id(association)] = number

    def ended(self, association: Association) -> None:
        """It is over."""
        number = self._numbers.pop(id(association), None)
        if number is not None:
            self._tell({"what": ENDED, "number": number})

    def kept(self, request: StoreRequest, reception: Reception) -> None:
        """An instance was taken in; `stored` follows in the same thread."""
        self._here.kept = request.association, told_of_kept(request, reception)

    def stored(self, status: int, size_bytes: int) -> None:
        """See `Meter`."""
        association, kept = getattr(self._here, "kept", (None, None))
        self._here.kept = None, None
        number = self._numbers.get(association)
        self._tell({"what": STORED, "number": number, "status": status, "size_bytes": size_bytes, "kept": kept})

    def found(self, seconds: float, *, is_similarity_view: bool) -> None:
        """See `Meter`; queries are not for receivers."""

    def observers(self) -> list[tuple[Any, Any]]:
        """Notifications of the network library that the main process hears of."""

        def hear_of(what: str) -> Any:  # noqa: ANN401 - a handler of the library
            return lambda event: self._tell({"what": what, "number": self._numbers.get(id(event.assoc))})

        return [(evt.EVT_ACCEPTED, hear_of(ACCEPTED)), (evt.EVT_REJECTED, hear_of(REJECTED))]

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the main process is gone, and this one about to go
            self._channel.tell(Told(message))


class HandedServer(NodeServer):
    """Takes its connections from a channel instead of a port.

    Parameters
    ----------
    channel : Channel
        Where the main process hands them over.
    """

    def __init__(self, *positional: Any, channel: Channel, reporter: Reporter, **named: Any) -> None:  # noqa: ANN401
        self._channel = channel
        self._reporter = reporter
        self._handed: dict[socket.socket, Told] = {}
        self._open: list[Association] = []
        self.has_ended = threading.Event()
        super().__init__(*positional, **named)

    def server_bind(self) -> None:
        """Listen on no port."""
        self.socket: socket.socket
        self.socket.close()
        self.socket = self._channel.end

    def server_activate(self) -> None:
        """There is nothing to activate."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection over."""
        told = self._channel.hear()
        if told is None or told.connection is None:
            self.has_ended.set()
            raise ConnectionResetError
        self._handed[told.connection] = told
        return told.connection, tuple(told.message["address"])

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # noqa: ANN401 - as the base has it
        """Make its association: the main process has counted it."""
        request.setblocking(False)
        self.begin(request, client_address, self._handed[request].data)

    def made(self, association: Association, connection: socket.socket) -> None:
        """Remember the number of an association, before its thread starts."""
        self._reporter.begun(association, self._handed.pop(connection).message["number"])
        self._open.append(association)

    def service_actions(self) -> None:
        """Tell of associations that have ended as well."""
        super().service_actions()
        for association in [one for one in self._open if not (one.is_alive() or one.dul.is_alive())]:
            self._open.remove(association)
            self._reporter.ended(association)

    def server_close(self) -> None:
        """The channel stays open: what became of the last associations is still to be told."""
        self.socket = socket.socket()
        super().server_close()
