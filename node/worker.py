"""The worker process: decoding and encoding away from the network, within a memory limit.

Started by `node.supervisor` as ``python -m node.worker``; it ends when its standard input is closed, and with its
parent.
"""

import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from config.errors import PacsimileError
from config.model import Settings
from indexer.bundle import read_bundle
from indexer.catalog import Catalog
from indexer.encoder import Encoder, MonaiEncoder
from indexer.errors import Transient
from indexer.pipeline import Pipeline
from node import logs
from node.folder import worker_name
from node.processes import end_with_parent, work_in_the_background
from node.storage import instance_folder, open_catalog
from node.supervisor import READY

log = logging.getLogger(__name__)

_IDLE_S = 0.25
_EMBED_AGAIN_S = 2.0
"""How often an idle worker looks for series that its encoder has not seen."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


def main() -> int:
    """Index series until the supervisor closes standard input; exit status 1 where it could not start."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # these may reach the whole group; the supervisor decides
    end_with_parent()
    answers = claim_stdout()
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    settings = Settings.model_validate_json(line)
    work_in_the_background(settings.indexing.niceness)
    logs.configure(settings, "worker")
    limit_memory(settings.indexing.memory_limit_mib)
    try:
        with open_catalog(settings) as catalog:
            encoder = make_encoder(settings)
            pipeline = make_pipeline(settings, catalog, encoder)
            answers.write(f"{READY}{encoder.device}\n")
            answers.flush()
            _work(pipeline, settings.indexing.lease_s)
    except PacsimileError as error:
        answers.write(f"{error}\n")
        return 1
    except (MemoryError, RuntimeError) as error:  # the second is how PyTorch says it
        answers.write(f"{type(error).__name__} with indexing.memory_limit_mib at its present value\n")
        return 1
    return 0


def make_encoder(settings: Settings) -> MonaiEncoder:
    """Load the configured encoder.

    Raises
    ------
    config.errors.ConfigError
        The bundle cannot be used.
    """
    indexing = settings.indexing
    return MonaiEncoder(read_bundle(settings.bundle), indexing.device, indexing.threads, indexing.engine)


def make_pipeline(settings: Settings, catalog: Catalog, encoder: Encoder | None = None) -> Pipeline:
    """Make an encoder, the configured one unless it is given, ready to work on the catalog's series."""
    indexing = settings.indexing
    encoder = encoder or make_encoder(settings)
    return Pipeline(
        catalog,
        encoder,
        instance_folder(settings, catalog),
        f"{worker_name(settings.data_dir)}{os.getpid()}",
        lease_s=indexing.lease_s,
        max_attempts=indexing.max_attempts,
        read_ahead=indexing.read_ahead,
    )


def limit_memory(limit_mib: int) -> None:
    """Let this process allocate at most so much: past that Python raises `MemoryError`, and libraries fail."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit_mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@contextmanager
def ends_after(limit_s: float) -> Iterator[None]:
    """Let the system end this process if the block takes longer: no decoder can hold that up, as Python's could."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _work(pipeline: Pipeline, limit_s: float) -> None:
    wait_s, embed_again_at = 0.0, 0.0
    while not _told_to_stop(wait_s):
        try:
            with ends_after(limit_s):
                busy = pipeline.work_one()
            if busy is None and time.monotonic() >= embed_again_at:
                with ends_after(limit_s):
                    busy = pipeline.embed_again()
                embed_again_at = 0.0 if busy else time.monotonic() + _EMBED_AGAIN_S
            wait_s = _IDLE_S if busy is None else 0.0
        except Transient as error:
            log.warning("tried again soon: %s", error)
            wait_s = _FIRST_PAUSE_S
        except Exception:  # the next series is worth trying, but not in a circle
            wait_s = min(max(2 * wait_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            embed_again_at = time.monotonic() + wait_s
            log.exception("tried again in %.0f s", wait_s)
    pipeline.close()


def _told_to_stop(wait_s: float) -> bool:
    """Whether the supervisor has closed our standard input, or is gone."""
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


def claim_stdout() -> TextIO:
    """Keep standard output for the supervisor: what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    sys.exit(main())
