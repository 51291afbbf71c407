"""C-CANCEL from DCMTK's findscu while thousands of answers go out, at both called AE titles."""

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select

from indexer.catalog import schema
from indexer.uids import SliceRef, SOPInstanceUID

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
ROWS = 4000
LONG_TEXT = "long " * 2000
"""So long that the answers fill every buffer between node and asker: the cancel cannot come after the last one."""


def multiply(node: Node, series_instance_uid: str) -> None:
    """Let a series of one instance have thousands in the catalog, and let all of them be what the finder finds."""
    of_series = node.catalog.lookup.series_by_uid(series_instance_uid).series_pk
    with node.catalog._engine.begin() as connection:
        row = connection.execute(select(schema.instance).where(schema.instance.c.series_pk == of_series)).one()
        one = {**row._mapping, "embeddable": False}
        del one["id"]
        rows = []
        for n in range(1, ROWS):
            uid = f"{series_instance_uid}.{n}"
            attributes = {**one["attributes"], "00080018": {"vr": "UI", "Value": [uid]}}
            rows.append(one | {"sop_instance_uid": uid, "path": f"{n}.dcm", "attributes": attributes})
        connection.execute(insert(schema.instance), rows)
    node.finder._slices[of_series] = tuple(
        SliceRef(SOPInstanceUID(row["sop_instance_uid"]), None) for row in [one, *rows]
    )


@pytest.fixture
def archive(node: Node, peer: Factory, instance: Factory) -> Node:
    """A patient with a series to ask about, and another one's series of thousands of instances."""
    peer(node).send(
        instance(),
        instance(StudyInstanceUID="2.25.2", SeriesInstanceUID="2.25.21", PatientID="P2", PatientComments=LONG_TEXT),
    )
    node.finder.index()
    multiply(node, "2.25.21")
    return node


@pytest.mark.parametrize(
    ("called", "keys"),
    [
        ("PACSIMILE", ("StudyInstanceUID=2.25.2", "SeriesInstanceUID=2.25.21")),
        ("SIMILAR", ("StudyInstanceUID=2.25.1",)),
    ],
)
@pytest.mark.parametrize("after", [1, 20])
def test_cancel_by_findscu(archive: Node, dcmtk: Factory, called: str, keys: tuple[str, ...], after: int) -> None:
    asked = ("QueryRetrieveLevel=IMAGE", *keys, "SOPInstanceUID", "PatientComments")
    named = [part for key in asked for part in ("-k", key)]
    done = subprocess.run(
        [
            dcmtk("findscu"),
            "-d",
            "-S",
            "-aec",
            called,
            "--cancel",
            str(after),
            *named,
            "127.0.0.1",
            str(archive.port),
        ],
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    *pending, last = [line for line in said.splitlines() if "DIMSE Status" in line]
    assert "0xfe00" in last
    assert after <= len(pending) < ROWS
    assert all("0xff00" in line for line in pending)
