"""The folder of stored instances: original bytes under names that the node derives, durably."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from dicom_scp.disk import Reserve
from dicom_scp.draft import Blank, Draft, content_digest, unstorable
from dicom_scp.part10 import split_file
from dicom_scp.sealed_draft import SealedDraft
from indexer.catalog.receipts import StoredFile
from indexer.durable import sync
from indexer.errors import Damaged, Transient
from indexer.sealing import InstanceFolder, StoredPath, Vault, folder_of, plain_size

_STRIPES = 64
_ABANDONED_S = 24 * 3600.0
_TEMPORARY = "tmp"
_LOCKS = "locks"
_INCOMING = "incoming"
ASIDE = ".damaged"
"""What the name of a damaged file that is out of the way ends with."""
_HEX = "0123456789abcdef"


class Spool:
    """A folder of DICOM files named by their content (``a/b/abcd….dcm``).

    Several processes may use one folder. What a method returns about is on the disk, power cut or not.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    reserve_mib : int
        So much of the disk stays free.
    vault : Vault, optional
        Seals every file.

    Raises
    ------
    Transient
        The folder cannot be made or written.
    """

    def __init__(self, folder: Path, reserve_mib: int = 0, vault: Vault | None = None) -> None:
        self.folder = folder
        self.files: InstanceFolder = folder_of(folder, vault)
        self._vault = vault
        self._mine, self._numbers = uuid4().hex, count()
        self._reserve = Reserve(folder, reserve_mib)
        try:
            self._make_folders()
            self._sweep()
        except OSError as error:
            raise Transient(f"the spool folder cannot be used: {error.strerror}") from error

    @property
    def incoming(self) -> Path:
        """The folder of instances that come in (`incoming.Incoming`)."""
        return self.folder / _INCOMING

    @property
    def takes_incoming(self) -> bool:
        """Whether a file that comes in there needs only another name to be one of the spool's."""
        return self._vault is None

    def path(self, relative: str) -> Path:
        """Where the file of a catalog entry is."""
        return self.folder / relative

    def file(self, relative: str) -> StoredPath:
        """The file of a catalog entry, to be read."""
        return self.files / relative

    def draft(self, header: bytes, transfer_syntax_uid: str, blank: Blank | None = None) -> Draft:
        """Begin a file; `keep` or `Draft.discard` ends it.

        Parameters
        ----------
        header : bytes
            Everything before the data set (`part10.file_header`).
        blank : Blank, optional
            Its file, where the spool takes what comes in there.
        """
        if self._vault is not None:
            return SealedDraft(self._temporary(), header, transfer_syntax_uid, self._vault)
        return Draft(blank or self._temporary(), header, transfer_syntax_uid)

    def _temporary(self) -> Path:
        return self.folder / _TEMPORARY / f"{self._mine}-{next(self._numbers):x}"

    def keep(self, draft: Draft) -> StoredFile:
        """Give a file its name, durably; if it is there already, and whole, nothing changes.

        The caller discards the draft, whatever happens.

        Raises
        ------
        Transient
            The disk is full, or has less left than the reserve, or fails.
        """
        relative, target = self._place_of(draft)
        size = draft.size_bytes
        try:
            if target.is_file() and self._is_whole(relative):
                size = target.stat().st_size
                size = size if self._vault is None else plain_size(size)
                sync(target)
            else:
                self._demand(draft)
                self._move(draft, target)
            sync(target.parent)
        except OSError as error:
            raise unstorable(error) from error
        return StoredFile(path=relative, size_bytes=size, sha256=draft.digest)

    def link(self, draft: Draft) -> StoredFile | None:
        """Make a draft that proves itself durable, and give it its final name as well, which is not durable yet.

        Returns
        -------
        StoredFile or None
            None if something has that name already, or it cannot be given: `keep` it.

        Raises
        ------
        Transient
            The disk is full, or has less left than the reserve, or fails.
        """
        digest = draft.digest
        relative = place_of(digest)
        try:
            self._demand(draft)
            draft.flush()
        except OSError as error:
            raise unstorable(error) from error
        try:
            draft.link(f"{self.folder}/{relative}")
        except OSError:
            return None
        return StoredFile(path=relative, size_bytes=draft.size_bytes, sha256=digest)

    def link_again(self, first: Path, digest: str) -> StoredFile:
        """Give a file that came in and is whole its final name, unless it is there.

        Raises
        ------
        OSError
            It cannot be given.
        """
        relative = place_of(digest)
        target = self.path(relative)
        if not (target.is_file() and self._is_whole(relative)):
            target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(first)
        return StoredFile(path=relative, size_bytes=first.stat().st_size, sha256=digest)

    def _place_of(self, draft: Draft) -> tuple[str, Path]:
        relative = place_of(draft.digest)
        return relative, self.folder / relative

    def _demand(self, draft: Draft) -> None:
        draft.demand_whole()
        self._reserve.demand(0)

    def _move(self, draft: Draft, target: Path) -> None:
        try:
            draft.move(target)
        except FileNotFoundError:
            if target.parent.is_dir():
                raise
            self._make_folders()  # somebody has cleared the spool
            draft.move(target)

    def _is_whole(self, relative: str) -> bool:
        """Whether a file is what its name says: where the power failed, one that nobody named may be half there."""
        try:
            self.read(relative)
        except Damaged:
            return False
        return True

    def holds(self, relative: str) -> bool:
        """Whether the file of a catalog entry is there; before there is an entry, the file is complete."""
        return self.path(relative).is_file()

    def read(self, relative: str) -> tuple[str, bytes]:
        """Transfer Syntax UID and data set bytes of a stored file.

        Raises
        ------
        Damaged
            It is missing or not what was written.
        """
        try:
            content = self.file(relative).read_bytes()
        except Transient:
            raise
        except Exception as error:
            raise Damaged(f"stored file {relative} cannot be read") from error
        return sound(content, relative)

    def read_kept(self, relative: str) -> tuple[str, bytes]:
        """As `read`, where it is kept for good."""
        return self.read(relative)

    def restore(self, relative: str, lost: str) -> None:
        """Let what was just kept take the place of a file with the same content that was lost: it has its name."""

    def names(self) -> Iterator[str]:
        """Path within the folder of every file that was not set aside."""
        return (str(file.relative_to(self.folder)) for file in self.folder.rglob("*.dcm"))

    def set_aside(self, relative: str) -> None:
        """Take a damaged file out of the way: when its sender sends the instance again, that restores it."""
        file = self.path(relative)
        with suppress(OSError):
            file.rename(file.with_name(file.name + ASIDE))

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
                self._forget_first_names(gone)
                for path in gone:
                    path.unlink(missing_ok=True)
                    path.with_name(path.name + ASIDE).unlink(missing_ok=True)
                for folder in {path.parent for path in gone}:
                    if folder.is_dir():
                        sync(folder)
            except OSError as error:
                raise Transient(f"a stored file cannot be deleted: {error.strerror}") from error

    def _forget_first_names(self, paths: Sequence[Path]) -> None:
        """Durably remove the names under which files came in not long ago."""
        inodes = {path.stat().st_ino for path in paths if path.exists()}
        for home in self.incoming.iterdir():
            with suppress(FileNotFoundError):  # its process has ended
                for entry in os.scandir(home):
                    if entry.inode() in inodes:
                        Path(entry.path).unlink(missing_ok=True)
                sync(home)

    @contextmanager
    def exclusively(self, key: str) -> Iterator[None]:
        """Let one thread of one process at a time deal with the instances of a key, such as a SOP Instance UID."""
        with self._locked(hashlib.sha256(key.encode()).digest()[0] % _STRIPES):
            yield

    @contextmanager
    def _locked(self, stripe: int) -> Iterator[None]:
        try:
            path = f"{self.folder}/{_LOCKS}/{stripe:02x}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Transient(f"the spool folder cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_folders(self) -> None:
        """Make every folder that a file can have, durably, so that storing one never has to."""
        for first in _HEX:
            for second in _HEX:
                (self.folder / first / second).mkdir(parents=True, exist_ok=True)
            sync(self.folder / first)
        for name in (_TEMPORARY, _LOCKS, _INCOMING):
            (self.folder / name).mkdir(exist_ok=True)
        sync(self.folder)
        sync(self.folder.parent)

    def _sweep(self) -> None:
        """Remove what writers that died long ago left half-written."""
        for path in (self.folder / _TEMPORARY).iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _ABANDONED_S:
                    path.unlink()


def place_of(digest: str) -> str:
    """Where in the folder the file with this content is."""
    return f"{digest[0]}/{digest[1]}/{digest}.dcm"


def sound(content: bytes, relative: str) -> tuple[str, bytes]:
    """Transfer Syntax UID and data set bytes of a file of this name.

    Raises
    ------
    Damaged
        It is not what its name says.
    """
    try:
        transfer_syntax_uid, dataset = split_file(content)
    except Exception as error:
        raise Damaged(f"stored file {relative} cannot be read") from error
    if content_digest(transfer_syntax_uid, dataset) != Path(relative).stem:
        raise Damaged(f"stored file {relative} is not what was written: its SHA-256 differs")
    return transfer_syntax_uid, dataset
