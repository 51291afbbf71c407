"""The three kinds of index behind one way to make them, and vectors that look like embeddings."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.sealing import StoredFolder
from indexer.uids import EncoderId
from indexer.vectors import VectorIndex, factory, hnsw
from indexer.vectors.graph import GraphParameters
from indexer.vectors.milvus import MilvusParameters

ENCODER = EncoderId("encoder-under-test")
Vectors = Callable[..., NDArray[np.float32]]


@dataclass
class Kind:
    name: str
    folder: Path
    opened: list[VectorIndex] = field(default_factory=list)

    @property
    def parameters(self) -> factory.IndexParameters:
        return factory.IndexParameters(
            hnsw=GraphParameters(threads=2), milvus=MilvusParameters(uri=str(self.folder / "lite.db"))
        )

    def create(self, dim: int = 32, encoder_id: EncoderId = ENCODER) -> VectorIndex:
        index = factory.create(self.name, dim=dim, encoder_id=encoder_id, parameters=self.parameters)
        self.opened.append(index)
        return index

    def restore(
        self, folder: StoredFolder, dim: int = 32, encoder_id: EncoderId = ENCODER
    ) -> tuple[VectorIndex, int]:
        index, sequence = factory.restore(
            self.name, folder, dim=dim, encoder_id=encoder_id, parameters=self.parameters
        )
        self.opened.append(index)
        return index, sequence


def _kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "milvus":
        for package in ("pymilvus", "milvus_lite"):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed (extra `milvus`)")
    kind = Kind(request.param, tmp_path)
    yield kind
    for index in kind.opened:
        index.close()


@pytest.fixture(autouse=True)
def _graph_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the graph answer for as few vectors as tests have, where looking at all would be cheaper."""
    monkeypatch.setattr(hnsw, "_GRAPH_COST", 2)


@pytest.fixture(params=["exact", "hnsw", "milvus"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """Every kind in turn."""
    yield from _kind(request, tmp_path)


@pytest.fixture(params=["exact", "hnsw"])
def file_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """The kinds whose snapshot holds the vectors."""
    yield from _kind(request, tmp_path)


@pytest.fixture(params=["milvus"])
def milvus_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """Milvus alone."""
    yield from _kind(request, tmp_path)


@pytest.fixture
def vectors() -> Vectors:
    """Make clustered unit vectors: `vectors(n, dim=32, seed=0)`, the clusters the same for every seed."""

    def make(n: int, dim: int = 32, seed: int = 0) -> NDArray[np.float32]:
        centres = np.random.default_rng(99).standard_normal((40, dim))
        generator = np.random.default_rng(seed)
        raw = centres[generator.integers(0, 40, n)] + 0.7 * generator.standard_normal((n, dim))
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    return make
