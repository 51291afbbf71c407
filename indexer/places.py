"""Places along the body as embeddings carry them, and what people call them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

PLACE_DIM, DOME_DIM = 32, 16
"""Dimensions that say the place along the body, and how far from the right dome of the diaphragm a chunk lies."""
CODE_DIM = PLACE_DIM + DOME_DIM
"""Dimensions of an embedding, its last, that say both."""
PLACE_WEIGHT, DOME_WEIGHT = 0.4, 0.22
"""Of the cosine."""
HEAD_CODE_DIM = 127
"""Dimensions of an embedding of MR that say whose head it shows; the last one of all says that it is a head."""
HEAD_DIM = HEAD_CODE_DIM + 1
HEAD_CODE_WEIGHT, HEAD_WEIGHT = 0.55, 0.1
"""Of the cosine of two chunks of heads."""
NAMES = (
    (130.0, "pelvis"),
    (245.0, "mid abdomen"),
    (340.0, "upper abdomen"),
    (410.0, "mid thorax"),
    (467.0, "upper thorax"),
    (520.0, "thoracic inlet"),
    (640.0, "neck"),
    (np.inf, "head"),
)
"""Upper ends of the levels on the axis of the atlas (`indexer.levels.LANDMARKS_MM`), and their names."""

_CENTRES_MM = np.linspace(-210.0, 1030.0, PLACE_DIM)
_SIGMA_MM = 60.0
_DOME_CENTRES_MM = np.linspace(-105.0, 105.0, DOME_DIM - 1)
_DOME_SIGMA_MM = 24.0
_DOME_REACH_MM = 50.0
"""Beyond it, chunks are far from the dome, and all alike in that."""
_TOLERANCE = 0.02
"""Embeddings are kept as float16."""


def with_places(vectors: Rows, places_mm: Floats, above_dome_mm: Floats) -> Rows:
    """Put places (N,) and heights above the dome (N,) into the last `CODE_DIM` dimensions of unit vectors (N, 256).

    The directions of a projection are turned at random: what looks say is spread evenly over the dimensions, and
    those that are left say nearly the same.

    Parameters
    ----------
    above_dome_mm : (N,) float64
        Not a number where there is no dome.
    """
    looks = _unit(vectors[:, :-CODE_DIM])
    place = _unit(_bells(places_mm, _CENTRES_MM, _SIGMA_MM))
    weights = np.sqrt([1 - PLACE_WEIGHT - DOME_WEIGHT, PLACE_WEIGHT, DOME_WEIGHT])
    both = [part * weight for part, weight in zip((looks, place, _of_dome(above_dome_mm)), weights, strict=True)]
    return np.concatenate(both, axis=1).astype(np.float32)


def with_heads(vectors: Rows, code: Floats, shows: NDArray[np.bool_]) -> Rows:
    """Put what sets a head apart (127,) into the last `HEAD_DIM` dimensions of unit vectors (N, 256) that show it.

    Others have zeros there, and are compared by what they look like alone.
    """
    weights = np.sqrt([1 - HEAD_CODE_WEIGHT - HEAD_WEIGHT, HEAD_CODE_WEIGHT, HEAD_WEIGHT])
    looks, shown = _unit(vectors[:, :-HEAD_DIM]), shows[:, None]
    said = np.append(weights[1] * _unit(code[None]), weights[2])
    return np.hstack([np.where(shown, weights[0], 1.0) * looks, shown * said]).astype(np.float32)


def place_of(vector: Rows) -> float | None:
    """The place that an embedding says, mm on the axis of the atlas; None where it says none."""
    code = vector[-CODE_DIM:-DOME_DIM].astype(np.float64)
    weight = float(code @ code)
    if abs(weight - PLACE_WEIGHT) > _TOLERANCE or code.min() < -_TOLERANCE:
        return None
    return float(code**2 @ _CENTRES_MM / weight)


def looks_of(vectors: Rows) -> Rows:
    """Embeddings (N, 256) without the places that they say, of unit length; as they are where they say none."""
    if not len(vectors) or place_of(vectors[0]) is None:
        return vectors
    return np.asarray(_unit(vectors[:, :-CODE_DIM]))


def cosines_without_places(query: Rows, found: Rows) -> Rows:
    """Cosines (S, N) of the looks of a query's embeddings (N, 256) and of each of S times as many (S, N, 256).

    Unit vectors; the places that some of them say count for nothing; see `looks_of`.
    """
    own_length, own_says = _length_of_looks(query)
    length, says = _length_of_looks(found)
    looks = np.einsum("nd,snd->sn", query[:, :-CODE_DIM], found[:, :, :-CODE_DIM])
    rest = np.einsum("nd,snd->sn", query[:, -CODE_DIM:], found[:, :, -CODE_DIM:])
    return np.asarray((looks + np.where(says | own_says, 0, rest)) / (own_length * length), dtype=np.float32)


def _length_of_looks(vectors: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """How long the looks of unit vectors (…, 256) are, and which of these say a place: others are looks only."""
    code = vectors[..., -CODE_DIM:-DOME_DIM]
    weight = np.einsum("...d,...d->...", code, code)
    says = (np.abs(weight - PLACE_WEIGHT) <= _TOLERANCE) & (code.min(axis=-1) >= -_TOLERANCE)
    looks = vectors[..., :-CODE_DIM]
    length = np.sqrt(np.einsum("...d,...d->...", looks, looks))
    return np.where(says, np.maximum(length, 1e-9), 1).astype(np.float32), says


def level_of(vector: Rows) -> str:
    """What people call the place that an embedding says ("upper abdomen"); empty where it says none."""
    place = place_of(vector)
    return "" if place is None else next(name for end, name in NAMES if place < end)


def _of_dome(above_mm: Floats) -> Floats:
    """Unit vectors (N, 16): bells of heights near the dome, and in the last dimension how far away it is."""
    far_away = 10 * _DOME_CENTRES_MM[-1]
    above = np.clip(np.nan_to_num(above_mm, nan=far_away), -far_away, far_away)
    near = np.exp(-0.5 * (above[:, None] / _DOME_REACH_MM) ** 2)
    bells = _unit(_bells(above, _DOME_CENTRES_MM, _DOME_SIGMA_MM))
    return np.hstack([near * bells, np.sqrt(1 - near**2)])


def _bells(at_mm: Floats, centres_mm: Floats, sigma_mm: float) -> Floats:
    return np.asarray(np.exp(-0.5 * ((at_mm[:, None] - centres_mm) / sigma_mm) ** 2))


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
