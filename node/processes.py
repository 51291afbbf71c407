"""What the processes of a node have in common. Loads next to nothing."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit status: 128 and the number of SIGINT, as shells say it."""
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask Linux to end this process with its parent: a killed node leaves no worker behind.

    A parent that was gone before has closed standard input.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


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
