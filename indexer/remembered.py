"""What a search remembers of the catalog's embeddings from one question to the next; never out of date."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.catalog.embeddings import Embeddings, EmbeddingSequence
from indexer.uids import EncoderId

Keys = NDArray[np.int64]

MOST_CHUNKS = 65_536
"""Some 70 MB of sequences; up to four times as much where chunks have a part of their own."""
_LOOSE_IDS = 65_536
"""Embeddings whose series are kept one by one before they join the others; some 8 MB."""


class Remembered:
    """Embeddings read once; safe to share among threads.

    The catalog gives no key twice: the series of an embedding never changes, nor do embeddings under the same key
    of an indexing. What was replaced is never asked for again, and is the first to be forgotten.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._lock = threading.Lock()
        self._known: tuple[Keys, Keys] | None = None  # ids ascending, and their series
        self._loose: dict[int, int] = {}
        self._sequences: OrderedDict[int, EmbeddingSequence] = OrderedDict()
        self._chunks = 0

    def series_of(self, ids: Keys) -> Keys:
        """Keys of the series of embeddings (N,); -1 where there never was one."""
        with self._lock:
            if self._known is None:
                self._known = self._embeddings.series_of_all()
            known, of = self._known
            loose = dict(self._loose)
        found = np.full(len(ids), -1, dtype=np.int64)
        if len(known):
            at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            found = np.where(known[at] == ids, of[at], -1)
        later = np.flatnonzero(found < 0).tolist()
        if later:
            unknown = {int(ids[row]) for row in later} - loose.keys()
            fresh = self._embeddings.series_of(sorted(unknown))
            found[later] = [loose.get(key, fresh.get(key, -1)) for key in ids[later].tolist()]
            self._keep_loose(fresh)
        return found

    def _keep_loose(self, fresh: dict[int, int]) -> None:
        with self._lock:
            self._loose |= fresh
            if self._known is not None and len(self._loose) > _LOOSE_IDS:
                ids = np.concatenate([self._known[0], np.fromiter(self._loose.keys(), np.int64)])
                of = np.concatenate([self._known[1], np.fromiter(self._loose.values(), np.int64)])
                ids, first = np.unique(ids, return_index=True)
                self._known, self._loose = (ids, of[first]), {}

    def sequences(self, series_pks: Sequence[int], encoder_id: EncoderId) -> dict[int, EmbeddingSequence]:
        """See `indexer.catalog.Embeddings.sequences`."""
        present = self._embeddings.indexings(series_pks, encoder_id)
        with self._lock:
            found = {pk: self._sequences[key] for pk, key in present.items() if key in self._sequences}
            for pk in found:
                self._sequences.move_to_end(present[pk])
        fresh = self._embeddings.sequences([pk for pk in present if pk not in found], encoder_id)
        with self._lock:
            for pk, sequence in fresh.items():
                self._keep(present[pk], sequence)
        return {pk: found.get(pk) or fresh[pk] for pk in series_pks if pk in found or pk in fresh}

    def _keep(self, key: int, sequence: EmbeddingSequence) -> None:
        if key not in self._sequences:
            self._sequences[key] = sequence
            self._chunks += len(sequence.chunk_pks)
        while self._chunks > MOST_CHUNKS:
            _, dropped = self._sequences.popitem(last=False)
            self._chunks -= len(dropped.chunk_pks)
