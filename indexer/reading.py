"""Reading a series volume by volume, and the series that comes next beforehand, while another one is embedded."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from indexer.catalog.progress import LeasedSeries
from indexer.errors import Parked
from indexer.sealing import StoredPath
from indexer.stacks import Stack
from indexer.volume import Volume, load_volume, plan_series

MOST_VOXELS_AHEAD = 2**28
"""A volume of more is decoded when its turn comes: what is held beforehand stays below 1 GiB of float32."""
_NICENESS = 10
"""Of reading beforehand: it takes what the encoder leaves, and does not hold up the encoder's threads."""


class SeriesVolumes:
    """The volumes of one series, in order; each is decoded when it is asked for.

    Attributes
    ----------
    notes : list of str
        What was left out before anything was decoded.
    seconds : dict
        Time taken so far: ``read`` for headers, ``volume`` for decoding.

    Raises
    ------
    Parked
        The series holds no volume.
    Transient
        A file cannot be read now.
    """

    def __init__(self, paths: Sequence[StoredPath]) -> None:
        if not paths:
            raise Parked("the series holds no CT or MR image any more")
        start = time.perf_counter()
        plan = plan_series(paths)
        self.seconds = {"read": time.perf_counter() - start, "volume": 0.0}
        self.notes = [f"left out: {dropped.reason}" for dropped in plan.dropped]
        self._stacks = plan.stacks
        self._first: Volume | Parked | None = None

    def with_first(self) -> Self:
        """Decode the first volume now, unless it is large; returns itself."""
        first = next(iter(self._stacks), None)
        if first is not None and _voxels(first) <= MOST_VOXELS_AHEAD:
            self._first = self._load(first)
        return self

    def __iter__(self) -> Iterator[Volume | Parked]:
        """Give every volume, or why it cannot be used."""
        for ordinal, stack in enumerate(self._stacks):
            ready, self._first = self._first, None
            yield ready if ready is not None and ordinal == 0 else self._load(stack)

    def _load(self, stack: Stack) -> Volume | Parked:
        start = time.perf_counter()
        try:
            return load_volume(stack)
        except Parked as error:
            return error
        finally:
            self.seconds["volume"] += time.perf_counter() - start


def _voxels(stack: Stack) -> int:
    return sum(frame.format.rows * frame.format.columns for frame in stack.frames)


class ReadAhead:
    """Reads one series in a thread of its own, while another is embedded.

    Parameters
    ----------
    read : callable
        Reads a leased series.
    """

    def __init__(self, read: Callable[[LeasedSeries], SeriesVolumes]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, "read-ahead", _step_back)
        self._next: tuple[LeasedSeries, Future[SeriesVolumes] | None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether anything is being read, or held."""
        return self._next is not None and self._next[1] is not None

    def begin(self, series: LeasedSeries) -> None:
        """Read a series; only one at a time, that is, after `take`."""
        self._next = series, self._thread.submit(lambda: self._read(series).with_first())

    def take(self) -> tuple[LeasedSeries, Future[SeriesVolumes] | None] | None:
        """Hand over the series that was begun, with what reading it comes to; None if there is none."""
        taken, self._next = self._next, None
        return taken

    def let_go(self) -> None:
        """Give its memory free; the series is to be read again when its turn comes."""
        if self._next is not None and (reading := self._next[1]) is not None:
            reading.cancel() or reading.exception()  # waits: what is being decoded cannot be stopped
            self._next = self._next[0], None

    def close(self) -> LeasedSeries | None:
        """End the thread; the series that it was reading, if there is one."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        taken = self.take()
        return taken[0] if taken else None


def _step_back() -> None:
    """Lower the priority of this thread, and of those that it starts: Linux keeps one for each thread."""
    if hasattr(os, "setpriority"):
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICENESS  # the system takes 19 for more
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
