"""The fuzzer that is guided by coverage, for a moment; `make fuzz` lets it look for long."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDED = Path(__file__).with_name("guided.py")
SECONDS = int(os.environ.get("PACSIMILE_FUZZ_S", "1"))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="the extra `fuzz` is not installed")
@pytest.mark.parametrize("target", ["identifiers", "pdus", "datasets", "volumes"])
def test_nothing_but_what_is_promised_is_raised(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(GUIDED), target, f"-max_total_time={SECONDS}", "-rss_limit_mb=4096"],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS + 600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 0
    assert not list(tmp_path.iterdir()), done.stderr[-3000:]
