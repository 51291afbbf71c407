"""Change series of a folder as the real world does: do they still find their originals and their neighbours?

Run from the repository root: ``python tests/benchmarks/bench_robustness.py [FOLDER] [--bundle NAME] [--each N]``.
The folder holds a folder of DICOM files for each series. Every series is embedded once, and changed copies of the N
of each modality that have the fewest voxels (0: of all; 13 changes of 28 series take about half an hour on two
cores); they are looked for among all. Never fails.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import Line, tell

from indexer.alignment import align_all
from indexer.bundle import read_bundle
from indexer.catalog.sequences import sequence_of
from indexer.encoder import MonaiEncoder
from indexer.errors import Parked
from indexer.evaluate.changes import CHANGES
from indexer.headers import quiet, read_dataset, text
from indexer.volume import Volume, load_volume, plan_series

NEIGHBOURS = 5
WANTED_FIRST, WANTED_OVERLAP = 0.99, 0.8
EACH = 5
"""Changed series of a modality: a few minutes on two idle cores."""
SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
WHY = "halves of a scan show other neighbours than all of it; a soft tissue window keeps nothing of lung and bone"


@dataclass(frozen=True, eq=False)
class Series:
    """A series by its largest volume, and what its chunks are compared by (N, D)."""

    name: str
    patient: str
    volume: Volume
    looks: NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What one changed copy finds: its original first, and so much of its original's neighbours."""

    name: str
    first: bool
    overlap: float


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


def fewest_voxels(gallery: Sequence[Series], each: int) -> list[Series]:
    """So many series of each modality, or all."""
    ordered = sorted(gallery, key=lambda one: one.volume.voxels.size)
    of_modality = [[one for one in ordered if one.volume.modality == modality] for modality in ("CT", "MR")]
    return [one for of in of_modality for one in (of[:each] if each else of)]


def ranked(query: NDArray[np.float32], modality: str, gallery: Sequence[Series]) -> list[str]:
    """Names of the series of a modality, nearest first."""
    of_modality = [one for one in gallery if one.volume.modality == modality]
    scores = [one.score for one in align_all(query, [one.looks for one in of_modality])]
    return [of_modality[place].name for place in np.argsort(-np.asarray(scores), kind="stable")]


def neighbours(names: Sequence[str], own: Series, gallery: Sequence[Series]) -> set[str]:
    others = {one.name for one in gallery if one.patient != own.patient}
    return set([name for name in names if name in others][:NEIGHBOURS])


def found_by(encoder: MonaiEncoder, own: Series, changed: Volume, gallery: Sequence[Series]) -> Found:
    """Look for a changed copy; one that cannot be embedded finds nothing."""
    modality = own.volume.modality
    usual = neighbours(ranked(own.looks, modality, gallery), own, gallery)
    try:
        names = ranked(embedded(encoder, changed), modality, gallery)
    except Parked as reason:
        print(f"{own.name}: {reason}")
        return Found(own.name, False, 0.0)
    kept = len(usual & neighbours(names, own, gallery)) / max(len(usual), 1)
    return Found(own.name, names[0] == own.name, kept)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--bundle", default="ct-astra")
    parser.add_argument("--each", type=int, default=EACH)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if not given.folder.is_dir():
        print(f"no series to change: {given.folder} is no folder")
        return
    encoder = MonaiEncoder(read_bundle(given.bundle))
    started = time.monotonic()
    gallery = read(given.folder, encoder)
    chosen = fewest_voxels(gallery, given.each)
    print(f"{len(gallery)} series in {time.monotonic() - started:.0f} s; encoder {encoder.encoder_id}")
    lines, everything = [], []
    for name, change in CHANGES.items():
        found = [found_by(encoder, own, change(own.volume), gallery) for own in chosen]
        everything += found
        lost = ", ".join(one.name for one in found if not one.first)
        lines.append(Line(f"{name}{f' (not first: {lost})' if lost else ''}", "", _measured(found)))
        print(f"{name:24}{_measured(found)}   {lost}", flush=True)
    first, overlap = (float(np.mean([getattr(one, of) for one in everything])) for of in ("first", "overlap"))
    of = f"{len(CHANGES)} changes of {len(chosen)} series among {len(gallery)}"
    tell(
        [
            Line(f"original first, {of}", f"≥ {WANTED_FIRST}", f"{first:.3f}", *_judged(first >= WANTED_FIRST)),
            Line(
                f"of the five nearest of other patients kept, {of}",
                f"≥ {WANTED_OVERLAP}",
                f"{overlap:.3f}",
                *_judged(overlap >= WANTED_OVERLAP),
            ),
            *lines,
        ]
    )


def _measured(found: Sequence[Found]) -> str:
    return f"{np.mean([one.first for one in found]):.3f} first, {np.mean([one.overlap for one in found]):.3f} kept"


def _judged(met: bool) -> tuple[bool, str]:
    return met, "" if met else WHY


if __name__ == "__main__":
    main()
