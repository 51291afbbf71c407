"""Files of instances that come in, under names that are durable before anything is written to them.

Such a file proves itself: it holds the SHA-256 of what it is to be (`part10.file_header`). To flush it is therefore
all that an instance needs to survive a power cut. Its final name and its row in the catalog are there when success
is answered, but become durable only later; until then the file keeps its first name as well, and the next start
makes from it anew what the power took.
"""

import fcntl
import logging
import math
import os
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from dicom_scp.draft import Blank, Draft
from dicom_scp.reception import Receiver
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.durable import sync
from indexer.errors import Transient

logger = logging.getLogger(__name__)

_BATCH = 64
_FEW = 32
"""Blanks that are made at once, for one flush of their folder; and how few are left when more are made."""
_RESERVE = 1024
_IDLE_S = 0.5
"""So many there are once instances have come and none has for so long: the next series need not wait for any."""
_SETTLE_S = 5.0
_MOST_UNSETTLED = 4096
_PAUSE_S = 0.25


class _Home:
    """A folder for the files of one process, which is alive as long as it is locked."""

    def __init__(self, parent: Path) -> None:
        self.path = str(parent / uuid4().hex)
        parent.mkdir(parents=True, exist_ok=True)  # somebody may have cleared the spool
        os.mkdir(self.path)  # noqa: PTH102 - a name that is joined for every instance
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        sync(parent)

    def leave(self) -> None:
        """Remove it if it is empty; otherwise the next start looks at it."""
        with suppress(OSError):
            os.rmdir(self.path)  # noqa: PTH106
        os.close(self._descriptor)


class Incoming:
    """The files of instances that come in to this process. Safe to share among threads.

    Parameters
    ----------
    catalog : Catalog
    folder : Path
        Of all processes.
    """

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self._catalog = catalog
        self._folder = folder
        self._turn = threading.Condition()
        self._making = threading.Lock()
        self._home: _Home | None = None
        self._homes: list[_Home] = []
        self._numbers = count()
        self._blanks: deque[str] = deque()
        self._taken_at = math.inf
        self._unsettled: list[tuple[str, str]] = []
        self._settle_at = 0.0
        self._most_unsettled = _MOST_UNSETTLED
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def blank(self) -> Blank | None:
        """A file for the next instance; None where there is none to be had."""
        try:
            return Blank(self._next())
        except FileNotFoundError:  # somebody has cleared the spool
            with self._turn:
                self._blanks.clear()
                self._home = None
            return None
        except OSError:
            return None

    def entered(self, draft: Draft, target: str) -> None:
        """Keep the first name of a file that has its final one, and its row, until these are durable."""
        name = draft.keep()
        with self._turn:
            if not self._unsettled:
                self._settle_at = time.monotonic() + _SETTLE_S
                self._turn.notify()
            self._unsettled.append((name, target.rpartition("/")[0]))

    def settle(self) -> None:
        """Make final names and rows durable, and give the first names up; where that fails they stay."""
        with self._turn:
            unsettled, self._unsettled = self._unsettled, []
            self._settle_at = time.monotonic() + _SETTLE_S
        try:
            for folder in {folder for _, folder in unsettled}:
                with suppress(FileNotFoundError):  # somebody has cleared the spool
                    sync(Path(folder))
            self._catalog.receipts.flush()
        except (OSError, Transient) as error:
            logger.error("instances taken in are not settled yet: %s", error)
            with self._turn:
                self._unsettled[:0] = unsettled
                self._most_unsettled = len(self._unsettled) + _MOST_UNSETTLED  # not again at once
            return
        self._most_unsettled = _MOST_UNSETTLED
        for name, _ in unsettled:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108

    def close(self) -> None:
        """Settle what came in, and take nothing more."""
        with self._turn:
            self._is_closed = True
            self._turn.notify()
            thread = self._thread
        if thread is None:
            return
        thread.join()
        self.settle()
        for name in self._blanks:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108
        for home in self._homes:
            home.leave()

    def _next(self) -> str:
        while True:
            with self._turn:
                if self._is_closed:
                    raise OSError("nothing is taken in any more")
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="incoming", daemon=True)
                    self._thread.start()
                self._taken_at = time.monotonic()
                if len(self._blanks) == _FEW:
                    self._turn.notify()
                if self._blanks:
                    return self._blanks.popleft()
            self._make(_FEW)

    def _make(self, enough: int) -> None:
        """Make some blanks, unless there are enough."""
        with self._making:
            if len(self._blanks) > enough:
                return
            if self._home is None:
                self._home = _Home(self._folder)
                self._homes.append(self._home)
            home = self._home
            made = [f"{home.path}/{next(self._numbers):x}" for _ in range(_BATCH)]
            for name in made:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            sync(Path(home.path))
            with self._turn:
                self._blanks.extend(made)

    def _run(self) -> None:
        """Make blanks before they are needed, and settle now and then."""
        while not self._is_closed:
            try:
                if self._is_short():
                    self._make(_RESERVE - _BATCH)
            except OSError:  # who needs one is told
                time.sleep(_PAUSE_S)
            if self._is_due():
                self.settle()
            with self._turn:
                if not (self._is_closed or self._is_due() or self._is_short()):
                    self._turn.wait(self._patience_s())

    def _is_short(self) -> bool:
        return time.monotonic() >= self._short_at()

    def _short_at(self) -> float:
        """When more blanks are to be made, if none is taken until then."""
        there = len(self._blanks)
        if there <= _FEW:
            return 0.0
        return self._taken_at + _IDLE_S if there <= _RESERVE - _BATCH else math.inf

    def _is_due(self) -> bool:
        return bool(self._unsettled) and (
            time.monotonic() >= self._settle_at or len(self._unsettled) >= self._most_unsettled
        )

    def _patience_s(self) -> float | None:
        next_at = min(self._short_at(), self._settle_at if self._unsettled else math.inf)
        return max(0.0, next_at - time.monotonic()) if next_at < math.inf else None


def recover(catalog: Catalog, spool: Spool) -> None:
    """Give instances that came in to processes which have ended what is lost of their names and rows.

    Only whole files are looked at: of the others nothing was acknowledged. To be called before anything else uses
    the catalog's instances.

    Raises
    ------
    Transient
        The catalog or the spool cannot be used now.
    """
    receiver = Receiver(catalog, spool, "keep-first")
    try:
        for home in sorted(spool.incoming.iterdir()):
            _recover(catalog, spool, receiver, home)
    except OSError as error:
        raise Transient(f"the spool folder cannot be used: {error.strerror}") from error


def _recover(catalog: Catalog, spool: Spool, receiver: Receiver, home: Path) -> None:
    descriptor = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # its process is alive
        files = sorted(home.iterdir())
        written = [file for file in files if file.stat().st_size]
        if written and not spool.takes_incoming:
            logger.error("%d files in %s came in under other settings and are left there", len(written), home)
            return
        _settle(catalog, {receiver.recover(file) for file in written})
        for file in files:
            file.unlink()
        home.rmdir()
    finally:
        os.close(descriptor)


def _settle(catalog: Catalog, files: set[Path | None]) -> None:
    for folder in {file.parent for file in files if file is not None}:
        sync(folder)
    catalog.receipts.flush()
