"""Opening a catalog: migrations, strangers, damage, several processes at once, durable settings."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, insert, inspect, make_url, select, text

from config.errors import ConfigError
from indexer.catalog import Catalog
from indexer.catalog import engine as engine_module
from indexer.catalog.engine import BLOCK, blocks, open_engine, reading, writing
from indexer.catalog.schema import meta, metadata
from indexer.errors import Damaged, Refused, Transient


def test_the_migrations_give_exactly_the_schema(url: str) -> None:
    engine = open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_schema_asks_for_keys_that_are_never_given_twice(tmp_path: Path) -> None:
    """SQLite: AUTOINCREMENT is not among what Alembic compares."""
    made, migrated = create_engine("sqlite://"), open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    metadata.create_all(made)
    wanted, found = (
        {
            name: "AUTOINCREMENT" in sql
            for name, sql in connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
            if name in metadata.tables
        }
        for connection in (made.connect(), migrated.connect())
    )
    assert wanted == found
    assert wanted["chunk"]
    assert wanted["indexing"]
    made.dispose()
    migrated.dispose()


def test_what_was_written_is_there_when_opened_again(url: str) -> None:
    for _ in range(2):
        with Catalog(url) as catalog:
            catalog.embeddings.activate(catalog.embeddings.active_encoder() or "first")
    with Catalog(url) as catalog:
        assert catalog.embeddings.active_encoder() == "first"


def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    engine = open_engine(url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Damaged, match="schema"):
        Catalog(url)


def test_a_database_of_somebody_else_is_refused_and_left_alone(url: str) -> None:
    engine = create_engine(make_url(url).set(drivername="sqlite" if "sqlite" in url else "postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE invoices (id INTEGER)"))
    with pytest.raises(Damaged, match="other tables"):
        Catalog(url)
    assert inspect(engine).get_table_names() == ["invoices"]
    engine.dispose()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite"
    file.write_bytes(b"not a database at all, certainly not one of SQLite" * 100)
    with pytest.raises(Damaged, match="database"):
        Catalog(f"sqlite:///{file}")


def test_pages_that_were_overwritten_are_damage(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite"
    Catalog(f"sqlite:///{file}").close()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(Damaged):
        Catalog(f"sqlite:///{file}").progress.counts()


def test_a_folder_that_cannot_be_made_may_be_there_later(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Transient):
        Catalog(f"sqlite:///{tmp_path / 'file' / 'catalog.sqlite'}")


def test_a_server_that_is_away_may_come_back() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(Transient):
        Catalog("postgresql://postgres@/x?host=/nowhere")


@pytest.mark.parametrize("wrong", ["no url", "nonsense://x"])
def test_an_url_that_cannot_be_used_is_a_mistake_of_the_settings(wrong: str) -> None:
    with pytest.raises(ConfigError):
        Catalog(wrong)


_OPEN = """
import pathlib, sys, time
from indexer.catalog import Catalog
url, go = sys.argv[1], pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
Catalog(url).close()
print("opened", flush=True)
"""


def test_opening_at_once_from_several_processes_is_safe(url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = [sys.executable, "-c", _OPEN, url, str(go)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["opened\n"] * 3


def test_sqlite_is_durable(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    with reading(engine) as connection:
        found = [
            connection.execute(text(f"PRAGMA {p}")).scalar()
            for p in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]
    engine.dispose()


def test_an_error_undoes_the_whole_transaction(url: str) -> None:
    engine = open_engine(url)
    with pytest.raises(ZeroDivisionError), writing(engine) as connection:  # noqa: PT012 - both belong to it
        connection.execute(insert(meta).values(key="a", value="1"))
        raise ZeroDivisionError
    with reading(engine) as connection:
        assert connection.execute(select(meta)).all() == []
    engine.dispose()


def test_what_is_read_is_of_one_moment(url: str) -> None:
    engine = open_engine(url)
    with reading(engine) as connection:
        assert connection.execute(select(meta)).all() == []
        with writing(engine) as other:
            other.execute(insert(meta).values(key="a", value="1"))
        assert connection.execute(select(meta)).all() == []
    with reading(engine) as connection:
        assert len(connection.execute(select(meta)).all()) == 1
    engine.dispose()


def test_a_locked_database_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_S", 0.05)
    file = tmp_path / "catalog.sqlite"
    engine = open_engine(f"sqlite:///{file}")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient, match="locked"), writing(engine):
        pass
    other.execute("ROLLBACK")
    other.close()
    with writing(engine) as connection:
        connection.execute(insert(meta).values(key="a", value="1"))
    engine.dispose()


def test_errors_quote_no_values(url: str) -> None:
    engine = open_engine(url)
    row = insert(meta).values(key="Doe^Jane", value="1")
    with writing(engine) as connection:
        connection.execute(row)
    with pytest.raises(Transient) as caught, writing(engine) as connection:
        connection.execute(row)
    assert "Doe" not in str(caught.value)
    assert caught.value.__suppress_context__
    engine.dispose()


def test_a_value_that_the_database_cannot_hold_is_refused(postgresql: Any) -> None:  # noqa: ANN401 - a server
    engine = open_engine(postgresql.new_database())
    with pytest.raises(Refused), writing(engine) as connection:
        connection.execute(insert(meta).values(key="k" * 100, value="1"))
    engine.dispose()


def test_threads_queue_to_write(url: str) -> None:
    engine = open_engine(url)

    def add(name: str) -> None:
        for number in range(20):
            with writing(engine) as connection:
                connection.execute(insert(meta).values(key=f"{name}{number}", value=""))

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert len(connection.execute(select(meta)).all()) == 120
    engine.dispose()


def test_blocks_fit_into_one_statement() -> None:
    assert list(blocks([])) == []
    parts = list(blocks(range(2 * BLOCK + 1)))
    assert [len(part) for part in parts] == [BLOCK, BLOCK, 1]
    assert [value for part in parts for value in part] == list(range(2 * BLOCK + 1))
