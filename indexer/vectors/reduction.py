"""Fewer dimensions for the graph of a large archive: half of the memory, candidates scored exactly afterwards.

A graph over all dimensions of a million embeddings of 256 takes 1.3 KB each, in memory. Over 112 it takes 0.7 KB:
the 111 directions in which the archive varies most, and the length of all that is left. What the other directions
say is missing from its inner products, so more candidates than wanted are asked for, and every one of them is
scored by its whole vector.

The length of what is left makes all vectors of the graph unit vectors, so that it is built by a metric: without it,
vectors that lie less in the chosen directions are near to few others by inner product. In queries it is zero:
similarities stay those of the directions (Bachrach et al., RecSys 2014).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.errors import Damaged
from indexer.sealing import StoredFolder

FILE = "reduction.npy"
DIRECTIONS = 111
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
    has_rest : bool
        Whether the length of what lies in other directions is known to the graph, as one dimension more.
    """

    basis: NDArray[np.float32]
    lost: float
    has_rest: bool = True

    @property
    def dim(self) -> int:
        """Dimensions of the graph."""
        return int(self.basis.shape[1]) + self.has_rest

    def asked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries (Q, D) as the graph is asked, (Q, dim)."""
        return self._with_rest(queries @ self.basis, 0.0)

    def known(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Unit vectors (N, D) as the graph knows them, (N, dim), and the sum of their squared lengths elsewhere."""
        inside = vectors @ self.basis
        rest = np.maximum(1 - np.einsum("nd,nd->n", inside, inside, dtype=np.float64), 0)
        return self._with_rest(inside, np.sqrt(rest)), float(rest.sum())

    def _with_rest(self, inside: NDArray[np.float32], rest: NDArray[np.float64] | float) -> NDArray[np.float32]:
        if not self.has_rest:
            return np.asarray(inside, dtype=np.float32)
        whole = np.empty((len(inside), self.dim), dtype=np.float32)
        whole[:, :-1], whole[:, -1] = inside, rest
        return whole

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
    if sample.shape[1] <= directions + 1 or len(sample) < directions:
        return None
    whole = sample.astype(np.float64)
    values, vectors = np.linalg.eigh(whole.T @ whole / len(whole))
    kept = float(values[-directions:].sum() / values.sum())
    return Reduction(np.ascontiguousarray(vectors[:, -directions:][:, ::-1], dtype=np.float32), 1 - kept)


def load_reduction(folder: StoredFolder, dim: int, known: int) -> Reduction:
    """Read what `Reduction.save` wrote, for a graph of `known` dimensions: of earlier versions all are directions.

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
    is_described = stored.ndim == 2 and stored.shape[0] == dim + 1 and stored.shape[1] in (known, known - 1)
    if stored.dtype != np.float32 or not is_described:
        raise Damaged(f"expected directions as float32 {(dim + 1, known - 1)}, got {stored.dtype} {stored.shape}")
    has_rest = stored.shape[1] == known - 1
    return Reduction(np.ascontiguousarray(stored[:-1]), float(stored[-1, 0]), has_rest)
