"""An index of which nobody knows whether it is sound is tried; one that is not is made anew beside what answers."""

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from indexer.catalog import Catalog
from indexer.errors import Damaged, Transient
from indexer.vectors import VectorIndex

log = logging.getLogger(__name__)

_SAMPLE = 64
_SAME = 0.999
"""Cosine of a vector and itself, as the catalog and the index keep it."""
_LEAST_RECALL = 0.95

Made = TypeVar("Made")


def demand_sound(index: VectorIndex, catalog: Catalog) -> None:
    """Look up a sample of the catalog's embeddings in an index that holds as many.

    Raises
    ------
    indexer.errors.Damaged
        Another vector is under an id, or too few of them are found where nothing but their vectors is asked for.
    """
    held = index.ids()
    chosen = np.unique(np.linspace(0, max(len(held) - 1, 0), _SAMPLE).astype(np.int64))
    ids, vectors = catalog.embeddings.vectors_of(held[chosen].tolist() if len(held) else [])
    if not len(ids):
        return
    for key, vector in zip(ids, vectors, strict=True):
        under_it = index.search(vector[None], 1, np.asarray([key]))
        if not under_it.similarities[0, 0] > _SAME:
            raise Damaged(f"expected the catalog's vector under id {key}, got another")
    recall = float((index.search(vectors, 1).similarities[:, 0] > _SAME).mean())
    if recall < _LEAST_RECALL:
        raise Damaged(f"expected a recall of {_LEAST_RECALL} or more in a sample of {len(ids)}, got {recall:.2f}")


class Regrowth(Generic[Made]):
    """Something that is made in a thread of its own, until it is there or given up.

    Parameters
    ----------
    make : callable
        Makes it; is told how to ask whether it has been given up, and returns None then.
    """

    def __init__(self, make: Callable[[Callable[[], bool]], Made | None]) -> None:
        self._make = make
        self._given_up = threading.Event()
        self._made: Made | None = None
        self._thread = threading.Thread(target=self._run, name="index-regrowth", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it is there, has failed or was given up."""
        return not self._thread.is_alive()

    @property
    def made(self) -> Made | None:
        """What was made; None before it is there, and where that failed."""
        return self._made

    def give_up(self) -> None:
        """Make no more of it; returns once the thread has ended."""
        self._given_up.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._made = self._make(self._given_up.is_set)
        except Transient as error:
            log.warning("the index could not be made anew: %s", error)
        except Exception:  # what answers meanwhile goes on
            log.exception("the index could not be made anew")
