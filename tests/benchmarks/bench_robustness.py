"""Change every series of a folder as the real world does: does it still find its original and its neighbours?

Run from the repository root: ``python tests/benchmarks/bench_robustness.py [FOLDER] [bundle]``. The folder holds a
folder of DICOM files for each series. Prints, by change, the share of copies that find their original first and how
many of the five nearest series of other patients stay. Never fails.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.alignment import align_all
from indexer.bundle import read_bundle
from indexer.catalog.sequences import sequence_of
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.evaluate.changes import CHANGES
from indexer.headers import quiet, read_dataset, text
from indexer.volume import Volume, load_volume, plan_series

NEIGHBOURS = 5
SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"


@dataclass(frozen=True, eq=False)
class Series:
    """A series by its largest volume, and what its chunks are compared by (N, D)."""

    name: str
    patient: str
    volume: Volume
    looks: NDArray[np.float32]


def embedded(encoder: MonaiEncoder, volume: Volume) -> NDArray[np.float32]:
    chunks = encoder.encode(volume).chunks
    return sequence_of(range(len(chunks)), [0] * len(chunks), [chunk.embeddings for chunk in chunks]).looks


def read(folder: Path, encoder: MonaiEncoder) -> list[Series]:
    found = []
    for path in sorted(one for one in folder.iterdir() if one.is_dir()):
        files = sorted(file for file in path.rglob("*") if file.is_file())
        try:
            volumes = [load_volume(stack) for stack in plan_series(files).stacks]
            volume = max(volumes, key=lambda one: one.voxels.size)
            with quiet():
                header = read_dataset(files[0], with_pixels=False)
                patient = text(header, "PatientID") or text(header, "StudyInstanceUID")
            found.append(Series(path.name, patient, volume, embedded(encoder, volume)))
        except (Parked, ValueError) as reason:
            print(f"left out: {path.name}: {reason}")
    return found


def ranked(query: NDArray[np.float32], modality: str, gallery: Sequence[Series]) -> list[str]:
    """Names of the series of a modality, nearest first."""
    of_modality = [one for one in gallery if one.volume.modality == modality]
    scores = [one.score for one in align_all(query, [one.looks for one in of_modality])]
    return [of_modality[place].name for place in np.argsort(-np.asarray(scores), kind="stable")]


def neighbours(names: Sequence[str], own: Series, gallery: Sequence[Series]) -> set[str]:
    others = {one.name for one in gallery if one.patient != own.patient}
    return set([name for name in names if name in others][:NEIGHBOURS])


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    if not folder.is_dir():
        print(f"no series to change: {folder} is no folder")
        return
    encoder = MonaiEncoder(read_bundle(sys.argv[2] if len(sys.argv) > 2 else "ct-astra"))
    started = time.monotonic()
    gallery = read(folder, encoder)
    print(f"{len(gallery)} series in {time.monotonic() - started:.0f} s; encoder {encoder.encoder_id}\n")
    print(f"{'change':24}{'original first':>16}{'top 5 kept':>12}   which did not find their original first")
    firsts, overlaps = [], []
    for name, change in CHANGES.items():
        first, overlap, lost = [], [], []
        for own in gallery:
            modality = own.volume.modality
            names = ranked(embedded(encoder, change(own.volume)), modality, gallery)
            usual = neighbours(ranked(own.looks, modality, gallery), own, gallery)
            first.append(names[0] == own.name)
            overlap.append(len(usual & neighbours(names, own, gallery)) / max(len(usual), 1))
            lost += [] if first[-1] else [own.name]
        firsts += first
        overlaps += overlap
        print(f"{name:24}{np.mean(first):16.3f}{np.mean(overlap):12.3f}   {', '.join(lost)}", flush=True)
    print(f"{'all':24}{np.mean(firsts):16.3f}{np.mean(overlaps):12.3f}")


if __name__ == "__main__":
    main()
