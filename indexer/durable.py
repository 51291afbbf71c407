"""What is on the disk stays there through a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, that has to be there.

    Raises
    ------
    OSError
        The disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
