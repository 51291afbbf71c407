"""A backup of a node, taken while it runs, and its restoration.

A backup is a folder: the catalog's copy, the stored files below ``spool``, the keyring where they are sealed, the
settings without secrets, the SHA-256 of all of them in ``SHA256SUMS`` (``sha256sum -c`` reads it) and, written
last, ``backup.json``: without it the folder is no backup. Index snapshots are not in it; the index is made anew
from the catalog.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

from config.errors import ConfigError
from config.load import without_secrets
from config.model import Settings
from dicom_scp.draft import content_digest
from dicom_scp.part10 import split_file
from indexer.catalog import Catalog
from indexer.catalog.copying import copy_catalog, demand_empty, put_back
from indexer.errors import Damaged, Refused, Transient
from indexer.keyring import KEYRING, read_key, read_keyring
from indexer.sealing import Vault
from node import folder
from node.storage import demand_own_files

Track = Callable[[str, Sequence[str]], Iterable[str]]
"""Shows progress over a sequence: a description and the items, which come back."""

_DESCRIPTION = "backup.json"
_SUMS = "SHA256SUMS"
_SETTINGS = "settings.json"
_SPOOL = "spool"
_FORMAT = 1
_LOOKS = 20
"""How often the catalog is copied again because files went while they were copied."""


@dataclass
class Outcome:
    """What a backup holds.

    Attributes
    ----------
    problems : dict of str to str
        Path within the spool to why the file is not in the backup: the archive itself has lost it.
    """

    files: int = 0
    bytes: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stored:
    """A file of the backup: SHA-256 of all its bytes, in hexadecimal."""

    sha256: str
    size_bytes: int


def back_up(settings: Settings, catalog: Catalog, target: Path, *, link: bool, track: Track) -> Outcome:
    """Write a backup in which every instance of its catalog is whole, though instances come and go meanwhile.

    Parameters
    ----------
    target : Path
        Made if it is missing; it must be empty.
    link : bool
        Link files instead of copying them, where the disk is the same.

    Raises
    ------
    Refused
        The folder is not empty or within the data folder, or the catalog cannot be copied with what is installed.
    ConfigError
        The instances are no files of this machine.
    Transient
        The disk is full or fails, or the archive changes too fast.
    """
    demand_own_files(settings, "backup")
    if target.resolve().is_relative_to(settings.data_dir.resolve()):
        raise Refused(f"expected a folder outside the data folder for the backup, got {target}")
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise Refused(f"expected an empty folder for the backup, got one with files: {target}")
        return _Writer(settings, catalog, target, link=link).write(track)
    except OSError as error:
        raise Transient(f"the backup cannot be written: {error.strerror}") from error


def restore(settings: Settings, source: Path, track: Track) -> Outcome:
    """Put a backup in place as the node's data; every byte is compared with what was written.

    The catalog comes last: a restoration that was interrupted leaves a folder with which no node starts.

    Raises
    ------
    Refused
        It is no backup, the data folder is not empty, or there is a catalog already.
    Damaged
        The backup is not what was written.
    ConfigError
        The instances are to be no files of this machine.
    Transient
        The disk is full or fails.
    """
    demand_own_files(settings, "restore")
    try:
        return _restore(settings, source, track)
    except OSError as error:
        raise Transient(f"the backup cannot be restored: {error.strerror}") from error


class _Writer:
    def __init__(self, settings: Settings, catalog: Catalog, target: Path, *, link: bool) -> None:
        self._settings = settings
        self._catalog = catalog
        self._target = target
        self._link = link
        self._done: dict[str, _Stored] = {}
        self._problems: dict[str, str] = {}

    def write(self, track: Track) -> Outcome:
        copy, paths = self._copy_all(track)
        for surplus in self._done.keys() - paths:  # forgotten or replaced since it was copied
            (self._target / _SPOOL / surplus).unlink()
            del self._done[surplus]
        shown = json.dumps(without_secrets(self._settings), indent=2)
        (self._target / _SETTINGS).write_text(shown + "\n", encoding="utf-8")
        stored = {f"{_SPOOL}/{path}": one for path, one in self._done.items()}
        keyring = self._settings.data_dir / KEYRING
        if keyring.exists():  # files and embeddings are copied as they are: sealed
            (self._target / KEYRING).write_bytes(keyring.read_bytes())
        names = [name for name in (copy.name, _SETTINGS, KEYRING) if (self._target / name).exists()]
        stored |= {name: _stored((self._target / name).read_bytes()) for name in names}
        self._describe(copy.name, stored)
        size = sum(one.size_bytes for one in self._done.values())
        return Outcome(len(self._done), size, {path: self._problems[path] for path in paths & set(self._problems)})

    def _copy_all(self, track: Track) -> tuple[Path, frozenset[str]]:
        for look in range(_LOOKS):
            copy = copy_catalog(self._settings.catalog_url, self._target)
            left = sorted(copy.paths - self._done.keys() - self._problems.keys())
            what = "copying instances" if look == 0 else "copying what changed meanwhile"
            went = [path for path in track(what, left) if not self._copy(path)]
            if not went:
                return copy.file, copy.paths
        raise Transient("files went faster than they could be copied; try again when less is forgotten")

    def _copy(self, relative: str) -> bool:
        """Copy one file; False where it went meanwhile, and the catalog's copy is out of date."""
        source, target = self._settings.spool_dir / relative, self._target / _SPOOL / relative
        try:
            content = source.read_bytes()
            if not _is_sound(relative, content, self._catalog.vault):
                self._problems[relative] = "it is not what was stored"
                return True
            target.parent.mkdir(parents=True, exist_ok=True)
            self._place(source, target, content)
        except FileNotFoundError:
            is_wanted = self._catalog.lookup.names_file(relative)
            if not is_wanted or relative in self._catalog.holdings.released_paths():
                return False
            self._problems[relative] = "it is missing"
            return True
        self._done[relative] = _stored(content)
        return True

    def _place(self, source: Path, target: Path, content: bytes) -> None:
        if self._link:
            with suppress(OSError):
                target.hardlink_to(source)
                return
        target.write_bytes(content)

    def _describe(self, catalog_copy: str, stored: dict[str, _Stored]) -> None:
        sums = "".join(f"{one.sha256}  {name}\n" for name, one in sorted(stored.items())).encode()
        (self._target / _SUMS).write_bytes(sums)
        os.sync()  # one for all files; only then there is a backup
        described = {
            "format": _FORMAT,
            "version": version("pacsimile"),
            "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "catalog": catalog_copy,
            "instances_and_quarantine": len(self._done),
            "missing": sorted(self._problems),
            "sums": asdict(_stored(sums)),
        }
        temporary = self._target / f"{_DESCRIPTION}.new"
        temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        os.sync()
        temporary.rename(self._target / _DESCRIPTION)
        os.sync()


def _restore(settings: Settings, source: Path, track: Track) -> Outcome:
    sums, catalog_copy = _read_description(source)
    folder.prepare(settings.data_dir)
    if any(one.name not in (folder.LOCK, folder.IDENTITY) for one in settings.data_dir.iterdir()):
        raise Refused(f"expected an empty data folder, got one with files: {settings.data_dir}")
    demand_empty(settings.catalog_url)
    _demand_key(settings, source)
    outcome = Outcome()
    for name in track("restoring instances", sorted(sums)):
        content = _read(source, name, sums[name])
        if name == KEYRING:
            (settings.data_dir / KEYRING).write_bytes(content)
            (settings.data_dir / KEYRING).chmod(0o600)
        if not name.startswith(f"{_SPOOL}/"):
            continue
        target = settings.spool_dir / name.removeprefix(f"{_SPOOL}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        outcome.files += 1
        outcome.bytes += len(content)
    os.sync()
    put_back(source / catalog_copy, settings.catalog_url)
    with Catalog(settings.catalog_url) as catalog:  # whoever indexed when the backup was made is not at it any more
        catalog.progress.release("", settings.indexing.max_attempts, blame=False)
    return outcome


def _demand_key(settings: Settings, source: Path) -> None:
    """Make sure before anything is written that a backup of sealed files can be opened."""
    keyring = read_keyring(source)
    if keyring is None:
        return
    if not settings.storage.encryption_key_file:
        raise ConfigError(["the backup is encrypted: storage.encryption_key_file must name its key"])
    keyring.unlock(read_key(Path(settings.storage.encryption_key_file)))


def _read_description(source: Path) -> tuple[dict[str, str], str]:
    """SHA-256 of every file, and the name of the catalog's copy."""
    try:
        described = json.loads((source / _DESCRIPTION).read_text(encoding="utf-8"))
        catalog_copy, digest = str(described["catalog"]), described["sums"]["sha256"]
    except FileNotFoundError as error:
        raise Refused(f"expected a backup, got a folder without {_DESCRIPTION}: {source}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{_DESCRIPTION} of the backup cannot be read") from error
    if described.get("format") != _FORMAT:
        raise Refused(f"expected a backup of format {_FORMAT}, got {described.get('format')}")
    lines = _read(source, _SUMS, digest).decode().splitlines()
    sums = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    if catalog_copy not in sums or any(".." in name or name.startswith("/") for name in sums):
        raise Damaged(f"{_SUMS} of the backup cannot be used")
    return sums, catalog_copy


def _read(source: Path, name: str, sha256: str) -> bytes:
    try:
        content = (source / name).read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{name} of the backup is missing") from error
    if _stored(content).sha256 != sha256:
        raise Damaged(f"{name} of the backup is not what was written: its SHA-256 differs")
    return content


def _stored(content: bytes) -> _Stored:
    return _Stored(hashlib.sha256(content).hexdigest(), len(content))


def _is_sound(relative: str, content: bytes, vault: Vault | None) -> bool:
    try:
        if vault is not None:
            with vault.reader(BytesIO(content)) as plain:
                content = plain.read()
        return content_digest(*split_file(content)) == Path(relative).stem
    except (Refused, Damaged):
        return False
