"""Questions that take long: embedded one after another by a process of their own, kept for a while."""

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any, Literal
from uuid import uuid4

from config.access import Cohort
from config.errors import PacsimileError
from config.model import Settings
from indexer.answer import Answer
from indexer.errors import NotFound, Transient
from indexer.search import Search
from node.embedding_task import Task, read_result
from node.web.paging import Paging

log = logging.getLogger(__name__)

_MOST_WAITING = 8
_KEPT = 64
_KEPT_S = 3600.0
_TICK_S = 0.2


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Upload:
    """A question with what it is about.

    Attributes
    ----------
    folder : Path
        Holds the files, and goes when they are embedded.
    paging : Paging
        Which part of the answer is wanted.
    owner : str
        Who asks; for others there is no such job.
    cohort : Cohort, optional
        The studies that are there for them; None: all.
    """

    folder: Path
    files: tuple[Path, ...]
    modality: Literal["CT", "MR"]
    paging: Paging
    allowed_series: frozenset[int] | None
    owner: str
    cohort: Cohort | None


@dataclass(frozen=True)
class Job:
    """A question on its way.

    Attributes
    ----------
    progress : float
        0 to 1.
    problem : str
        Why it failed.
    """

    id: str
    owner: str
    paging: Paging
    state: JobState = JobState.WAITING
    stage: str = "waiting"
    progress: float = 0.0
    answer: Answer | None = None
    problem: str = ""
    at: float = field(default_factory=time.monotonic)


class Jobs:
    """Works off uploads, one at a time; safe to share among threads.

    Parameters
    ----------
    settings : Settings
        Uploads lie below its data folder until they are embedded.
    """

    def __init__(self, settings: Settings, search: Search) -> None:
        self._settings = settings
        self._search = search
        self.folder = settings.data_dir / "uploads"
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
        self.folder.mkdir(mode=0o700, parents=True)
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: Queue[tuple[str, Upload]] = Queue(_MOST_WAITING)
        self._running: tuple[str, subprocess.Popen[str]] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def demand_room(self) -> None:
        """Raise `Transient` where so many wait already that no more are taken."""
        if self._queue.qsize() >= _MOST_WAITING:
            raise Transient(f"{_MOST_WAITING} uploads wait already")

    def new_folder(self) -> Path:
        """Make a folder for the files of one upload."""
        folder = self.folder / uuid4().hex
        folder.mkdir(mode=0o700)
        return folder

    def submit(self, upload: Upload) -> Job:
        """Take an upload in.

        Raises
        ------
        Transient
            Too many wait.
        """
        job = Job(uuid4().hex, upload.owner, upload.paging)
        try:
            with self._lock:
                self._queue.put_nowait((job.id, upload))
                self._tidy()
                self._jobs[job.id] = job
        except Exception as error:
            shutil.rmtree(upload.folder, ignore_errors=True)
            raise Transient(f"{_MOST_WAITING} uploads wait already") from error
        return job

    def job(self, job_id: str, owner: str) -> Job:
        """How a job stands.

        Raises
        ------
        NotFound
            The owner has none of that name, or it ended long ago.
        """
        with self._lock:
            self._tidy()
            found = self._jobs.get(job_id)
            if found is None or found.owner != owner:
                raise NotFound("no such job; jobs are kept for an hour after they end")
            return found

    def forget(self, job_id: str, owner: str) -> None:
        """Drop a job and its answer; one that runs is ended. Raises as `job`."""
        self.job(job_id, owner)
        with self._lock:
            self._jobs.pop(job_id, None)
            if self._running is not None and self._running[0] == job_id:
                self._running[1].kill()

    def close(self) -> None:
        """End what runs, and remove what was uploaded."""
        self._stopping.set()
        with self._lock:
            if self._running is not None:
                self._running[1].kill()
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                job_id, upload = self._queue.get(timeout=_TICK_S)
            except Empty:
                continue
            try:
                if self._is_wanted(job_id):
                    self._perform(job_id, upload)
            except PacsimileError as error:
                self._change(job_id, state=JobState.FAILED, problem=str(error))
            except Exception:
                log.exception("a question about an upload")
                self._change(job_id, state=JobState.FAILED, problem="unexpected error; see the log of the node")
            finally:
                shutil.rmtree(upload.folder, ignore_errors=True)

    def _perform(self, job_id: str, upload: Upload) -> None:
        self._change(job_id, state=JobState.RUNNING, stage="starting")
        result = self._embedded(job_id, upload)
        if "series" not in result:
            problem = str(result.get("problem") or "the process that embeds it ended before its time")
            self._change(job_id, state=JobState.FAILED, problem=problem)
            return
        self._change(job_id, stage="searching", progress=0.95)
        encoder_id, series = read_result(result)
        answer = self._search.within(upload.cohort).similar_to(
            series, encoder_id, limit=upload.paging.asked, allowed_series=upload.allowed_series
        )
        self._change(job_id, state=JobState.DONE, stage="done", progress=1.0, answer=answer)

    def _embedded(self, job_id: str, upload: Upload) -> dict[str, Any]:
        """Have the files embedded; what the process said last."""
        task = Task(settings=self._settings, files=upload.files, modality=upload.modality)
        said: dict[str, Any] = {}
        with self._process(job_id) as (told, heard):
            with suppress(OSError):  # it ended at once, and says nothing
                told.write(task.model_dump_json() + "\n")
                told.flush()
            for line in heard:
                said = json.loads(line)
                if "progress" in said:
                    self._change(job_id, stage=said["stage"], progress=said["progress"])
        return said

    @contextmanager
    def _process(self, job_id: str) -> Iterator[tuple[IO[str], IO[str]]]:
        """A process that embeds: its input and output; killed if it takes longer than a worker may."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "node.embedding"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both were asked for
        watch = threading.Timer(self._settings.indexing.lease_s, process.kill)
        watch.start()
        with self._lock:
            self._running = (job_id, process)
            if self._stopping.is_set() or job_id not in self._jobs:
                process.kill()
        try:
            yield process.stdin, process.stdout
        finally:
            with self._lock:
                self._running = None
            watch.cancel()
            process.kill()
            with suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            process.wait()

    def _is_wanted(self, job_id: str) -> bool:
        with self._lock:
            return job_id in self._jobs

    def _change(self, job_id: str, **values: Any) -> None:  # noqa: ANN401 - fields of a Job
        with self._lock:
            if job_id in self._jobs:
                self._jobs[job_id] = replace(self._jobs[job_id], at=time.monotonic(), **values)

    def _tidy(self) -> None:
        """Drop jobs that ended long ago, and the oldest of too many."""
        ended = [job for job in self._jobs.values() if job.state in {JobState.DONE, JobState.FAILED}]
        for number, job in enumerate(ended):
            if time.monotonic() - job.at > _KEPT_S or len(ended) - number > _KEPT:
                del self._jobs[job.id]
