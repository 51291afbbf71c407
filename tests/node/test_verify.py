"""`pacsimile verify`: each kind of damage is found, and mended where it can be."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import copy_data

Factory = Callable[..., Any]


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory, start_shared_node: Factory, send: Factory, make_series: Factory
) -> Path:
    """Data folder of a node that received two series and was stopped."""
    node = start_shared_node("sound")
    send(node.dicom_port, make_series(1), make_series(2))
    node.wait_until_indexed()
    assert node.stop() == 0
    folder: Path = node.data_dir
    assert list((folder / "index").rglob("*"))
    return folder


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return copy_data(sound, tmp_path / "data")


@pytest.fixture
def verify(pacsimile: Factory, data: Path) -> Factory:
    """Run verify: exit status, and what was found as (what, where, mended)."""

    def run(*options: str) -> tuple[int, list[tuple[str, str, bool]]]:
        done = pacsimile("verify", "--data-dir", data, "--json", *options)
        return done.status, [(one["what"], one["where"], one["mended"]) for one in done.json["findings"]]

    return run


def stored(data: Path) -> list[str]:
    return sorted(str(file.relative_to(data / "spool")) for file in (data / "spool").rglob("*.dcm"))


def change(data: Path, statement: str, *values: object) -> int:
    database = sqlite3.connect(data / "catalog.sqlite")
    with database:
        number = database.execute(statement, values).rowcount
    database.close()
    return number


def test_sound(verify: Factory, pacsimile: Factory, data: Path) -> None:
    assert verify() == (0, [])
    assert "Every instance, embedding and index entry agrees." in pacsimile("verify", "--data-dir", data).out


def test_files_missing_and_damaged(verify: Factory, data: Path, pacsimile: Factory, make_series: Factory) -> None:
    missing, damaged = stored(data)[:2]
    (data / "spool" / missing).unlink()
    content = bytearray((data / "spool" / damaged).read_bytes())
    content[-1] ^= 1
    (data / "spool" / damaged).write_bytes(content)
    found = [("the file of an instance is missing", missing, False),
             ("the file of an instance is not what was stored", damaged, False)]  # fmt: skip
    assert verify() == (1, found)
    assert verify("--repair") == (1, found)  # the damaged one is set aside, no more can be done
    assert sorted(one[0] for one in verify()[1]) == ["the file of an instance is missing"] * 2
    done = pacsimile(
        "ingest", make_series(1), make_series(2), "--data-dir", data, "--bundle", "tiny", "--json"
    ).json
    assert done["stored"] == 0
    assert verify() == (0, [])


@pytest.mark.default_engines
def test_orphans(verify: Factory, data: Path, pacsimile: Factory) -> None:
    taken = stored(data)[4]
    assert change(data, "DELETE FROM instance WHERE path = ?", taken) == 1
    before = pacsimile("status", "--data-dir", data, "--json").json["instances"]
    what = "a file of the spool belongs to no instance"
    torn = "ab/cd/" + "abcd" * 16 + ".dcm"
    (data / "spool" / "ab" / "cd").mkdir(parents=True, exist_ok=True)
    (data / "spool" / torn).write_bytes((data / "spool" / taken).read_bytes()[:500])
    status, found = verify()
    assert (status, sorted(found)) == (1, sorted([(what, taken, False), (what, torn, False)]))
    status, found = verify("--repair")
    assert (status, sorted(found)) == (0, sorted([(what, taken, True), (what, torn, True)]))
    assert pacsimile("status", "--data-dir", data, "--json").json["instances"] == before + 1
    assert pacsimile("reindex", "--resume", "--data-dir", data, "--bundle", "tiny").status == 0
    assert verify() == (0, [])


@pytest.mark.default_engines
def test_series_without_embeddings(verify: Factory, data: Path, pacsimile: Factory) -> None:
    assert change(data, "UPDATE series SET revision = revision + 1 WHERE id = (SELECT min(id) FROM series)") == 1
    what = "an indexed series has no embeddings of its present instances"
    status, ((found, _, mended),) = verify()
    assert (status, found, mended) == (1, what, False)
    assert verify("--repair")[0] == 0
    assert pacsimile("reindex", "--resume", "--data-dir", data, "--bundle", "tiny").status == 0
    assert verify() == (0, [])


@pytest.mark.default_engines
def test_broken_embeddings(verify: Factory, data: Path, pacsimile: Factory) -> None:
    one = "(SELECT min(id) FROM embedding)"
    assert change(data, f"UPDATE embedding SET vector = zeroblob(length(vector)) WHERE id = {one}") == 1
    status, found = verify()
    assert status == 1
    assert ("an embedding is not a vector of unit length", False) in [(what, mended) for what, _, mended in found]
    verify("--repair")
    assert pacsimile("reindex", "--resume", "--data-dir", data, "--bundle", "tiny").status == 0
    assert verify() == (0, [])


@pytest.mark.default_engines
def test_damaged_snapshot(verify: Factory, data: Path, start_node: Factory) -> None:
    largest = max(
        (file for file in (data / "index").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
    status, ((what, _, _),) = verify()
    assert (status, what) == (1, "the snapshot of the vector index is damaged")
    assert verify("--repair")[0] == 0
    assert verify() == (0, [])
    node = start_node(data.name)
    assert node.get("/health")["index_size"] == node.get("/status")["embeddings"] > 0
    assert node.stop() == 0


@pytest.mark.default_engines  # whose files a second process opens
def test_while_a_node_receives(
    start_node: Factory, send: Factory, make_series: Factory, pacsimile: Factory
) -> None:
    node = start_node()
    send(node.dicom_port, make_series(3))
    done = pacsimile("verify", "--data-dir", node.data_dir, "--json")
    assert (done.status, done.json) == (0, {"findings": []})
    node.wait_until_indexed()
    assert node.stop() == 0
