"""Who of a node's processes comes first where cores are short."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Factory = Callable[..., Any]

_TURN = r"se\.slice +: +(\d+)"
_TELL = """
import os, re, threading
from pathlib import Path
from node.processes import serve_promptly, work_in_the_background

def tell():
    turn = re.search(r"{turn}", Path("/proc/thread-self/sched").read_text())[1]
    print(turn, os.getpriority(os.PRIO_PROCESS, 0))

def tell_of_another_thread():
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()

tell()
serve_promptly()
tell_of_another_thread()
work_in_the_background(10)
tell_of_another_thread()
""".replace("{turn}", _TURN)


def has_turns() -> bool:
    """Whether Linux lets threads say how long their turns are, and tells."""
    release = [int(number) for number in re.findall(r"\d+", platform.release())[:2]]
    return sys.platform == "linux" and release >= [6, 12] and os.access("/proc/self/sched", os.R_OK)


@pytest.mark.skipif(not has_turns(), reason="Linux before 6.12 knows no length of turns, or does not tell it")
def test_turns_are_short_where_others_wait_and_usual_behind() -> None:
    told = subprocess.run([sys.executable, "-c", _TELL], capture_output=True, text=True, check=True).stdout.split()
    usual, before, short, same, again, behind = (int(number) for number in told)
    assert short == 100_000 < usual == again
    assert same == before
    assert behind == min(before + 10, 19)


def test_a_policy_that_somebody_chose_stays() -> None:
    program = (
        "import os; from node.processes import serve_promptly; "
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); serve_promptly(); "
        "print(os.sched_getscheduler(0) == os.SCHED_BATCH)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_the_worker_steps_back_behind_who_receives_and_answers(start_node: Factory) -> None:
    node = start_node(PACSIMILE_INDEXING_NICENESS="7")
    worker = node.wait_until_worker_runs()
    assert worker.nice() == min(os.getpriority(os.PRIO_PROCESS, node.process.pid) + 7, 19)
