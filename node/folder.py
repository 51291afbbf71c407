"""The data folder of a node: made once; one process at a time works on its series."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from config.errors import ConfigError
from indexer.errors import Transient
from indexer.uids import EncoderId

LOCK = "node.lock"
IDENTITY = "node.id"
_PATIENCE_S = 1.0
"""Somebody who only looks holds the lock for a moment; so long it is asked for again."""


@dataclass(frozen=True)
class Holder:
    """Who works on the series of a data folder.

    Attributes
    ----------
    is_node : bool
        A running node; else a command that indexes.
    """

    is_node: bool
    encoder_id: EncoderId


class InUse(Transient):
    """Another process works on the data folder."""

    def __init__(self, folder: Path, holder: Holder) -> None:
        who = "a node runs" if holder.is_node else "another command works"
        super().__init__(f"{who} on {folder} already")
        self.holder = holder


def prepare(folder: Path) -> None:
    """Make the data folder, readable by its owner only: it holds patient data.

    Raises
    ------
    ConfigError
        It cannot be made or written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / LOCK).touch()
        if not (folder / IDENTITY).exists():
            with suppress(FileExistsError):
                _identify(folder)
    except OSError as error:
        raise ConfigError([f"data_dir {folder}: cannot be used: {error.strerror}"]) from error


def _identify(folder: Path) -> None:
    """Give a data folder an identity of its own, whole at once; an older one stays."""
    draft = folder / f".{IDENTITY}-{uuid4().hex}"
    draft.write_text(uuid4().hex)
    try:
        (folder / IDENTITY).hardlink_to(draft)
    finally:
        draft.unlink()


@contextmanager
def exclusively(folder: Path, me: Holder) -> Iterator[None]:
    """Be the one process that works on the series of a data folder.

    Raises
    ------
    InUse
        Another process does.
    """
    prepare(folder)
    with (folder / LOCK).open("r+") as file:
        deadline = time.monotonic() + _PATIENCE_S
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise InUse(folder, _read(file))
            time.sleep(0.05)
        file.truncate()
        file.write(json.dumps(asdict(me)))
        file.flush()
        yield


def holder(folder: Path) -> Holder | None:
    """Say who works on the series of a data folder; None if nobody does."""
    try:
        with (folder / LOCK).open() as file:
            return None if _locked(file, fcntl.LOCK_SH) else _read(file)
    except OSError:
        return None


def worker_name(folder: Path) -> str:
    """Name the workers of a data folder, the same after every start, and no other's.

    Neither host names nor paths tell nodes apart: containers share both at times.

    Raises
    ------
    ConfigError
        As `prepare`.
    """
    prepare(folder)
    return f"{(folder / IDENTITY).read_text()}:"


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: IO[str]) -> Holder:
    file.seek(0)
    try:
        known = json.loads(file.read())
        return Holder(bool(known["is_node"]), EncoderId(str(known["encoder_id"])))
    except (ValueError, KeyError, TypeError):  # it has taken the lock, and not said who it is yet
        return Holder(True, EncoderId(""))
