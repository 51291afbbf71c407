"""What the processes of one node tell each other, in order: messages, and connections with them."""

import json
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_HEADER = struct.Struct(">LL")
_TIMEVAL = struct.Struct("@ll")
_PATIENCE_S = 10


@dataclass(frozen=True)
class Told:
    """One message.

    Attributes
    ----------
    message : mapping
        What JSON can say.
    data : bytes
        What it cannot.
    connection : socket, optional
        Belongs to who hears it.
    """

    message: Mapping[str, Any]
    data: bytes = b""
    connection: socket.socket | None = None


class Channel:
    """One end of a pair of Unix stream sockets. Any thread may tell; one hears."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.setblocking(True)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_PATIENCE_S, 0))
        self._telling = threading.Lock()

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        """Both ends."""
        mine, other = socket.socketpair()
        return cls(mine), cls(other)

    def tell(self, told: Told) -> None:
        """Send a message; a connection stays open here as well.

        Raises
        ------
        OSError
            Nobody hears it. The channel is of no more use: part of the message may have been sent.
        """
        encoded = json.dumps(told.message, separators=(",", ":")).encode()
        header = _HEADER.pack(len(encoded), len(told.data))
        descriptors = [told.connection.fileno()] if told.connection is not None else []
        with self._telling:
            if descriptors:
                socket.send_fds(self.end, [header], descriptors)
                self.end.sendall(encoded + told.data)
            else:
                self.end.sendall(header + encoded + told.data)

    def hear(self) -> Told | None:
        """The next message, waited for; None when the other end is closed."""
        try:
            header, descriptors, _, _ = socket.recv_fds(self.end, _HEADER.size, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        connection = socket.socket(fileno=descriptors[0]) if descriptors else None
        try:
            length, data_length = _HEADER.unpack(header + self._exactly(_HEADER.size - len(header)))
            message = json.loads(self._exactly(length))
            return Told(message, self._exactly(data_length), connection)
        except OSError:
            if connection is not None:
                connection.close()
            return None

    def say_no_more(self) -> None:
        """Have the other end hear that this one has ended; it can still be heard."""
        with suppress(OSError):
            self.end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Neither tell nor hear any more."""
        self.end.close()

    def _exactly(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            part = self.end.recv(count - len(received))
            if not part:
                raise ConnectionResetError
            received += part
        return bytes(received)
