"""Embeddings of the compartments that chunks show, beside those of the whole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from indexer.body import Mask
from indexer.chunks import Lattice, Slab, share_of
from indexer.compartments import Kind, in_box
from indexer.feature_map import FeatureMap
from indexer.regions import LEAST_CELLS, LEAST_SHARE, Region
from indexer.scored import LEAST_PLACES, SHOWN, ScoredKind, laid
from indexer.thinned import Thinned

Vectors = Iterator[NDArray[np.float32] | None]
"""Of each chunk (256,); None for one that shows too little of a compartment."""


@dataclass(frozen=True, eq=False)
class Regional:
    """Embeds compartments.

    Attributes
    ----------
    regions : dict of str to Region
        Those embedded from features of the layer that is pooled.
    scored : dict of Kind to ScoredKind
        Those embedded by scores of findings, in the order of the scores.
    fine_lattice : Lattice
        Where scores lie.
    """

    regions: Mapping[str, Region]
    scored: Mapping[Kind, ScoredKind]
    fine_lattice: Lattice

    def masks(self, seen: Thinned) -> dict[Kind, Mask]:
        """Find the compartments that are embedded and shown; see `indexer.compartments.in_box`."""
        kinds = {*self.regions, *self.scored}
        return in_box(seen, kinds) if kinds else {}

    def asked(self, masks: Mapping[Kind, Mask], shape: tuple[int, ...]) -> Mask:
        """Tell where an image of a shape shows each scored compartment: (kinds, z', x', y')."""
        z, x, y = (-(-n // step) for n, step in zip(shape, self.fine_lattice.stride, strict=True))
        where = np.zeros((len(self.scored), z, x, y), np.bool_)
        for of_kind, kind in zip(where, self.scored, strict=True):
            if kind in masks:
                np.greater(share_of(masks[kind], self.fine_lattice, (z, x, y)), SHOWN, out=of_kind)
        return where

    def __call__(self, seen: FeatureMap, cuts: Sequence[Slab]) -> list[dict[str, NDArray[np.float32]]]:
        """Embed what each chunk shows enough of: kind to vector."""
        found: list[dict[str, NDArray[np.float32]]] = [{} for _ in cuts]
        for kind, mask in seen.masks.items():
            vectors = self._told(kind, seen, cuts) if kind in self.scored else self._seen(kind, seen, mask, cuts)
            for vector, of_chunk in zip(vectors, found, strict=True):
                if vector is not None:
                    of_chunk[kind] = vector
        return found

    def _seen(self, kind: Kind, seen: FeatureMap, mask: Mask, cuts: Sequence[Slab]) -> Vectors:
        share = share_of(mask, seen.lattice, tuple(seen.features.shape[1:]))
        where = share > LEAST_SHARE
        before = np.concatenate([[0], where.sum(axis=(1, 2)).cumsum()])  # cells below each plane
        enough = [share[cut.cells].sum() >= LEAST_CELLS for cut in cuts]
        rows = [slice(*before[[cut.cells.start, cut.cells.stop]]) for cut in cuts]
        vectors = self.regions[kind].chunks(seen.cells(where), share[where], compress(rows, enough))
        return (next(vectors) if yes else None for yes in enough)

    def _told(self, kind: Kind, seen: FeatureMap, cuts: Sequence[Slab]) -> Vectors:
        scores = seen.scores[self._channels(kind)].numpy()
        shown = seen.asked[list(self.scored).index(kind)]
        ratio = seen.lattice.stride[0] // self.fine_lattice.stride[0]
        for cut in cuts:
            window = slice(cut.cells.start * ratio, cut.cells.stop * ratio)
            rows = scores[:, window][:, shown[window]].T
            yield laid(kind, self.scored[kind](rows)) if len(rows) >= LEAST_PLACES else None

    def _channels(self, kind: Kind) -> slice:
        """Which scores are those of a compartment."""
        counts = {other: len(one.findings) for other, one in self.scored.items()}
        before = sum(list(counts.values())[: list(counts).index(kind)])
        return slice(before, before + counts[kind])
