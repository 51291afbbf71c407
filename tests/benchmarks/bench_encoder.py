"""Measure embedding against the encoder's bare forward pass, and that against a product of matrices, in turn.

Run from the repository root: ``python tests/benchmarks/bench_encoder.py [rounds] [folder] [series…]``. The folder
holds a folder of DICOM files for each series; without it, and where the shared one is missing, a chest of noise is
made: time does not depend on what a volume shows. Takes about three minutes on two idle cores; never fails on time.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from report import Line, tell
from torch.utils.flop_counter import FlopCounterMode

from config.load import load_settings
from dicom_scp.reception import Receiver
from indexer.bundle import read_bundle
from indexer.catalog import Catalog
from indexer.encoder import MonaiEncoder
from indexer.pipeline import Pipeline, embed_series
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume, load_volume, plan_series
from node.storage import open_spool

SIDE = 4096
SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
SINGLE = ("ct-chest-lidc0314", "ct-abdomen-kits072", "ct-chest-acrin013", "mr-breast-uta4p1")
STREAM = ("ct-chest-rider0109", "ct-abdomen-acrin001", "ct-abdomen-kits072", "ct-chest-lidc0314", "ct-chest-rad2")
WANTED_WALL, WANTED_BUSY = 1.15, 0.9
WALL_WHY = (
    "on two cores the forward pass uses both, so all other work adds its processor time; chest of 138 slices, one "
    "thread: forward 4.6 s, JPEG-LS by CharLS 0.95 s (7 ms a slice), headers 0.19 s, parsing again 0.25 s, "
    "resampling to regions 0.57 s. Tried: reading ahead; headers, pooling, NumPy's threads made cheaper. "
    "JPEG 2000 by OpenJPEG takes 23 ms a slice"
)
PRODUCT_WHY = (
    "a pass is many short steps that wait for the slower core: what runs beside it costs it more than the product"
)


def as_worker() -> None:
    """Start this program anew, if need be, with one thread of NumPy's, as the node's worker has: read only once."""
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})


@dataclass(frozen=True)
class Timed:
    """Seconds on the clock, and of processors."""

    wall_s: float
    busy_s: float


def timed(work: Callable[[], object]) -> Timed:
    """Time some work of this process."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return Timed(time.perf_counter() - wall, time.process_time() - busy)


def chest() -> Volume:
    """Make 138 slices of 512 x 512: noise in an elliptic trunk, 2 x 0.78 x 0.78 mm."""
    rows, columns = np.indices((512, 512))
    trunk = ((rows - 256) / 160) ** 2 + ((columns - 256) / 220) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 300, (138, 512, 512))
    voxels = np.where(trunk, noise, -1000).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 0.78], [0, 0.78, 0], [2.0, 0, 0]])
    return Volume(voxels, affine, (SliceRef(SOPInstanceUID("2.25.1"), None),) * 138, "CT", "", ())


def forward_of(encoder: MonaiEncoder, volume: Volume) -> Callable[[], object]:
    """Give the bare forward pass over a volume, its image prepared beforehand."""
    own = encoder._others.get(volume.modality, encoder)
    given = []
    run, own._features = own._features, lambda *of: given.append(of) or run(*of)  # type: ignore[func-returns-value, method-assign]
    own.feature_map(volume)
    own._features = run  # type: ignore[method-assign]
    return lambda: run(*given[0])


def throughput(encoder: MonaiEncoder, volume: Volume, rounds: int) -> Line:
    """Compare the operations a second of the forward pass with those of a product, in turn."""
    forward = forward_of(encoder, volume)
    with FlopCounterMode(display=False) as counter:
        forward()
    work = counter.get_total_flops()
    square = torch.randn(SIDE, SIDE).to(encoder.device.dtype)
    pairs = [(timed(forward).wall_s, timed(lambda: square @ square).wall_s) for _ in range(rounds + 2)]
    achieved, attainable = (min(one) for one in zip(*pairs, strict=True))
    ratio = statistics.median(work / passed / (2 * SIDE**3 / multiplied) for passed, multiplied in pairs)
    measured = (
        f"{work / achieved / 1e9:.0f} and {2 * SIDE**3 / attainable / 1e9:.0f} GFLOP/s, median ratio {ratio:.2f} "
        f"({encoder.device}, {torch.get_num_threads()} threads)"
    )
    what = f"forward pass ({work / 1e9:.0f} GFLOP) beside a product of {SIDE} x {SIDE} matrices"
    return Line(what, "at least 1", measured, ratio >= 1, PRODUCT_WHY)


def alone(encoder: MonaiEncoder, folder: Path, rounds: int) -> Line:
    """Compare one series from files to embeddings with the bare forward pass over its volumes."""
    files = sorted(folder.iterdir())
    passes = [forward_of(encoder, load_volume(stack)) for stack in plan_series(files).stacks]
    ratios, shares = [], []
    for _ in range(rounds):
        whole = timed(lambda: embed_series(files, encoder))
        bare = [timed(one) for one in passes]
        ratios.append(whole.wall_s / sum(one.wall_s for one in bare))
        shares.append(whole.busy_s / sum(one.busy_s for one in bare))
    return _ratio(f"{folder.name}, {len(files)} files, by itself: wall / forward pass", ratios, shares)


def _ratio(what: str, ratios: Sequence[float], shares: Sequence[float]) -> Line:
    ratio = statistics.median(ratios)
    busy = statistics.median(shares)
    measured = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}); processor time {busy:.2f} times"
    return Line(what, f"at most {WANTED_WALL}", measured, ratio <= WANTED_WALL, WALL_WHY)


def stream(encoder: MonaiEncoder, folders: Sequence[Path], rounds: int, work: Path) -> list[Line]:
    """Embed all series of an archive again, with and without reading ahead, beside the bare forward passes."""
    settings = load_settings(overrides={"data_dir": work})
    passes = []
    with Catalog(f"sqlite:///{work / 'catalog.sqlite'}") as catalog:
        receiver = Receiver(catalog, open_spool(settings, catalog), "keep-first")
        for folder in folders:
            files = sorted(folder.iterdir())
            passes += [forward_of(encoder, load_volume(stack)) for stack in plan_series(files).stacks]
            for file in files:
                receiver.take_file(file)
        catalog.progress.settle(0.0)
        found: dict[bool, list[Timed]] = {True: [], False: []}
        bare = []
        for _ in range(rounds):
            for ahead in found:
                work_off = partial(_work_off, catalog, encoder, settings.spool_dir, ahead)
                found[ahead].append(timed(work_off))
                catalog.progress.settle_again()
            each = [timed(one) for one in passes]
            bare.append(Timed(sum(one.wall_s for one in each), sum(one.busy_s for one in each)))
    lines = []
    for ahead, runs in found.items():
        name = f"stream of {len(folders)} series, {'next one read ahead' if ahead else 'one after the other'}"
        pairs = list(zip(runs, bare, strict=True))
        walls, shares = [a.wall_s / b.wall_s for a, b in pairs], [a.busy_s / b.busy_s for a, b in pairs]
        lines.append(_ratio(f"{name}: wall / forward passes", walls, shares))
    busy = statistics.median(one.busy_s / one.wall_s for one in found[True])
    cores = torch.get_num_threads()
    why = "other programs had the rest, or threads waited for each other: the load before it tells"
    enough = busy >= WANTED_BUSY * cores
    lines.append(
        Line("processors busy meanwhile", f"at least {WANTED_BUSY * cores:.1f}", f"{busy:.2f}", enough, why)
    )
    return lines


def _work_off(catalog: Catalog, encoder: MonaiEncoder, spool: Path, ahead: bool) -> None:
    pipeline = Pipeline(catalog, encoder, spool, "bench", lease_s=600.0, max_attempts=3, read_ahead=ahead)
    while pipeline.work_one() is not None:
        pass
    pipeline.close()


def main() -> None:
    """Tell the lines."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else SHARED
    single, several = (sys.argv[3:], sys.argv[3:]) if len(sys.argv) > 3 else (SINGLE, STREAM)
    encoder = MonaiEncoder(read_bundle("ct-astra"), "cpu")
    present = [folder / name for name in single if (folder / name).is_dir()]
    volume = load_volume(plan_series(sorted(present[0].iterdir())).stacks[0]) if present else chest()
    tell([throughput(encoder, volume, rounds)])
    loaded = _peak_mib()
    tell([alone(encoder, one, rounds) for one in present])
    if streamed := [folder / name for name in several if (folder / name).is_dir()]:
        with tempfile.TemporaryDirectory(prefix="bench-") as work:
            tell(stream(encoder, streamed, rounds, Path(work)))
    limit = load_settings().indexing.memory_limit_mib
    what = f"most memory of the process ({loaded} MiB after one forward pass)"
    tell([Line(what, f"at most {limit} MiB", f"{_peak_mib()} MiB", _peak_mib() <= limit)])


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    as_worker()
    main()
