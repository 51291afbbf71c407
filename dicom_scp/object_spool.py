"""Stored instances in an object store, under names that are given once: no node can take away another's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from dicom_scp.draft import Draft, unstorable
from dicom_scp.spool import ASIDE, Spool, sound
from indexer.catalog.receipts import StoredFile
from indexer.errors import Damaged
from indexer.objects import CachedFolder, ObjectStore, opened
from indexer.sealing import StoredPath, Vault


def cached_folder(folder: Path, store: ObjectStore, vault: Vault | None) -> CachedFolder:
    """The objects as files that are fetched when they are named, and compared with the SHA-256 of their names."""
    return CachedFolder(folder, vault, store, _demand_sound)


class ObjectSpool(Spool):
    """A `Spool` whose files are objects (``a/b/<once>/abcd….dcm``); its folder holds copies, and drafts.

    The locks of a `Spool` reach this machine only. Between machines none is needed: an object's name is new
    every time, so whoever deletes one that the catalog does not name takes nothing from anybody.

    Parameters
    ----------
    folder, reserve_mib, vault
        As for `Spool`.
    """

    def __init__(self, folder: Path, store: ObjectStore, reserve_mib: int = 0, vault: Vault | None = None) -> None:
        super().__init__(folder, reserve_mib, vault)
        self._store = store
        self._cached = cached_folder(folder, store, vault)
        self.files = self._cached

    @property
    def takes_incoming(self) -> bool:
        """An object is no file that could have two names."""
        return False

    def keep(self, draft: Draft) -> StoredFile:
        """Put a file in the store; when this returns, the store has said that it has it.

        Raises
        ------
        Transient
            The store cannot be used now, or the disk for drafts is full.
        """
        digest = draft.digest
        relative = f"{digest[0]}/{digest[1]}/{uuid4().hex}/{digest}.dcm"
        staged = self._temporary()
        try:
            self._demand(draft)
            self._move(draft, staged)
            self._store.put(staged, relative)
        except OSError as error:
            raise unstorable(error) from error
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
        return StoredFile(path=relative, size_bytes=draft.size_bytes, sha256=digest)

    def restore(self, relative: str, lost: str) -> None:
        """Let what was just kept take the place of an object with the same content that was lost."""
        self._store.move(relative, lost)
        self._cached.drop(lost)

    def holds(self, relative: str) -> bool:
        """Whether the store has it."""
        return self._store.holds(relative)

    def read(self, relative: str) -> tuple[str, bytes]:
        """As of a `Spool`; where the copy here is not sound, the store is asked again."""
        try:
            return super().read(relative)
        except Damaged:
            self._cached.drop(relative)
            return super().read(relative)

    def read_kept(self, relative: str) -> tuple[str, bytes]:
        """As `read`, from the store, whether there is a copy or not."""
        try:
            content = opened(self._store.read(relative), self._vault)
        except FileNotFoundError as error:
            raise Damaged(f"stored object {relative} is missing") from error
        return sound(content, relative)

    def names(self) -> Iterator[str]:
        """Name of every object that was not set aside."""
        return (name for name in self._store.names() if name.endswith(".dcm"))

    def set_aside(self, relative: str) -> None:
        """Rename a damaged object: sending the instance again restores it."""
        with suppress(FileNotFoundError):
            self._store.move(relative, relative + ASIDE)
        self._cached.drop(relative)

    def remove(self, relative: str) -> None:
        """Delete an object that no catalog entry names, and its copy.

        Raises
        ------
        Transient
            The store cannot be used now.
        """
        self._store.remove(relative)
        self._cached.drop(relative)

    def erase(self, relatives: Sequence[str], is_named: Callable[[str], bool]) -> None:
        """Delete objects, also those that were set aside; raises as `remove`."""
        for relative in relatives:
            if not is_named(relative):
                self._store.remove(relative + ASIDE)
                self.remove(relative)


def _demand_sound(file: StoredPath, name: str) -> None:
    sound(file.read_bytes(), name)
