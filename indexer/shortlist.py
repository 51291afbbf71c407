"""The series of an archive that are worth comparing exactly with a query's, as far as an index can tell."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.judging import Query
from indexer.promising import nearest_series, promising
from indexer.remembered import Remembered
from indexer.vectors import HoldsVectors, VectorIndex

_LEAST, _SHARE = 192, 4
"""Series that are compared exactly with each of the query's: at least so many; so many for each study wanted."""
_WHOLLY_SCORED = 6
"""So many times as many series are scored by their whole vectors, to choose from."""
_MOST_LOOKED_AT = 100_000
"""In a larger archive asking a graph for each chunk of a question costs less than looking at all vectors."""
_MOST_SIMILARITIES = 1 << 23
"""32 MB: a question of very many chunks is one for the graph earlier."""
_MOST_CROWDS = 4


@dataclass(frozen=True, eq=False)
class Own:
    """Series of the query's patient, which are compared anyway; `count` tells how many chunks they have."""

    series_pks: Set[int]
    count: Callable[[], int]


class Shortlist:
    """Chooses series by how near their chunks are to those of a query.

    Parameters
    ----------
    candidates : int
        Neighbours of each chunk of a query that a graph is asked for.
    """

    def __init__(self, remembered: Remembered, candidates: int) -> None:
        self._remembered = remembered
        self._candidates = candidates

    def of(
        self, query: Query, index: VectorIndex, own: Own, allowed: NDArray[np.int64] | None, limit: int
    ) -> set[int]:
        """Keys of series, for each of the query's the nearest, the patient's own left out.

        Parameters
        ----------
        allowed : (A,) int64 or None
            Embeddings that may be found, ascending, at least one; None: all.
        limit : int
            Studies that are wanted.
        """
        most = max(_LEAST, _SHARE * limit)
        lengths = [len(sequence.chunk_pks) for _, sequence in query.series]
        if not isinstance(index, HoldsVectors):
            neighbours = index.search(query.vectors, self._wanted(own), allowed, together=True)
            return promising(self._others(neighbours.ids, own), neighbours.similarities, lengths, most)
        size = len(index)
        if allowed is None and size <= _MOST_LOOKED_AT and size * len(query.vectors) <= _MOST_SIMILARITIES:
            ids, similarities = index.similarities(query.vectors)
            return _nearest(similarities, lengths, self._others(ids, own), most)
        neighbours = index.near(query.vectors, self._wanted(own), allowed)
        of = self._others(neighbours.ids, own)
        found = promising(of, neighbours.similarities, lengths, _WHOLLY_SCORED * most)
        if len(found) <= most:
            return found
        return self._nearest_of(query, index, np.asarray(sorted(found)), lengths, most)

    def _wanted(self, own: Own) -> int:
        """Neighbours of a chunk: the patient's own are near as well, and must not take the place of others."""
        return self._candidates + min(own.count(), _MOST_CROWDS * self._candidates)

    def _others(self, ids: NDArray[np.int64], own: Own) -> NDArray[np.int64]:
        """The series of embeddings, in the same shape; -1 for the patient's own, and where there is none."""
        of = self._remembered.series_of(ids.ravel()).reshape(ids.shape)
        return np.where(np.isin(of, list(own.series_pks)), -1, of)

    def _nearest_of(
        self, query: Query, index: HoldsVectors, found: NDArray[np.int64], lengths: Sequence[int], most: int
    ) -> set[int]:
        """Those of the found series that are nearest to each of the query's by their whole vectors."""
        ids, place = self._remembered.ids_of(found)
        present, vectors = index.vectors_of(ids)
        if not present.any():  # all of it was replaced meanwhile
            return set(found.tolist())
        return _nearest(vectors @ query.vectors.T, lengths, found[place[present]], most)


def _nearest(
    similarities: NDArray[np.float32], lengths: Sequence[int], of: NDArray[np.int64], most: int
) -> set[int]:
    """The series nearest to each of the query's, negative ones left out; see `nearest_series`."""
    series, nearness = nearest_series(similarities, lengths, of)
    chosen = (series[np.argsort(-of_series, kind="stable")[: most + 1]] for of_series in nearness)
    return {pk for nearest in chosen for pk in nearest[nearest >= 0][:most].tolist()}
