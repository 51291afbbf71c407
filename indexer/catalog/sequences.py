"""The embeddings of one series in order, and what of them two series are compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from indexer.places import looks_of

GLOBAL = "GLOBAL"
"""Kind of the embedding of a chunk's whole body region; the one that candidates are found by."""
PART_WEIGHTS = {"LUNGS": 0.4, "INNER": 0.1, "ORGANS": 0.1}
"""Kinds of the embeddings that found series are ranked by as well: findings show in them, anatomy in the whole.

A chunk is ranked by the first of them that it has; the number is its part of the cosine of two chunks that are.
Vectors of LUNGS and ORGANS have no dimension in common, so that nothing is made of one beside the other.
"""


@dataclass(frozen=True, eq=False)
class EmbeddingSequence:
    """The embeddings of one series, ordered by volume and z; one of a kind a chunk.

    Attributes
    ----------
    chunk_pks, volumes : tuple of int
        Chunk and volume of each of N embeddings.
    vectors : (N, D) float32
        Unit vectors.
    part : (N, D) float32 or None
        Those of the same chunks' part, zero for a chunk that has none; None if no chunk has.
    part_weights : (N,) float32 or None
        What of the cosine is the part's; see `PART_WEIGHTS`.
    """

    chunk_pks: tuple[int, ...]
    volumes: tuple[int, ...]
    vectors: NDArray[np.float32]
    part: NDArray[np.float32] | None = None
    part_weights: NDArray[np.float32] | None = None

    @cached_property
    def looks(self) -> NDArray[np.float32]:
        """What chunks are compared by: (N, D) or (N, 2 D) unit vectors.

        The cosine of two of them is that of the whole; where both chunks have the same part as well, its weight of
        it is the part's cosine.
        """
        if self.part is None or self.part_weights is None:
            return self.vectors
        share = self.part_weights[:, None]
        return np.hstack([np.sqrt(1 - share) * self.vectors, np.sqrt(share) * self.part]).astype(np.float32)

    @cached_property
    def appearance(self) -> NDArray[np.float32]:
        """Unit vectors (N, d) without the places that they say: those agree between patients."""
        return looks_of(self.vectors)

    def rows(self, rows: Sequence[int]) -> "EmbeddingSequence":
        """Some of the chunks."""
        return EmbeddingSequence(
            tuple(self.chunk_pks[row] for row in rows),
            tuple(self.volumes[row] for row in rows),
            self.vectors[rows],
            None if self.part is None else self.part[rows],
            None if self.part_weights is None else self.part_weights[rows],
        )

    def by_volume(self) -> list["EmbeddingSequence"]:
        """One sequence a volume."""
        if self.volumes[0] == self.volumes[-1]:  # they are in order
            return [self]
        volumes = np.asarray(self.volumes)
        return [self.rows(np.flatnonzero(volumes == volume).tolist()) for volume in np.unique(volumes)]


def sequence_of(
    chunk_pks: Sequence[int], volumes: Sequence[int], embeddings: Sequence[Mapping[str, NDArray[np.float32] | None]]
) -> EmbeddingSequence:
    """Put the embeddings of chunks, kind to (D,), in one sequence: the whole's and each one's part."""
    vectors = np.stack([np.asarray(of_chunk[GLOBAL], dtype=np.float32) for of_chunk in embeddings])
    parts = [_part_of(of_chunk) for of_chunk in embeddings]
    if not any(weight for _, weight in parts):
        return EmbeddingSequence(tuple(chunk_pks), tuple(volumes), vectors)
    part = np.stack([np.zeros_like(vectors[0]) if one is None else one for one, _ in parts]).astype(np.float32)
    weights = np.array([weight for _, weight in parts], np.float32)
    return EmbeddingSequence(tuple(chunk_pks), tuple(volumes), vectors, part, weights)


def _part_of(of_chunk: Mapping[str, NDArray[np.float32] | None]) -> tuple[NDArray[np.float32] | None, float]:
    """The embedding that a chunk is ranked by beside the whole, and its weight."""
    present = ((of_chunk.get(kind), weight) for kind, weight in PART_WEIGHTS.items())
    return next(((one, weight) for one, weight in present if one is not None), (None, 0.0))
