"""The archive's calibration, made anew as it grows."""

import threading
from dataclasses import dataclass
from weakref import ReferenceType, ref

import numpy as np
from numpy.typing import NDArray

from indexer.calibration import Calibration, calibrate
from indexer.catalog import Catalog
from indexer.remembered import Remembered
from indexer.uids import EncoderId
from indexer.vectors import VectorIndex

_SAMPLED_IDS = 2048
"""Embeddings whose series are looked at for a sample: some hundreds of series."""
_GROWTH = 1.25
"""By how much an archive may grow or shrink before it is sampled again."""


@dataclass(frozen=True)
class _Known:
    calibration: Calibration
    index: ReferenceType[VectorIndex]
    size: int

    def holds_for(self, index: VectorIndex) -> bool:
        """Whether the index is neither another one (encoder changed, embeddings forgotten) nor of another size."""
        return self.index() is index and self.size / _GROWTH <= len(index) <= self.size * _GROWTH


class Recalibration:
    """Calibrates when it is asked and the archive is no longer what it was; safe to share among threads.

    The same archive gives the same calibration: its sample is drawn by keys, not by chance.
    """

    def __init__(self, catalog: Catalog, remembered: Remembered) -> None:
        self._catalog = catalog
        self._remembered = remembered
        self._lock = threading.Lock()
        self._known: _Known | None = None

    def current(self, index: VectorIndex, encoder_id: EncoderId) -> Calibration:
        """Return the calibration of an index, made anew if that is not the index that it was made of."""
        known = self._known
        if known is not None and known.holds_for(index):
            return known.calibration
        with self._lock:
            known = self._known
            if known is None or not known.holds_for(index):
                known = self._known = _Known(self._made(index, encoder_id), ref(index), len(index))
            return known.calibration

    def _made(self, index: VectorIndex, encoder_id: EncoderId) -> Calibration:
        ids = _drawn(index.ids())[:_SAMPLED_IDS]
        series = np.unique(self._remembered.series_of(ids))
        pks = _drawn(series[series >= 0]).tolist()
        infos = self._catalog.lookup.series_info(pks)
        sequences = self._remembered.sequences([pk for pk in pks if pk in infos], encoder_id)
        return calibrate(infos, sequences)


def _drawn(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys in an order that looks random and is always the same (the mixing function of SplitMix64 [1]_).

    References
    ----------
    .. [1] Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys[np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")]
