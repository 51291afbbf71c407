"""Two receivers, three workers and a query node on one PostgreSQL and one spool; all but the last are killed."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from engines import Server
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from senders import Load
from sqlalchemy import create_engine, text

from dicom_scp.spool import Spool
from indexer.catalog import Catalog

Factory = Callable[..., Any]
LEASE_S = 15


@dataclass
class Cluster:
    """Nodes of one catalog; `rows` asks the database itself."""

    start_node: Factory
    folder: Path
    url: str
    nodes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = create_engine(self.url.replace("://", "+psycopg://"))

    def start(self, *names: str) -> None:
        """Start nodes, named by their role and a number, beside one another."""
        for name in names:
            self.nodes[name] = self.start_node(
                name,
                wait=False,
                PACSIMILE_ROLES=name.split("-")[0],
                PACSIMILE_CATALOG_URL=self.url,
                PACSIMILE_STORAGE_SPOOL_DIR=str(self.folder / "spool"),
                PACSIMILE_VECTORS_KIND="hnsw",
                PACSIMILE_INDEXING_LEASE_S=str(LEASE_S),
                PACSIMILE_INDEXING_MAX_ATTEMPTS="1000",
            )
        for name in names:
            self.nodes[name].wait_until_ready()

    def kill(self, name: str) -> None:
        self.nodes[name].stop(signal.SIGKILL)

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))

    def in_state(self, state: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM series WHERE state = '{state}'")[0][0])

    @property
    def instances(self) -> int:
        return int(self.rows("SELECT count(*) FROM instance")[0][0])


@pytest.fixture(scope="module")
def cluster(
    start_shared_node: Factory, tmp_path_factory: pytest.TempPathFactory, postgresql: Server
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("shared")
    made = Cluster(start_shared_node, folder, postgresql.new_database())
    yield made
    made.engine.dispose()


def leased_by(cluster: Cluster, name: str) -> list[str]:
    """Series that the worker of a node holds now."""
    owner = (cluster.nodes[name].data_dir / "node.id").read_text()
    held = cluster.rows("SELECT series_instance_uid, lease_owner FROM series WHERE state = 'INDEXING'")
    return [uid for uid, held_by in held if held_by.startswith(owner)]


def kill_while_working(cluster: Cluster, name: str, wait_for: Factory) -> set[str]:
    """Let a node work whose worker is suspended, and kill it in the middle of a series; which it held then."""
    node, (worker,) = cluster.nodes[name], cluster.nodes[name].workers()

    def caught() -> set[str]:
        worker.resume()
        if not leased_by(cluster, name):
            return set()
        worker.suspend()
        return set(leased_by(cluster, name))

    held: set[str] = wait_for(caught, 90, f"{name} works on a series")
    cluster.kill(name)
    _, alive = psutil.wait_procs([worker], 60)  # a worker ends with its node
    assert not alive
    assert node.process.poll() is not None
    return held


def interrupted(cluster: Cluster, receiver: str, folder: Path, storescu: str, wait_for: Factory) -> set[Path]:
    """Kill a receiver in the middle of a sender's association; what it acknowledged."""
    load = Load(storescu)
    before = cluster.instances
    load.add(cluster.nodes[receiver].dicom_port, folder)
    wait_for(lambda: cluster.instances > before + 1, 60, "some instances are there")
    cluster.kill(receiver)
    load.end()
    return load.acknowledged


def is_answering(port: int) -> bool:
    """Whether a node lets itself be asked."""
    entity = AE("ASKER")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = entity.associate("127.0.0.1", port, ae_title="PACSIMILE")
    found = bool(association.is_established)
    if found:
        association.release()
    return found


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice(
    cluster: Cluster, make_series: Factory, send: Factory, tool: Factory, wait_for: Factory
) -> None:
    folders = [make_series(number) for number in range(301, 310)]
    sent = {dcmread(f, stop_before_pixels=True).SOPInstanceUID: f for one in folders for f in one.rglob("*.dcm")}
    cluster.start("receive-1", "receive-2", "query-1")
    assert cluster.nodes["query-1"].get("/health")["roles"] == ["query"]
    assert send(cluster.nodes["query-1"].dicom_port, folders[0], check=False).returncode != 0
    assert not is_answering(cluster.nodes["receive-1"].dicom_port)
    assert is_answering(cluster.nodes["query-1"].dicom_port)
    assert cluster.instances == 0
    for receiver, folder, other in (("receive-1", folders[0], "receive-2"), ("receive-2", folders[1], "receive-1")):
        acknowledged = interrupted(cluster, receiver, folder, tool("storescu"), wait_for)
        with Catalog(cluster.url) as catalog:
            spool = Spool(cluster.folder / "spool")
            for file in acknowledged:
                path = catalog.lookup.instance_path(dcmread(file, stop_before_pixels=True).SOPInstanceUID)
                spool.read(str(path))
        assert acknowledged
        send(cluster.nodes[other].dicom_port, folder)
        cluster.start(receiver)

    workers = ("work-1", "work-2", "work-3")
    cluster.start(*workers)
    wait_for(lambda: cluster.in_state("INDEXED") == 2, 240, "what the receivers left is embedded")
    for name in workers:
        cluster.nodes[name].wait_until_worker_runs().suspend()
    health = cluster.nodes["work-1"].get("/health")
    assert (health["roles"], health["dicom"], health["index_size"]) == (["work"], None, None)
    for number, folder in enumerate(folders[2:]):
        send(cluster.nodes[f"receive-{1 + number % 2}"].dicom_port, folder)
    assert cluster.instances == len(sent)
    wait_for(lambda: cluster.in_state("SETTLED") == len(folders) - 2, 60, "all has settled")
    lost = {name: kill_while_working(cluster, name, wait_for) for name in workers}
    cluster.start("work-3")
    wait_for(lambda: cluster.in_state("INDEXED") == len(folders), 240, "what the dead had begun is done")

    embedded = cluster.rows("SELECT series_pk, count(*) FROM indexing GROUP BY series_pk")
    assert sorted(count for _, count in embedded) == [1] * len(folders)
    ((came, gone, held),) = cluster.rows(
        "SELECT sum(CASE WHEN added THEN 1 ELSE 0 END), sum(CASE WHEN added THEN 0 ELSE 1 END),"
        " (SELECT count(*) FROM embedding) FROM journal"
    )
    assert (came, gone) == (held, 0)  # nobody's embeddings took the place of another's
    tries = dict(cluster.rows("SELECT series_instance_uid, attempts FROM series"))
    assert all(tries[uid] > 1 for uid in lost["work-1"] | lost["work-2"])  # taken over when their leases ran out
    assert all(tries[uid] == 1 for uid in lost["work-3"])  # given back as it started again, and nobody blamed

    query = cluster.nodes["query-1"]
    count = cluster.rows("SELECT count(*) FROM embedding WHERE kind = 'GLOBAL'")[0][0]
    wait_for(lambda: query.get("/health")["index_size"] == count, 60, "the index follows")
    study = cluster.rows("SELECT study_instance_uid FROM study ORDER BY id")[0][0]
    assert query.get(f"/studies/{study}/similar")["hits"]
