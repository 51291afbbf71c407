"""Room on the disk: instances are refused while there is enough left for everything else."""

import os
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import Transient

_MIB = 1 << 20


@dataclass(frozen=True)
class Reserve:
    """A part of a disk that instances leave free: for the catalog, index snapshots, logs and other programs.

    Attributes
    ----------
    folder : Path
        A folder on the disk.
    reserve_mib : int
        0: nothing is kept free.
    """

    folder: Path
    reserve_mib: int

    @property
    def free_mib(self) -> int:
        """What is free now for who is not root.

        Raises
        ------
        Transient
            The disk cannot be asked.
        """
        return self._free_bytes() // _MIB

    @property
    def is_used_up(self) -> bool:
        """Whether instances are refused now.

        Raises
        ------
        Transient
            The disk cannot be asked.
        """
        return self.reserve_mib > 0 and self._free_bytes() < self.reserve_mib * _MIB

    def demand(self, size_bytes: int) -> None:
        """Make sure that the reserve is left when so much more is written.

        Raises
        ------
        Transient
            It is not.
        """
        if self.reserve_mib > 0 and self._free_bytes() - size_bytes < self.reserve_mib * _MIB:
            raise Transient(f"less than {self.reserve_mib} MiB would be left on the disk (storage.reserve_mib)")

    def _free_bytes(self) -> int:
        try:
            known = os.statvfs(self.folder)
        except OSError as error:
            raise Transient(f"the disk cannot be asked how full it is: {error.strerror}") from error
        return known.f_bavail * known.f_frsize
