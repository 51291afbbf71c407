"""A copy of the catalog at one moment, while others write to it, and putting it back."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, CompoundSelect, Connection, create_engine, func, inspect, make_url, select

from indexer.catalog.engine import BUSY_TIMEOUT_S, open_engine, reading
from indexer.catalog.schema import instance, quarantine, released
from indexer.durable import sync
from indexer.errors import Refused, Transient

SQLITE_COPY = "catalog.sqlite"
POSTGRESQL_COPY = "catalog.pgdump"
_VERSIONED_PROGRAMS = "/usr/lib/postgresql"


@dataclass(frozen=True)
class CatalogCopy:
    """A copy, and the files that were to be there at its moment.

    Attributes
    ----------
    paths : frozenset of str
        Of every instance and of quarantine, relative to the spool; without those that were given up.
    """

    file: Path
    paths: frozenset[str]


def copy_catalog(url: str, folder: Path) -> CatalogCopy:
    """Copy the catalog into a folder; an older copy there is replaced.

    Raises
    ------
    Transient
        The database or the disk refuses.
    Refused
        It is a PostgreSQL catalog, and `pg_dump` is not installed; or the folder is the catalog's own.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _copy_sqlite(Path(parsed.database or ""), folder / SQLITE_COPY)
    return _copy_postgresql(url, folder / POSTGRESQL_COPY)


def demand_empty(url: str) -> None:
    """Make sure that a catalog can be put where the URL says without touching another one.

    Raises
    ------
    Refused
        There is a database already, or one with tables.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if Path(parsed.database or "").exists():
            raise Refused("expected no catalog where this one is to go, got a file: move it away first")
        return
    engine = create_engine(_with_driver(parsed), hide_parameters=True)  # `open_engine` would make the tables
    try:
        if inspect(engine).get_table_names():
            raise Refused("expected an empty database at catalog.url, got one with tables")
    finally:
        engine.dispose()


def put_back(copy: Path, url: str) -> None:
    """Make a copy the catalog at the URL, which `demand_empty` has looked at; it is there whole or not at all.

    Raises
    ------
    Refused
        The copy is of the other kind of database, or `pg_restore` is not installed.
    Transient
        The disk or the database refuses.
    """
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if copy.name != (SQLITE_COPY if is_sqlite else POSTGRESQL_COPY):
        raise Refused(f"expected a catalog.url of the kind of database that was backed up: {copy.name}")
    if not is_sqlite:
        command = [_program("pg_restore"), "--no-owner", "--no-acl", "--single-transaction", "--exit-on-error"]
        _run([*command, "--dbname", parsed.database or "postgres", str(copy)], parsed)
        return
    target = Path(parsed.database or "")
    temporary = target.with_name(target.name + ".new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copy, temporary)
        sync(temporary)
        temporary.rename(target)
        sync(target.parent)
    except OSError as error:
        raise Transient(f"the catalog cannot be written: {error.strerror}") from error


def _copy_sqlite(source: Path, target: Path) -> CatalogCopy:
    if target.exists() and target.samefile(source):
        raise Refused("expected another folder than the catalog's own for its copy")
    try:
        target.unlink(missing_ok=True)
        # Readers do not stop writers; what was deleted is not in the copy, which holds no free pages.
        with closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as database:
            database.execute("VACUUM INTO ?", (str(target),))
        sync(target)
    except (OSError, sqlite3.Error) as error:
        raise Transient(f"the catalog cannot be copied: {error}") from error
    with closing(sqlite3.connect(target)) as database:
        return CatalogCopy(target, frozenset(path for (path,) in database.execute(str(_paths().compile()))))


def _copy_postgresql(url: str, target: Path) -> CatalogCopy:
    program = _program("pg_dump")
    parsed = make_url(url)
    with _moment(url) as (connection, snapshot):
        command = [program, "--format=custom", "--no-owner", "--no-acl", f"--snapshot={snapshot}"]
        _run([*command, "--file", str(target), "--dbname", parsed.database or "postgres"], parsed)
        return CatalogCopy(target, frozenset(connection.execute(_paths()).scalars()))


@contextmanager
def _moment(url: str) -> Iterator[tuple[Connection, str]]:
    """A transaction of PostgreSQL whose view others can share while it is open, and its name."""
    engine = open_engine(url)
    try:
        with reading(engine) as connection:
            yield connection, str(connection.execute(select(func.pg_export_snapshot())).scalar_one())
    finally:
        engine.dispose()


def _paths() -> CompoundSelect[Any]:
    """Select the paths of all files that the catalog says are there."""
    given_up = (
        select(released.c.series_pk)
        .where(released.c.series_pk == instance.c.series_pk, instance.c.received_at <= released.c.at)
        .exists()
    )
    return select(instance.c.path).where(~given_up).union(select(quarantine.c.path))


def _with_driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _program(name: str) -> str:
    versions = sorted(Path(_VERSIONED_PROGRAMS).glob(f"*/bin/{name}"), key=lambda path: _number(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which(name)
    if found is None:
        raise Refused(
            f"a PostgreSQL catalog needs {name}, which is not installed: install the PostgreSQL client, or copy "
            "the database with its own tools first and the data folder afterwards"
        )
    return found


def _number(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def _run(command: list[str], url: URL) -> None:
    """Run a program of PostgreSQL; the password is not in its arguments, which everybody on the machine sees."""
    host = url.host or url.query.get("host")
    known = {"PGHOST": host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    environment = {**os.environ, **{name: str(value) for name, value in known.items() if value}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        problem = done.stderr.strip().splitlines()[:1]
        raise Transient(f"{Path(command[0]).name} failed: {problem[0] if problem else done.returncode}")
