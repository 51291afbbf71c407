"""Indexes of embeddings: which vectors lie nearest to these, answered fast and, at a snapshot, kept on disk.

The catalog is the source of truth; every index can be thrown away and built again from it. This module holds the
contract and small types only and reaches no index library; `indexer.vectors.factory` makes and restores indexes.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from indexer.sealing import StoredFolder
from indexer.uids import EncoderId


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The answer to Q queries.

    Parameters
    ----------
    ids : NDArray[np.int64]
        Shape (Q, k), best first, equal similarities by the smaller id; -1 where fewer than k exist.
    similarities : NDArray[np.float32]
        Shape (Q, k), cosine from -1 to 1; ``-inf`` where the id is -1.
    """

    ids: NDArray[np.int64]
    similarities: NDArray[np.float32]


class VectorIndex(Protocol):
    """Vectors of one encoder by id, searched by cosine.

    Every kind of index keeps this contract:

    - Vectors are float32 of unit length (within 1e-4), ids int64 and not negative, both C-ordered NumPy arrays.
      Anything else raises ``ValueError`` before anything is changed.
    - Similarities are the inner products computed in float64 and rounded to float32, so the same pair has the
      same similarity, and equal pairs the same order, in every kind of index.
    - All methods may be called from any thread. Searches run beside each other; a search that runs beside an
      ``add`` sees any part of it, and one that begins after it returned sees all of it.
    - ``Transient`` is raised where trying again may succeed (a full disk, a server that is away, no memory).
    - After ``close`` every method but ``close`` raises ``ValueError``.
    """

    dim: int
    """Components of a vector."""
    encoder_id: EncoderId
    """The encoder whose embeddings these are; indexes of two encoders are never mixed."""

    def __len__(self) -> int:
        """Count the vectors that a search can answer."""
        ...

    def ids(self) -> NDArray[np.int64]:
        """Return the ids of all vectors, shape (len,), ascending."""
        ...

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors, replacing those whose ids are present already.

        Parameters
        ----------
        ids : NDArray[np.int64]
            Shape (N,), not negative, none twice.
        vectors : NDArray[np.float32]
            Shape (N, dim), unit length.

        Raises
        ------
        ValueError
            If anything is not as described; nothing was added then.
        indexer.errors.Transient
            If memory or the server failed; part may have been added, and adding all again is right.
        """
        ...

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Forget the vectors of these ids, shape (N,); ids that are not present are ignored."""
        ...

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None = None,
        *,
        together: bool = False,
    ) -> Neighbours:
        """Find the k nearest vectors of every query.

        Parameters
        ----------
        queries : NDArray[np.float32]
            Shape (Q, dim), unit length.
        k : int
            How many a query, at least 1; may exceed the number of vectors.
        allowed : NDArray[np.int64] or None
            Shape (A,), ascending, none twice: only these ids are answered. None allows all.
        together : bool
            What one query misses may be found by another of them: an index may look less far for each.

        Returns
        -------
        Neighbours
            Arrays of shape (Q, k).
        """
        ...

    def snapshot(self, folder: StoredFolder, sequence: int) -> None:
        """Write everything to a folder; a crash at any moment leaves this snapshot or the previous one whole.

        Parameters
        ----------
        folder : StoredFolder
            Belongs to this index alone; made if absent.
        sequence : int
            The position in the catalog's journal up to which this index has followed.

        Raises
        ------
        indexer.errors.Transient
            If it could not be written; the previous snapshot is as it was.
        """
        ...

    def close(self) -> None:
        """Release memory and connections; a second call does nothing."""
        ...


@runtime_checkable
class HoldsVectors(Protocol):
    """An index that has its vectors at hand."""

    def vectors_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which of the ids (N,) are present, and the vectors of those, (M, dim), in their order."""
        ...

    def __len__(self) -> int:
        """Count the vectors."""
        ...

    def similarities(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Look at all vectors: their ids (N,), and their inner products (N, Q) with queries (Q, dim) of any length.

        In no order; -1 among the ids stands for what was forgotten. The products are those of float32.
        """
        ...

    def near(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.int64] | None = None) -> Neighbours:
        """Find about n vectors near to every query, for somebody who will compare them by their vectors.

        As `VectorIndex.search`, but for less: how many are found, which, and how similar they are said to be are
        approximate.
        """
        ...


def recall(found: Neighbours, exact: Neighbours) -> float:
    """Measure how much of the exact answer was found.

    For every query the share of the exact answer's ids (padding left out) that are anywhere among the found ids of
    that query; then the mean over the queries whose exact answer is not empty. 1.0 where no query has an answer.

    Parameters
    ----------
    found, exact : Neighbours
        Answers to the same Q queries; k may differ.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the numbers of queries differ.
    """
    if len(found.ids) != len(exact.ids):
        raise ValueError(f"expected answers to the same queries, got {len(found.ids)} and {len(exact.ids)}")
    shares = [
        np.isin(expected[expected >= 0], got).mean()
        for got, expected in zip(found.ids, exact.ids, strict=True)
        if (expected >= 0).any()
    ]
    return float(np.mean(shares)) if shares else 1.0
