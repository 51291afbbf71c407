"""Copies of objects on a node's own disk: so many as may stay, and none of what was forgotten."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config.model import Settings
from indexer.catalog import Catalog
from indexer.errors import Transient
from indexer.objects import drop

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_TRIM_S = 30.0
_ALL_S = 3600.0
_LATE_S = 120.0
"""Whatever was being fetched while it was forgotten is here by then."""
_IN_USE_S = 600.0


@dataclass(frozen=True)
class _Copy:
    path: Path
    size_bytes: int
    used_at: float


class CopyKeeper:
    """Removes copies: what the catalog names no more within seconds, and of the rest what was not used for longest.

    Started beside each node whose instances are in an object store.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._folder = settings.spool_dir
        self._limit_bytes = int(settings.storage.cache_gib * (1 << 30))
        self._catalog = catalog
        self._token: str | None = None
        self._compare_at = self._trim_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copies", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, the present round first."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            try:
                self.work_off()
            except Transient as error:
                log.warning("copies of stored instances: %s", error)
            except Exception:  # whatever happens, the next round is worth trying
                log.exception("copies of stored instances")

    def work_off(self) -> None:
        """Remove what is to be removed now.

        Raises
        ------
        Transient
            The catalog cannot be read now.
        """
        now = time.monotonic()
        token = self._catalog.tombstones.files_token()
        if token != self._token or now >= self._compare_at:
            self._compare()
            self._compare_at = now + (_ALL_S if token == self._token else _LATE_S)
            self._token = token
        if now >= self._trim_at:
            self._trim()
            self._trim_at = now + _TRIM_S

    def _compare(self) -> None:
        here = {str(one.path.relative_to(self._folder)): one.path for one in self._copies()}
        for name in here.keys() - self._catalog.lookup.named_files(here.keys()):
            drop(here[name])

    def _trim(self) -> None:
        copies = sorted(self._copies(), key=lambda one: one.used_at)
        surplus = sum(one.size_bytes for one in copies) - self._limit_bytes
        for one in copies:
            if surplus <= 0 or one.used_at > time.time() - _IN_USE_S:
                return
            drop(one.path)
            surplus -= one.size_bytes

    def _copies(self) -> Iterator[_Copy]:
        for path in self._folder.glob("?/?/**/*.dcm"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield _Copy(path, found.st_size, found.st_mtime)
