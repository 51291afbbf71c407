"""Embeddings of the compartments that chunks show, beside those of the whole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from indexer.body import Mask
from indexer.chunks import Lattice, Slab, share_of
from indexer.compartments import Kind, compartments
from indexer.feature_map import FeatureMap
from indexer.regions import LEAST_CELLS, LEAST_SHARE, Region
from indexer.scored import LEAST_PLACES, SHOWN, ScoredKind, laid

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

    def __call__(self, seen: FeatureMap, cuts: Sequence[Slab]) -> list[dict[str, NDArray[np.float32]]]:
        """Embed what each chunk shows enough of: kind to vector."""
        found: list[dict[str, NDArray[np.float32]]] = [{} for _ in cuts]
        kinds = {*self.regions, *self.scored}
        for kind, mask in (compartments(seen.thinned, kinds) if kinds else {}).items():
            within = mask[seen.thinned.window]
            vectors = (
                self._told(kind, seen, within, cuts)
                if kind in self.scored
                else self._seen(kind, seen, within, cuts)
            )
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

    def _told(self, kind: Kind, seen: FeatureMap, mask: Mask, cuts: Sequence[Slab]) -> Vectors:
        scores = seen.scores[self._channels(kind)].numpy()
        shown = share_of(mask, self.fine_lattice, scores.shape[1:]) > SHOWN
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
