"""Stored data sets for peers that do not accept how they came: decompressed, or compressed anew without loss.

What decodes the pixel data of strangers can crash or take all memory. It runs in a process of its own, started when
it is first needed (``python -m dicom_scp.transcoding``), which ends when its standard input is closed.
"""

import json
import os
import resource
import select
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from pydicom import Dataset, config
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_scp.parsing import encoding_of, parse
from indexer.errors import Refused

TARGETS = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""Transfer syntaxes that any data set can be sent in; the first one accepted is used."""
COMPRESSED_TARGETS = (JPEGLSLossless, JPEG2000Lossless, RLELossless)
"""Those that pixels of up to 16 bits can be compressed to without loss, for who accepts nothing else."""

_WORD_BYTES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_LINE = 4096
_TIMEOUT_S = 300.0


def transcoded(dataset: bytes, transfer_syntax_uid: str, target_uid: str) -> bytes:
    """The data set in another encoding, without loss; its SOP Instance UID stays (PS3.4 B.4.1.3).

    Colour images that were compressed as YBR become RGB. What has no pixel data is not compressed (PS3.5 A.4).

    Parameters
    ----------
    dataset : bytes
        Encoded, without File Meta Information.
    target_uid : str
        One of `TARGETS` or `COMPRESSED_TARGETS`.

    Raises
    ------
    Refused
        It cannot be parsed, decompressed or compressed.
    """
    _, is_little_endian, _ = encoding_of(transfer_syntax_uid)
    parsed = parse(dataset, transfer_syntax_uid)
    parsed.file_meta = FileMetaDataset()
    parsed.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = target_uid == ImplicitVRLittleEndian
    try:
        if UID(transfer_syntax_uid).is_encapsulated and "PixelData" in parsed:
            parsed.decompress(generate_instance_uid=False)
        if not is_little_endian:
            _swap_words(parsed)
        if UID(target_uid).is_encapsulated and "PixelData" in parsed:
            parsed.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # that is what it is by now
            parsed.compress(UID(target_uid), generate_instance_uid=False)
        write_dataset(buffer, parsed)
    except MemoryError:
        raise Refused("the data set needs more memory to transcode than it may take") from None
    except Exception as error:  # codecs of hostile bytes raise anything at all
        raise Refused(f"the data set cannot be transcoded: {type(error).__name__}") from error
    encoded: bytes = buffer.parent.getvalue()  # type: ignore[union-attr]
    return encoded


def _swap_words(dataset: Dataset) -> None:
    """Turn the words of binary values round; the library does so for numbers only (PS3.5 7.3)."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _swap_words(item)
        elif element.VR in _WORD_BYTES and isinstance(element.value, bytes):
            words = np.frombuffer(element.value, f">u{_WORD_BYTES[element.VR]}")
            element.value = words.astype(words.dtype.newbyteorder("<")).tobytes()


class Transcoder:
    """Has data sets transcoded by a process of its own. Not to be shared among threads.

    Parameters
    ----------
    memory_limit_mib : int
        Memory that the process may allocate.
    timeout_s : float
        So long one data set may take.
    """

    def __init__(self, memory_limit_mib: int, timeout_s: float = _TIMEOUT_S) -> None:
        self._memory_limit_mib = memory_limit_mib
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def transcoded(self, dataset: bytes, transfer_syntax_uid: str, target_uid: str) -> bytes:
        """The data set in another encoding; see the function of this name.

        Raises
        ------
        Refused
            It cannot be transcoded: not parsed, not decoded, in too little memory or time.
        """
        if self._process is None:
            self._process = _started(self._memory_limit_mib)
        request = {"syntax": transfer_syntax_uid, "target": target_uid, "length": len(dataset)}
        try:
            _pipe(self._process.stdin).write(json.dumps(request).encode() + b"\n" + dataset)
            _pipe(self._process.stdin).flush()
            reply = _Reply(_pipe(self._process.stdout), time.monotonic() + self._timeout_s)
            answer = json.loads(reply.line())
            if "error" in answer:
                raise Refused(str(answer["error"]))
            return reply.bytes(int(answer["length"]))
        except (OSError, EOFError, ValueError):
            self._end()
            raise Refused("the process that decodes it ended or took too long") from None

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                _pipe(pipe).close()
        process.wait()


class _Reply:
    """What the process answers, before a deadline."""

    def __init__(self, pipe: IO[bytes], deadline: float) -> None:
        self._descriptor = pipe.fileno()
        self._deadline = deadline
        self._rest = b""

    def _some(self) -> bytes:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0 or not select.select([self._descriptor], [], [], left_s)[0]:
            raise TimeoutError
        part = os.read(self._descriptor, 1 << 20)
        if not part:
            raise EOFError
        return part

    def line(self) -> bytes:
        while b"\n" not in self._rest:
            self._rest += self._some()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def bytes(self, length: int) -> bytes:
        content = bytearray(self._rest)
        while len(content) < length:
            content += self._some()
        return bytes(content)


def _started(memory_limit_mib: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "dicom_scp.transcoding"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    _pipe(process.stdin).write(b"%d\n" % memory_limit_mib)
    return process


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - both were asked for
    return pipe


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Transcode until the input ends."""
    for request in _requests(requests):
        try:
            result = transcoded(request["dataset"], request["syntax"], request["target"])
        except Refused as error:
            answers.write(json.dumps({"error": str(error)}).encode() + b"\n")
        else:
            answers.write(json.dumps({"length": len(result)}).encode() + b"\n" + result)
        answers.flush()


def _requests(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    while line := pipe.readline(_LINE):
        request = json.loads(line)
        yield {**request, "dataset": pipe.read(int(request["length"]))}


def _main() -> None:
    warnings.simplefilter("ignore")  # they would carry values, that is, patient data
    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    limit = int(sys.stdin.buffer.readline(_LINE)) << 20
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to standard error
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
