"""Keeps receiver processes alive, which store instances beside the node's main process (`node.receiver`)."""

import logging
import os
import subprocess
import sys
import threading
import time

from config.model import Settings
from dicom_scp.channel import Channel, Told
from dicom_scp.handover import Handover

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_END_S = 5.0
_MOST_BY_DEFAULT = 4


def receivers_of(settings: Settings) -> int:
    """How many receiver processes there are to be; none where associations speak TLS: nobody can hand that over."""
    if settings.dicom.tls.certificate_file:
        return 0
    cores = os.cpu_count() or 1
    wanted = settings.dicom.receivers or min(cores // 2, _MOST_BY_DEFAULT)
    return wanted if wanted > 1 else 0


class ReceiverSupervisor:
    """Starts receivers, and starts one again that has ended; meanwhile the others take what it would.

    Parameters
    ----------
    handover : Handover
        Who hands connections to them.
    """

    def __init__(self, settings: Settings, handover: Handover) -> None:
        self._settings = settings
        self._handover = handover
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._channels: set[Channel] = set()
        self._threads = [
            threading.Thread(target=self._watch, args=(number,), name=f"receiver-{number}", daemon=True)
            for number in range(receivers_of(settings))
        ]

    def start(self) -> None:
        """Start them; until they are ready the main process does what they are for."""
        for thread in self._threads:
            thread.start()

    def stop(self, deadline_s: float) -> None:
        """Let their associations end for so long, then abort these, and end them."""
        with self._lock:
            self._stopping.set()
            channels = list(self._channels)
        for channel in channels:
            channel.say_no_more()
        deadline = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()) + 2 * _END_S)

    def _watch(self, number: int) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = time.monotonic()
            problem = self._run(number)
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            log.error("receiver %d: %s; started again in %.0f s", number, problem, pause_s)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run(self, number: int) -> str:
        """Run one receiver until it ends; how it did."""
        mine, its = Channel.pair()
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.receiver"], stdin=its.end.fileno(), process_group=0
            )
        except OSError as error:
            mine.close()
            return f"it cannot be started: {error.strerror}"
        finally:
            its.close()
        log.info("receiver process %d started", process.pid)
        with self._lock:
            self._channels.add(mine)
            if self._stopping.is_set():
                mine.say_no_more()
        try:
            mine.tell(Told({"number": number}, self._settings.model_dump_json().encode()))
            self._handover.listen(mine)
        except OSError:
            log.warning("receiver %d did not take its settings", number)
        finally:
            with self._lock:
                self._channels.discard(mine)
            mine.close()
        return f"ended with exit code {_ended(process)}"


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Exit code of a process that has closed its channel, and should end by itself."""
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
