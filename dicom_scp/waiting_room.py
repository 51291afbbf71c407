"""Connections that have not asked for an association yet: no thread, few bytes and little time for each.

A connection becomes an association, with its threads, once its whole A-ASSOCIATE-RQ is there. Until then it is one
of many that a single thread looks after; where there are too many, the oldest of the address that has most goes.
"""

import logging
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

_HEADER = struct.Struct(">BxL")
_A_ASSOCIATE_RQ = 0x01
LONGEST_REQUEST_BYTES = 1 << 20
"""No announced length bounds an A-ASSOCIATE-RQ; 128 contexts of all transfer syntaxes need far less."""
_MAX_HELD_BYTES = 16 << 20
_READ_BYTES = 1 << 16
_TICK_S = 0.5
_A_ABORT = struct.Struct(">BxLxxBB")
_BY_PROVIDER, _UNEXPECTED_PDU, _INVALID_PARAMETER = 2, 2, 6
"""Source and reasons of an A-ABORT (PS3.8 9.3.8)."""

Admit = Callable[[socket.socket, Any, bytes], None]


class _NotAskedError(Exception):
    """A peer sends something else than an A-ASSOCIATE-RQ; says the reason of the abort."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _Guest:
    """One connection that waits."""

    connection: socket.socket
    address: Any
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    has_shaken_hands: bool = True

    @property
    def host(self) -> str:
        return str(self.address[0])

    def missing(self) -> int:
        """Bytes up to the end of what it sends first; 0 once that is there.

        Raises
        ------
        _NotAskedError
            It sends something else than an A-ASSOCIATE-RQ (PS3.8 9.3.2).
        """
        if self.received and self.received[0] != _A_ASSOCIATE_RQ:
            raise _NotAskedError(_UNEXPECTED_PDU)
        if len(self.received) < _HEADER.size:
            return _HEADER.size - len(self.received)
        _, length = _HEADER.unpack_from(self.received)
        if length > LONGEST_REQUEST_BYTES:
            raise _NotAskedError(_INVALID_PARAMETER)
        return int(_HEADER.size + length - len(self.received))


class WaitingRoom:
    """Looks after accepted connections until each asks for an association.

    Parameters
    ----------
    admit : callable
        Makes an association of a connection, its peer's address and the A-ASSOCIATE-RQ that was read from it; from
        then on the connection is its.
    capacity : int
        Connections that may wait at the same time.
    timeout_s : float
        So long one may take to ask, a handshake of TLS included.
    """

    def __init__(self, admit: Admit, capacity: int, timeout_s: float) -> None:
        self._admit = admit
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._arrived: deque[_Guest] = deque()
        self._guests: dict[_Guest, None] = {}
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        for end in (self._bell, self._button):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicom-waiting-room", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Count the connections that wait."""
        return len(self._guests)

    def enter(self, connection: socket.socket, address: Any, tls: ssl.SSLContext | None = None) -> None:  # noqa: ANN401
        """Let a connection wait; from any thread.

        Parameters
        ----------
        address : tuple
            Of the peer, as the socket says it; host first.
        tls : ssl.SSLContext, optional
            The peer has to speak TLS.
        """
        connection.setblocking(False)
        try:
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:  # it is gone already
            connection.close()
            return
        deadline = time.monotonic() + self._timeout_s
        self._arrived.append(_Guest(connection, address, deadline, has_shaken_hands=tls is None))
        self._ring()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closing.set()
        self._ring()
        self._thread.join()

    def _ring(self) -> None:
        with suppress(OSError):  # it rings already, or is closed
            self._button.send(b"\0")

    def _run(self) -> None:
        while not self._closing.is_set():
            for guest in self._with_news():
                try:
                    self._attend(guest)
                except Exception as error:  # whatever one connection does, the others are looked after
                    logger.error("a connection is given up: %s", type(error).__name__)
                    self._dismiss(guest)
            self._clear()
        for guest in [*self._guests, *self._arrived]:
            self._dismiss(guest)
        self._selector.close()
        self._bell.close()
        self._button.close()

    def _with_news(self) -> Iterator[_Guest]:
        """Wait a moment; those that have sent something, and those that are new."""
        for key, _ in self._selector.select(_TICK_S):
            if key.data is not None:
                yield key.data
                continue
            with suppress(BlockingIOError):
                self._bell.recv(_READ_BYTES)
            while self._arrived:
                guest = self._arrived.popleft()
                self._guests[guest] = None
                self._selector.register(guest.connection, selectors.EVENT_READ, guest)
                yield guest

    def _attend(self, guest: _Guest) -> None:
        """Read what there is, and not a byte more than belongs to the request."""
        try:
            while missing := guest.missing() if self._shake_hands(guest) else 0:
                data = guest.connection.recv(min(missing, _READ_BYTES))
                if not data:
                    self._dismiss(guest)
                    return
                guest.received += data
        except (BlockingIOError, ssl.SSLWantReadError):
            self._await(guest, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._await(guest, selectors.EVENT_WRITE)
        except _NotAskedError as found:
            self._abort(guest, found.reason)
        except OSError as error:
            logger.info("a connection ended before it asked for an association: %s", type(error).__name__)
            self._dismiss(guest)
        else:
            self._leave(guest)
            self._admit(guest.connection, guest.address, bytes(guest.received))

    def _shake_hands(self, guest: _Guest) -> bool:
        if not guest.has_shaken_hands and isinstance(guest.connection, ssl.SSLSocket):
            guest.connection.do_handshake()
            guest.has_shaken_hands = True
        return True

    def _await(self, guest: _Guest, event: int) -> None:
        if self._selector.get_key(guest.connection).events != event:
            self._selector.modify(guest.connection, event, guest)

    def _clear(self) -> None:
        """Dismiss those whose time is up, and those who are too many."""
        now = time.monotonic()
        for guest in [one for one in self._guests if one.deadline < now]:
            self._dismiss(guest)
        while len(self._guests) > self._capacity:
            hosts = Counter(guest.host for guest in self._guests)
            crowd = max(hosts, key=lambda host: hosts[host])
            self._dismiss(next(guest for guest in self._guests if guest.host == crowd))
        while sum(len(guest.received) for guest in self._guests) > _MAX_HELD_BYTES:
            self._dismiss(max(self._guests, key=lambda guest: len(guest.received)))

    def _abort(self, guest: _Guest, reason: int) -> None:
        """Tell the peer why, if that can be done at once."""
        logger.info("a connection sends no request for an association: aborted")
        with suppress(OSError):
            guest.connection.send(_A_ABORT.pack(0x07, 4, _BY_PROVIDER, reason))
        self._dismiss(guest)

    def _leave(self, guest: _Guest) -> None:
        if guest in self._guests:
            del self._guests[guest]
            self._selector.unregister(guest.connection)

    def _dismiss(self, guest: _Guest) -> None:
        self._leave(guest)
        guest.connection.close()
