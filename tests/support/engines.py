"""PostgreSQL and Milvus Lite for tests: a private server, and every test on them where the environment says so.

`PACSIMILE_TEST_ENGINES=postgresql+milvus` (or one of the two) has nodes and commands that tests start use a
database of their own for each data folder, and a Milvus Lite file in it. What a test opens itself is that database
as well, if it asks `catalog_url` or `settings_of`; `copy_data` copies a folder along with its database.
"""

import ctypes
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import MappingProxyType

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError

from config.load import load_settings
from config.model import Settings

CHOSEN = frozenset(filter(None, os.environ.get("PACSIMILE_TEST_ENGINES", "").split("+")))
POSTGRESQL, MILVUS = "postgresql", "milvus"
_TEMPLATE = "catalog_template"
_START_S = 120.0
_LIBRARY, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
_numbers = count(1)

if unknown := CHOSEN - {POSTGRESQL, MILVUS}:
    raise pytest.UsageError(f"PACSIMILE_TEST_ENGINES: expected postgresql, milvus or both, got {sorted(unknown)}")


def _as_child() -> None:
    if sys.platform == "linux":
        _LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


@dataclass
class Server:
    """A PostgreSQL server of our own, on a Unix socket in a folder that goes with it."""

    programs: Path
    folder: Path
    _made: set[str] = field(default_factory=set)

    def run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=60)

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """The server as a child that ends with this process, however that ends."""
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        command += ["-c", "listen_addresses=", "-c", "max_connections=300", *options]
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, preexec_fn=_as_child, **user)

    def wait_until_ready(self) -> None:
        engine = create_engine(_with_driver(self.url("postgres")))
        deadline = time.monotonic() + _START_S
        while True:
            try:
                engine.connect().close()
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                engine.dispose()
                return

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def new_database(self, *, template: str = "template1") -> str:
        """URL of an empty database."""
        return self._create(f"catalog_{next(_numbers)}", template)

    def database_of(self, folder: Path) -> str:
        """URL of the database of a data folder: an up-to-date catalog, empty at first."""
        name = _name_of(folder)
        if name in self._made:
            return self.url(name)
        if _TEMPLATE not in self._made:
            from indexer.catalog.engine import open_engine

            self._create(_TEMPLATE, "template1")
            self._made.add(_TEMPLATE)
            open_engine(self.url(_TEMPLATE)).dispose()
        self._made.add(name)
        return self._create(name, _TEMPLATE)

    def copy_database(self, source: Path, target: Path) -> None:
        """Give a data folder a copy of another one's database, which nobody may have open."""
        name = _name_of(target)
        self._made.add(name)
        self.database_of(source)
        self._create(name, _name_of(source))

    def _create(self, name: str, template: str) -> str:
        engine = create_engine(_with_driver(self.url("postgres")), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        engine.dispose()
        return self.url(name)


def _name_of(folder: Path) -> str:
    return f"of_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}"


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def _programs() -> Path | None:
    found = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        *map(Path, filter(None, [shutil.which("initdb")])),
    ]
    return found[-1].parent if found else None


@contextmanager
def running_server(*options: str) -> Iterator[Server]:
    """A server without durability, unless `options` say otherwise; the test is skipped where there is none."""
    programs = _programs()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or psycopg (extra `postgresql`) is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pacsimile-"))
    server = Server(programs, folder)
    try:
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            folder.chmod(0o711)  # whoever is root without its rights has to reach the socket too
        server.run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        process = server.start(*(options or ("-c", "fsync=off")))
        try:
            server.wait_until_ready()
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_standing: list[Server] = []
"""The server of this run, while every test is on it."""


def catalog_url(folder: Path) -> str:
    """URL of the catalog of a data folder: its SQLite file, or its database while every test is on PostgreSQL."""
    return _standing[0].database_of(folder) if _standing else f"sqlite:///{folder / 'catalog.sqlite'}"


@contextmanager
def looking_at(folder: Path) -> Iterator[Connection | None]:
    """The database of a data folder as it stands, to be read; None where there is none."""
    file = folder / "catalog.sqlite"
    if not _standing and not file.is_file():
        yield None
        return
    url = _standing[0].database_of(folder) if _standing else f"sqlite:///file:{file}?mode=ro&uri=true"
    engine = create_engine(_with_driver(url))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def settings_of(folder: Path, **more: object) -> Settings:
    """Settings of a data folder, for use in this process; further ones by dotted key."""
    catalog = {"catalog.url": catalog_url(folder)} if _standing else {}
    return load_settings(overrides={"data_dir": str(folder), **catalog, **more})


def copy_data(source: Path, target: Path) -> Path:
    """Copy a data folder that no node has open, along with its database."""
    shutil.copytree(source, target)
    if _standing:
        _standing[0].copy_database(source, target)
    return target


def variables_for(arguments: Sequence[str], given: dict[str, str]) -> dict[str, str]:
    """Settings, as environment variables, of a command on a data folder; none where it has its own."""
    folder = _data_folder(arguments, given)
    return variables_of(folder, given) if folder else {}


def variables_of(folder: Path, given: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Settings, as environment variables, of whoever works on a data folder; none where `given` has its own."""
    if not CHOSEN:
        return {}
    found = {}
    if _standing and "PACSIMILE_CATALOG_URL" not in given:
        found["PACSIMILE_CATALOG_URL"] = catalog_url(folder)
    is_sealed = "PACSIMILE_STORAGE_ENCRYPTION_KEY_FILE" in given
    if MILVUS in CHOSEN and "PACSIMILE_VECTORS_KIND" not in given and not is_sealed:
        found |= {"PACSIMILE_VECTORS_KIND": MILVUS, "PACSIMILE_VECTORS_MILVUS_URI": str(folder / "milvus.db")}
    return found


def _data_folder(arguments: Sequence[str], given: dict[str, str]) -> Path | None:
    if "--data-dir" in arguments[:-1]:
        return Path(arguments[arguments.index("--data-dir") + 1])
    return Path(given["PACSIMILE_DATA_DIR"]) if "PACSIMILE_DATA_DIR" in given else None


@contextmanager
def every_catalog_on(server: Server) -> Iterator[None]:
    """Have the catalogs of all data folders be databases of a server."""
    _standing.append(server)
    try:
        yield
    finally:
        _standing.clear()
