"""Kinds by name, and what may be imported without what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from config.errors import ConfigError
from indexer.uids import EncoderId
from indexer.vectors import factory

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize("use", [factory.create, lambda kind, **given: factory.restore(kind, Path(), **given)])
def test_unknown_or_unconfigured_kinds_are_settings_errors(use: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match="hnsw, exact, milvus"):
        use("faiss", dim=4, encoder_id=EncoderId("e"))
    with pytest.raises(ConfigError, match="URI"):
        use("milvus", dim=4, encoder_id=EncoderId("e"))


def test_the_contract_reaches_no_index_library() -> None:
    code = "import sys, indexer.vectors; print(sorted({'hnswlib', 'pymilvus', 'torch'} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nobody_waits_for_pymilvus_who_does_not_use_it() -> None:
    code = "import sys, indexer.keeper; print(sorted({'grpc', 'pandas', 'pymilvus'} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_pymilvus_the_other_kinds_work_and_milvus_says_what_to_install(tmp_path: Path) -> None:
    code = """if True:
        import sys
        sys.modules["pymilvus"] = None
        from indexer.vectors import factory
        print(type(factory.create("hnsw", dim=4, encoder_id="e")).__name__)
        given = factory.IndexParameters(milvus=factory.MilvusParameters(uri="x.db"))
        try:
            factory.create("milvus", dim=4, encoder_id="e", parameters=given)
        except factory.ConfigError as error:
            print(error)
    """
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "HnswIndex"
    assert "pacsimile[milvus]" in done.stdout
