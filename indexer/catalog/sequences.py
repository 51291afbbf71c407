"""The embeddings of one series in order, and what of them two series are compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from indexer.places import looks_of

GLOBAL = "GLOBAL"
"""Kind of the embedding of a chunk's whole body region; the one that candidates are found by."""
PART_WEIGHTS = {"LUNGS": 0.4, "INNER": 0.1, "BRAIN": 0.1, "ORGANS": 0.1, "BONES": 0.1}
"""Kinds of the embeddings that found series are ranked by as well: findings show in them, anatomy in the whole.

A chunk is ranked by the first of them that it has, and by BONES beside it; the number is a kind's part of the
cosine of two chunks that are. Vectors of two kinds of one modality have no dimension in common, so that nothing is
made of one beside another.
"""
BESIDE = "BONES"
"""The kind that stands beside the first one."""


@dataclass(frozen=True, eq=False)
class EmbeddingSequence:
    """The embeddings of one series, ordered by volume and z; one of a kind a chunk.

    Attributes
    ----------
    chunk_pks, volumes : tuple of int
        Chunk and volume of each of N embeddings.
    vectors : (N, D) float32
        Unit vectors.
    parts : (N, D) float32 or None
        Those of the same chunks' parts, each times the root of its weight, added up; zero for a chunk that has
        none; None if no chunk has.
    part_weights : (N,) float32 or None
        What of the cosine is the parts'; see `PART_WEIGHTS`.
    """

    chunk_pks: tuple[int, ...]
    volumes: tuple[int, ...]
    vectors: NDArray[np.float32]
    parts: NDArray[np.float32] | None = None
    part_weights: NDArray[np.float32] | None = None

    @cached_property
    def looks(self) -> NDArray[np.float32]:
        """What chunks are compared by: (N, D) or (N, 2 D) unit vectors.

        The cosine of two of them is that of the whole; where both chunks have the same part as well, its weight of
        it is the part's cosine.
        """
        if self.parts is None or self.part_weights is None:
            return self.vectors
        whole = np.sqrt(1 - self.part_weights[:, None]) * self.vectors
        return np.hstack([whole, self.parts]).astype(np.float32)

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
            None if self.parts is None else self.parts[rows],
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
    """Put the embeddings of chunks, kind to (D,), in one sequence: the whole's and each one's parts."""
    vectors = np.stack([np.asarray(of_chunk[GLOBAL], dtype=np.float32) for of_chunk in embeddings])
    ranked = [(row, kind) for row, of_chunk in enumerate(embeddings) for kind in _ranked_by(of_chunk)]
    if not ranked:
        return EmbeddingSequence(tuple(chunk_pks), tuple(volumes), vectors)
    parts, weights = added_up(
        len(vectors),
        np.array([row for row, _ in ranked]),
        np.array([PART_WEIGHTS[kind] for _, kind in ranked], np.float32),
        np.array([embeddings[row][kind] for row, kind in ranked], np.float32),
    )
    return EmbeddingSequence(tuple(chunk_pks), tuple(volumes), vectors, parts, weights)


def added_up(
    chunks: int, rows: NDArray[np.intp], weights: NDArray[np.float32], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Add up parts: `parts` and `part_weights` of a sequence from the rows, weights (M,) and vectors (M, D)."""
    parts, shares = np.zeros((chunks, vectors.shape[1]), np.float32), np.zeros(chunks, np.float32)
    np.add.at(parts, rows, np.sqrt(weights)[:, None] * vectors)
    np.add.at(shares, rows, weights)
    return parts, shares


def _ranked_by(of_chunk: Mapping[str, NDArray[np.float32] | None]) -> list[str]:
    """Kinds of the embeddings that a chunk is ranked by beside the whole."""
    present = [kind for kind in PART_WEIGHTS if of_chunk.get(kind) is not None]
    return [kind for kind in present if kind in (present[0], BESIDE)]
