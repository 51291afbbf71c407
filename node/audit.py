"""The audit trail: every message on the disk before anything else happens to it, then to a file or to syslog."""

import fcntl
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from config.telling import AuditSettings
from indexer.errors import Transient
from node.audit_messages import Event, encode

log = logging.getLogger(__name__)

_FOLDER = "audit"
_FILE = "audit.log"
_QUEUE = "queue.log"
_POSITION = "position"
_PRIORITY = 10 * 8 + 5
"""Facility security/authorization, severity notice (RFC 5424 section 6.2.1)."""
_MESSAGE_ID = "DICOM+RFC3881"
"""PS3.15 A.6: tells audit messages from others."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_TIMEOUT_S = 30.0
_TIDY_BYTES = 8 << 20


class AuditTrail:
    """Takes down what happened; safe to use from several threads and processes.

    Parameters
    ----------
    data_dir : Path
        ``audit/audit.log`` in it is the trail, one message a line (``to = "file"``), or ``audit/queue.log`` what
        syslog has not been sent yet.
    source : str
        Audit Source ID.
    """

    def __init__(self, settings: AuditSettings, data_dir: Path, source: str) -> None:
        self._settings = settings
        self._source = source
        self._folder = data_dir / _FOLDER
        self._file = self._folder / (_QUEUE if settings.to == "syslog" else _FILE)
        self._is_on = settings.to != "none"
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._sender = threading.Thread(target=self._send_all, name="audit", daemon=True)
        if self._is_on:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def is_on(self) -> bool:
        """Whether anything is taken down."""
        return self._is_on

    def start(self) -> None:
        """Begin to send what waits, if it goes to syslog."""
        if self._settings.to == "syslog":
            self._sender.start()

    def stop(self, deadline_s: float) -> None:
        """Send no more; what was not sent waits for the next start."""
        self._stopping.set()
        self._arrived.set()
        if self._sender.is_alive():
            self._sender.join(deadline_s)

    def add(self, event: Event) -> None:
        """Take down one event; when this returns it is on the disk. A disk that fails is told in the log only."""
        try:
            self.demand(event)
        except Transient as error:
            log.error("%s", error)

    def demand(self, event: Event) -> None:
        """Take down one event without which what it tells of must not be done.

        Raises
        ------
        Transient
            It cannot be written.
        """
        if not self._is_on:
            return
        line = encode(event, self._source).encode() + b"\n"
        try:
            with _locked(self._file) as file:
                _append(file, line)
        except OSError as error:
            message = f"an audit message ({event.what.meaning}) cannot be written: {error.strerror}"
            raise Transient(message) from error
        self._arrived.set()

    def _send_all(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self._arrived.wait(_LONGEST_PAUSE_S)
                self._arrived.clear()
                self._drain()
                pause_s = _FIRST_PAUSE_S
            except (OSError, ssl.SSLError) as error:
                log.warning("audit messages wait: the syslog server cannot be reached: %s", type(error).__name__)
                self._arrived.set()
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _drain(self) -> None:
        """Send what waits over one connection (RFC 5425)."""
        position = self._position()
        if not self._file.exists() or self._file.stat().st_size <= position:
            return
        with self._connected() as connection, self._file.open("rb") as file:
            file.seek(position)
            while (line := file.readline()).endswith(b"\n") and not self._stopping.is_set():
                message = self._header() + line[:-1]
                connection.sendall(str(len(message)).encode() + b" " + message)
                position += len(line)
                self._note(position)
        self._tidy()

    def _connected(self) -> ssl.SSLSocket:
        known = self._settings
        context = ssl.create_default_context(cafile=known.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if known.certificate_file:
            context.load_cert_chain(known.certificate_file, known.key_file or None)
        plain = socket.create_connection((known.host, known.port), timeout=_TIMEOUT_S)
        try:
            return context.wrap_socket(plain, server_hostname=known.host)
        except BaseException:
            plain.close()
            raise

    def _header(self) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return f"<{_PRIORITY}>1 {now} {socket.gethostname()} pacsimile {os.getpid()} {_MESSAGE_ID} - ".encode() + (
            b"\xef\xbb\xbf"
        )

    def _position(self) -> int:
        with suppress(OSError, ValueError):
            return int((self._folder / _POSITION).read_text())
        return 0

    def _note(self, position: int) -> None:
        temporary = self._folder / f"{_POSITION}.new"
        temporary.write_text(str(position))
        temporary.rename(self._folder / _POSITION)

    def _tidy(self) -> None:
        """Empty the queue once it is long and all of it was sent."""
        with _locked(self._file) as file:
            size = file.seek(0, os.SEEK_END)
            if size == self._position() and size > _TIDY_BYTES:
                self._note(0)
                file.truncate(0)


def _append(file: IO[bytes], line: bytes) -> None:
    """Write a line and have the disk keep it; what of a line was written before the disk failed is taken back."""
    size = file.seek(0, os.SEEK_END)
    try:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.ftruncate(file.fileno(), size)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for appending, alone; opened each time, so that it can be rotated by a rename."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
