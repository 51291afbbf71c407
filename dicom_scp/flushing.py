"""Flushing a file and its folder at the same time, while its sender's thread does something else."""

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
        """Begin to flush a draft that has its final name, and the folder it is in."""
        return Flush(draft, self._threads.submit(draft.flush), self._threads.submit(sync, folder))


class Flush:
    """What is on its way to the disk, if anything is; it has to be over before the draft is discarded."""

    def __init__(self, draft: Draft, *parts: "Future[None]") -> None:
        self._draft = draft
        self._parts = parts

    def finish(self) -> None:
        """Return once it is over, however it went."""
        if not all(part.done() for part in self._parts):
            wait(self._parts)

    def wait(self) -> None:
        """Return once it is durable.

        Raises
        ------
        Transient
            The disk fails.
        """
        try:
            for part in self._parts:
                part.result()
        except OSError as error:
            raise unstorable(error) from error
        if self._parts:
            self._draft.keep()
