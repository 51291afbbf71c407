"""Files and values that are encrypted where they lie: AES-256-GCM under a key of the installation.

A sealed file is a header - eight bytes that say what it is, the eight bytes of the key's id, sixteen of salt - and
segments of 64 KiB, each followed by its tag. Every file has a key of its own, derived from the installation's with
HKDF (RFC 5869) and the salt, so that a segment's nonce is its number; the last byte of the nonce tells the last
segment, so that a file that was cut off is noticed. This is the STREAM construction (Hoang, Reyhanitabar, Rogaway,
Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015). Files of any size are
read and written segment by segment.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from indexer.errors import Damaged

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

KEY_BYTES = 32
SEGMENT_BYTES = 64 << 10
_MAGIC = b"PACSEAL\x01"
_ID_BYTES, _SALT_BYTES, _TAG_BYTES, _NONCE_BYTES = 8, 16, 16, 12
_HEADER_BYTES = len(_MAGIC) + _ID_BYTES + _SALT_BYTES
_SEALED_SEGMENT_BYTES = SEGMENT_BYTES + _TAG_BYTES
_VALUE = b"\x01"
_NOT_OURS = "expected a file sealed with this installation's key, got another"
_CHANGED = "expected a sealed file as it was written, got changed bytes"


class Vault:
    """Seals and opens with one installation's key. Safe to share among threads.

    Parameters
    ----------
    data_key : bytes
        `KEY_BYTES` of it.
    """

    def __init__(self, data_key: bytes) -> None:
        if len(data_key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(data_key)}")
        self._data_key = data_key
        self._values = AESGCM(_derived(data_key, None, b"pacsimile values"))
        self._prefix = _MAGIC + self.key_id

    @property
    def key_id(self) -> bytes:
        """Which key it is; tells nothing about the key."""
        return _derived(self._data_key, None, b"pacsimile key id")[:_ID_BYTES]

    def seal(self, value: bytes) -> bytes:
        """Encrypt a short value, such as one embedding; the result is 29 bytes longer."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VALUE + nonce + self._values.encrypt(nonce, value, _VALUE)

    def unseal(self, value: bytes) -> bytes:
        """Undo `seal`.

        Raises
        ------
        Damaged
            It was changed, is of another installation, or was never sealed.
        """
        if value[:1] != _VALUE:
            raise Damaged("expected a sealed value, got a plain one")
        nonce, encrypted = value[1 : 1 + _NONCE_BYTES], value[1 + _NONCE_BYTES :]
        try:
            return self._values.decrypt(nonce, encrypted, _VALUE)
        except (InvalidTag, ValueError) as error:
            raise Damaged("expected a sealed value as it was written, got changed bytes") from error

    def writer(self, raw: BinaryIO) -> "SealedWriter":
        """Seal what is written from now on to a binary file that was just opened."""
        salt = os.urandom(_SALT_BYTES)
        return SealedWriter(raw, self._prefix + salt, self._cipher(salt))

    def reader(self, raw: BinaryIO) -> BinaryIO:
        """Open a sealed file for reading and seeking; closing it closes `raw`.

        Raises
        ------
        Damaged
            It is no sealed file of this installation. Reading raises it where the file was changed.
        """
        header = raw.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(self._prefix):
            raw.close()
            raise Damaged(_NOT_OURS)
        reader = _SealedReader(raw, self._cipher(header[len(self._prefix) :]))
        return cast("BinaryIO", io.BufferedReader(reader, SEGMENT_BYTES))

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(_derived(self._data_key, salt, b"pacsimile file " + self._prefix))


def is_sealed(path: Path) -> bool:
    """Whether a file begins as a sealed one does."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def plain_size(sealed_bytes: int) -> int:
    """Size of what a sealed file of so many bytes holds."""
    body = sealed_bytes - _HEADER_BYTES
    return max(body - -(-body // _SEALED_SEGMENT_BYTES) * _TAG_BYTES, 0)


@dataclass(frozen=True)
class SealedFile:
    """A sealed file in the place of a `pathlib.Path`: what is read from it is plain."""

    path: Path
    vault: Vault = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    def is_file(self) -> bool:
        """Whether it is there as a file."""
        return self.path.is_file()

    def stat(self) -> os.stat_result:
        """Of the file as it lies there: a little longer than what it holds."""
        return self.path.stat()

    def open(self, mode: Literal["rb", "wb"]) -> BinaryIO:
        """Read what it holds, or write it anew.

        Raises
        ------
        OSError
            As of a `pathlib.Path`.
        Damaged
            It is no sealed file of this installation.
        """
        raw = self.path.open(mode)
        return self.vault.reader(raw) if mode == "rb" else cast("BinaryIO", self.vault.writer(raw))

    def read_bytes(self) -> bytes:
        """Read all that it holds; raises as `open`."""
        with self.open("rb") as file:
            return file.read()


@dataclass(frozen=True)
class SealedFolder:
    """A folder of sealed files in the place of a `pathlib.Path`."""

    path: Path
    vault: Vault = field(compare=False, repr=False)

    def __truediv__(self, name: str | Path, /) -> SealedFile:
        return SealedFile(self.path / name, self.vault)

    def is_dir(self) -> bool:
        """Whether it is there."""
        return self.path.is_dir()


StoredPath = Path | SealedFile
"""A file of the node's own, whether its files are sealed or not."""
StoredFolder = Path | SealedFolder


class InstanceFolder(Protocol):
    """Where stored instances are read: a `StoredFolder`, or objects that come when they are named."""

    def __truediv__(self, name: str | Path, /) -> StoredPath:
        """A file of the folder, whether there is one or not."""
        ...

    def is_dir(self) -> bool:
        """Whether it is there."""
        ...


def folder_of(path: Path, vault: Vault | None) -> StoredFolder:
    """A folder whose files are sealed if there is a vault."""
    return path if vault is None else SealedFolder(path, vault)


@contextmanager
def in_memory(name: str) -> Iterator[tuple[BinaryIO, Path]]:
    """A file that is on no disk, and a path that leads libraries to it while it is open."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with open(descriptor, "w+b") as file:  # noqa: PTH123 - a descriptor
        yield file, Path(f"/proc/self/fd/{descriptor}")


class SealedWriter(io.RawIOBase):
    """What is written to it is sealed, and complete once it is closed; the file below is then closed as well."""

    def __init__(self, raw: BinaryIO, header: bytes, cipher: AESGCM) -> None:
        self._raw, self._cipher = raw, cipher
        self._number, self._held = 0, bytearray()
        self._raw.write(header)

    def writable(self) -> bool:
        """Say that it is there to be written to."""
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        """Seal every segment that is full; one is held back, as it may be the last."""
        view = memoryview(data).cast("B")
        size = len(view)
        while len(self._held) + len(view) > SEGMENT_BYTES:
            room = SEGMENT_BYTES - len(self._held)
            self._seal(b"".join((self._held, view[:room])) if self._held else view[:room], is_last=False)
            self._held.clear()
            view = view[room:]
        self._held += view
        return size

    def finish(self) -> None:
        """Seal the last segment and hand everything to the system; the file below stays open."""
        self._seal(bytes(self._held), is_last=True)
        self._held.clear()
        self._raw.flush()

    def close(self) -> None:
        """Complete the file, unless it is closed."""
        if not self.closed:
            try:
                self.finish()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close the file without its end: it can never pass for a complete one."""
        super().close()
        with suppress(OSError):  # what cannot be written any more is not needed
            self._raw.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def __del__(self) -> None:
        """Leave an unfinished file unfinished."""
        if not self.closed:
            self.abandon()

    def _seal(self, segment: bytes | memoryview, *, is_last: bool) -> None:
        self._raw.write(self._cipher.encrypt(_nonce(self._number, is_last=is_last), segment, None))
        self._number += 1


class _SealedReader(io.RawIOBase):
    """The segments of a sealed file, one at a time; `raw` stands behind the header."""

    def __init__(self, raw: BinaryIO, cipher: AESGCM) -> None:
        self._raw, self._cipher = raw, cipher
        body = raw.seek(0, os.SEEK_END) - _HEADER_BYTES
        self._last = max(-(-body // _SEALED_SEGMENT_BYTES) - 1, 0)
        self._size = plain_size(body + _HEADER_BYTES)
        self._at = 0
        self._number, self._segment = -1, b""
        if body - self._last * _SEALED_SEGMENT_BYTES <= _TAG_BYTES:  # of no file but an empty one
            self._demand_empty()

    @property
    def name(self) -> str:
        """Where the sealed file is; libraries ask for it."""
        return str(getattr(self._raw, "name", ""))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"expected a place within the file, got {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer, or as much of it as the file has left."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self._size:
            number, offset = divmod(self._at, SEGMENT_BYTES)
            self._load(number)
            piece = memoryview(self._segment)[offset : offset + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._at += len(piece)
        return done

    def readall(self) -> bytes:
        rest = bytearray(max(self._size - self._at, 0))
        self.readinto(rest)
        return bytes(rest)

    def close(self) -> None:
        self._segment = b""
        self._raw.close()
        super().close()

    def _demand_empty(self) -> None:
        if self._last:
            raise Damaged(_CHANGED)
        self._load(0)

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        self._raw.seek(_HEADER_BYTES + number * _SEALED_SEGMENT_BYTES)
        sealed = self._raw.read(_SEALED_SEGMENT_BYTES)
        try:
            self._segment = self._cipher.decrypt(_nonce(number, is_last=number == self._last), sealed, None)
        except (InvalidTag, ValueError) as error:
            raise Damaged(_CHANGED) from error
        self._number = number


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(_NONCE_BYTES - 1, "big") + bytes([is_last])


def _derived(key: bytes, salt: bytes | None, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(key)
