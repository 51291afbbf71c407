"""Rows that are committed while their files are still on the way to the disk, and what becomes of them.

Such a row is *unproven* until its file is durable; only then is success answered. Where the power fails before, the
row may be there without its file. A mark, which is durable before the first such row, says from which row of the
catalog on that can be: the next start looks at those, and takes out what was never acknowledged.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dicom_scp.draft import unstorable
from dicom_scp.errors import Unproven
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.durable import sync
from indexer.errors import Damaged, Transient
from indexer.uids import SOPInstanceUID

logger = logging.getLogger(__name__)

_DIGITS = 20
_MOVE_ON_S = 5.0


class Mark:
    """One process's mark: every row of its own up to the marked key is proven. Safe to share among threads.

    Parameters
    ----------
    catalog : Catalog
        Its keys only ever grow.
    folder : Path
        Of all marks.
    """

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self._catalog = catalog
        self._path = folder / uuid4().hex
        self._lock = threading.Lock()
        self._descriptor = -1
        self._generation = 0
        self._under_way = {0: 0}
        """How many rows are unproven, by the generation in which they were begun; two generations at most."""
        self._next_key = 0
        """All rows of the generation before have keys up to this one."""
        self._move_on_at = 0.0

    @contextmanager
    def unproven(self) -> Iterator[None]:
        """Commit a row in here, and prove it or take it out again; `Unproven` keeps the mark before it for good.

        Raises
        ------
        Transient
            The mark cannot be set.
        """
        with self._lock:
            try:
                self._set_or_move_on()
            except OSError as error:
                raise unstorable(error) from error
            generation = self._generation
            self._under_way[generation] += 1
        is_over = True
        try:
            yield
        except Unproven:
            is_over = False
            raise
        finally:
            if is_over:
                with self._lock:
                    self._under_way[generation] -= 1

    def close(self) -> None:
        """Remove the mark where all is proven."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor < 0:
                return
            if not any(self._under_way.values()):
                with suppress(OSError):
                    self._path.unlink()
            os.close(descriptor)

    def _set_or_move_on(self) -> None:
        if self._descriptor < 0:
            self._set()
        elif time.monotonic() < self._move_on_at:
            return
        elif len(self._under_way) == 1:  # who begins from now on is of the next generation
            self._next_key = self._catalog.receipts.last_key()
            self._generation += 1
            self._under_way[self._generation] = 0
        elif self._under_way[self._generation - 1] == 0:
            self._write(self._next_key)
            del self._under_way[self._generation - 1]
            self._move_on_at = time.monotonic() + _MOVE_ON_S

    def _set(self) -> None:
        key = self._catalog.receipts.last_key()
        self._path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have cleared the spool
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.pwrite(descriptor, f"{key:0{_DIGITS}d}".encode(), 0)
            os.fsync(descriptor)
            sync(self._path.parent)
        except BaseException:
            self._path.unlink()
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._move_on_at = time.monotonic() + _MOVE_ON_S

    def _write(self, key: int) -> None:
        """Move the mark on; if that is not durable, a few more rows are looked at, and that is all."""
        os.pwrite(self._descriptor, f"{key:0{_DIGITS}d}".encode(), 0)


def prove(catalog: Catalog, spool: Spool) -> None:
    """Look at what was unproven when a process ended, and take out of the catalog what has no whole file.

    Nothing of that was acknowledged. To be called before anything else uses the catalog's instances.

    Raises
    ------
    Transient
        The catalog or the spool cannot be used now.
    """
    try:
        for path in sorted(spool.marks.iterdir()):
            _prove(catalog, spool, path)
    except OSError as error:
        raise Transient(f"the spool folder cannot be used: {error.strerror}") from error


def _prove(catalog: Catalog, spool: Spool, path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # its process is alive
        digits = os.read(descriptor, _DIGITS)
        key = int(digits) if len(digits) == _DIGITS and digits.isdigit() else 0
        for uid, relative in catalog.receipts.entered_after(key):
            if catalog.holdings.is_released(uid):
                continue
            try:
                spool.read(relative)
            except Damaged:
                withdraw(catalog, spool, uid, relative)
        path.unlink()
    finally:
        os.close(descriptor)


def withdraw(catalog: Catalog, spool: Spool, sop_instance_uid: SOPInstanceUID, relative: str) -> None:
    """Take an instance out again that was never acknowledged, and its file.

    Raises
    ------
    Unproven
        The catalog cannot be written now; the file is gone.
    """
    logger.error("instance %s did not become durable and is taken out: it was not acknowledged", sop_instance_uid)
    spool.remove(relative)
    try:
        catalog.receipts.withdraw(sop_instance_uid, relative)
    except Transient as error:
        raise Unproven(
            f"an instance that is not durable stays in the catalog until the next start: {error}"
        ) from error
