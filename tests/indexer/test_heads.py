"""Heads in MR: laid on a mean head, told apart whatever their contrast, and not taken for what is none."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from torch.nn import functional

from config.errors import ConfigError
from indexer import heads
from indexer.body import body_mask
from indexer.bundle import read_bundle
from indexer.evaluate.changes import part
from indexer.heads import HeadFinder, HeadView, head_view
from indexer.laying import SHAPE, MeanHead, Pose
from indexer.places import HEAD_CODE_DIM, HEAD_DIM, with_heads
from indexer.resample import resample
from indexer.self_similarity import CHANNELS
from indexer.uids import SeriesInstanceUID
from indexer.volume import Volume, load_volume, plan_series

BUNDLE = read_bundle("mr-slices")
SEQUENCES = [f"mr-brain-vol-{name}" for name in ("adc", "flair", "t1sag", "t2star")]
OTHERS = ["mr-brain-colin27", "mr-brain-rad1", "mr-brain-rad2"]


def volume_of(folder: Path) -> Volume:
    return load_volume(plan_series(sorted(folder.glob("*.dcm"))).stacks[0])


def seen(volume: Volume) -> HeadView | None:
    grid = resample(volume, BUNDLE.input.spacing_mm)
    return head_view(grid, body_mask(grid))


def code_of(finder: HeadFinder, volume: Volume) -> np.ndarray | None:
    """The code that an embedding of the head's middle would carry, unit length; None where there is no head."""
    view = seen(volume)
    pose = finder.pose(view) if view is not None else None
    if view is None or pose is None:
        return None
    marked = finder.placed(np.eye(1, 256, dtype=np.float32), view, np.array([view.height_mm(pose)]))
    code = marked[0, -HEAD_DIM:-1]
    return np.asarray(code / np.linalg.norm(code))


def turned(volume: Volume, degrees: float, axis: int) -> Volume:
    """Turn the patient about one axis through the middle of the volume."""
    angle, (i, k) = math.radians(degrees), [n for n in range(3) if n != axis]
    turn = np.eye(4)
    turn[[i, k], [i, k]], turn[i, k], turn[k, i] = math.cos(angle), -math.sin(angle), math.sin(angle)
    middle = volume.affine_lps_mm @ np.append((np.array(volume.voxels.shape) - 1) / 2, 1.0)
    to_origin, back = np.eye(4), np.eye(4)
    to_origin[:3, 3], back[:3, 3] = -middle[:3], middle[:3]
    return replace(volume, affine_lps_mm=back @ turn @ to_origin @ volume.affine_lps_mm)


@pytest.fixture(scope="module")
def finder() -> HeadFinder:
    return HeadFinder(heads.load(BUNDLE.head_file()))


@pytest.fixture(scope="module")
def volumes(shared_dicom: Path) -> dict[str, Volume]:
    return {name: volume_of(shared_dicom / name) for name in [*SEQUENCES, *OTHERS]}


def test_a_moved_head_is_laid_where_it_belongs() -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=(1, CHANNELS, 7, 8, 10)).astype(np.float32))
    smooth = functional.interpolate(drawn, size=SHAPE, mode="trilinear", align_corners=True)[0]
    mean = MeanHead(smooth, torch.ones(SHAPE))
    turn = np.array([[1, 0, 0], [0, math.cos(0.2), -math.sin(0.2)], [0, math.sin(0.2), math.cos(0.2)]])
    middle = (np.array(SHAPE) - 1) / 2
    away = Pose(turn, middle + np.array([1.0, -1.5, 0.5]))
    channels, weights = mean.seen(torch.cat([smooth, torch.ones(1, *SHAPE)]), away)
    moved = torch.cat([channels * weights, weights[None]]).reshape(CHANNELS + 1, *SHAPE)

    found = mean.laid(moved, mean.coarser().laid(moved, Pose(np.eye(3), middle), 8), 8)

    assert found.turn == pytest.approx(turn.T, abs=0.02)
    assert found.middle == pytest.approx(middle - turn.T @ [1.0, -1.5, 0.5], abs=0.2)


def test_embeddings_carry_heads_beside_looks() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = np.random.default_rng(1).normal(size=(2, HEAD_CODE_DIM))
    marked = with_heads(vectors, one, np.array([True, True, False]))
    strange = with_heads(vectors, other, np.array([True, True, True]))

    assert np.linalg.norm(marked, axis=1) == pytest.approx(1, abs=1e-5)
    assert not marked[2, -HEAD_DIM:].any()
    assert float(marked[0] @ marked[1]) > float(marked[0] @ strange[0])  # the same head more than the same looks
    looks = with_heads(vectors, one, np.zeros(3, np.bool_))
    assert float(marked[0] @ marked[2]) == pytest.approx(math.sqrt(0.35) * float(looks[0] @ looks[2]), abs=1e-5)


def test_another_sequence_of_a_patient_comes_before_any_other_patient(
    shared_dicom: Path, volumes: dict[str, Volume]
) -> None:
    uids = [SeriesInstanceUID(plan_uid(shared_dicom / name)) for name in SEQUENCES]
    unknown = HeadFinder(heads.load(BUNDLE.head_file()).without(uids))  # the patient is not in the atlas
    codes = {name: code_of(unknown, volume) for name, volume in volumes.items()}

    for name in SEQUENCES:
        alike = {other: float(codes[name] @ codes[other]) for other in volumes if other != name}  # type: ignore[operator]
        best = max(alike, key=alike.__getitem__)
        assert best in SEQUENCES, (name, alike)


def plan_uid(folder: Path) -> str:
    return str(dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).SeriesInstanceUID)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [-10, 5])
def test_a_turned_head_is_the_same_head(
    finder: HeadFinder, volumes: dict[str, Volume], degrees: float, axis: int
) -> None:
    volume = volumes["mr-brain-rad2"]
    before, after = code_of(finder, volume), code_of(finder, turned(volume, degrees, axis))

    assert before is not None
    assert after is not None
    assert float(before @ after) > 0.6


def test_how_slices_are_stored_does_not_matter(finder: HeadFinder, volumes: dict[str, Volume]) -> None:
    volume = volumes["mr-brain-rad1"]
    affine = volume.affine_lps_mm.copy()
    affine[:3, :3] = affine[:3, [2, 0, 1]]
    sagittal = replace(volume, voxels=np.ascontiguousarray(volume.voxels.transpose(2, 0, 1)), affine_lps_mm=affine)

    assert float(code_of(finder, volume) @ code_of(finder, sagittal)) > 0.999  # type: ignore[operator]


@pytest.mark.parametrize(("first", "last"), [(0.0, 0.45), (0.8, 1.0)])
def test_too_little_of_a_head_is_none(
    finder: HeadFinder, volumes: dict[str, Volume], first: float, last: float
) -> None:
    assert code_of(finder, part(volumes["mr-brain-colin27"], first, last)) is None


@pytest.mark.parametrize("name", ["mr-abdomen-ts", "mr-breast-uta4p1", "mr-cspine-sct", "mr-prostate-3t-b"])
def test_other_parts_of_the_body_are_no_heads(finder: HeadFinder, shared_dicom: Path, name: str) -> None:
    assert code_of(finder, volume_of(shared_dicom / name)) is None


def test_a_damaged_atlas_is_refused(tmp_path: Path) -> None:
    atlas = heads.load(BUNDLE.head_file())
    heads.save(tmp_path / "cut.npz", replace(atlas, weights=atlas.weights[:, :5]))
    (tmp_path / "no.npz").write_bytes(b"PK")

    with pytest.raises(ConfigError, match="fit them anew"):
        heads.load(tmp_path / "cut.npz")
    with pytest.raises(ConfigError, match="cannot be read"):
        heads.load(tmp_path / "no.npz")
