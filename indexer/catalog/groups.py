"""Group commit: what several threads write at the same time is committed together, at the cost of one."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine

from indexer.catalog.engine import writing

T = TypeVar("T")


class Work(Generic[T]):
    """What one thread wants written, and what came of it.

    Parameters
    ----------
    key : str
        The rows of a transaction are written in its order, so that two of them cannot wait for each other.
    write : callable
        May be called again, after a rollback.
    """

    def __init__(self, key: str, write: Callable[[Connection], T]) -> None:
        self.key = key
        self.write = write
        self.is_done = False
        self.error: BaseException | None = None
        self.result: T

    def outcome(self) -> T:
        """What `write` returned; what it raised is raised."""
        if self.error is not None:
            raise self.error
        return self.result


class GroupCommit:
    """Commits for threads that come while another one commits, all of them in the next transaction.

    The thread that finds nobody committing does it for all that wait; one that is alone waits for nobody.

    Parameters
    ----------
    shortcut : callable, optional
        Tried first: commits a group whole in another way and sets its results, or does nothing and says False.
    """

    def __init__(self, engine: Engine, shortcut: Callable[[Sequence[Work[Any]]], bool] = lambda _: False) -> None:
        self._engine = engine
        self._shortcut = shortcut
        self._turn = threading.Condition()
        self._waiting: list[Work[Any]] = []
        self._is_committing = False

    def run(self, mine: Work[T]) -> T:
        """Write in a transaction that is committed when this returns; an error is that of this work alone.

        Raises
        ------
        Transient, Refused, Damaged
            As in `engine.writing`.
        """
        with self._turn:
            self._waiting.append(mine)
            while self._is_committing and not mine.is_done:
                self._turn.wait()
            if mine.is_done:
                return mine.outcome()
            self._is_committing = True
            group, self._waiting = self._waiting, []
        try:
            self._commit(group)
        finally:
            with self._turn:
                self._is_committing = False
                for work in group:
                    work.is_done = True
                self._turn.notify_all()
        return mine.outcome()

    def _commit(self, group: list[Work[Any]]) -> None:
        """Commit all in one transaction; if that fails, each in one of its own."""
        try:
            if not self._shortcut(group):
                self._commit_together(sorted(group, key=lambda work: work.key))
        except Exception as error:
            if len(group) == 1:
                group[0].error = error
                return
            for work in group:
                self._commit([work])

    def _commit_together(self, group: list[Work[Any]]) -> None:
        with writing(self._engine) as connection:
            for work in group:
                work.result = work.write(connection)
