"""Flushing a file in another thread, while its sender's thread enters it in the catalog and flushes its folder."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from dicom_scp.draft import Draft, unstorable
from indexer.durable import sync

_THREADS = 32


class Flusher:
    """The threads that wait for the disk."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="flush")

    def begin(self, draft: Draft, folder: Path) -> "Flush":
        """Begin to flush a draft that has its final name in a folder."""
        return Flush(draft, folder, self._threads.submit(draft.flush))


class Flush:
    """What is on its way to the disk, if anything is; it has to be over before the draft is discarded.

    Parameters
    ----------
    folder : Path, optional
        Flushed by who waits.
    """

    def __init__(self, draft: Draft, folder: Path | None = None, file: "Future[None] | None" = None) -> None:
        self._draft = draft
        self._folder = folder
        self._file = file

    def finish(self) -> None:
        """Return once nothing is under way any more, however it went."""
        if self._file is not None and not self._file.done():
            wait([self._file])

    def wait(self) -> None:
        """Return once it is durable.

        Raises
        ------
        Transient
            The disk fails.
        """
        if self._file is None:
            return
        try:
            if self._folder is not None:
                sync(self._folder)
                self._folder = None
            self._file.result()
        except OSError as error:
            raise unstorable(error) from error
        self._draft.keep()
