"""What a question for similar studies says besides its seed: filters, region, how many, how much is told."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Query, Request
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from dicom_scp.identifier import Key
from dicom_scp.similar import allowed_series
from indexer.answer import Answer, BoxLpsMm, Finder, Relation, Seed, StudyHit
from indexer.catalog import Lookup
from node.web.models import SimilarAnswer
from node.web.paging import Paging
from node.web.problems import ProblemError


@dataclass(frozen=True)
class Filters:
    """Which series may be found; the rules of C-FIND (PS3.4 C.2.2.2) hold for every value.

    Attributes
    ----------
    keys : tuple of Key
        As in an identifier.
    """

    keys: tuple[Key, ...]


def read_filters(
    modality: Annotated[
        list[str] | None, Query(description="Modality (0008,0060); repeatable", examples=[["CT"]], max_length=64)
    ] = None,
    study_date: Annotated[
        str | None,
        Query(description="Study Date (0008,0020) or a range", examples=["20200101-20241231"], max_length=32),
    ] = None,
    patient_sex: Annotated[
        str | None, Query(description="Patient's Sex (0010,0040)", examples=["F"], max_length=16)
    ] = None,
    body_part: Annotated[
        str | None,
        Query(description="Body Part Examined (0018,0015), with * and ?", examples=["CHEST"], max_length=64),
    ] = None,
    study_description: Annotated[
        str | None,
        Query(description="Study Description (0008,1030), with * and ?", examples=["*thorax*"], max_length=256),
    ] = None,
) -> Filters:
    """Read the filters of a request."""
    given = {
        "Modality": tuple(modality or ()),
        "StudyDate": (study_date,) if study_date else (),
        "PatientSex": (patient_sex,) if patient_sex else (),
        "BodyPartExamined": (body_part,) if body_part else (),
        "StudyDescription": (study_description,) if study_description else (),
    }
    return Filters(tuple(key_of(keyword, values) for keyword, values in given.items() if values))


def key_of(keyword: str, values: tuple[str, ...]) -> Key:
    """A key of an identifier, by its keyword."""
    tag = tag_for_keyword(keyword)
    assert tag is not None  # noqa: S101 - a keyword of the standard
    return Key(Tag(tag), dictionary_VR(tag), values)


def read_region(
    region: Annotated[
        str | None,
        Query(
            description="Only chunks of the seed that meet this box ask: x0,y0,z0,x1,y1,z1, LPS mm",
            examples=["-150,-200,-60,150,100,40"],
            max_length=200,
        ),
    ] = None,
) -> BoxLpsMm | None:
    """Read the region of a request."""
    if region is None:
        return None
    try:
        x0, y0, z0, x1, y1, z1 = (float(part) for part in region.split(","))
    except ValueError:
        raise ProblemError(400, "bad-region", "region: expected six numbers x0,y0,z0,x1,y1,z1") from None
    box = (x0, y0, z0, x1, y1, z1)
    if not all(map(math.isfinite, box)) or not (x0 <= x1 and y0 <= y1 and z0 <= z1):
        raise ProblemError(400, "bad-region", "region: expected x0 <= x1, y0 <= y1, z0 <= z1, all finite")
    return box


FilterQuery = Annotated[Filters, Depends(read_filters)]
RegionQuery = Annotated[BoxLpsMm | None, Depends(read_region)]


def ask(
    request: Request, finder: Finder, lookup: Lookup, seed: Seed, filters: Filters, paging: Paging
) -> SimilarAnswer:
    """Find the studies that look like a seed; one page of them.

    Raises
    ------
    NotFound, Parked, Transient
        As `indexer.answer.Finder.similar`.
    Mismatched
        A filter's value cannot be meant.
    """
    allowed = allowed_series(lookup, filters.keys)
    answer = finder.similar(seed, limit=paging.asked, allowed_series=allowed)
    return page(answer, paging, request)


def page(answer: Answer, paging: Paging, request: Request | None) -> SimilarAnswer:
    """Cut a page out of an answer to one hit more than the page ends with.

    Parameters
    ----------
    request : Request, optional
        What the next page's address is made of; without it there is none.
    """
    end = paging.offset + paging.limit
    own = [hit for hit in answer.hits if hit.relation is not Relation.ANALOGUE]
    others = [hit for hit in answer.hits if hit.relation is Relation.ANALOGUE]
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate([*others[:end], *own[:end]], start=1)]
    count = len(others[:end])
    shown = [*ranked[:count][paging.offset :], *ranked[count:][paging.offset :]]
    if not paging.explain:
        shown = [_unexplained(hit) for hit in shown]
    is_last = len(others) <= end and len(own) <= end
    following = None
    if request is not None and not is_last:
        url = request.url.include_query_params(offset=end, limit=paging.limit)
        following = f"{url.path}?{url.query}"
    return SimilarAnswer.model_validate(
        {
            "encoder_id": answer.encoder_id,
            "is_calibrated": answer.is_calibrated,
            "is_no_good_match": answer.is_no_good_match,
            "is_unusual": answer.is_unusual,
            "hits": shown,
            "next": following,
        }
    )


def _unexplained(hit: StudyHit) -> StudyHit:
    return replace(hit, series=tuple(replace(series, matches=()) for series in hit.series))
