"""Stored instances as objects of an S3 store, and a folder of the machine that keeps those that were asked for."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import fsspec

from config.errors import ConfigError
from indexer.durable import sync
from indexer.errors import Transient
from indexer.sealing import StoredPath, Vault, folder_of

SCHEME = "s3://"
TEMPORARY = "tmp"
_TRANSFER = {
    "connect_timeout": 5,
    "read_timeout": 15,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}
"""Who sends, or asks, hears within a minute that the store is away."""


class ObjectStore:
    """The objects below one prefix of a bucket. Safe to share among threads; connects when it is first used.

    Region, endpoint and credentials come from where AWS's own tools take them: environment, profile, machine.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.

    Raises
    ------
    ConfigError
        The library that speaks S3 is not installed.
    """

    def __init__(self, url: str) -> None:
        self._root = url.removeprefix(SCHEME).rstrip("/")
        self._bucket = self._root.partition("/")[0]
        try:
            self._system = fsspec.filesystem(
                "s3", config_kwargs=_TRANSFER, use_listings_cache=False, skip_instance_cache=True
            )
        except ImportError as error:
            raise ConfigError(["storage.object_store needs s3fs: install pacsimile[object-store]"]) from error
        self._system.retries = 1  # the library below it has done so already

    def put(self, path: Path, name: str) -> None:
        """Store a file; when this returns, the store has it for good.

        Raises
        ------
        Transient
            The store did not say that it has it.
        """
        try:
            with _reaching():
                self._system.put_file(str(path), self._key(name))
        except FileNotFoundError as error:
            raise Transient("the bucket of the object store is not there") from error

    def get(self, name: str, target: Path) -> None:
        """Copy an object to a file.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        Transient
            The store cannot be used now.
        """
        with self._finding():
            self._system.get_file(self._key(name), str(target))

    def read(self, name: str) -> bytes:
        """Read a whole object; raises as `get`."""
        with self._finding():
            return bytes(self._system.cat_file(self._key(name)))

    def holds(self, name: str) -> bool:
        """Whether there is such an object; raises `Transient` where the store cannot be asked."""
        _, _, key = self._key(name).partition("/")
        try:
            with self._finding():
                self._system.call_s3("head_object", Bucket=self._bucket, Key=key)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Delete an object; a missing one is no error, `Transient` where the store cannot be reached."""
        with suppress(FileNotFoundError), self._finding():
            self._system.rm_file(self._key(name))

    def move(self, name: str, other: str) -> None:
        """Give an object another name; raises as `get`."""
        with self._finding():
            self._system.cp_file(self._key(name), self._key(other))
        self.remove(name)

    def names(self) -> Iterator[str]:
        """Every object's name; raises `Transient` where the store cannot be asked."""
        with _reaching():
            found = self._system.find(self._root)
        return (key.removeprefix(f"{self._root}/") for key in found)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _finding(self) -> Iterator[None]:
        """Tell a missing object from a missing bucket, which is no reason to take anything for lost."""
        try:
            with _reaching():
                yield
        except FileNotFoundError:
            try:
                with _reaching():
                    self._system.call_s3("head_bucket", Bucket=self._bucket)
            except FileNotFoundError as error:
                raise Transient("the bucket of the object store is not there") from error
            raise


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # of four libraries below one another
        raise Transient(f"the object store cannot be used: {type(error).__name__}") from error


@dataclass(frozen=True)
class CachedFolder:
    """Objects in the place of a folder's files: naming one brings it here, unless it is here.

    Parameters
    ----------
    path : Path
        Where they are kept; several processes may use one folder.
    vault : Vault, optional
        Opens them: sealed objects are kept here as sealed files.
    check : callable
        Raises `indexer.errors.Damaged` where a file, just fetched, is not what its name says.
    """

    path: Path
    vault: Vault | None = field(repr=False)
    store: ObjectStore = field(repr=False)
    check: Callable[[StoredPath, str], None] = field(repr=False)

    def __truediv__(self, name: str | Path, /) -> StoredPath:
        """The file of an object, here for ten minutes at least from now on; no file where it is lost.

        Raises
        ------
        Transient
            The store cannot be used now, or the disk is full.
        indexer.errors.Damaged
            It is not what was stored.
        """
        try:
            os.utime(self.path / name)
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                self._fetch(str(name))
        return folder_of(self.path, self.vault) / name

    def is_dir(self) -> bool:
        """Whether there can be files."""
        return self.path.is_dir()

    def drop(self, name: str) -> None:
        """Remove the copy that is here, if there is one."""
        drop(self.path / name)

    def _fetch(self, name: str) -> None:
        fresh = f"{TEMPORARY}/{uuid4().hex}"
        target = self.path / name
        try:
            (self.path / TEMPORARY).mkdir(parents=True, exist_ok=True)
            self.store.get(name, self.path / fresh)
            self.check(folder_of(self.path, self.vault) / fresh, name)
            sync(self.path / fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.path / fresh).rename(target)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Transient(f"a stored instance cannot be fetched: {error.strerror}") from error
        finally:
            with suppress(OSError):
                (self.path / fresh).unlink(missing_ok=True)


def drop(copy: Path) -> None:
    """Remove a fetched copy and the folder that is its own; a missing one is no error."""
    with suppress(OSError):
        copy.unlink(missing_ok=True)
        copy.parent.rmdir()


def opened(content: bytes, vault: Vault | None) -> bytes:
    """What the bytes of an object hold.

    Raises
    ------
    indexer.errors.Damaged
        They are sealed, and not as they were.
    """
    if vault is None:
        return content
    with vault.reader(io.BytesIO(content)) as plain:
        return plain.read()
