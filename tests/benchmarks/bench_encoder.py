"""Measure the encoder stage by stage against a matrix product on the same machine; never fails on time.

Run from the repository root: ``python tests/benchmarks/bench_encoder.py [bundle] [folder of one series]``. Without
a folder, a chest-sized volume of noise is embedded: time does not depend on what a volume shows.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from indexer.body import body_mask
from indexer.bundle import read_bundle
from indexer.device import native_dtype
from indexer.encoder import MonaiEncoder
from indexer.resample import resample
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume, load_volume, plan_series

SIDE = 4096


def chest() -> Volume:
    """Make 138 slices of 512 x 512: noise in an elliptic trunk, 2 x 0.78 x 0.78 mm."""
    rows, columns = np.indices((512, 512))
    trunk = ((rows - 256) / 160) ** 2 + ((columns - 256) / 220) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 300, (138, 512, 512))
    voxels = np.where(trunk, noise, -1000).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 0.78], [0, 0.78, 0], [2.0, 0, 0]])
    return Volume(voxels, affine, (SliceRef(SOPInstanceUID("2.25.1"), None),) * 138, "CT", "", ())


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest of some runs, in seconds."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def operations(encoder: MonaiEncoder, volume: Volume) -> int:
    """Floating-point operations of the convolutions and linear layers in one pass over a volume."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv3d):
            total += 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += 2 * output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in encoder._network.modules()]
    encoder.feature_map(volume)
    for hook in hooks:
        hook.remove()
    return total


def main() -> None:
    """Print the stages, the throughput and the memory."""
    bundle = read_bundle(sys.argv[1] if len(sys.argv) > 1 else "ct-astra")
    if len(sys.argv) > 2:
        volume = load_volume(plan_series(sorted(Path(sys.argv[2]).iterdir())).stacks[0])
    else:
        volume = chest()
    encoder = MonaiEncoder(bundle, "cpu")
    print(f"{bundle.name}, {native_dtype(torch.device('cpu'))}, {torch.get_num_threads()} threads")
    print(f"volume {volume.voxels.shape}, spacing {volume.spacing_mm.round(2)} mm")
    grid = resample(volume, bundle.input.spacing_mm)
    print(f"resample {seconds(lambda: resample(volume, bundle.input.spacing_mm)):.3f} s")
    print(f"body mask {seconds(lambda: body_mask(grid)):.3f} s")
    work = operations(encoder, volume)
    forward = min(encoder.encode(volume).seconds["encode"] for _ in range(3))
    square = torch.randn(SIDE, SIDE, dtype=native_dtype(torch.device("cpu")))
    product = seconds(lambda: square @ square, repeats=5)
    achieved, attainable = work / forward / 1e9, 2 * SIDE**3 / product / 1e9
    print(f"forward {forward:.3f} s: {work / 1e9:.0f} GFLOP at {achieved:.0f} GFLOP/s")
    print(f"a product of {SIDE} x {SIDE} matrices: {attainable:.0f} GFLOP/s; ratio {achieved / attainable:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB, of which the volume {volume.voxels.nbytes / 2**20:.0f}")


if __name__ == "__main__":
    main()
