"""Sealing an archive that was kept in plain, and exchanging the administrator's key; no node runs meanwhile."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from config.errors import ConfigError
from config.model import Settings
from dicom_scp.incoming import recover
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.durable import sync
from indexer.errors import NotFound, Transient
from indexer.keyring import make_keyring, read_key, read_keyring, write_keyring
from indexer.sealing import SealedFile, Vault, is_sealed
from indexer.uids import EncoderId
from node import folder
from node.storage import demand_own_files

Track = Callable[[str, Sequence[Path]], Iterable[Path]]
"""Shows progress over a sequence: a description and the items, which come back."""

_ME = folder.Holder(is_node=False, encoder_id=EncoderId(""))
_COPY_BYTES = 1 << 20
_PLAIN_LEFTOVERS = ("uploads",)
"""Folders of a data folder that hold nothing that is needed while no node runs."""


def seal(settings: Settings, track: Track) -> int:
    """Seal whatever of a data folder is kept in plain; what was interrupted goes on where it was.

    Files that are sealed already are left alone; index snapshots are deleted and made anew at the next start.

    Returns
    -------
    int
        How many files were sealed now.

    Raises
    ------
    ConfigError
        No key is configured, or not the one that was begun with; the instances are no files of this machine.
    node.folder.InUse
        A node runs on the folder.
    Transient
        The disk is full or fails, or somebody reads the database.
    """
    demand_own_files(settings, "encryption seal")
    if not settings.storage.encryption_key_file:
        raise ConfigError(
            ["storage.encryption_key_file must name the file of a key: `pacsimile encryption new-key`"]
        )
    key = read_key(Path(settings.storage.encryption_key_file))
    with folder.exclusively(settings.data_dir, _ME):
        keyring = read_keyring(settings.data_dir) or make_keyring(key, is_complete=False)
        vault = keyring.unlock(key)
        write_keyring(settings.data_dir, replace(keyring, is_complete=False), is_new=False)
        with Catalog(settings.catalog_url) as catalog:
            recover(catalog, Spool(settings.spool_dir))
        try:
            sealed = _seal_files(settings, vault, track)
            _seal_embeddings(settings, vault)
        except OSError as error:
            raise Transient(f"the data folder cannot be sealed: {error.strerror}") from error
        write_keyring(settings.data_dir, replace(keyring, is_complete=True), is_new=False)
    return sealed


def rotate(settings: Settings, new_key_file: Path) -> None:
    """Let another key open the data folder from now on; what is sealed stays as it is.

    Raises
    ------
    ConfigError
        The present key is missing or another one, or the new one cannot be read.
    NotFound
        The data folder is not encrypted.
    node.folder.InUse
        A node runs on the folder.
    """
    if not settings.storage.encryption_key_file:
        raise ConfigError(["storage.encryption_key_file must name the present key"])
    old, new = read_key(Path(settings.storage.encryption_key_file)), read_key(new_key_file)
    keyring = read_keyring(settings.data_dir)
    if keyring is None:
        raise NotFound(f"{settings.data_dir} is not encrypted")
    with folder.exclusively(settings.data_dir, _ME):
        write_keyring(settings.data_dir, keyring.rewrapped(old, new), is_new=False)


def _seal_files(settings: Settings, vault: Vault, track: Track) -> int:
    temporary = settings.spool_dir / "tmp"
    for half in temporary.glob("*"):  # nobody is writing
        half.unlink()
    plain = [path for path in track("looking at instances", _files(settings.spool_dir)) if not is_sealed(path)]
    for path in track("sealing instances", plain):
        _seal_file(path, temporary, vault)
    for parent in {path.parent for path in plain}:
        sync(parent)
    for name in _PLAIN_LEFTOVERS:
        shutil.rmtree(settings.data_dir / name, ignore_errors=True)
    shutil.rmtree(settings.snapshot_dir, ignore_errors=True)
    return len(plain)


def _files(spool: Path) -> list[Path]:
    """Every stored file, those that were set aside as damaged among them."""
    return sorted(spool.glob("*/*/*.dcm*"))


def _seal_file(path: Path, temporary: Path, vault: Vault) -> None:
    sealed = SealedFile(temporary / path.name, vault)
    with path.open("rb") as plain, sealed.open("wb") as file:
        shutil.copyfileobj(plain, file, _COPY_BYTES)
    sync(sealed.path)
    sealed.path.replace(path)


def _seal_embeddings(settings: Settings, vault: Vault) -> None:
    with Catalog(settings.catalog_url) as catalog:
        after: int | None = 0
        while after is not None:
            after = catalog.embeddings.seal_plain(vault, after)
        if not catalog.tombstones.scrub():  # nothing of the plain ones stays in free pages
            raise Transient("somebody reads the database; run it again")
