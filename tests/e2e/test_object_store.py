"""A receiver and a node that works and answers, each with a folder of its own: what they share is a bucket."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Server
from pydicom import dcmread
from s3 import Bucket
from sqlalchemy import create_engine, text

from dicom_scp.draft import content_digest
from dicom_scp.part10 import split_file

Factory = Callable[..., Any]


@pytest.fixture
def bucket(find_port: Callable[[], int]) -> Iterator[Bucket]:
    made = Bucket(find_port())
    yield made
    made.close()


def sent_below(folder: Path) -> dict[str, Path]:
    return {str(dcmread(file, stop_before_pixels=True).SOPInstanceUID): file for file in folder.rglob("*.dcm")}


def copies(node: Any) -> list[str]:  # noqa: ANN401 - a running node
    spool = node.data_dir / "spool"
    return [str(path.relative_to(spool)) for path in spool.glob("*/*/*/*.dcm")]


def retrieved(getscu: str, port: int, study: str, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    command = [getscu, "-S", "+B", "-od", str(folder), "-aec", "PACSIMILE", "127.0.0.1", str(port), *keys]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return {str(dcmread(file, stop_before_pixels=True).SOPInstanceUID): file for file in folder.iterdir()}


@pytest.mark.slow
def test_nodes_share_a_bucket(
    start_node: Factory,
    pacsimile: Factory,
    make_series: Factory,
    send: Factory,
    tool: Factory,
    wait_for: Factory,
    bucket: Bucket,
    postgresql: Server,
    tmp_path: Path,
) -> None:
    first, second = make_series(311), make_series(312)
    sent, sent_later = sent_below(first), sent_below(second)
    study, later_study = (str(dcmread(next(iter(one.values()))).StudyInstanceUID) for one in (sent, sent_later))
    variables = {
        **bucket.environment,
        "PACSIMILE_CATALOG_URL": postgresql.new_database(),
        "PACSIMILE_STORAGE_OBJECT_STORE": bucket.url,
        "PACSIMILE_VECTORS_KIND": "hnsw",
    }
    engine = create_engine(variables["PACSIMILE_CATALOG_URL"].replace("://", "+psycopg://"))

    def states() -> list[str]:
        with engine.connect() as connection:
            return list(connection.execute(text("SELECT state FROM series")).scalars())

    def entered() -> set[str]:
        with engine.connect() as connection:
            return set(connection.execute(text("SELECT path FROM instance")).scalars())

    receiver = start_node("receive", wait=False, PACSIMILE_ROLES="receive", **variables)
    other = start_node("other", wait=False, PACSIMILE_ROLES="work,query", **variables)
    for node in (receiver, other):
        node.wait_until_ready()

    send(receiver.dicom_port, first)
    assert len(entered()) == len(sent)
    assert set(bucket.names) == entered()
    wait_for(lambda: states() == ["INDEXED"], 120, f"it is embedded\n{other.log}")
    found = retrieved(tool("getscu"), other.dicom_port, study, tmp_path / "retrieved")
    assert found.keys() == sent.keys()
    stored = {split_file(bucket.content(name)) for name in bucket.names}
    assert {split_file(file.read_bytes()) for file in found.values()} == stored
    assert all(dcmread(found[uid]).PixelData == dcmread(file).PixelData for uid, file in sent.items())
    assert set(copies(other)) == entered()
    assert not copies(receiver)

    bucket.stop()
    refused = send(receiver.dicom_port, second, check=False, options=["-v"])
    assert refused.returncode != 0
    assert "OutOfResources" in refused.stdout + refused.stderr
    assert len(entered()) == len(sent)
    assert retrieved(tool("getscu"), other.dicom_port, study, tmp_path / "copies").keys() == sent.keys()
    bucket.start()
    before = entered()
    send(receiver.dicom_port, second)
    send(receiver.dicom_port, second)  # known: no object more
    assert set(bucket.names) == entered()
    assert len(entered()) == len(sent) + len(sent_later)

    lost, damaged = sorted(entered() - before)[:2]
    left = f"{lost[:4]}0/{Path(lost).name}"  # as of a receiver that was killed before it entered it
    bucket.put(left, bucket.content(lost))
    bucket.delete(lost)
    bucket.put(damaged, bucket.content(damaged)[:-2] + b"\1\1")
    repair = "verify", "--data-dir", receiver.data_dir, "--json", "--repair"
    told = {one["where"]: one["what"] for one in pacsimile(*repair, variables=variables).json["findings"]}
    assert "missing" in told[lost]
    assert "belongs to no instance" in told[left]
    assert "not what was stored" in told[damaged]
    assert lost in bucket.names  # what was left behind was it
    assert not {left, damaged} & set(bucket.names)
    send(receiver.dicom_port, second)
    assert set(bucket.names) - {f"{damaged}.damaged"} == entered()
    assert all(content_digest(*split_file(bucket.content(name))) == Path(name).stem for name in (lost, damaged))
    assert set(retrieved(tool("getscu"), other.dicom_port, later_study, tmp_path / "later")) == sent_later.keys()

    assert set(copies(other)) >= before
    done = pacsimile("forget", study, "--yes", "--data-dir", receiver.data_dir, variables=variables)
    assert done.status == 0, done.err
    assert not set(bucket.names) & before
    wait_for(lambda: not set(copies(other)) & before, 60, "the other node's copies are gone")
    assert entered() <= set(bucket.names)
    engine.dispose()
