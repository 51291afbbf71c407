"""Large arrays in a file without a name: the kernel keeps of them in memory what there is room for."""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class ScratchFile:
    """Rows of float32 in a file of a folder that nobody else sees, gone when the last of its arrays is.

    Parameters
    ----------
    folder : Path
        On the disk that has room; made if absent.
    dim : int
        Components of a row.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor, name = tempfile.mkstemp(prefix="vectors-", dir=folder)
        Path(name).unlink()
        self._dim = dim

    def rows(self, capacity: int) -> NDArray[np.float32]:
        """Map so many rows, shape (capacity, dim); arrays given before stay valid and show the same values.

        The room is taken on the disk beforehand: a mapped file that finds the disk full ends the process.

        Raises
        ------
        OSError
            The disk has no room.
        """
        size_bytes = capacity * self._dim * 4
        os.posix_fallocate(self._descriptor, 0, size_bytes)
        mapped = mmap.mmap(self._descriptor, size_bytes)
        return np.frombuffer(mapped, dtype=np.float32).reshape(capacity, self._dim)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)
