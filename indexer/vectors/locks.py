"""A readers-writer lock in which neither side starves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseFairLock:
    """Many readers or one writer, by turns.

    A reader that comes while a writer waits lets that one writer pass and then enters together with all readers
    that came meanwhile, before the next writer. So a thread that adds block after block delays a search by one
    block at most, and a stream of searches delays an addition by the searches under way only.

    Not reentrant: a thread that holds it on either side must not ask for it again.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._readers = 0
        self._readers_waiting = 0
        self._writers_waiting = 0
        self._writing = False
        self._phase = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock beside other readers."""
        with self._turn:
            self._enter_reader()
        try:
            yield
        finally:
            with self._turn:
                self._leave_reader()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._turn:
            self._enter_writer()
        try:
            yield
        finally:
            with self._turn:
                self._writing = False
                self._admit_readers()

    def _enter_reader(self) -> None:
        if not (self._writing or self._writers_waiting):
            self._readers += 1
            return
        phase = self._phase
        self._readers_waiting += 1
        try:
            self._turn.wait_for(lambda: self._phase != phase)
        except BaseException:
            # An interrupt may come before or after the end of the writer's phase counted this reader in.
            if self._phase == phase:
                self._readers_waiting -= 1
            else:
                self._leave_reader()
            raise

    def _leave_reader(self) -> None:
        self._readers -= 1
        if not self._readers:
            self._turn.notify_all()

    def _enter_writer(self) -> None:
        self._writers_waiting += 1
        try:
            self._turn.wait_for(lambda: not self._writing and not self._readers)
            self._writing = True
        except BaseException:
            if self._writers_waiting == 1 and not self._writing:
                self._admit_readers()
            raise
        finally:
            self._writers_waiting -= 1

    def _admit_readers(self) -> None:
        self._phase += 1
        self._readers += self._readers_waiting
        self._readers_waiting = 0
        self._turn.notify_all()
