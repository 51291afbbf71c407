"""Run the benchmarks and write one report: what is wanted, what was measured, and why where it falls short.

``make bench`` runs this and leaves ``docs/benchmarks.md``. A benchmark tells its lines with `tell`; run by
itself it only prints them. ``python tests/benchmarks/report.py NAME…`` runs the named ones (``receive`` for
``bench_receive.py``) and keeps the others' lines of the last report.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

COLLECT_IN = "PACSIMILE_BENCH_LINES"
PARTS = ("receive", "encryption", "encoder", "cost", "search", "scaling", "robustness")
"""What the report is made of; the other benchmarks print, and take longer."""
ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Line:
    """One figure of a benchmark.

    ``wanted`` is empty where nothing is demanded; ``met`` is None there. ``why`` names the reason of a line that
    falls short, and what was tried.
    """

    what: str
    wanted: str
    measured: str
    met: bool | None = None
    why: str = ""


def tell(lines: Iterable[Line]) -> None:
    """Print the lines, and hand them to the report that is being written, if one is."""
    table = Table("figure", "wanted", "measured", "", "reason")
    told = list(lines)
    for line in told:
        table.add_row(line.what, line.wanted, line.measured, _verdict(line), line.why)
    Console(width=180).print(table)
    if COLLECT_IN in os.environ:
        with Path(os.environ[COLLECT_IN]).open("a") as collected:
            collected.writelines(json.dumps(asdict(line)) + "\n" for line in told)


def _verdict(line: Line) -> str:
    if line.met is None:
        return ""
    return "met" if line.met else "falls short"


def run(name: str) -> list[str]:
    """Run one benchmark in a process of its own and return its section of the report."""
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "lines.jsonl"
        script = ROOT / "tests" / "benchmarks" / f"bench_{name}.py"
        code = subprocess.run([sys.executable, script], env={**os.environ, COLLECT_IN: str(collected)}).returncode
        rows = collected.read_text().splitlines() if collected.exists() else []
    lines = [Line(**json.loads(row)) for row in rows]
    section = [f"## {name}", "", f"Measured {datetime.now(UTC):%-d %B %Y} on {machine()}.", ""]
    if code:
        section += [f"The benchmark ended with code {code}; what it told before:", ""]
    section += ["| figure | wanted | measured | | reason |", "| --- | --- | --- | --- | --- |"]
    section += [f"| {x.what} | {x.wanted} | {x.measured} | {_verdict(x)} | {x.why} |" for x in lines]
    return [*section, ""]


def machine() -> str:
    """Say what this machine is, without its name."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [row.split(":", 1)[1].strip() for row in told.splitlines() if row.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    model = models[0] if models else platform.machine()
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {platform.system()} (load before it {load:.1f})"


def sections(text: str) -> dict[str, list[str]]:
    """Take a report apart into its sections, by name."""
    parts: dict[str, list[str]] = {}
    name = ""
    for row in text.splitlines():
        name = row.removeprefix("## ") if row.startswith("## ") else name
        if name:
            parts.setdefault(name, []).append(row)
    return parts


def main(names: Sequence[str]) -> None:
    """Run the named benchmarks, or all, and write the report."""
    told = sections(REPORT.read_text()) if REPORT.exists() else {}
    for name in names or PARTS:
        print(f"== {name}", flush=True)
        told[name] = run(name)
        head = [
            "# Benchmarks",
            "",
            "Written by `make bench`. Rates on a shared machine say little; ratios within one run say more.",
            "",
        ]
        rows = [row for part in PARTS if part in told for row in told[part]]
        REPORT.write_text("\n".join([*head, *rows]).rstrip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
