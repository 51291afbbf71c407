"""Processes that decode for the web: few, shared by all requests."""

from contextlib import ExitStack
from queue import LifoQueue

from dicom_scp.transcoding import Transcoder

_PROCESSES = 2
_TIMEOUT_S = 60.0


class TranscoderPool:
    """Lends each of a few `dicom_scp.transcoding.Transcoder` to one thread at a time.

    Parameters
    ----------
    memory_limit_mib : int
        Memory that each process may allocate.
    """

    def __init__(self, memory_limit_mib: int) -> None:
        self._idle: LifoQueue[Transcoder] = LifoQueue()
        self._closing = ExitStack()
        for _ in range(_PROCESSES):
            self._idle.put(self._closing.enter_context(Transcoder(memory_limit_mib, _TIMEOUT_S)))

    def transcoded(self, dataset: bytes, transfer_syntax_uid: str, target_uid: str) -> bytes:
        """The data set in another encoding; see `dicom_scp.transcoding.transcoded`.

        Raises
        ------
        Refused
            It cannot be transcoded.
        """
        one = self._idle.get()
        try:
            return one.transcoded(dataset, transfer_syntax_uid, target_uid)
        finally:
            self._idle.put(one)

    def close(self) -> None:
        """End the processes."""
        self._closing.close()
