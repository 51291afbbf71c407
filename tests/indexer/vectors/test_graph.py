"""What hnswlib does, fact by fact; where one of these changes, `indexer.vectors.graph` can change too."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hnswlib
import numpy as np
import pytest

from indexer.errors import Damaged, Transient
from indexer.vectors.graph import FILE, Graph, GraphParameters, load_graph

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Vectors


PARAMETERS = GraphParameters(ef=40)


@pytest.fixture
def graph(vectors: Vectors) -> Graph:
    made = Graph(32, PARAMETERS, capacity=500)
    made.add(np.arange(500), vectors(500))
    return made


def test_ef_is_not_saved_and_is_set_after_loading(graph: Graph, vectors: Vectors, tmp_path: Path) -> None:
    graph.save(tmp_path)
    bare = hnswlib.Index("ip", 32)
    bare.load_index(str(tmp_path / FILE))
    assert bare.ef != 40
    assert load_graph(tmp_path, 32, PARAMETERS)._index.ef == 40


def test_a_flipped_byte_and_a_wrong_dim_load_silently(graph: Graph, vectors: Vectors, tmp_path: Path) -> None:
    graph.save(tmp_path)
    sound = (tmp_path / FILE).read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 255
    (tmp_path / FILE).write_bytes(flipped)
    bare = hnswlib.Index("ip", 32)
    bare.load_index(str(tmp_path / FILE))
    (tmp_path / FILE).write_bytes(sound)
    hnswlib.Index("ip", 16).load_index(str(tmp_path / FILE))


def test_more_than_there_is_raises_in_the_library_only(graph: Graph, vectors: Vectors) -> None:
    with pytest.raises(RuntimeError, match="contiguous"):
        graph._index.knn_query(vectors(1), k=501)
    assert graph.search(vectors(1), 501) is None


def test_a_deleted_row_is_not_answered_and_keeps_its_place(graph: Graph, vectors: Vectors) -> None:
    graph.delete(np.arange(250))
    rows, _ = graph.search(vectors(20), 10)
    assert (rows >= 250).all()
    assert graph.search(vectors(1), 251) is None
    assert len(graph.rows()) == 500


def test_adding_beyond_the_capacity_is_refused_until_room_is_reserved(graph: Graph, vectors: Vectors) -> None:
    with pytest.raises(Transient, match="linked"):
        graph.add(np.arange(500, 510), vectors(10, seed=1))
    graph.reserve(510)
    assert graph.capacity == 1000
    graph.add(np.arange(500, 510), vectors(10, seed=1))
    assert graph.search(vectors(10, seed=1), 1)[0][:, 0].tolist() == list(range(500, 510))


def test_a_disk_that_takes_a_part_only_is_an_error(graph: Graph, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        graph._index.save_index(str(tmp_path / "silent"))
        with pytest.raises(OSError, match="bytes"):
            graph.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / FILE).stat().st_size <= 20_000


_POOR = """if True:
    import resource
    import numpy as np
    from indexer.errors import Transient
    from indexer.vectors.graph import Graph, GraphParameters
    vectors = np.eye(32, dtype=np.float32)
    graph = Graph(32, GraphParameters(), capacity=32)
    graph.add(np.arange(32), vectors)
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, -1))
    try:
        graph.reserve(2**22)
    except Transient as error:
        print(error)
    print(graph.capacity, graph.search(vectors[:3], 1)[0][:, 0].tolist())
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the limit is set by what Linux tells of the process"
)
def test_a_resize_without_memory_is_transient_and_changes_nothing() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", _POOR], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["no memory for a graph of 4194304 vectors", "32 [0, 1, 2]"]


def test_more_rows_than_the_library_can_count_are_refused(graph: Graph, vectors: Vectors) -> None:
    with pytest.raises(ValueError, match="at most"):
        graph.reserve(2**31)
    assert graph.search(vectors(500)[:3], 1)[0][:, 0].tolist() == [0, 1, 2]


def test_what_is_no_graph_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a graph at all" * 10)
    with pytest.raises(Damaged, match="graph"):
        load_graph(tmp_path, 32, PARAMETERS)


def test_a_search_that_strays_looks_again_wider() -> None:
    """Clusters that were linked one after the other, with few links: every vector asked is there itself."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[np.sort(rng.integers(0, 40, 12000))] + 0.05 * rng.normal(size=(12000, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    graph = Graph(32, GraphParameters(m=4, ef_construction=16, ef=16, threads=1), capacity=12000)
    graph.add(np.arange(12000), rows)
    asked = rows[::37]

    bare, found = graph._nearest(asked, 16), graph.search(asked, 16)

    assert bare is not None
    assert found is not None
    assert found[0].shape == found[1].shape == (len(asked), 16)
    strayed, lost = ((one[1][:, 0] < 0.75).sum() for one in (bare, found))
    assert lost <= strayed / 2 < strayed
