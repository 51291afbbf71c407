"""The embeddings of one series in order, and what of them two series are compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from indexer.places import looks_of

GLOBAL = "GLOBAL"
"""Kind of the embedding of a chunk's whole body region; the one that candidates are found by."""
PART = "LUNGS"
"""Kind of the embedding that found series are ranked by as well: findings show in it, anatomy in the whole."""
PART_WEIGHT = 0.4
"""Its part of the cosine of two chunks that both have one."""


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
        Those of the same chunks' `PART`, zero for a chunk that has none; None if no chunk has.
    """

    chunk_pks: tuple[int, ...]
    volumes: tuple[int, ...]
    vectors: NDArray[np.float32]
    part: NDArray[np.float32] | None = None

    @cached_property
    def looks(self) -> NDArray[np.float32]:
        """What chunks are compared by: (N, D) or (N, 2 D) unit vectors.

        The cosine of two of them is that of the whole; where both chunks have the part as well, `PART_WEIGHT` of it
        is the part's cosine.
        """
        if self.part is None:
            return self.vectors
        share = PART_WEIGHT * self.part.any(axis=1, keepdims=True)
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
    """Put the embeddings of chunks, kind to (D,), in one sequence; those of other kinds than two are left out."""
    vectors = np.stack([np.asarray(of_chunk[GLOBAL], dtype=np.float32) for of_chunk in embeddings])
    parts = [of_chunk.get(PART) for of_chunk in embeddings]
    nothing = np.zeros_like(vectors[0])
    present = any(part is not None for part in parts)
    part = np.stack([nothing if one is None else one for one in parts]).astype(np.float32) if present else None
    return EmbeddingSequence(tuple(chunk_pks), tuple(volumes), vectors, part)
