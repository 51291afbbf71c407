"""Keeps the worker process alive, and knows how it is.

Whatever a series does to its worker - a decoder that crashes, memory that runs out - ends that process only. The
supervisor blames the series that was leased, and starts another worker. This module loads no network library.
"""

import logging
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from config.model import Settings
from indexer.catalog import Catalog
from indexer.errors import Transient
from node.folder import worker_name

log = logging.getLogger(__name__)

_IDLE_S = 0.25
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
READY = "ready: "
"""What a worker says, and then what it computes on, once it has loaded its encoder; else it says why it cannot."""
_THREADS_OF_NUMPY = {"OPENBLAS_NUM_THREADS": "1"}
"""Its products are small beside the encoder's: further threads would mostly wait, which takes processor time."""


class WorkerState(StrEnum):
    """How the worker is."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    """It ended by itself; it is started again after a pause."""


@dataclass(frozen=True)
class WorkerHealth:
    """How the worker is, what was wrong when it last ended, and the processor and arithmetic of its encoder."""

    state: WorkerState
    problem: str = ""
    runs_on: str = ""


class WorkerProcess:
    """One run of the worker (`node.worker`), in a process group of its own: Ctrl-C is the supervisor's affair.

    It is given the settings on its standard input and works until that is closed; on its standard output it says
    `READY`, or why it cannot start.
    """

    def __init__(self, settings: Settings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "node.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_THREADS_OF_NUMPY, **os.environ},
            process_group=0,
        )
        self._said = b""
        self._input = _pipe(self._process.stdin)
        self._output = _pipe(self._process.stdout)
        try:
            self._input.write(settings.model_dump_json().encode() + b"\n")
            self._input.flush()
        except OSError as error:
            log.error("the worker did not take its settings: %s", error.strerror)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self._said.decode(errors="replace").strip()

    @property
    def runs_on(self) -> str:
        """What it computes on, once it is ready; "" before."""
        return self.said.removeprefix(READY) if self.said.startswith(READY) else ""

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def listen(self, wait_s: float) -> None:
        """Take in what it says, for so long."""
        if select.select([self._output], [], [], wait_s)[0]:
            part = os.read(self._output.fileno(), 65536)
            self._said += part
            if not part:
                self.wait(wait_s)

    def wait(self, wait_s: float) -> bool:
        """Wait until it has ended, for so long; whether it has."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, deadline_s: float) -> None:
        """Tell it to end after what it is doing, and kill it if that takes longer than `deadline_s`."""
        try:
            self._input.close()
        except OSError:  # it is gone, and what was not flushed with it
            log.debug("the worker was gone already")
        if not self.wait(deadline_s):
            if deadline_s:
                log.warning("the worker did not end in %.0f s: its series is tried again later", deadline_s)
            self._process.kill()
            self._process.wait()
        self._output.close()


class WorkerSupervisor:
    """Keeps one worker process alive until it is stopped.

    Parameters
    ----------
    catalog : Catalog
        To free the series of a worker that died.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._stopping = threading.Event()
        self._health = WorkerHealth(WorkerState.STARTING)
        self._thread = threading.Thread(target=self._watch, name="worker-supervisor", daemon=True)

    @property
    def health(self) -> WorkerHealth:
        """How the worker is."""
        return self._health

    def start(self) -> None:
        """Start the worker; series of workers of an earlier run are freed without blame."""
        indexing = self._settings.indexing
        self._catalog.progress.release(worker_name(self._settings.data_dir), indexing.max_attempts, blame=False)
        self._thread.start()

    def stop(self) -> None:
        """Let the worker finish its series within `indexing.stop_deadline_s`, then end it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = time.monotonic()
            problem = self._run()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            self._health = WorkerHealth(WorkerState.FAILED, problem)
            log.error("%s; started again in %.0f s", problem, pause_s)
            self._free()
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run(self) -> str:
        """Run one worker until it ends or the node stops; why it ended."""
        try:
            worker = WorkerProcess(self._settings)
        except OSError as error:
            return f"the worker process cannot be started: {error.strerror}"
        log.info("worker process %d started", worker.pid)
        while worker.exit_code is None and not self._stopping.is_set():
            worker.listen(_IDLE_S)
            if worker.runs_on and self._health.state is not WorkerState.RUNNING:
                self._health = WorkerHealth(WorkerState.RUNNING, runs_on=worker.runs_on)
            if worker.runs_on:
                self._stopping.wait(_IDLE_S)
        is_ready = bool(worker.runs_on)
        worker.end(self._settings.indexing.stop_deadline_s if is_ready else 0.0)
        if worker.said and not is_ready:
            return f"the worker cannot start: {worker.said}"
        return f"the worker process ended with exit code {worker.exit_code}"

    def _free(self) -> None:
        name, attempts = worker_name(self._settings.data_dir), self._settings.indexing.max_attempts
        try:
            freed = self._catalog.progress.release(name, attempts, blame=True)
        except Transient as error:
            log.warning("series of the ended worker wait for their leases to run out: %s", error)
        else:
            if freed:
                log.warning("the series it worked on is blamed; parked after %d attempts", attempts)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - both were asked for
    return pipe
