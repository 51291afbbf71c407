"""A question for similar studies and its answer, as every face of the node passes them on."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from config.access import Cohort
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

BoxLpsMm = tuple[float, float, float, float, float, float]
"""x0 y0 z0 x1 y1 z1 in the patient's LPS coordinates, millimetres."""


class Relation(StrEnum):
    """How a found study stands to the query."""

    ANALOGUE = "ANALOGUE"
    """Another patient's."""
    PRIOR = "PRIOR"
    """The same patient's."""
    DUPLICATE = "DUPLICATE"
    """Nearly the same images (another reconstruction, a copy under other UIDs)."""


class Completeness(StrEnum):
    """Whether a hit rests on all that its study holds."""

    COMPLETE = "COMPLETE"
    PROVISIONAL = "PROVISIONAL"
    """Instances came in that its embeddings do not know yet."""


@dataclass(frozen=True)
class Seed:
    """What is asked about: a study, one of its series, or some instances; the narrowest given decides.

    Attributes
    ----------
    sop_instance_uids : tuple of SOPInstanceUID
        The chunks around these slices are the query.
    region_lps_mm : BoxLpsMm, optional
        Only chunks that meet this box are the query.
    """

    study_instance_uid: StudyInstanceUID | None = None
    series_instance_uid: SeriesInstanceUID | None = None
    sop_instance_uids: tuple[SOPInstanceUID, ...] = ()
    region_lps_mm: BoxLpsMm | None = None


@dataclass(frozen=True)
class ChunkMatch:
    """Why and where: two chunks that look alike.

    Attributes
    ----------
    query_slices, found_slices : tuple of SliceRef
        The slices of either chunk, inferior to superior.
    query_z_mm, found_z_mm : tuple of float
        Extent of either chunk along the patient's z axis, LPS mm.
    similarity : float
        0 to 1.
    query_level, found_level : str
        What people call the place along the body ("upper abdomen"), as estimated; empty where it is not known.
    """

    query_series_instance_uid: SeriesInstanceUID
    query_slices: tuple[SliceRef, ...]
    query_z_mm: tuple[float, float]
    found_slices: tuple[SliceRef, ...]
    found_z_mm: tuple[float, float]
    similarity: float
    query_level: str = ""
    found_level: str = ""


@dataclass(frozen=True)
class SeriesHit:
    """A found series: what of it matches, best first."""

    series_pk: int
    series_instance_uid: SeriesInstanceUID
    similarity: float
    matches: tuple[ChunkMatch, ...]


@dataclass(frozen=True)
class StudyHit:
    """A found study.

    Attributes
    ----------
    rank : int
        From 1, over the whole answer.
    similarity : float
        0 to 1, that of its best series.
    series : tuple of SeriesHit
        Its matching series, best first; empty only in answers that are not explained.
    """

    study_pk: int
    study_instance_uid: StudyInstanceUID
    rank: int
    similarity: float
    relation: Relation
    completeness: Completeness
    series: tuple[SeriesHit, ...]


@dataclass(frozen=True)
class Answer:
    """Related studies: analogues best first, then the query patient's own, newest first: priors, then duplicates.

    Attributes
    ----------
    is_calibrated : bool
        Whether the archive is large enough to say what its scores mean: then 0.5 is the similarity of two unrelated
        studies, and analogues below `search.least_similarity` are left out.
    is_unusual : bool
        Whether the seed is unlike anything the archive holds; only a calibrated answer can tell.
    """

    encoder_id: EncoderId
    hits: tuple[StudyHit, ...]
    is_calibrated: bool = False
    is_unusual: bool = False

    @property
    def is_no_good_match(self) -> bool:
        """Whether no other patient's study is alike enough."""
        return not any(hit.relation is Relation.ANALOGUE for hit in self.hits)


class Finder(Protocol):
    """Answers questions for similar studies; safe to call from many threads."""

    def within(self, cohort: Cohort | None) -> Self:
        """Return who answers as if only the studies of a cohort were there, as seeds and as hits; None: all.

        What is usual in the archive, by which similarities are read, is still reckoned from all of it.
        """
        ...

    def similar(
        self,
        seed: Seed,
        *,
        limit: int,
        allowed_series: frozenset[int] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        explained: bool = True,
    ) -> Answer:
        """Find the studies that look like the seed.

        Parameters
        ----------
        limit : int
            At most so many analogues, and as many of the patient's own.
        allowed_series : frozenset of int, optional
            Keys of the series that may be found; None allows all.
        cancelled : callable
            Asked now and then; once true, the answer is what was found until then.
        explained : bool
            Whether the asker needs more than an ordered list: without, hits name no series and are all called
            complete, and no seed is called unusual.

        Raises
        ------
        indexer.errors.NotFound
            The seed is not in the catalog.
        indexer.errors.Parked
            The seed is there but holds nothing that can be compared (no CT or MR volume, or it is parked).
        indexer.errors.Transient
            The seed is not indexed yet.
        """
        ...
