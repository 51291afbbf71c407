"""From pooled features to embeddings: standardised per feature, then 256 directions of unit length."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError
from indexer.bundle import EMBEDDING_DIM

_CLIP = 5.0
"""Standard deviations; one runaway feature must not decide."""
_LEAST_EXTENT = 1e-4
"""Of a principal direction, relative to the first: float32 tells no less from rounding."""


@dataclass(frozen=True, eq=False)
class Projection:
    """What one modality's features are projected with.

    Attributes
    ----------
    mean, scale : (F,) float32
        Of each feature over a reference archive.
    matrix : (F, 256) float32
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed features (N, F) as unit vectors (N, 256)."""
        standard = np.clip((features - self.mean) / self.scale, -_CLIP, _CLIP)
        projected = standard @ self.matrix
        length = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.asarray(projected / np.maximum(length, 1e-12), dtype=np.float32)


def drawn(features: int, seed: int) -> Projection:
    """Make a projection without any reference: orthonormal directions drawn from a seed."""
    matrix = orthonormal(features, EMBEDDING_DIM, seed)
    return Projection(np.zeros(features, np.float32), np.ones(features, np.float32), matrix)


def orthonormal(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    """Draw a (rows, columns) matrix with orthonormal columns, or rows where there are fewer of them."""
    normal = np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns)))
    q, _ = np.linalg.qr(normal)
    return np.asarray(q if rows >= columns else q.T, dtype=np.float32)


def fitted(features: NDArray[np.float32], seed: int, changes: NDArray[np.float32] | None = None) -> Projection:
    """Fit a projection to a reference archive's features (N, F), labels unseen.

    Principal directions of the standardised features, as many as N allows, are kept unscaled: that keeps
    distances as they are. Directions along which the archive does not vary are left out, and so much of the 256
    dimensions stays empty. A rotation drawn from the seed spreads them, so that embeddings of two modalities,
    fitted apart with different seeds, are near orthogonal.

    Parameters
    ----------
    changes : (M, F) float32, optional
        By how much features of the same place differ between acquisitions. Directions along which they differ more
        than on the mean are shortened, as in within-class covariance normalisation [1]_.

    References
    ----------
    .. [1] Hatch, Kajarekar and Stolcke, Within-class covariance normalization for SVM-based speaker recognition,
       Interspeech 2006.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    standard = np.clip((features - mean) / scale, -_CLIP, _CLIP)
    shortened = _shortened(changes / scale) if changes is not None and len(changes) else None
    if shortened is not None:
        standard = standard @ shortened
    _, extents, rows = np.linalg.svd(standard, full_matrices=False)
    directions = rows[extents > _LEAST_EXTENT * extents[0]][:EMBEDDING_DIM].T
    directions = directions if shortened is None else shortened @ directions
    matrix = directions @ orthonormal(directions.shape[1], EMBEDDING_DIM, seed)
    return Projection(mean.astype(np.float32), scale.astype(np.float32), matrix.astype(np.float32))


def _shortened(changes: NDArray[np.float32]) -> NDArray[np.float32]:
    """A symmetric matrix (F, F) that shortens the directions in which changes (M, F) are great."""
    _, extents, rows = np.linalg.svd(np.clip(changes, -_CLIP, _CLIP), full_matrices=False)
    variance = extents**2 / len(changes)
    least = variance.sum() / changes.shape[1]
    kept = np.sqrt(least / (variance + least))
    identity = np.eye(changes.shape[1])
    return np.asarray(identity - rows.T @ ((1 - kept)[:, None] * rows), dtype=np.float32)


def save(path: Path, projections: Mapping[str, Projection]) -> None:
    """Write the projections of every modality to one file of float16 matrices."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for modality, one in projections.items():
        arrays |= {
            f"{modality}.mean": one.mean.astype(np.float32),
            f"{modality}.scale": one.scale.astype(np.float32),
            f"{modality}.matrix": one.matrix.astype(np.float16),
        }
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as file:  # numpy would append a suffix to a path that has none
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for `allow_pickle`
    unfinished.replace(path)


def load(path: Path, features: int) -> dict[str, Projection]:
    """Read what `save` wrote: modality to projection.

    Raises
    ------
    ConfigError
        The file is missing, or made for another number of features.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            modalities = sorted({name.split(".")[0] for name in arrays})
            found = {
                m: Projection(*(arrays[f"{m}.{part}"].astype(np.float32) for part in ("mean", "scale", "matrix")))
                for m in modalities
            }
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ConfigError([f"projection {path}: cannot be read: {error}"]) from error
    for modality, one in found.items():
        shapes = (one.mean.shape, one.scale.shape, one.matrix.shape)
        if shapes != ((features,), (features,), (features, EMBEDDING_DIM)):
            raise ConfigError(
                [f"projection {path}: {modality} is for {len(one.mean)} features, expected {features}: fit it anew"]
            )
        if not all(np.isfinite(part).all() for part in (one.mean, one.scale, one.matrix)) or one.scale.min() <= 0:
            raise ConfigError([f"projection {path}: {modality} holds values that are no projection"])
    return found
