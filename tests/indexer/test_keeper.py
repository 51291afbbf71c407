"""The index and the catalog: whatever happened in between, they hold the same."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from engines import catalog_url
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID, ExplicitVRLittleEndian

from config.model import VectorSettings
from indexer import keeper as keeper_module
from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.receipts import StoredFile
from indexer.errors import Damaged, Transient
from indexer.keeper import IndexKeeper
from indexer.regrowth import demand_sound
from indexer.uids import EncoderId, SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from indexer.vectors import Neighbours, hnsw, milvus, reduction
from indexer.vectors.hnsw import HnswIndex
from indexer.vectors.milvus import MilvusParameters

A, B = EncoderId("encoder-a"), EncoderId("encoder-b")
_random = np.random.default_rng(0)


def chunks(count: int) -> list[EmbeddedChunk]:
    drawn = _random.standard_normal((count, 256))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return [EmbeddedChunk(0, n, (0, 0, n, 1, 1, n + 1), (), {GLOBAL: vector}) for n, vector in enumerate(vectors)]


class Node:
    """A catalog and the keeper of its index, as one folder."""

    def __init__(self, folder: Path, kind: str = "exact") -> None:
        self.folder, self.kind = folder, kind
        self.catalog = Catalog(catalog_url(folder))
        self.keeper = self.open()

    def open(self, *, read_only: bool = False, interval_s: float = 1000) -> IndexKeeper:
        vectors = VectorSettings(
            kind=self.kind, milvus_uri=str(self.folder / "milvus.db"), snapshot_interval_s=interval_s
        )
        return IndexKeeper(self.catalog, vectors, self.folder / "index", A, read_only=read_only)

    def restart(self, *, cleanly: bool = True) -> None:
        if cleanly:
            self.keeper.close()
        self.catalog.close()
        self.catalog = Catalog(catalog_url(self.folder))
        self.keeper = self.open()

    def finish(self, series: int, count: int, encoder: EncoderId = A) -> None:
        uid = f"2.25.{series}"
        header = InstanceHeader(
            SOPInstanceUID(f"{uid}.1"), UID("1.2.840.10008.5.1.4.1.1.2"), ExplicitVRLittleEndian,
            SeriesInstanceUID(uid), StudyInstanceUID("2.25.0"), {}, {}, {}, {},
        )  # fmt: skip
        self.catalog.receipts.enter(header, StoredFile(uid, 1, uid.rjust(64, "0")), "keep-first")
        self.catalog.progress.settle(0.0)
        leased = self.catalog.progress.lease("w", 60.0)
        if leased is not None:
            self.catalog.embeddings.finish(leased, "w", encoder, chunks(count), seconds={}, notes=[])
        else:
            self.catalog.progress.settle_again()
            while (leased := self.catalog.progress.lease("w", 60.0)) is not None:
                if leased.series_instance_uid == uid:
                    self.catalog.embeddings.finish(leased, "w", encoder, chunks(count), seconds={}, notes=[])
                else:
                    self.catalog.progress.park(leased, "w", "not now")

    def agrees(self, keeper: IndexKeeper | None = None) -> bool:
        """Whether the index holds the catalog's embeddings, every vector under its id."""
        index, encoder_id = (keeper or self.keeper).current()
        if not np.array_equal(index.ids(), self.catalog.embeddings.ids(encoder_id)):
            return False
        for ids, vectors in self.catalog.embeddings.vectors(encoder_id):
            found = index.search(vectors, 1)
            if not np.array_equal(found.ids[:, 0], ids) or (found.similarities < 0.9999).any():
                return False
        return True

    @property
    def snapshot(self) -> Path:
        return self.folder / "index" / A

    def files(self) -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in (self.folder / "index").rglob("*") if one.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.keeper.close()
    made.catalog.close()


Step = Callable[[Node], object]
_STEPS: dict[str, Step] = {
    "refresh": lambda node: node.keeper.refresh(),
    "snapshot": lambda node: node.keeper.snapshot_if_due(now=True),
    "restart": lambda node: node.restart(),
    "crash": lambda node: node.restart(cleanly=False),
    "forget": lambda node: node.catalog.embeddings.forget_other_encoders(B),
    "prune": lambda node: node.catalog.journal.prune(keep=1),
    "purge": lambda node: node.keeper.purge(),
    "lose": lambda node: shutil.rmtree(node.snapshot, ignore_errors=True),
}
_FINISHED = st.tuples(st.integers(1, 3), st.integers(0, 3))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["exact", "hnsw"]), st.lists(st.sampled_from(sorted(_STEPS)) | _FINISHED, max_size=12))
def test_whatever_happens_the_index_holds_the_catalog(kind: str, steps: list[str | tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder), kind)
        for step in steps:
            if isinstance(step, tuple):
                node.finish(*step)
            else:
                _STEPS[step](node)
        node.keeper.refresh()
        assert node.agrees()
        rebuilt = Node(Path(folder), kind)
        shutil.rmtree(node.snapshot, ignore_errors=True)
        rebuilt.keeper = rebuilt.open()
        assert np.array_equal(rebuilt.keeper.current()[0].ids(), node.keeper.current()[0].ids())
        for one in (node, rebuilt):
            one.keeper.close()
            one.catalog.close()


def test_a_snapshot_spares_the_rebuilding(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.finish(1, 3)
    node.restart()
    node.finish(2, 2)
    monkeypatch.setattr(type(node.catalog.embeddings), "vectors", lambda *_: 1 / 0)
    node.restart(cleanly=False)
    assert len(node.keeper.current()[0]) == 5
    monkeypatch.undo()
    assert node.agrees()


def test_an_unchanged_index_without_snapshot_gets_one(node: Node) -> None:
    node.finish(1, 3)
    node.restart()
    shutil.rmtree(node.snapshot)
    node.restart(cleanly=False)
    assert node.keeper.snapshot_if_due(now=True)
    assert not node.keeper.snapshot_if_due(now=True)


def test_snapshots_are_due_at_intervals(node: Node) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    assert not node.keeper.snapshot_if_due()
    eager = node.open(interval_s=1e-9)
    assert eager.snapshot_if_due()
    assert not eager.snapshot_if_due()
    node.finish(2, 1)
    eager.refresh()
    assert eager.snapshot_if_due()


def test_on_a_full_disk_the_next_try_waits(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.finish(1, 3)
    keeper = node.open(interval_s=0.2)

    def full(*_: object) -> None:
        raise Transient("the disk is full")

    monkeypatch.setattr(type(keeper.current()[0]), "snapshot", full)
    keeper._written_at -= 1
    with pytest.raises(Transient):
        keeper.snapshot_if_due()
    assert not keeper.snapshot_if_due()
    monkeypatch.undo()
    keeper._written_at -= 1
    assert keeper.snapshot_if_due()


def test_a_damaged_snapshot_is_rebuilt(node: Node) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    vectors = next(node.snapshot.rglob("vectors.npy"))
    content = bytearray(vectors.read_bytes())
    content[-100] ^= 1
    vectors.write_bytes(content)
    node.restart(cleanly=False)
    assert node.agrees()
    assert not vectors.exists()


@pytest.mark.default_engines
def test_a_snapshot_of_what_a_backup_has_undone_is_not_used(node: Node) -> None:
    """Not even where the journal has grown beyond it again: the same ids mean other embeddings then."""
    file = node.folder / "catalog.sqlite"
    node.finish(1, 2)
    node.restart()
    node.catalog.close()
    shutil.copy(file, node.folder / "backup")
    node.catalog = Catalog(f"sqlite:///{file}")
    node.keeper = node.open()
    node.finish(2, 2)
    node.keeper.refresh()
    assert node.keeper.snapshot_if_due(now=True)
    node.catalog.close()
    shutil.copy(node.folder / "backup", file)
    node.catalog = Catalog(f"sqlite:///{file}")
    node.finish(3, 2)
    node.finish(4, 2)
    node.keeper = node.open()
    assert node.agrees()


def test_a_backup_of_both_is_used(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.finish(1, 2)
    node.restart()
    rebuilt: list[int] = []
    monkeypatch.setattr(keeper_module, "create", lambda *_, **__: rebuilt.append(1))
    node.restart()
    assert rebuilt == []
    assert node.agrees()


def test_the_index_follows_a_switch_of_encoders(node: Node) -> None:
    node.finish(1, 3)
    node.catalog.embeddings.activate(A)
    node.keeper.refresh()
    node.finish(1, 2, B)
    assert node.keeper.refresh() == 0
    assert node.keeper.current()[1] == A
    node.catalog.embeddings.activate(B)
    assert node.keeper.refresh() == 2
    assert node.keeper.current()[1] == B
    assert node.agrees()
    node.restart()
    assert node.keeper.current()[1] == B
    assert node.agrees()


def test_a_switch_that_fails_leaves_the_old_index_following(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.finish(1, 3)
    node.catalog.embeddings.activate(A)
    node.keeper.refresh()
    node.finish(2, 2)
    node.catalog.embeddings.activate(B)

    def away(*_: object) -> None:
        raise Transient("the database is away")

    monkeypatch.setattr(type(node.catalog.embeddings), "vectors", away)
    with pytest.raises(Transient):
        node.keeper.refresh()
    assert node.keeper.current()[1] == A
    monkeypatch.undo()
    node.catalog.embeddings.activate(A)
    assert node.keeper.refresh() == 2
    assert node.agrees()


def test_snapshots_of_forgotten_encoders_go(node: Node) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    node.finish(1, 2, B)
    node.catalog.embeddings.activate(B)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    assert node.snapshot.exists()
    node.catalog.embeddings.forget_other_encoders(B)
    node.finish(2, 2, B)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    assert [one.name for one in (node.folder / "index").iterdir()] == [B]


def test_far_behind_it_compares_ids(node: Node) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    node.finish(1, 2)
    node.finish(2, 2)
    node.catalog.journal.prune(keep=1)
    assert node.keeper.refresh() > 0
    assert node.agrees()
    assert node.keeper.refresh() == 0
    node.finish(3, 1)
    assert node.keeper.refresh() == 1
    assert node.agrees()


def test_a_reader_beside_a_running_node_writes_nothing(node: Node) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    node.finish(2, 2)
    before = node.files()
    reader = node.open(read_only=True)
    assert node.agrees(reader)
    node.finish(3, 2)
    assert reader.refresh() == 2
    assert node.agrees(reader)
    assert not reader.snapshot_if_due(now=True)
    reader.close()
    assert node.files() == before


def test_a_reader_leaves_a_damaged_snapshot_to_its_owner(node: Node) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    next(node.snapshot.rglob("vectors.npy")).write_bytes(b"damaged")
    before = node.files()
    reader = node.open(read_only=True)
    assert node.agrees(reader)
    reader.close()
    assert node.files() == before


def test_a_reader_looks_again_at_a_snapshot_being_replaced(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.finish(1, 3)
    node.keeper.refresh()
    node.keeper.snapshot_if_due(now=True)
    looks: list[int] = []
    restore = keeper_module.restore

    def replaced_once(*arguments: object, **keywords: object) -> object:
        looks.append(1)
        if len(looks) == 1:
            raise Damaged("expected the file vectors.npy, got FileNotFoundError")
        return restore(*arguments, **keywords)

    monkeypatch.setattr(keeper_module, "restore", replaced_once)
    monkeypatch.setattr(keeper_module, "create", lambda *_, **__: 1 / 0)
    reader = node.open(read_only=True)
    assert len(looks) == 2
    assert node.agrees(reader)


def test_readers_open_while_the_node_writes(node: Node) -> None:
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            node.finish(number, 2)
            node.keeper.refresh()
            node.keeper.snapshot_if_due(now=True)

    thread = threading.Thread(target=run)
    thread.start()
    readers = [node.open(read_only=True) for _ in range(10)]
    stop.set()
    thread.join()
    for reader in readers:
        reader.refresh()
        assert node.agrees(reader)
        reader.close()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A graph that counts as large, so that it is not made at once."""
    monkeypatch.setattr(keeper_module, "_MADE_AT_ONCE", 10)
    made = Node(tmp_path, "hnsw")
    made.finish(1, 40)
    made.keeper.refresh()
    assert made.keeper.snapshot_if_due(now=True)
    yield made
    made.keeper.close()
    made.catalog.close()


def _wait_until_regrown(node: Node) -> None:
    deadline = time.monotonic() + 60
    while node.keeper.is_regrowing:
        assert node.agrees()
        node.keeper.refresh()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exact_search_answers_while_a_damaged_graph_is_made_anew(
    large: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((graph := next(large.snapshot.rglob("graph*"))).read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    may_grow, grown = threading.Event(), IndexKeeper._grown

    def growing(
        self: IndexKeeper, encoder_id: EncoderId, is_given_up: Callable[[], bool], kind: str = ""
    ) -> object:
        assert kind == "exact" or may_grow.wait(60)
        return grown(self, encoder_id, is_given_up, kind)

    monkeypatch.setattr(IndexKeeper, "_grown", growing)
    large.restart(cleanly=False)
    assert large.keeper.is_regrowing
    assert type(large.keeper.current()[0]).__name__ == "ExactIndex"
    large.finish(2, 3)
    large.keeper.refresh()
    assert large.agrees()
    assert not large.keeper.snapshot_if_due(now=True)  # it would be one of another kind
    may_grow.set()
    _wait_until_regrown(large)
    assert type(large.keeper.current()[0]).__name__ == "HnswIndex"
    assert large.agrees()
    assert len(large.keeper.current()[0]) == 43
    assert large.keeper.snapshot_if_due(now=True)
    large.restart(cleanly=False)
    assert not large.keeper.is_regrowing


def test_a_node_stops_while_its_index_is_made_anew(large: Node) -> None:
    shutil.rmtree(large.snapshot)
    large.restart(cleanly=False)
    large.keeper.close()
    assert not large.keeper.is_regrowing
    large.keeper = large.open()
    _wait_until_regrown(large)
    assert large.agrees()


def test_purging_gives_up_what_is_made_anew(large: Node) -> None:
    shutil.rmtree(large.snapshot)
    large.restart(cleanly=False)
    large.finish(1, 30)
    large.keeper.purge()
    assert large.agrees()
    _wait_until_regrown(large)
    assert large.agrees()
    assert large.keeper.snapshot_if_due(now=True)


def test_a_regrowth_that_fails_is_begun_again(large: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(large.snapshot)
    failures: list[int] = []
    make = keeper_module.create

    def once_away(kind: str, **keywords: object) -> object:
        if kind == "hnsw" and not failures:
            failures.append(1)
            raise Transient("no memory")
        return make(kind, **keywords)

    monkeypatch.setattr(keeper_module, "create", once_away)
    large.restart(cleanly=False)
    _wait_until_regrown(large)
    assert failures
    assert large.agrees()


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_sound_snapshot_of_other_vectors_is_not_used(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checksums, count and ids are right, and the catalog vouches for it: only what is under the ids tells."""
    node = Node(tmp_path, kind)
    node.finish(1, 20)
    node.keeper.refresh()
    index, _ = node.keeper.current()
    ids = index.ids()
    index.add(ids, np.stack([one.embeddings[GLOBAL] for one in chunks(len(ids))]))
    assert node.keeper.snapshot_if_due(now=True)
    node.restart(cleanly=False)
    assert node.agrees()
    node.keeper.close()
    node.catalog.close()


def test_a_graph_that_finds_too_little_is_not_used(large: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    search = HnswIndex.search

    def forgetful(self: HnswIndex, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Neighbours:
        found = search(self, queries, k, allowed)
        if allowed is None and len(queries) > 9:
            found.similarities[: len(queries) // 2] = 0.5
        return found

    monkeypatch.setattr(HnswIndex, "search", forgetful)
    with pytest.raises(Damaged, match="recall"):
        demand_sound(large.keeper.current()[0], large.catalog)


def test_a_graph_that_its_archive_has_outgrown_is_made_anew_and_answers_meanwhile(
    large: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    large.finish(2, 300)
    large.keeper.refresh()
    for module in (hnsw, reduction):
        monkeypatch.setattr(module, "LEAST_VECTORS", 150)
    outgrown = large.keeper.current()[0]
    assert outgrown.is_outgrown
    large.keeper.refresh()
    assert large.keeper.current()[0] is outgrown
    assert large.keeper.is_regrowing
    large.finish(3, 5)
    large.keeper.refresh()
    _wait_until_regrown(large)
    index = large.keeper.current()[0]
    assert index is not outgrown
    assert not index.is_outgrown
    assert len(index) == 345
    assert large.keeper.snapshot_if_due(now=True)
    large.restart(cleanly=False)
    assert not large.keeper.is_regrowing
    assert large.agrees()


def test_a_server_drops_what_does_not_answer(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    node = Node(tmp_path, milvus.KIND)
    node.finish(1, 3)
    node.keeper.refresh()
    server = MilvusParameters(str(tmp_path / "milvus.db"))
    milvus.create(dim=256, encoder_id=B, parameters=server).close()
    beside = node.open(read_only=True)
    beside.discard(B)
    assert len(milvus.attach(dim=256, encoder_id=B, parameters=server)) == 0
    node.keeper.discard(B)
    with pytest.raises(Damaged, match="none"):
        milvus.attach(dim=256, encoder_id=B, parameters=server)
    node.keeper.discard(A)
    assert node.agrees()
    for keeper in (beside, node.keeper):
        keeper.close()
    node.catalog.close()
