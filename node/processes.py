"""What the processes of a node have in common. Loads next to nothing."""

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit status: 128 and the number of SIGINT, as shells say it."""
_PR_SET_PDEATHSIG = 1
_SHORT_TURN_NS = 100_000
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of the system call, by machine: the C library has no function for it."""


class _SchedAttr(ctypes.Structure):
    """`struct sched_attr` of Linux, as of its first version (sched_setattr(2))."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def end_with_parent() -> None:
    """Ask Linux to end this process with its parent: a killed node leaves no worker behind.

    A parent that was gone before has closed standard input.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def serve_promptly() -> None:
    """Let this thread, and those it starts from now on, have a core as soon as they need it, for a moment.

    A flush or a request that arrives wakes a thread up; without this it may wait until the turn of a thread of the
    encoder is over, some 4 ms each time. From Linux 6.12 on a thread says how long its turns are to be, and short
    ones go before longer ones; earlier versions take no notice.
    """
    _ask_for_turns(_SHORT_TURN_NS)


def work_in_the_background(niceness: int) -> None:
    """Let this process step back behind those that serve: less of the cores where they are short, usual turns.

    Parameters
    ----------
    niceness : int
        0 to 19 (nice(2)), added to that of its parent.
    """
    os.nice(niceness)
    _ask_for_turns(0)


def _ask_for_turns(length_ns: int) -> None:
    """Say how long turns on a core are to be, 0 as the system likes; a policy that somebody chose stays."""
    number = _SCHED_SETATTR.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _SchedAttr(ctypes.sizeof(_SchedAttr), os.SCHED_OTHER, 0, niceness, 0, length_ns, 0, 0)
    ctypes.CDLL(None, use_errno=True).syscall(number, 0, ctypes.byref(wanted), 0)


@contextmanager
def interrupt_ends() -> Iterator[None]:
    """Let Ctrl-C end this process at once: while libraries load, an exception could be raised where it is lost."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
