"""The power fails at any moment: what was acknowledged is there, and nothing is there by half."""

import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from dicom_scp.incoming import recover
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import Damaged, PacsimileError

pytestmark = pytest.mark.default_engines

Factory = Callable[..., Any]
CUTS = 100
STATUS_OF_SUCCESS = b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"
"""Status (0000,0900), 0000H, implicit VR little endian."""

_HEAD = struct.Struct("<5Q")


@dataclass(frozen=True)
class Record:
    """One thing that the process did: `disk.c` says which kinds there are."""

    kind: str
    inode: int
    offset: int
    name: str
    data: bytes


def read_records(log: Path) -> list[Record]:
    content, place, found = log.read_bytes(), 0, []
    while place < len(content):
        kind, inode, offset, name, data = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        middle, end = place + name, place + name + data
        found.append(Record(chr(kind), inode, offset, content[place:middle].decode(), content[middle:end]))
        place = end
    return found


@dataclass
class _File:
    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes (place, data) and truncations (size, None) since it was synced."""

    def sync(self) -> None:
        self.synced, self.since = self.after(lambda: True), []

    def after(self, is_kept: Callable[[], bool]) -> bytes:
        content = bytearray(self.synced)
        for place, data in self.since:
            if not is_kept():
                continue
            if data is None:
                del content[place:]
                content.extend(bytes(place - len(content)))
            else:
                content.extend(bytes(max(0, place - len(content))))
                content[place : place + len(data)] = data
        return bytes(content)


@dataclass
class _Folder:
    entries: dict[str, "_File | _Folder"] = field(default_factory=dict)
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)


class Disk:
    """The files below a folder, each with what is synced of it and what is not.

    Parameters
    ----------
    ignores : callable
        Syncs that are not made, to see what they are good for: the kind of record ("F" file, "D" folder) and the
        path within the root.
    """

    def __init__(self, root: Path, ignores: Callable[[str, str], bool] = lambda kind, path: False) -> None:
        self._root = str(root)
        self._top = _Folder()
        self._open: dict[int, _File] = {}
        self._ignores = ignores

    def apply(self, record: Record) -> None:
        path = record.name.removeprefix(self._root).strip("/")
        match record.kind:
            case "C":
                self._open[record.inode] = self._place(path)[record.name.rpartition("/")[2]] = _File()
            case "W" if record.inode in self._open:
                self._open[record.inode].since.append((record.offset, record.data))
            case "T" if record.inode in self._open:
                self._open[record.inode].since.append((record.offset, None))
            case "F" if record.inode in self._open and not self._ignores("F", path):
                self._open[record.inode].sync()
            case "D" if not self._ignores("D", path):
                folder = self._folder(path)
                folder.synced = dict(folder.entries)
            case "M":
                self._place(path)[PurePosixPath(path).name] = _Folder()
            case "R" | "L":
                target = record.data.decode().removeprefix(self._root).strip("/")
                source, name = self._place(path), PurePosixPath(path).name
                moved = source.pop(name) if record.kind == "R" else source[name]
                self._place(target)[PurePosixPath(target).name] = moved
            case "U":
                self._place(path).pop(PurePosixPath(path).name, None)

    def after_power_cut(self, chance: random.Random | None) -> Iterator[tuple[str, bytes]]:
        """Path and content of every file that is left.

        Parameters
        ----------
        chance : random.Random, optional
            Decides what of the unsynced was written all the same; by default nothing was.
        """
        yield from _left(self._top, "", chance)

    def _folder(self, path: str) -> _Folder:
        folder = self._top
        for part in PurePosixPath(path).parts:
            found = folder.entries.setdefault(part, _Folder())
            assert isinstance(found, _Folder)
            folder = found
        return folder

    def _place(self, path: str) -> dict[str, _File | _Folder]:
        return self._folder(str(PurePosixPath(path).parent)).entries


def _left(folder: _Folder, prefix: str, chance: random.Random | None) -> Iterator[tuple[str, bytes]]:
    keeps = (lambda: False) if chance is None else (lambda: chance.random() < 0.5)
    for name, one in (folder.entries if keeps() else folder.synced).items():
        if isinstance(one, _Folder):
            yield from _left(one, f"{prefix}{name}/", chance)
        else:
            yield f"{prefix}{name}", one.after(keeps)


RECEIVER = """
import sys, threading
from config.load import load_settings
from dicom_scp import incoming
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog

incoming._SETTLE_S = 0.5  # several times while it is recorded
settings = load_settings(overrides={"data_dir": sys.argv[1], "dicom.port": 0})
catalog = Catalog(settings.catalog_url)
server = DicomServer(settings, catalog, Spool(settings.spool_dir), None)
server.start()
print(server.bound_port, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, disk_shim: Path, send: Factory, make_series: Factory
) -> tuple[Path, list[Record]]:
    """What a receiver did to its data folder and to the network while two senders sent to it."""
    root = tmp_path_factory.mktemp("power") / "data"
    root.mkdir()
    log = root.with_name("records")
    shim = {"LD_PRELOAD": str(disk_shim), "TRUST_ROOT": str(root), "TRUST_LOG": str(log), "TRUST_LATE": "/spool/"}
    with subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(root)], env={**os.environ, **shim},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as receiver:  # fmt: skip
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        for number in (1, 2, 1):
            send(port, make_series(number))
        receiver.send_signal(signal.SIGKILL)
    return root, read_records(log)


def acknowledged(record: Record) -> set[str]:
    if record.kind != "S" or STATUS_OF_SUCCESS not in record.data:
        return set()
    return {uid.decode() for uid in re.findall(rb"2\.25\.[0-9]+", record.data)}


def problems_of(root: Path, records: Sequence[Record], folder: Path, cuts: int, seed: int, **how: Any) -> list[str]:  # noqa: ANN401
    """What is lost or half there after each of so many power cuts, half of which leave some of the unsynced.

    Half of the cuts follow a sync: another one that is under way at the same time is not made then.
    """
    chance, disk, acked, found = random.Random(seed), Disk(root, **how), set[str](), list[str]()
    synced = [at + 1 for at, record in enumerate(records[:-1]) if record.kind in "FD"]
    moments = sorted(chance.sample(range(len(records)), cuts - cuts // 2) + chance.sample(synced, cuts // 2))
    for at, record in enumerate(records):
        while moments and at == moments[0]:
            cut = cuts - len(moments)
            del moments[0]
            left = folder / "left"
            for path, content in disk.after_power_cut(chance if cut % 2 else None):
                if not path.endswith("-shm"):  # shared memory, made anew
                    (left / path).parent.mkdir(parents=True, exist_ok=True)
                    (left / path).write_bytes(content)
            left.mkdir(exist_ok=True)
            found += [f"cut {at}: {problem}" for problem in problems_at(left, acked)]
            shutil.rmtree(left)
        disk.apply(record)
        acked |= acknowledged(record)
    assert acked
    return found


def problems_at(folder: Path, acked: set[str]) -> list[str]:
    try:
        with Catalog(f"sqlite:///{folder / 'catalog.sqlite'}") as catalog:
            spool, found = Spool(folder / "spool"), []
            recover(catalog, spool)  # as the node does when it starts
            for path, _, _ in catalog.receipts.files():
                try:
                    spool.read(path)
                except Damaged as error:
                    found.append(str(error))
            return found + [f"lost {uid}" for uid in sorted(acked) if catalog.lookup.instance_path(uid) is None]
    except PacsimileError as error:
        return [str(error)]


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(recorded: tuple[Path, list[Record]], tmp_path: Path) -> None:
    root, records = recorded
    seed = random.randrange(1 << 30)
    last = max(at for at, record in enumerate(records) if acknowledged(record))
    assert problems_of(root, records[: last + 2], tmp_path, CUTS, seed) == [], f"seed {seed}"


@pytest.mark.parametrize(
    ("left_out", "kind", "pattern"),
    [
        ("the instance's file", "F", r"spool/"),
        ("the folder of the instance's file", "D", r"spool/[0-9a-f]/[0-9a-f]$"),
        ("the folder of that folder", "D", r"spool(/.)?$"),
        ("the catalog's log", "F", r"catalog\.sqlite-wal$"),
        ("the folder of what comes in", "D", r"spool/incoming/[0-9a-f]+$"),
        ("the folder of that folder, of what comes in", "D", r"spool/incoming$"),
        ("all", "[DF]", r""),
    ],
)
def test_a_sync_left_out_would_be_noticed(
    recorded: tuple[Path, list[Record]], tmp_path: Path, left_out: str, kind: str, pattern: str
) -> None:
    root, records = recorded

    def ignores(which: str, path: str) -> bool:
        return bool(re.fullmatch(kind, which) and re.search(pattern, path))

    assert any(ignores(one.kind, one.name.removeprefix(f"{root}/")) for one in records if one.kind in "DF")
    assert problems_of(root, records, tmp_path, 20, seed=1, ignores=ignores), left_out
