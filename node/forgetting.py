"""What is left to do once something was forgotten: files, the index and its snapshots, the database's pages."""

import logging
import shutil
import time
from pathlib import Path

from config.model import Settings
from dicom_scp.forgetting import Forgetter
from indexer.catalog import Catalog
from indexer.catalog.tombstones import Erasure, ErasureKind
from indexer.durable import sync
from indexer.errors import Transient
from indexer.keeper import IndexKeeper
from indexer.uids import EncoderId

log = logging.getLogger(__name__)

_SCRUB_INTERVAL_S = 60.0
"""The database is rewritten at most so often, however often something is forgotten."""
_READER_PAUSE_S = 5.0
PURGED = "index.purged"
"""In the data folder: since which time of forgetting the index has been made anew, where nodes share a catalog."""


class Eraser:
    """Works off what the catalog notes as still to be erased; what is interrupted is done by the next one.

    Parameters
    ----------
    keeper : IndexKeeper or None
        Of whoever may change the index: the running node, or a command where there is none. With None snapshots are
        deleted, and the index is made anew at the next start.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, forgetter: Forgetter, keeper: IndexKeeper | None
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._forgetter = forgetter
        self._keeper = keeper
        self._scrub_at = 0.0

    def work_off(self) -> None:
        """Erase what is due.

        Raises
        ------
        Transient
            Something cannot be erased now; it stays noted.
        """
        if self._keeper is not None and self._settings.is_shared:
            self._purge_if_others_forgot(self._keeper)
        waiting = self._catalog.tombstones.erasures()
        if not waiting:
            return
        self._forgetter.erase_files()
        indexes = [one for one in waiting if one.kind is ErasureKind.INDEX]
        if indexes:
            self._erase_indexes(indexes)
        pages = [one for one in waiting if one.kind is ErasureKind.PAGES]
        if pages and time.monotonic() >= self._scrub_at:
            self._scrub_at = time.monotonic() + _SCRUB_INTERVAL_S
            self._scrub(pages)

    def _purge_if_others_forgot(self, keeper: IndexKeeper) -> None:
        """Make this node's own index anew, whichever node struck off the erasure."""
        encoder_id = keeper.current()[1]
        token = self._catalog.tombstones.purge_token(encoder_id)
        note, file = f"{encoder_id} {token}", self._settings.data_dir / PURGED
        if token is None or (file.exists() and file.read_text() == note):
            return
        keeper.purge()
        draft = file.with_suffix(".new")
        draft.write_text(note)
        draft.replace(file)

    def _erase_indexes(self, indexes: list[Erasure]) -> None:
        present = self._keeper.current()[1] if self._keeper is not None else None
        for one in indexes:
            if self._keeper is not None and one.name == present:
                if not self._settings.is_shared:
                    self._keeper.purge()
            else:
                _delete_snapshot(self._settings.snapshot_dir, one.name)
                if self._keeper is not None:
                    self._keeper.discard(EncoderId(one.name))
        self._catalog.tombstones.erased(indexes)

    def _scrub(self, pages: list[Erasure]) -> None:
        if self._catalog.tombstones.scrub():
            self._catalog.tombstones.erased(pages)
            log.info("the database holds nothing of what was forgotten any more")
        else:
            self._scrub_at = time.monotonic() + _READER_PAUSE_S
            raise Transient("somebody reads the database: its log is emptied later")


def _delete_snapshot(folder: Path, encoder_id: str) -> None:
    shutil.rmtree(folder / encoder_id, ignore_errors=True)
    if not folder.is_dir():
        return
    sync(folder)
