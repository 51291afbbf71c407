"""What a source of embeddings hands over: labelled items, and the ways to rank them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from indexer.evaluate.items import Item
from indexer.evaluate.labels import LabelTable
from indexer.evaluate.pictures import Picture
from indexer.evaluate.protocol import Similarities

ENCODER, RANDOM_ORDER = "encoder", "random-order"
RANDOM_WEIGHTS, HISTOGRAM, THUMBNAIL, LAST_LAYER = "random-weights", "histogram", "thumbnail", "last-layer"
BASELINES = (RANDOM_WEIGHTS, HISTOGRAM, THUMBNAIL, LAST_LAYER)
"""What the encoder is compared with, beside a random order."""


@dataclass(frozen=True)
class Plan:
    """How an evaluation is done.

    Attributes
    ----------
    cutoffs : tuple of int
        The k of P@k, R@k and nDCG@k, ascending.
    slab_mm : float
        Length of a labelled slab along the patient's z axis.
    within_modality : bool
        Galleries hold only items of the query's modality, as the node answers.
    cross_validate : bool or None
        Whether what is fitted to images is also refitted without the query's patient; None: wherever the encoder's
        projection was fitted to anything (folder source). Galleries of several modalities never are:
        each modality has its own projection, and leaving a patient out of one of them moves all others of that
        modality towards the query, which tells the modality away.
    both_out : bool or None
        Where `cross_validate` is: whether also without either patient that is compared, a fit for every two
        patients; None: where these make at most `indexer.evaluate.left_out.MOST_PAIRS` pairs (folder source).
    baselines : tuple of str
        Of `BASELINES` (folder source).
    resamples, confidence, seed : int, float, int
        Of the bootstrap; the seed also draws the random weights.
    folds : int
        With more patients than this, groups of them are left out rather than each.
    worst : int
        Queries shown with their first hits.
    """

    cutoffs: tuple[int, ...] = (1, 5, 10)
    slab_mm: float = 96.0
    within_modality: bool = True
    cross_validate: bool | None = None
    both_out: bool | None = None
    baselines: tuple[str, ...] = BASELINES
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    folds: int = 50
    worst: int = 6


@dataclass(frozen=True, eq=False)
class Way:
    """A way to rank.

    Attributes
    ----------
    fit : str
        What it was fitted to, in words.
    """

    key: str
    title: str
    fit: str
    similarities: Similarities


@dataclass(frozen=True, eq=False)
class Collection:
    """Items and the ways to rank them; the first way is the encoder as it is.

    Attributes
    ----------
    headline : str
        Key of the way that the closer looks are taken at.
    pictures : tuple of callable
        One an item: makes its pictures, none where its pixels cannot be had.
    excluded : dict of str to int
        Reason to labelled rows that became no item.
    facts : dict of str to str
        What a reader must know about the source.
    index_recall : dict of str to float
        Share of the exact neighbours that the vector index finds, by k; empty where there is no index.
    """

    items: tuple[Item, ...]
    ways: tuple[Way, ...]
    headline: str
    pictures: tuple[Callable[[], tuple[Picture, ...]], ...]
    excluded: dict[str, int]
    facts: dict[str, str]
    index_recall: dict[str, float] = field(default_factory=dict)


class Source(Protocol):
    """Where items, embeddings and headers come from."""

    def collect(self, table: LabelTable, plan: Plan) -> Collection:
        """Gather the labelled items.

        Raises
        ------
        config.errors.ConfigError
            The plan asks for what this source cannot give.
        """
        ...
