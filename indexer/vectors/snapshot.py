"""Snapshots on disk of which, whatever happens, the last complete one is found, and never a damaged one.

A folder holds ``manifest.json`` and the one ``data-…`` folder that it names. A new snapshot fills a new data
folder, brings it to disk, and then replaces the manifest by a rename, which is the moment it becomes the snapshot.
Anything the manifest does not name is left over from an interruption, and the next snapshot removes it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from indexer.durable import sync
from indexer.errors import Damaged, Transient
from indexer.sealing import StoredFolder, Vault, folder_of
from indexer.uids import EncoderId

MANIFEST = "manifest.json"
_DATA_PREFIX = "data-"


@dataclass(frozen=True)
class StoredFile:
    """One file of a snapshot as it was written."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """What a snapshot is a snapshot of.

    Parameters
    ----------
    kind : str
        The kind of index.
    dim : int
        Components of a vector.
    encoder_id : EncoderId
        Whose embeddings.
    count : int
        Number of vectors that a search could answer.
    sequence : int
        Position in the catalog's journal that is included.
    parameters : dict of str to int or str
        What the kind needs to open its files.
    """

    kind: str
    dim: int
    encoder_id: EncoderId
    count: int
    sequence: int
    parameters: dict[str, int | str]


def write(folder: StoredFolder, description: Description, fill: Callable[[StoredFolder], None]) -> None:
    """Make a snapshot, the previous one being kept until this one is complete.

    Parameters
    ----------
    folder : StoredFolder
        Where; made if absent. In a sealed one all is sealed but the manifest.
    description : Description
        Goes into the manifest.
    fill : Callable[[StoredFolder], None]
        Writes its files, no folders, into the empty folder it is given.

    Raises
    ------
    indexer.errors.Transient
        If the disk refused; the folder then holds the previous snapshot.
    """
    data: Path | None = None
    folder, vault = _opened(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        data = Path(tempfile.mkdtemp(prefix=_DATA_PREFIX, dir=folder))
        fill(folder_of(data, vault))
        files = [_stored(path) for path in sorted(data.iterdir())]
        sync(data)
        _replace_manifest(folder, _encode(description, data.name, files))
        _remove_leftovers(folder)
    except OSError as error:
        if data is not None and _current(folder) != data.name:
            shutil.rmtree(data, ignore_errors=True)
        raise Transient(f"the snapshot could not be written: {error}") from error


def read(folder: StoredFolder, *, kind: str, dim: int, encoder_id: EncoderId) -> tuple[Description, StoredFolder]:
    """Verify a snapshot, every byte of it, before anything is loaded.

    Parameters
    ----------
    folder : StoredFolder
        As given to `write`.
    kind, dim, encoder_id
        What is expected.

    Returns
    -------
    description : Description
        As given to `write`.
    data : StoredFolder
        The folder of its files.

    Raises
    ------
    indexer.errors.Damaged
        If the manifest or a file is missing or changed, or another index is described.
    """
    folder, vault = _opened(folder)
    description, name, files = _decode(folder / MANIFEST)
    for what, expected, got in (
        ("kind", kind, description.kind),
        ("dim", dim, description.dim),
        ("encoder id", encoder_id, description.encoder_id),
    ):
        if expected != got:
            raise Damaged(f"expected a snapshot of {what} {expected}, got {got}")
    for file in files:
        _verify(folder / name / file.name, file)
    return description, folder_of(folder / name, vault)


def _opened(folder: StoredFolder) -> tuple[Path, Vault | None]:
    return (folder, None) if isinstance(folder, Path) else (folder.path, folder.vault)


def _encode(description: Description, data: str, files: list[StoredFile]) -> bytes:
    body = {**asdict(description), "data": data, "files": [asdict(file) for file in files]}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({"manifest": body, "sha256": digest}, sort_keys=True, indent=1) + "\n").encode()


def _decode(path: Path) -> tuple[Description, str, list[StoredFile]]:
    try:
        written = path.read_bytes()
        body = json.loads(written)["manifest"]
        data = str(body.pop("data"))
        files = [StoredFile(**file) for file in body.pop("files")]
        description = Description(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"expected the manifest of a snapshot, got {type(error).__name__}") from error
    # Written again, a sound manifest gives the same bytes: its checksum, its values and its layout at once.
    if _encode(description, data, files) != written:
        raise Damaged("expected the manifest as it was written, got changed bytes")
    return description, data, files


def _stored(path: Path) -> StoredFile:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return StoredFile(path.name, path.stat().st_size, digest)


def _verify(path: Path, file: StoredFile) -> None:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != file.size_bytes:
            raise Damaged(f"expected {file.size_bytes} bytes in {file.name}, got {size_bytes}")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(f"expected the file {file.name}, got {type(error).__name__}") from error
    if digest != file.sha256:
        raise Damaged(f"expected {file.name} with SHA-256 {file.sha256}, got {digest}")


def _replace_manifest(folder: Path, encoded: bytes) -> None:
    fresh = folder / f"{MANIFEST}.new"
    with fresh.open("wb") as stream:
        stream.write(encoded)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(folder / MANIFEST)
    sync(folder)


def _current(folder: Path) -> str | None:
    try:
        return _decode(folder / MANIFEST)[1]
    except Damaged:
        return None


def _remove_leftovers(folder: Path) -> None:
    """Remove what the manifest does not name; without a sound manifest no data is of use."""
    current = _current(folder)
    (folder / f"{MANIFEST}.new").unlink(missing_ok=True)
    for path in folder.glob(f"{_DATA_PREFIX}*"):
        if path.name != current:
            shutil.rmtree(path, ignore_errors=True)
