"""Files that are sent to be asked about: written to disk as they come, whatever their number and size."""

import os
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dicom_scp.part10 import split_file
from indexer.errors import Refused
from indexer.sealing import StoredFolder, StoredPath
from node.web.problems import ProblemError

MOST_FILES = 10_000
_HEAD_BYTES = 1 << 16
_NIFTI_MAGIC = (b"n+1\0", b"ni1\0")
_GZIP = b"\x1f\x8b"


class _Files:
    """Writes the files of a multipart body below a folder, one after another."""

    def __init__(self, folder: StoredFolder, most_bytes: int) -> None:
        self.paths: list[StoredPath] = []
        self._folder = folder
        self._left = most_bytes
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Begin the next file."""
        if len(self.paths) >= MOST_FILES:
            raise ProblemError(413, "too-many-files", f"expected at most {MOST_FILES} files")
        path = self._folder / f"{len(self.paths):05d}"
        self.paths.append(path)
        self._file = path.open("wb")

    def data(self, content: bytes, start: int, end: int) -> None:
        """Take part of a file in."""
        self._left -= end - start
        if self._left < 0:
            raise ProblemError(413, "too-large", "the upload is larger than dicom.max_object_mib")
        if self._file is not None:
            self._file.write(memoryview(content)[start:end])

    def end(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


async def receive(request: Request, folder: StoredFolder, most_bytes: int) -> list[Path]:
    """Write the files of a request below a folder: those of a multipart form, or its body as one.

    A NIfTI file gets its suffix. In a sealed folder the files are sealed.

    Raises
    ------
    ProblemError
        413 for too much, 422 for what is neither DICOM nor NIfTI.
    """
    files = _Files(folder, most_bytes)
    kind, options = parse_options_header(request.headers.get("content-type"))
    try:
        if kind == b"multipart/form-data":
            await _receive_form(request, files, options.get(b"boundary", b""))
        else:
            files.begin()
            async for piece in request.stream():
                await anyio.to_thread.run_sync(files.data, piece, 0, len(piece))
    except FormParserError:
        raise ProblemError(400, "bad-form", "the multipart body cannot be parsed") from None
    finally:
        files.end()
    return await anyio.to_thread.run_sync(_checked, files.paths)


async def _receive_form(request: Request, files: _Files, boundary: bytes) -> None:
    if not boundary:
        raise ProblemError(400, "bad-form", "expected a boundary in Content-Type: multipart/form-data")
    parser = MultipartParser(
        boundary, {"on_part_begin": files.begin, "on_part_data": files.data, "on_part_end": files.end}
    )
    async for piece in request.stream():
        await anyio.to_thread.run_sync(parser.write, piece)
    parser.finalize()


def _checked(written: list[StoredPath]) -> list[Path]:
    """Check what each file is, by its content; empty ones are left out."""
    heads = {_place(path): _head(path) for path in written}
    kinds = {path: _suffix(head) for path, head in heads.items() if head}
    paths = list(kinds)
    if not paths or None in kinds.values():
        raise ProblemError(422, "unknown-file", "expected DICOM files (PS3.10) or one NIfTI file, got another")
    nifti = [path for path, suffix in kinds.items() if suffix]
    if nifti and len(paths) > 1:
        raise ProblemError(422, "unknown-file", "expected DICOM files, or one NIfTI file alone")
    if not nifti:
        return paths
    named = nifti[0].with_name(f"volume{kinds[nifti[0]]}")
    os.replace(nifti[0], named)  # noqa: PTH105 - within one folder
    return [named]


def _place(path: StoredPath) -> Path:
    return path if isinstance(path, Path) else path.path


def _head(path: StoredPath) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _suffix(head: bytes) -> str | None:
    """The suffix of a NIfTI file, "" for a DICOM file, None for what is neither."""
    if head[:2] == _GZIP:
        return ".nii.gz"  # whether it is one, who reads it says
    if head[344:348] in _NIFTI_MAGIC:
        return ".nii"
    try:
        split_file(head)
    except Refused:
        return None
    return ""
