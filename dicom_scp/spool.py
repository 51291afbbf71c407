"""The folder of stored instances: original bytes under names that the node derives, durably."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dicom_scp.disk import Reserve
from dicom_scp.part10 import split_file
from indexer.catalog.receipts import StoredFile
from indexer.errors import Damaged, Transient

_STRIPES = 64
_ABANDONED_S = 24 * 3600.0
_TEMPORARY = "tmp"
_LOCKS = "locks"
_ASIDE = ".damaged"


def content_digest(transfer_syntax_uid: str, dataset: bytes) -> str:
    """SHA-256, in hexadecimal, over a transfer syntax UID and the data set encoded in it: the name of the file."""
    digest = hashlib.sha256(transfer_syntax_uid.encode("ascii", "replace"))
    digest.update(b"\0")
    digest.update(dataset)
    return digest.hexdigest()


class Spool:
    """A folder of DICOM files named by their content (``ab/cd/abcd….dcm``).

    Several processes may use one folder. What a method returns about is on the disk, power cut or not.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    reserve_mib : int
        So much of the disk stays free.

    Raises
    ------
    Transient
        The folder cannot be made or written.
    """

    def __init__(self, folder: Path, reserve_mib: int = 0) -> None:
        self.folder = folder
        self._reserve = Reserve(folder, reserve_mib)
        try:
            for path in (folder / _TEMPORARY, folder / _LOCKS):
                path.mkdir(parents=True, exist_ok=True)
            _sync_folder(folder)
            _sync_folder(folder.parent)
            self._sweep()
        except OSError as error:
            raise Transient(f"the spool folder cannot be used: {error.strerror}") from error

    def path(self, relative: str) -> Path:
        """Where the file of a catalog entry is."""
        return self.folder / relative

    def write(self, header: bytes, dataset: bytes, digest: str) -> StoredFile:
        """Write one DICOM file durably; if it is there already, nothing changes.

        Parameters
        ----------
        header : bytes
            Everything before the data set (`part10.file_header`).
        digest : str
            `content_digest` of the data set; the file's name follows from it alone.

        Raises
        ------
        Transient
            The disk is full, or would leave less than the reserve, or fails; nothing is left behind.
        """
        relative = f"{digest[:2]}/{digest[2:4]}/{digest}.dcm"
        target = self.folder / relative
        size = len(header) + len(dataset)
        temporary = self.folder / _TEMPORARY / uuid4().hex
        try:
            if not self.holds(relative):
                self._reserve.demand(size)
                self._make_folder(target.parent)
                _write_file(temporary, header, dataset)
                temporary.rename(target)
            else:
                size = target.stat().st_size
            _sync_folder(target.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise Transient(f"the instance cannot be stored: {error.strerror}") from error
        return StoredFile(path=relative, size_bytes=size, sha256=digest)

    def holds(self, relative: str) -> bool:
        """Whether a file is there; a file has its final name only once it is complete."""
        return self.path(relative).is_file()

    def read(self, relative: str) -> tuple[str, bytes]:
        """Transfer Syntax UID and data set bytes of a stored file.

        Raises
        ------
        Damaged
            It is missing or not what was written.
        """
        try:
            transfer_syntax_uid, dataset = split_file(self.path(relative).read_bytes())
        except Exception as error:
            raise Damaged(f"stored file {relative} cannot be read") from error
        if content_digest(transfer_syntax_uid, dataset) != Path(relative).stem:
            raise Damaged(f"stored file {relative} is not what was written: its SHA-256 differs")
        return transfer_syntax_uid, dataset

    def remove(self, relative: str) -> None:
        """Delete a file that no catalog entry names; a missing one is no error."""
        with suppress(OSError):
            self.path(relative).unlink(missing_ok=True)

    def erase(self, relatives: Sequence[str], is_named: Callable[[str], bool]) -> None:
        """Delete files durably, also those that were set aside as damaged; missing ones are no error.

        Nothing is taken in meanwhile.

        Parameters
        ----------
        is_named : callable
            Whether the catalog names a file; such a one stays: its content has come again.

        Raises
        ------
        Transient
            A file cannot be deleted.
        """
        with ExitStack() as held:
            for stripe in range(_STRIPES):
                held.enter_context(self._locked(stripe))
            try:
                gone = [self.path(relative) for relative in relatives if not is_named(relative)]
                for path in gone:
                    path.unlink(missing_ok=True)
                    path.with_name(path.name + _ASIDE).unlink(missing_ok=True)
                for folder in {path.parent for path in gone}:
                    if folder.is_dir():
                        _sync_folder(folder)
            except OSError as error:
                raise Transient(f"a stored file cannot be deleted: {error.strerror}") from error

    @contextmanager
    def exclusively(self, key: str) -> Iterator[None]:
        """Let one thread of one process at a time deal with the instances of a key, such as a SOP Instance UID."""
        with self._locked(hashlib.sha256(key.encode()).digest()[0] % _STRIPES):
            yield

    @contextmanager
    def _locked(self, stripe: int) -> Iterator[None]:
        try:
            path = self.folder / _LOCKS / f"{stripe:02x}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Transient(f"the spool folder cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the spool, and make its entry in its parent durable."""
        if folder.is_dir():
            return
        if folder.parent != self.folder:
            self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)

    def _sweep(self) -> None:
        """Remove what writers that died long ago left half-written."""
        for path in (self.folder / _TEMPORARY).iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _ABANDONED_S:
                    path.unlink()


def _write_file(path: Path, header: bytes, dataset: bytes) -> None:
    with path.open("xb", buffering=0) as file:
        for part in (header, dataset):
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
