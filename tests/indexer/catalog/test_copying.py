"""A copy of the catalog is of one moment, and can be put back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.catalog import Catalog
from indexer.catalog.copying import copy_catalog, demand_empty, put_back
from indexer.errors import Refused, Transient


@pytest.fixture
def another_url(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A place of the same kind without a catalog."""
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'elsewhere' / 'catalog.sqlite'}"
    server: Any = request.getfixturevalue("postgresql")
    return str(server.new_database())


def test_there_and_back(url: str, another_url: str, tmp_path: Path, an_archive: Callable[..., Any]) -> None:
    with Catalog(url) as catalog:
        archive = an_archive(catalog)
        archive.indexed(instances := "2.25.11")
        archive.enter("2.25.5", "2.25.12")
        (tmp_path / "copy").mkdir()
        copy = copy_catalog(url, tmp_path / "copy")
        archive.enter("2.25.6", "2.25.12")  # after the moment
    demand_empty(another_url)
    put_back(copy.file, another_url)
    with Catalog(another_url) as catalog:
        assert {path for path, _, _ in catalog.receipts.files()} == copy.paths
        assert an_archive(catalog).state(instances)[0] == "INDEXED"
        assert catalog.lookup.instance_path("2.25.5") is not None
        assert catalog.lookup.instance_path("2.25.6") is None
        active = next(iter(catalog.embeddings.revisions([1], "encoder-a")), None)
        assert active is not None
    with pytest.raises(Refused):
        demand_empty(another_url)


def test_another_kind_of_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    (tmp_path / "catalog.pgdump").touch()
    with pytest.raises(Refused, match="kind of database"):
        put_back(tmp_path / "catalog.pgdump", url)


def test_never_onto_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    with Catalog(url), pytest.raises(Refused, match="another folder"):
        copy_catalog(url, tmp_path)
    assert (tmp_path / "catalog.sqlite").exists()


def test_no_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    with Catalog(url), pytest.raises(Transient):
        copy_catalog(url, tmp_path / "nowhere")
