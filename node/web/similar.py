"""Studies that look like a study, a series or an instance that the node holds."""

from fastapi import APIRouter, Request

from indexer.answer import Seed
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from node.web.context import Context, InstanceUid, SeriesUid, StudyUid
from node.web.models import SimilarAnswer
from node.web.paging import PagingQuery
from node.web.problems import responses
from node.web.questions import FilterQuery, RegionQuery, ask

router = APIRouter(tags=["similar"], responses=responses(400, 404, 422, 503))


@router.get("/studies/{study_uid}/similar")
def similar_to_study(
    request: Request,
    context: Context,
    study_uid: StudyUid,
    region: RegionQuery,
    filters: FilterQuery,
    paging: PagingQuery,
) -> SimilarAnswer:
    """Find the studies that look like one that the node holds, with the slices that match."""
    seed = Seed(study_instance_uid=StudyInstanceUID(study_uid), region_lps_mm=region)
    return ask(request, context.search, context.view.lookup, seed, filters, paging)


@router.get("/series/{series_uid}/similar")
def similar_to_series(
    request: Request,
    context: Context,
    series_uid: SeriesUid,
    region: RegionQuery,
    filters: FilterQuery,
    paging: PagingQuery,
) -> SimilarAnswer:
    """Find the studies that look like one series."""
    seed = Seed(series_instance_uid=SeriesInstanceUID(series_uid), region_lps_mm=region)
    return ask(request, context.search, context.view.lookup, seed, filters, paging)


@router.get("/instances/{sop_instance_uid}/similar")
def similar_to_instance(
    request: Request,
    context: Context,
    sop_instance_uid: InstanceUid,
    region: RegionQuery,
    filters: FilterQuery,
    paging: PagingQuery,
) -> SimilarAnswer:
    """Find the studies that look like the chunks around one slice."""
    seed = Seed(sop_instance_uids=(SOPInstanceUID(sop_instance_uid),), region_lps_mm=region)
    return ask(request, context.search, context.view.lookup, seed, filters, paging)
