"""What a search remembers of the catalog's embeddings from one question to the next; never out of date."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from indexer.catalog.embeddings import Embeddings, EmbeddingSequence
from indexer.uids import EncoderId

MOST_CHUNKS = 65_536
"""Some 70 MB of sequences; up to four times as much where chunks have a part of their own."""
MOST_IDS = 1_000_000
"""Some 100 MB of embeddings' ids."""


class Remembered:
    """Embeddings read once; safe to share among threads.

    The catalog gives no key twice: the series of an embedding never changes, nor do embeddings under the same key
    of an indexing. What was replaced is never asked for again, and is the first to be forgotten.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._lock = threading.Lock()
        self._series_of: dict[int, int] = {}
        self._sequences: OrderedDict[int, EmbeddingSequence] = OrderedDict()
        self._chunks = 0

    def series_of(self, ids: Sequence[int]) -> set[int]:
        """Keys of the series of those of the embeddings `ids` that exist, or did."""
        with self._lock:
            unknown = [key for key in ids if key not in self._series_of]
        fresh = self._embeddings.series_of(unknown)
        with self._lock:
            if len(self._series_of) + len(fresh) > MOST_IDS:
                kept = {key: self._series_of[key] for key in ids if key in self._series_of}
                self._series_of = kept
            self._series_of |= fresh
            return {self._series_of[key] for key in ids if key in self._series_of}

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
