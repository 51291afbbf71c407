"""A DICOM file that is sealed while it is written: nothing of it is ever on the disk in plain."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dicom_scp.draft import Buffer, Draft, content_hash, unstorable
from indexer.sealing import SealedWriter, Vault

_BUFFER_BYTES = 1 << 20
_REMEMBERED_BYTES = 4 << 20
"""A data set that is no longer is not read back to be looked at."""


class SealedDraft(Draft):
    """A `Draft` in a vault; otherwise the same.

    Looking at the data set that was written takes as much memory as it is long, for that moment.

    Parameters
    ----------
    path, header, transfer_syntax_uid
        As for `Draft`.
    """

    def __init__(self, path: Path, header: bytes, transfer_syntax_uid: str, vault: Vault) -> None:
        self._path: str | Path | None = path
        self._header = header
        self._hash = content_hash(transfer_syntax_uid)
        self._failure: OSError | None = None
        self._vault = vault
        self.transfer_syntax_uid = transfer_syntax_uid
        self.dataset_bytes = 0
        self.head = b""
        self._is_finished = False
        self._remembered = bytearray()
        self._sealing: SealedWriter | None = None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._raw = open(descriptor, "wb", _BUFFER_BYTES)  # noqa: PTH123, SIM115 - a descriptor; see `discard`
            self._sealing = vault.writer(self._raw)
            self._sealing.write(header)
        except OSError as error:
            self._failure = error

    def append(self, parts: Sequence[Buffer]) -> None:
        """Write on."""
        for part in parts:
            self._hash.update(part)
            self.dataset_bytes += len(part)
            if self.dataset_bytes <= _REMEMBERED_BYTES:
                self._remembered += part
            if self._failure is None and self._sealing is not None:
                try:
                    self._sealing.write(part)
                except OSError as error:
                    self._failure = error

    @contextmanager
    def dataset(self) -> Iterator[memoryview]:
        """The data set as written, in memory.

        Raises
        ------
        Transient
            It could not be written.
        """
        yield memoryview(self.read())

    def read(self) -> bytes:
        """The data set as written; raises as `dataset`."""
        try:
            self._finish()
            if len(self._remembered) == self.dataset_bytes:
                return bytes(self._remembered)
            raw = open(os.dup(self._raw.fileno()), "rb")  # noqa: PTH123, SIM115 - a descriptor; the reader closes it
            raw.seek(0)
            with self._vault.reader(raw) as plain:
                plain.seek(len(self._header))
                return plain.read()
        except OSError as error:
            raise unstorable(error) from error

    def demand_whole(self) -> None:
        """Raise the error (`OSError`) that kept it from being written, if there was one."""
        if self._failure is not None:
            raise self._failure

    def move(self, target: Path) -> None:
        """Make it durable, and then give it its final name."""
        self.flush()
        if self._path is not None:
            os.rename(self._path, target)  # noqa: PTH104 - as in `Draft`
        self._path = None

    def flush(self) -> None:
        """Complete it and make it durable."""
        self._finish()
        os.fsync(self._raw.fileno())

    def discard(self) -> None:
        """Give it up, unless it has been moved; and let go of its file."""
        path, self._path = self._path, None
        if self._sealing is not None:
            self._sealing.abandon()
            if path is not None:
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 - as in `Draft`

    def _finish(self) -> None:
        self.demand_whole()
        if not self._is_finished and self._sealing is not None:
            self._sealing.finish()
            self._is_finished = True
