"""Giving up files: of series that their archive keeps, of studies that were here for a while only."""

import logging

from config.model import Settings
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.uids import SOPInstanceUID, StudyInstanceUID

logger = logging.getLogger(__name__)

_AT_ONCE = 100
"""Series in one transaction."""


class Custody:
    """Does what `storage.keep` and `fetch.keep` say."""

    def __init__(self, settings: Settings, catalog: Catalog, spool: Spool) -> None:
        self._settings = settings
        self._catalog = catalog
        self._spool = spool

    def tidy(self) -> list[StudyInstanceUID]:
        """Give up what may go by now; returns the fetched studies that were forgotten.

        Raises
        ------
        Transient
            The catalog cannot be reached; what is left is done the next time.
        """
        if self._settings.storage.keep == "none":
            self._release()
        self._sweep()
        return self._forget() if self._settings.fetch.keep == "none" else []

    def _release(self) -> None:
        encoder_id = self._catalog.embeddings.active_encoder()
        idle_s = self._settings.storage.release_after_minutes * 60
        while encoder_id is not None and (n := self._catalog.holdings.release(encoder_id, idle_s, _AT_ONCE)):
            logger.info("files of %d series given up: %s has them", n, self._settings.storage.retrieve_aet)

    def _sweep(self) -> None:
        """Delete the files of released series; a node that was killed meanwhile goes on here."""
        holdings = self._catalog.holdings
        while files := holdings.unswept(_AT_ONCE):
            for of_series in files.values():
                for uid, path in of_series:
                    with self._spool.exclusively(uid):
                        if holdings.is_released(uid):
                            self._spool.remove(path)
            holdings.swept(list(files))

    def _forget(self) -> list[StudyInstanceUID]:
        idle = self._catalog.holdings.fetched_studies(self._settings.fetch.forget_after_minutes * 60)
        for study in idle:
            for uid, path in self._catalog.holdings.drop(study):
                self._remove_unnamed(uid, path)
            logger.info("study %s forgotten: it was fetched for a question", study)
        return idle

    def _remove_unnamed(self, uid: SOPInstanceUID, path: str) -> None:
        """Remove a file unless the same instance has been received again."""
        with self._spool.exclusively(uid):
            if not self._catalog.lookup.names_file(path):
                self._spool.remove(path)
