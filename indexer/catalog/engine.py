"""Opens the catalog's database: durable SQLite settings, writes that queue, migrations applied."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    Engine,
    PoolProxiedConnection,
    bindparam,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    TimeoutError,  # noqa: A004 - of the pool
)

from config.errors import ConfigError
from indexer.durable import sync
from indexer.errors import Damaged, NotDurable, Refused, Transient

T = TypeVar("T")

BUSY_TIMEOUT_S = 60.0
"""How long a SQLite connection waits for another one's transaction."""
_LOOK_AGAIN_S = 0.005
BLOCK = 4096
"""Values in one IN list: SQLite takes 32,766 variables in a statement, PostgreSQL 65,535."""
JOURNAL_LOCK = 0x50414353_0001
"""Key of the PostgreSQL advisory lock of transactions that write the journal."""
_MIGRATION_LOCK = 0x50414353_0002
_VERSION_TABLE = "alembic_version"


class _OpenFile:
    """A descriptor that is closed with the last one who uses it."""

    def __init__(self, path: str, flags: int) -> None:
        self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _Writer:
    """The turn to write in a SQLite database, and a connection for what is written by the driver alone.

    It is kept: what it has read of the database stays valid as long as nobody else writes. Its commits are not
    durable before `flush`, which needs nobody's turn: several processes flush the log at the same time.

    Parameters
    ----------
    file : str
        Of the database; empty if it is in memory.
    """

    def __init__(self, file: str = "") -> None:
        self.turn = threading.Lock()
        self.file = file
        self._kept: PoolProxiedConnection | None = None
        self._log: _OpenFile | None = None
        self._queue: _OpenFile | None = None

    def connection(self, engine: Engine) -> PoolProxiedConnection:
        """The connection; for whose turn it is."""
        if self._kept is None:
            self._kept = engine.raw_connection()
            self._kept.detach()  # nobody else may have it: its commits are not durable
            with suppress(FileNotFoundError):  # in memory, or where SQLite can keep no log
                self._log = _OpenFile(f"{self.file}-wal", os.O_RDWR)
                self._kept.cursor().execute("PRAGMA synchronous=NORMAL")
        return self._kept

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """Wait for other processes that do the same: SQLite itself would look again after some milliseconds."""
        if not self.file:
            yield
            return
        if self._queue is None:
            self._queue = _OpenFile(f"{self.file}-queue", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._queue.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._queue.descriptor, fcntl.LOCK_UN)

    def flushing(self) -> Callable[[], None]:
        """What makes everything committed until now durable; it raises `OSError` where the disk fails."""
        log = self._log
        return (lambda: os.fdatasync(log.descriptor)) if log is not None else (lambda: None)

    def give_up(self) -> None:
        """Close the connection; the next one who writes gets a new one."""
        kept, self._kept, self._log = self._kept, None, None
        if kept is not None:
            kept.close()


_writers: WeakKeyDictionary[Engine, _Writer] = WeakKeyDictionary()


def open_engine(url: str) -> Engine:
    """Connect to the catalog at `url` and bring its schema up to date.

    Parameters
    ----------
    url : str
        SQLAlchemy URL. SQLite is opened in WAL mode with ``synchronous=FULL``: what was committed survives a
        power cut.

    Raises
    ------
    Transient
        The database cannot be reached or opened.
    Damaged
        Its schema is newer than this version knows, or it is no catalog.
    ConfigError
        The URL cannot be used, or its driver is not installed.
    """
    engine = _make_engine(url)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(parsed)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(["catalog.url: expected a SQLAlchemy URL of SQLite or PostgreSQL"]) from error
    except ModuleNotFoundError as error:
        raise ConfigError([f"catalog.url needs {error.name}: install pacsimile[postgresql]"]) from error


def _sqlite_engine(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Transient(f"the catalog's folder cannot be made: {error.strerror}") from error
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
    in_memory = url.database in (None, "", ":memory:")
    writer = _writers[engine] = _Writer("" if in_memory else str(url.database))
    _configure_sqlite(engine)
    event.listen(engine, "engine_disposed", lambda _: writer.give_up())
    return engine


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch to WAL mode; SQLite itself would not wait where another process is just making the database."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN_S)
        else:
            return


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
        connection.isolation_level = None  # the driver begins nothing by itself; see `begin`
        cursor = connection.cursor()
        _write_ahead(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-16384"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for another writer; IMMEDIATE queues.
        mode = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
        connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: committed (durably) at the end of the block, rolled back on any error.

    Raises
    ------
    Transient
        The database is locked, full or away, or another writer entered the same row at the same moment.
    Refused
        The database cannot hold a value.
    Damaged
        The database's file is not what was written.
    """
    # Threads queue here: SQLite's own waiting is a poll that favours nobody and sleeps up to 100 ms.
    writer = _writers.get(engine)
    turn = writer.turn if writer is not None else nullcontext()
    with _said("written"), turn, engine.execution_options(writes=True).begin() as connection:
        yield connection


@contextmanager
def writing_sqlite(engine: Engine, *, is_durable: bool) -> Iterator[sqlite3.Cursor]:
    """`writing` by SQLite's driver alone, for what is written so often that the toolkit's part of it counts.

    Others see what was committed a moment before it is durable, and may write meanwhile.

    Parameters
    ----------
    is_durable : bool
        False: it becomes durable with the next `flush`, or whatever else is committed durably.

    Raises
    ------
    NotDurable
        It was committed, and may not be durable.
    Transient, Refused, Damaged
        As in `writing`.
    """
    writer = _writers[engine]
    try:
        with _said("written"), writer.turn, writer.queueing():
            connection = writer.connection(engine)
            try:
                cursor = connection.cursor()
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor  # type: ignore[misc] # the toolkit knows drivers' cursors as protocols only
                connection.commit()
            except BaseException:
                try:
                    connection.rollback()
                except Exception:  # of whatever kind: a new connection may be better
                    writer.give_up()
                raise
            flushing = writer.flushing()
    except OSError as error:
        raise Transient(f"the catalog cannot be written: {error.strerror}") from error
    if is_durable:
        _flush(flushing)


def _flush(flushing: Callable[[], None]) -> None:
    try:
        flushing()
    except OSError as error:
        raise NotDurable(f"the catalog's log cannot be flushed: {error.strerror}") from error


def can_flush(engine: Engine) -> bool:
    """Whether something can be written by `writing_sqlite`, and made durable by `flush`."""
    return engine in _writers and bool(_writers[engine].file)


def flush(engine: Engine) -> None:
    """Make everything durable that was committed by this process until now.

    Raises
    ------
    NotDurable
        The disk fails.
    """
    if not can_flush(engine):  # all is durable at once
        return
    log = Path(f"{_writers[engine].file}-wal")

    def flushing() -> None:
        with suppress(FileNotFoundError):  # it has gone into the database, durably
            sync(log)

    _flush(flushing)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction: everything read within the block is of one moment.

    Raises
    ------
    Transient
        The database is locked or away.
    Damaged
        The database's file is not what was written.
    """
    with _said("read"), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        yield connection


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Say the database's errors in the tree of `config.errors`; those that quote values go no further."""
    try:
        yield
    except DataError as error:
        raise Refused(f"the catalog cannot hold a value: {type(error.orig).__name__}") from None
    except IntegrityError as error:
        raise Transient(f"the catalog cannot be {what}: {type(error.orig).__name__}") from None
    except ProgrammingError:
        raise
    except sqlite3.Error as error:  # while a connection is made
        raise _verdict(error, what) from error
    except DatabaseError as error:
        raise _verdict(error.orig or error, what) from error
    except TimeoutError as error:
        raise Transient(f"the catalog cannot be {what}: no connection was free in time") from error


def _verdict(error: BaseException, what: str) -> Exception:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"expected the catalog's database, got a file that is none or is damaged: {error}")
    return Transient(f"the catalog cannot be {what}: {str(error).strip().partition(chr(10))[0]}")


def lock(connection: Connection, key: int) -> None:
    """Be the only transaction that holds the key until this one has committed; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(key)))


def held_by_session(engine: Engine, key: int) -> Connection | None:
    """Take an advisory lock of PostgreSQL, held as long as the connection is open; None if another one holds it.

    Raises
    ------
    Transient
        The database cannot be reached.
    """
    with _said("read"):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            if connection.execute(select(func.pg_try_advisory_lock(key))).scalar_one():
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None


def blocks(values: Iterable[T]) -> Iterator[list[T]]:
    """Split values into lists that fit into one statement."""
    rest = iter(values)
    while block := list(islice(rest, BLOCK)):
        yield block


def one_of(name: str = "keys") -> BindParameter[Any]:
    """The values of an IN list that are given when a statement is run: one that is made once costs less."""
    return bindparam(name, expanding=True)


def migrate(engine: Engine) -> None:
    """Apply the migrations that the database lacks, in one transaction; of several processes one does.

    Raises
    ------
    Transient
        The database cannot be reached or opened.
    Damaged
        Its schema is newer than this version knows, or it is no catalog.
    """
    config = Config()
    config.set_main_option("script_location", str(resources.files("indexer.catalog") / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    with reading(engine) as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
    with writing(engine) as connection:
        lock(connection, _MIGRATION_LOCK)
        tables = set(inspect(connection).get_table_names())
        if tables and _VERSION_TABLE not in tables:
            raise Damaged("expected an empty database or a catalog, got a database with other tables")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise Damaged(f"the catalog's schema is not one that this version knows: {error}") from error
