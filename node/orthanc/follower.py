"""Follows an Orthanc: what becomes stable there is taken over, in a thread of its own."""

import logging
import threading
import time

from config.model import Settings
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import Transient
from indexer.uids import SeriesInstanceUID
from node.orthanc.changes import ChangeReader
from node.orthanc.client import OrthancClient
from node.orthanc.takeover import Takeover

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 60.0
"""Once Orthanc answers again, it is noticed within this time."""


class Follower:
    """Reads changes and takes studies over until it is stopped; what is left is done after the next start.

    Raises
    ------
    config.errors.ConfigError
        A file that the settings name cannot be read.
    """

    def __init__(self, settings: Settings, catalog: Catalog, spool: Spool) -> None:
        self._settings = settings.orthanc
        self._client = OrthancClient(settings.orthanc)
        self._stopping = threading.Event()
        self._reader = ChangeReader(catalog.orthanc_studies, self._client)
        self._takeover = Takeover(settings, catalog, spool, self._client, only_stable=True, stopping=self._stopping)
        self._thread = threading.Thread(target=self._run, name="orthanc", daemon=True)
        self._read_at = 0.0
        self._failures = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Begin nothing more, and wait so long for what is under way."""
        self._stopping.set()
        self._thread.join(deadline_s)
        self._client.close()

    def being_taken(self) -> frozenset[SeriesInstanceUID]:
        """Series that are just being fetched; they do not settle."""
        return self._takeover.being_taken

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._work():
                    self._stopping.wait(self._settings.poll_s)
                self._failures = 0
            except Transient as error:
                self._pause(f"tried again soon: {error}")
            except Exception:  # whatever happens, the next round is worth trying
                log.exception("following Orthanc")
                self._pause("tried again soon")

    def _work(self) -> bool:
        """Read changes if that is due, take one study over; whether there may be more to do at once."""
        has_more = False
        if time.monotonic() >= self._read_at:
            has_more = self._reader.read_on()
            self._read_at = 0.0 if has_more else time.monotonic() + self._settings.poll_s
        tally = self._takeover.work_one()
        if tally is not None and (tally.studies or tally.refused):
            counts = ", ".join(f"{number} {verdict}" for verdict, number in tally.verdicts.items())
            log.info("took over a study of Orthanc: %s", counts or "nothing new")
            for reason, number in tally.refused.items():
                log.warning("%d instances of Orthanc refused: %s", number, reason)
        return has_more or tally is not None

    def _pause(self, said: str) -> None:
        log.warning("%s", said)
        pause_s = min(self._settings.first_retry_s * 2.0 ** min(self._failures, 64), _LONGEST_PAUSE_S)
        self._failures += 1
        self._stopping.wait(pause_s)
