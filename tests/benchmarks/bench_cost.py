"""Measure what embedding takes beside the network's bare forward pass: processor time on one core, by modality.

Run from the repository root: ``python tests/benchmarks/bench_cost.py [rounds] [folder]``. The folder holds a folder
of DICOM files for each series. The bare pass ends at the layer that is pooled and scores nothing; embedding is all
that comes between a volume in memory and its chunks' vectors. The least of the rounds counts, pass and embedding in
turn, with the threads of the node's worker. Takes about five minutes on an idle core; never fails on time.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from bench_encoder import SHARED, as_worker, forward_of, timed
from report import Line, tell

from indexer.bundle import Bundle, read_bundle
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.volume import Volume, load_volume, plan_series

WANTED = 0.10
WHY = (
    "resampling and finding the body take as long for a quick pass as for a slow one, and in MR the pass is the "
    "eighth part of CT's: there resampling oblique volumes and finding the body alone are more"
)
_NOTHING = dict.fromkeys(("regions", "findings", "levels", "heads"))


def bare(bundle: Bundle) -> Bundle:
    """The bundle without anything beside the pooled layer."""
    pooling = bundle.pooling.model_copy(update={"finer": ""})
    return bundle.model_copy(update={**_NOTHING, "modalities": {}, "pooling": pooling})


def volumes(folder: Path, modality: str) -> Iterator[tuple[str, Volume]]:
    """The first volume of each series of a modality."""
    for path in sorted(one for one in folder.iterdir() if one.is_dir()):
        try:
            volume = load_volume(plan_series(sorted(path.rglob("*.dcm"))).stacks[0])
        except (Parked, ValueError) as reason:
            print(f"left out: {path.name}: {reason}")
            continue
        if volume.modality == modality:
            yield path.name, volume


def cost(modality: str, bundle: Bundle, folder: Path, rounds: int) -> Line:
    """Embed all series of a modality in turn with their bare passes."""
    network, encoder = MonaiEncoder(bare(bundle), "cpu", threads=1), MonaiEncoder(bundle, "cpu", threads=1)
    passes, wholes = 0.0, 0.0
    for name, volume in volumes(folder, modality):
        forward = forward_of(network, volume)
        pairs = [
            (timed(forward).busy_s, timed(lambda volume=volume: encoder.encode(volume)).busy_s)
            for _ in range(rounds)
        ]
        least, whole = (min(column) for column in zip(*pairs, strict=True))
        print(
            f"{modality} {name}: pass {least:.2f} s, embedding beside it {whole / least - 1:.2f} of that",
            flush=True,
        )
        passes, wholes = passes + least, wholes + whole
    beside = wholes / passes - 1
    what = f"{modality}, {bundle.name}: processor time of embedding beside the bare forward pass ({passes:.1f} s)"
    return Line(
        what, f"at most {WANTED:.2f} of it", f"{beside:.3f}", beside <= WANTED, "" if beside <= WANTED else WHY
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else SHARED
    if not folder.is_dir():
        print(f"nothing to embed: {folder} is no folder")
        return
    torch.set_num_threads(1)
    bundle = read_bundle("ct-astra")
    of_modality = {"CT": bundle.model_copy(update={"modalities": {}}), **bundle.modalities}
    tell([cost(modality, of, folder, rounds) for modality, of in of_modality.items()])


if __name__ == "__main__":
    as_worker()
    main()
