"""A disk that can be full or lose its power: what tests of durability share."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def disk_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Library that stands between a process and its disk (`disk.c` says how)."""
    if (compiler := shutil.which("gcc")) is None:
        pytest.skip("gcc is not installed")
    library = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=120)
    return library
