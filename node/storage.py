"""The archive of a data folder, opened as its settings say: sealed or plain, never one in place of the other."""

from pathlib import Path

from config.errors import ConfigError
from config.model import Settings
from dicom_scp.object_spool import ObjectSpool, cached_folder
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.keyring import make_keyring, read_key, read_keyring, write_keyring
from indexer.objects import ObjectStore
from indexer.sealing import InstanceFolder, Vault, folder_of
from node import folder

SEAL = "pacsimile encryption seal"


def vault_of(settings: Settings) -> Vault | None:
    """Open the vault of the data folder; a new folder gets one if a key is configured.

    Returns
    -------
    Vault or None
        None where everything is kept in plain.

    Raises
    ------
    ConfigError
        The key is missing, cannot be read, or is another one; or data in plain are to be sealed first.
    indexer.errors.Damaged
        The keyring is not what was written.
    """
    keyring = read_keyring(settings.data_dir)
    if not settings.storage.encryption_key_file:
        if keyring is not None:
            raise ConfigError([f"{settings.data_dir} is encrypted: storage.encryption_key_file must name its key"])
        return None
    key = read_key(Path(settings.storage.encryption_key_file))
    if keyring is None:
        if holds_data(settings):
            raise ConfigError([f"{settings.data_dir} holds data that are not encrypted: run `{SEAL}`"])
        folder.prepare(settings.data_dir)
        write_keyring(settings.data_dir, make_keyring(key, is_complete=True), is_new=True)
        keyring = read_keyring(settings.data_dir)
    if keyring is None or not keyring.is_complete:
        raise ConfigError([f"not all of {settings.data_dir} is encrypted yet: run `{SEAL}` again"])
    return keyring.unlock(key)


def holds_data(settings: Settings) -> bool:
    """Whether there are stored instances or embeddings."""
    if settings.storage.object_store:
        if next(ObjectStore(settings.storage.object_store).names(), None) is not None:
            return True
    elif next(settings.spool_dir.glob("*/*/*.dcm*"), None) is not None:
        return True
    if not settings.catalog.url and not (settings.data_dir / "catalog.sqlite").exists():
        return False
    with Catalog(settings.catalog_url) as catalog:
        return catalog.embeddings.hold_any()


def open_catalog(settings: Settings) -> Catalog:
    """Open the catalog; raises as `Catalog` and `vault_of`."""
    return Catalog(settings.catalog_url, vault_of(settings))


def open_spool(settings: Settings, catalog: Catalog, reserve_mib: int = 0) -> Spool:
    """Open the spool that goes with an open catalog; raises as `Spool`."""
    if settings.storage.object_store:
        store = ObjectStore(settings.storage.object_store)
        return ObjectSpool(settings.spool_dir, store, reserve_mib, catalog.vault)
    return Spool(settings.spool_dir, reserve_mib, catalog.vault)


def instance_folder(settings: Settings, catalog: Catalog) -> InstanceFolder:
    """Where the files of an open catalog's instances are read."""
    if settings.storage.object_store:
        return cached_folder(settings.spool_dir, ObjectStore(settings.storage.object_store), catalog.vault)
    return folder_of(settings.spool_dir, catalog.vault)


def demand_own_files(settings: Settings, what: str) -> None:
    """Raise `ConfigError` where the stored instances are no files of this machine, which `what` needs."""
    if settings.storage.object_store:
        raise ConfigError([f"{what} works on files, and storage.object_store is set: docs/scaling.md"])
