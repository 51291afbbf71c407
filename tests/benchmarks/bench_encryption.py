"""Measure C-STORE into a node that encrypts beside one that does not, in turn; never fails on time.

Run from the repository root: ``python tests/benchmarks/bench_encryption.py [instances] [rounds]``.
"""

import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from bench_receive import free_port, rate, running, write_series
from report import Line, tell

NODE = """
import sys, threading
from config.load import load_settings
from dicom_scp.server import DicomServer
from node.storage import open_catalog, open_spool

data_dir, port, key_file = sys.argv[1:]
values = {"data_dir": data_dir, "dicom.port": int(port), "storage.encryption_key_file": key_file}
settings = load_settings(overrides=values)
catalog = open_catalog(settings)
DicomServer(settings, catalog, open_spool(settings, catalog), None).start()
threading.Event().wait()
"""


def main() -> None:
    """Print the median rates and their ratio, one association."""
    instances, rounds = (int(one) for one in (sys.argv[1:] + ["200", "3"][len(sys.argv) - 1 :]))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="encryption-") as name, ExitStack() as servers:
        work = Path(name)
        key = work / "key"
        key.write_text("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
        ports = {"plain": free_port(), "encrypted": free_port()}
        for target, port in ports.items():
            key_file = str(key) if target == "encrypted" else ""
            servers.enter_context(
                running(port, [sys.executable, "-c", NODE, str(work / target), str(port), key_file])
            )
        rates: dict[str, list[float]] = {target: [] for target in ports}
        for number in range(rounds):
            folder = work / str(number)
            write_series(folder, instances, rng)
            for target, port in ports.items():
                rates[target].append(rate(port, "PACSIMILE", [folder], instances))
            shutil.rmtree(folder)
    ratios = [sealed / plain for sealed, plain in zip(rates["encrypted"], rates["plain"], strict=True)]
    found = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    absolute = ", ".join(f"{target} {statistics.median(told):.0f}/s" for target, told in rates.items())
    tell([Line("encrypted at rest / plain, one association", "", f"{found}; {absolute}")])


if __name__ == "__main__":
    main()
