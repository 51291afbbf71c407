"""Fewer dimensions for the graph of a large archive: half of the memory, candidates scored exactly afterwards.

A graph over all dimensions of a million embeddings of 256 takes 1.2 KB each, in memory. Over the 128 directions in
which the archive varies most it takes 0.7 KB; what the others say is missing from its inner products, so more
candidates than wanted are asked for, and every one of them is scored by its whole vector.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged
from indexer.sealing import StoredFolder

FILE = "reduction.npy"
DIRECTIONS = 128
LEAST_VECTORS = 50_000
"""Smaller archives keep all dimensions."""
SAMPLE = 8192
_DRIFT = 1.5


@dataclass(frozen=True, eq=False)
class Reduction:
    """The directions that a graph knows.

    Attributes
    ----------
    basis : (D, d) float32
        Orthonormal columns.
    lost : float
        Mean share of the squared length that lies in other directions, in the sample it was made of.
    """

    basis: NDArray[np.float32]
    lost: float

    def reduced(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (N, D) in the directions of the graph, (N, d)."""
        return np.asarray(vectors @ self.basis, dtype=np.float32)

    def fits(self, lost: float) -> bool:
        """Whether vectors that lose so much of their squared length are like those it was made of."""
        return lost <= _DRIFT * self.lost + 0.01

    def save(self, folder: StoredFolder) -> None:
        """Write `FILE`: the basis, and below it a row that begins with what is lost."""
        last = np.zeros((1, self.basis.shape[1]), dtype=np.float32)
        last[0, 0] = self.lost
        with (folder / FILE).open("wb") as file:
            np.save(file, np.vstack([self.basis, last]), allow_pickle=False)


def fitted(sample: NDArray[np.float32], directions: int = DIRECTIONS) -> Reduction | None:
    """Find the directions in which a sample (N, D) of unit vectors varies most; None where that spares nothing."""
    if sample.shape[1] <= directions or len(sample) < directions:
        return None
    whole = sample.astype(np.float64)
    values, vectors = np.linalg.eigh(whole.T @ whole / len(whole))
    kept = float(values[-directions:].sum() / values.sum())
    return Reduction(np.ascontiguousarray(vectors[:, -directions:][:, ::-1], dtype=np.float32), 1 - kept)


def load_reduction(folder: StoredFolder, dim: int, directions: int) -> Reduction:
    """Read what `Reduction.save` wrote.

    Raises
    ------
    indexer.errors.Damaged
        If it is not of this shape.
    """
    try:
        with (folder / FILE).open("rb") as file:
            stored = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Damaged(f"expected the directions of a graph, got an unreadable file: {error}") from error
    if stored.dtype != np.float32 or stored.shape != (dim + 1, directions):
        raise Damaged(f"expected directions as float32 {(dim + 1, directions)}, got {stored.dtype} {stored.shape}")
    return Reduction(np.ascontiguousarray(stored[:-1]), float(stored[-1, 0]))
