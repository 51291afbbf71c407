"""Places along the body as embeddings carry them, and what people call them."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

CODE_DIM = 32
"""Dimensions of an embedding, its last, that say the place."""
CODE_WEIGHT = 0.5
"""Of the cosine."""
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

_CENTRES_MM = np.linspace(-210.0, 1030.0, CODE_DIM)
_SIGMA_MM = 60.0
_TOLERANCE = 0.02
"""Embeddings are kept as float16."""


def with_places(vectors: Rows, places_mm: Floats) -> Rows:
    """Put places (N,) into the last `CODE_DIM` dimensions of unit vectors (N, 256), for half of the cosine.

    The directions of a projection are turned at random: what looks say is spread evenly over the dimensions, and
    those that are left say nearly the same.
    """
    looks = vectors[:, :-CODE_DIM]
    looks = looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-9)
    code = np.exp(-0.5 * ((places_mm[:, None] - _CENTRES_MM) / _SIGMA_MM) ** 2)
    code /= np.maximum(np.linalg.norm(code, axis=1, keepdims=True), 1e-9)
    both = [np.sqrt(1 - CODE_WEIGHT) * looks, np.sqrt(CODE_WEIGHT) * code]
    return np.concatenate(both, axis=1).astype(np.float32)


def place_of(vector: Rows) -> float | None:
    """The place that an embedding says, mm on the axis of the atlas; None where it says none."""
    code = vector[-CODE_DIM:].astype(np.float64)
    weight = float(code @ code)
    if abs(weight - CODE_WEIGHT) > _TOLERANCE or code.min() < -_TOLERANCE:
        return None
    return float(code**2 @ _CENTRES_MM / weight)


def looks_of(vectors: Rows) -> Rows:
    """Embeddings (N, 256) without the places that they say, of unit length; as they are where they say none."""
    if not len(vectors) or place_of(vectors[0]) is None:
        return vectors
    looks = vectors[:, :-CODE_DIM]
    return np.asarray(looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-9))


def without_places(vectors: Rows) -> Rows:
    """Embeddings (N, 256) of unit length in which the places that some of them say are zero; see `looks_of`."""
    code = vectors[:, -CODE_DIM:]
    weight = np.einsum("nd,nd->n", code, code)
    says = (np.abs(weight - CODE_WEIGHT) <= _TOLERANCE) & (code.min(axis=1) >= -_TOLERANCE)
    looks = vectors.copy()
    looks[says, -CODE_DIM:] = 0
    looks[says] /= np.sqrt(np.maximum(1 - weight[says], 1e-9))[:, None]
    return looks


def level_of(vector: Rows) -> str:
    """What people call the place that an embedding says ("upper abdomen"); empty where it says none."""
    place = place_of(vector)
    return "" if place is None else next(name for end, name in NAMES if place < end)
