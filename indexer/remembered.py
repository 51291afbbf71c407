"""What a search remembers of the catalog's embeddings from one question to the next; never out of date."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.catalog import Catalog
from indexer.catalog.embeddings import EmbeddingSequence
from indexer.catalog.lookup import SeriesInfo
from indexer.uids import EncoderId

Keys = NDArray[np.int64]

MOST_CHUNKS = 65_536
"""Some 70 MB of sequences; up to four times as much where chunks have a part of their own."""


class _Known:
    """Embeddings by id and by series: ids (N,) ascending and their series."""

    def __init__(self, ids: Keys, series: Keys) -> None:
        self.ids, self.series = ids, series
        self.by_series = np.argsort(series, kind="stable").astype(np.int32 if len(ids) < 2**31 else np.int64)
        self.grouped = series[self.by_series]


class Remembered:
    """Embeddings read once; safe to share among threads.

    The catalog gives no key twice: the series of an embedding never changes, nor does who a series is, nor do
    embeddings under the same key of an indexing. What was replaced is never asked for again, and is the first to be
    forgotten.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._embeddings, self._lookup = catalog.embeddings, catalog.lookup
        self._lock = threading.Lock()
        self._infos: OrderedDict[int, SeriesInfo] = OrderedDict()
        self._known = _Known(np.empty(0, np.int64), np.empty(0, np.int64))
        self._sequences: OrderedDict[int, EmbeddingSequence] = OrderedDict()
        self._chunks = 0

    def series_of(self, ids: Keys) -> Keys:
        """Keys of the series of embeddings (N,); -1 where there never was one."""
        known = self._up_to(int(ids.max(initial=-1)))
        if not len(known.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(known.ids, ids), len(known.ids) - 1)
        return np.where(known.ids[at] == ids, known.series[at], -1)

    def ids_of(self, series_pks: Keys) -> tuple[Keys, Keys]:
        """Ids of the embeddings of series (S,), of all kinds, and the place (0 to S - 1) of each one's series."""
        known = self._known
        first = np.searchsorted(known.grouped, series_pks, side="left")
        counts = np.searchsorted(known.grouped, series_pks, side="right") - first
        place = np.repeat(np.arange(len(series_pks)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return known.ids[known.by_series[first[place] + within]], place

    def _up_to(self, key: int) -> "_Known":
        """What is known, with an embedding and all before it: ids grow in the order in which they are entered."""
        with self._lock:
            last = int(self._known.ids[-1]) if len(self._known.ids) else 0
            if key > last:
                ids, series = self._embeddings.series_after(last)
                known = self._known
                self._known = _Known(np.concatenate([known.ids, ids]), np.concatenate([known.series, series]))
            return self._known

    def infos(self, series_pks: Sequence[int]) -> dict[int, SeriesInfo]:
        """Who series are, by key, whoever may see them; state and reason are those of some time ago.

        A series that is gone since may still be among them, but has no `sequences`.
        """
        with self._lock:
            found = {pk: self._infos[pk] for pk in series_pks if pk in self._infos}
        fresh = self._lookup.series_info([pk for pk in series_pks if pk not in found])
        with self._lock:
            self._infos |= fresh
            while len(self._infos) > MOST_CHUNKS:
                self._infos.popitem(last=False)
        return {pk: one for pk in series_pks if (one := found.get(pk) or fresh.get(pk)) is not None}

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
