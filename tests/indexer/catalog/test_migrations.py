"""Databases of every earlier schema, with rows in every table, brought up to date: the rows are still there."""

from importlib import resources
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Connection, MetaData, create_engine, make_url, select

from indexer.catalog.engine import open_engine
from indexer.catalog.schema import metadata

_PLACE = str(resources.files("indexer.catalog") / "migrations")
_VERSION_TABLE = "alembic_version"
_SCRIPTS = ScriptDirectory(_PLACE)
EARLIER = [one.revision for one in reversed(list(_SCRIPTS.walk_revisions()))][:-1]
Rows = dict[str, dict[str, Any]]


def value_for(column: Any) -> Any:  # noqa: ANN401 - whatever the column holds
    """A value that no default would give."""
    if isinstance(column.type, JSON) or column.name == "attributes":
        return {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}
    kind = column.type.python_type
    length = getattr(column.type, "length", None) or 20
    return {str: column.name[:length], bytes: b"\0\1\2", bool: True}.get(kind, kind(7))


def fill(connection: Connection) -> Rows:
    """Put one row into every table, those first that others refer to."""
    known = MetaData()
    known.reflect(connection)
    rows: Rows = {}
    for table in known.sorted_tables:
        if table.name == _VERSION_TABLE:
            continue
        row: dict[str, Any] = {}
        for column in table.columns:
            above = [key.column for key in column.foreign_keys]
            row[column.name] = rows[above[0].table.name][above[0].name] if above else value_for(column)
        connection.execute(table.insert().values(row))
        rows[table.name] = dict(connection.execute(select(table)).one()._mapping)
    return rows


def test_there_are_earlier_schemas() -> None:
    assert len(EARLIER) >= 6


@pytest.mark.parametrize("revision", EARLIER)
def test_rows_of_earlier_schemas_stay(url: str, revision: str) -> None:
    old = create_engine(make_url(url).set(drivername="sqlite" if "sqlite" in url else "postgresql+psycopg"))
    config = Config()
    config.set_main_option("script_location", _PLACE)
    with old.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        rows = fill(connection)
    old.dispose()
    assert rows
    engine = open_engine(url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        known = MetaData()
        known.reflect(connection)
        for name, row in rows.items():
            found = dict(connection.execute(select(known.tables[name])).one()._mapping)
            assert {column: found[column] for column in row} == row, name
    engine.dispose()
