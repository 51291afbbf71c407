"""A DICOM file while it is written: streamed to the disk, hashed on the way, kept or given up at the end."""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dicom_scp.part10 import DIGEST_BYTES
from dicom_scp.skimming import Glance
from indexer.errors import Transient

Buffer = bytes | bytearray | memoryview

_HEAD_BYTES = 32 << 10
_MAX_PARTS = 512
"""Linux takes 1024 in one call."""


def content_digest(transfer_syntax_uid: str, dataset: bytes) -> str:
    """SHA-256, in hexadecimal, over a transfer syntax UID and the data set encoded in it: the name of the file."""
    digest = content_hash(transfer_syntax_uid)
    digest.update(dataset)
    return digest.hexdigest()


def content_hash(transfer_syntax_uid: str) -> "hashlib._Hash":
    """Begin a `content_digest`: the data set is still to be added."""
    return hashlib.sha256(transfer_syntax_uid.encode("ascii", "replace") + b"\0")


class Blank:
    """An empty file whose name is durable (`incoming.Incoming`), opened for a draft.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)


class Draft:
    """A DICOM file that is being written: in the spool's folder, but in no catalog and under no final name.

    What goes wrong while it is written is told when it is to be kept; until then writing on does nothing.

    Parameters
    ----------
    place : Path or Blank
        Where to write it: a path at which nothing is, or a blank, which becomes the draft's.
    header : bytes
        Everything before the data set (`part10.file_header`); with room for a digest if the place is a blank.
    transfer_syntax_uid : str
        How the data set is encoded.

    Attributes
    ----------
    head : bytes
        The beginning of the data set, or nothing.
    glance : Glance, optional
        What it told somebody.
    proves_itself : bool
        Whether it survives a power cut once it is flushed, with no other name than it has.
    """

    glance: Glance | None = None
    proves_itself = False

    def __init__(self, place: Path | Blank, header: bytes, transfer_syntax_uid: str) -> None:
        self._path: str | Path | None = place if isinstance(place, Path) else place.path
        self._header = header
        self._hash = content_hash(transfer_syntax_uid)
        self._failure: OSError | None = None
        self._descriptor = -1
        self.transfer_syntax_uid = transfer_syntax_uid
        self.dataset_bytes = 0
        self.head = b""
        try:
            if isinstance(place, Path):
                self._descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            else:
                self._descriptor = place.descriptor
                self.proves_itself = True
            self._write([header])
        except OSError as error:
            self._failure = error

    def append(self, parts: Sequence[Buffer]) -> None:
        """Write on, with as few calls of the system as can be."""
        if not self.dataset_bytes:
            self.head = bytes(parts[0][:_HEAD_BYTES])
        for part in parts:
            self._hash.update(part)
            self.dataset_bytes += len(part)
        if self._failure is None:
            try:
                self._write(parts)
            except OSError as error:
                self._failure = error

    def _write(self, parts: Sequence[Buffer]) -> None:
        if len(parts) > _MAX_PARTS:
            parts = [b"".join(parts)]
        total = sum(map(len, parts))
        written = os.writev(self._descriptor, parts) if total else 0
        if written == total:
            return
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    @property
    def digest(self) -> str:
        """`content_digest` of what was written."""
        return self._hash.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return len(self._header) + self.dataset_bytes

    @contextmanager
    def dataset(self) -> Iterator[memoryview]:
        """The data set as written, not read into memory.

        Raises
        ------
        Transient
            It could not be written.
        """
        if not self.dataset_bytes:
            yield memoryview(b"")
            return
        try:
            self.demand_whole()
            mapped = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise unstorable(error) from error
        with mapped, memoryview(mapped) as whole, whole[len(self._header) :] as view:
            yield view

    def read(self) -> bytes:
        """The data set as written."""
        with self.dataset() as view:
            return bytes(view)

    def demand_whole(self) -> None:
        """Raise the error (`OSError`) that kept it from being written, if there was one."""
        if self._failure is not None:
            raise self._failure

    def move(self, target: Path) -> None:
        """Give it its final name and make its content durable; until then it can be discarded."""
        if self._path is not None:
            os.rename(self._path, target)  # noqa: PTH104 - a name or a path
            self._path = target  # one commit of the journal below is enough for both
        self.flush()
        self.keep()

    def link(self, target: str) -> None:
        """Give it its final name besides the one it has."""
        if self._path is not None:
            os.link(self._path, target)

    def flush(self) -> None:
        """Make its content durable."""
        if self.proves_itself:
            os.pwrite(self._descriptor, self._hash.digest(), len(self._header) - DIGEST_BYTES)
        os.fsync(self._descriptor)

    def keep(self) -> str:
        """Discard it no more: it has its name, and is durable; returns where it was written."""
        path, self._path = self._path, None
        return str(path)

    def discard(self) -> None:
        """Give it up, unless it has been moved; and let go of its descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        path, self._path = self._path, None
        with suppress(OSError):
            if descriptor >= 0:
                os.close(descriptor)
                if path is not None:
                    os.unlink(path)  # noqa: PTH108 - a name or a path


def unstorable(error: OSError) -> Transient:
    """What the disk's error means for the instance."""
    return Transient(f"the instance cannot be stored: {error.strerror}")
