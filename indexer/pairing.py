"""A series against another: the volumes of the two that fit each other best, level by level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.alignment import Alignment, align
from indexer.catalog.embeddings import EmbeddingSequence
from indexer.catalog.lookup import SeriesInfo


@dataclass(frozen=True, eq=False)
class SeriesPair:
    """A series against the one of a present study that it fits best.

    Attributes
    ----------
    present_sequence, other_sequence : EmbeddingSequence
        Of one volume each.
    alignment : Alignment
        How the present one's chunks lie in the other.
    """

    present: SeriesInfo
    present_sequence: EmbeddingSequence
    other: SeriesInfo
    other_sequence: EmbeddingSequence
    alignment: Alignment


def best_pair(
    own: Sequence[SeriesInfo], info: SeriesInfo, sequences: Mapping[int, EmbeddingSequence]
) -> SeriesPair | None:
    """Align another series with every present one of its modality, volume by volume; the best counts.

    Parameters
    ----------
    sequences : mapping of int to EmbeddingSequence
        Series key to embeddings; of all the series given.

    Returns
    -------
    SeriesPair or None
        None where no present series has its modality.
    """
    pairs = [
        SeriesPair(present, here, info, there, align(here.looks, there.looks))
        for present in own
        if present.modality == info.modality
        for here in sequences[present.series_pk].by_volume()
        for there in sequences[info.series_pk].by_volume()
    ]
    return max(pairs, key=lambda pair: pair.alignment.score, default=None)
