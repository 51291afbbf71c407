"""Take the figures of hostile peers and of kills with large numbers; tests of the suite do it with small ones.

Run from the repository root: ``python tests/benchmarks/bench_hostile.py [associations] [kills]``.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = {
    "PACSIMILE_HOSTILE_ASSOCIATIONS": "tests/trust/test_hostile_peers.py",
    "PACSIMILE_KILLS": "tests/e2e/test_kill.py",
}


def main() -> None:
    """Run both, and print what they measure."""
    numbers = (sys.argv[1:] + ["10000", "100"][len(sys.argv) - 1 :])[:2]
    for (variable, test), number in zip(TESTS.items(), numbers, strict=True):
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-o", "timeout=0", test]
        subprocess.run(command, cwd=ROOT, env={**os.environ, variable: number}, check=True)


if __name__ == "__main__":
    main()
