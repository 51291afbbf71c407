"""QIDO-RS (PS3.18 10.6), and the same for the studies that look like one."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice

from fastapi import APIRouter, Depends, Request, Response

from config.errors import PacsimileError
from dicom_scp.find import matching_entities, with_computed
from dicom_scp.identifier import STUDY_INSTANCE_UID, Identifier, Key, Root
from dicom_scp.responses import LEVEL_OF
from dicom_scp.seeds import Question
from dicom_scp.similar import similar
from indexer.answer import Seed
from indexer.attributes import JsonObject
from indexer.catalog.lookup import Level
from indexer.errors import Refused
from indexer.uids import StudyInstanceUID
from node.web.context import Context, SeriesUid, StudyUid, WebContext
from node.web.dicomweb.query import WebQuery, read_query
from node.web.dicomweb.results import JSON_ANSWER, demand_json, json_response, result, root_url
from node.web.problems import responses

_PARAMETERS = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": meaning,
        "schema": schema,
    }
    for name, meaning, schema in (
        ("limit", "At most so many results", {"type": "integer", "minimum": 1, "maximum": 5000}),
        ("offset", "So many results are left out", {"type": "integer", "minimum": 0, "maximum": 2147483647}),
        (
            "includefield",
            "Keywords or tags, with commas, or `all`",
            {"type": "string", "pattern": "^(all|[0-9A-F]{8})$"},
        ),
        ("fuzzymatching", "Not supported: a Warning header says so", {"type": "boolean"}),
        ("PatientName", "As any attribute: wild cards, without case", {"type": "string", "maxLength": 64}),
        (
            "StudyDate",
            "A date or a range",
            {"type": "string", "pattern": "^[12][0-9]{3}(0[1-9]|1[0-2])(0[1-9]|1[0-9])$"},
        ),
    )
]
router = APIRouter(tags=["dicomweb"], dependencies=[Depends(demand_json)])
_ANSWERS = {**JSON_ANSWER, **responses(400, 406, 503)}
_search = partial(
    router.get, openapi_extra={"parameters": _PARAMETERS}, responses=_ANSWERS, response_class=Response
)


@_search("/dicomweb/studies")
def search_studies(request: Request, context: Context) -> Response:
    """Search for studies."""
    return _found(request, context, read_query(request, Level.STUDY, {}))


@_search("/dicomweb/series")
def search_series(request: Request, context: Context) -> Response:
    """Search for series of any study."""
    return _found(request, context, read_query(request, Level.SERIES, {}, Level.STUDY))


@_search("/dicomweb/instances")
def search_instances(request: Request, context: Context) -> Response:
    """Search for instances of any study."""
    return _found(request, context, read_query(request, Level.IMAGE, {}, Level.STUDY))


@_search("/dicomweb/studies/{study_uid}/series")
def search_series_of_study(request: Request, context: Context, study_uid: StudyUid) -> Response:
    """Search for series of a study."""
    parents = {"StudyInstanceUID": study_uid}
    return _found(request, context, read_query(request, Level.SERIES, parents))


@_search("/dicomweb/studies/{study_uid}/instances")
def search_instances_of_study(request: Request, context: Context, study_uid: StudyUid) -> Response:
    """Search for instances of a study."""
    parents = {"StudyInstanceUID": study_uid}
    return _found(request, context, read_query(request, Level.IMAGE, parents, Level.SERIES))


@_search("/dicomweb/studies/{study_uid}/series/{series_uid}/instances")
def search_instances_of_series(
    request: Request, context: Context, study_uid: StudyUid, series_uid: SeriesUid
) -> Response:
    """Search for instances of a series."""
    parents = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    return _found(request, context, read_query(request, Level.IMAGE, parents))


@_search("/similar/{study_uid}/studies", responses={**_ANSWERS, **responses(400, 404, 406, 503)})
def search_similar_studies(request: Request, context: Context, study_uid: StudyUid) -> Response:
    """Search for the studies that look like one: other patients' best first, then the own, newest first.

    Attributes match as in any search. Every result has the private block `PACSIMILE` (0077,10): similarity, rank,
    matching series and slices, relation.
    """
    query = read_query(request, Level.STUDY, {})
    found = islice(_similar(context, query, study_uid, root_url(request)), query.offset, query.offset + query.limit)
    return json_response(found, query.warnings)


def _found(request: Request, context: WebContext, query: WebQuery) -> Response:
    lookup, root = context.view.lookup, root_url(request)
    entities = matching_entities(lookup, query.level, query.keys)
    page = list(islice(entities, query.offset, query.offset + query.limit + 1))
    fields = [Key(tag, "UN") for tag in query.fields]
    shown = (result(with_computed(lookup, one, fields), query, root) for one in page[: query.limit])
    more = ("There are additional results that can be requested.",) if len(page) > query.limit else ()
    return json_response(shown, (*query.warnings, *more))


def _similar(context: WebContext, query: WebQuery, study_uid: str, root: str) -> Iterator[JsonObject]:
    asked: Mapping[object, Key] = {key.tag: key for key in query.keys}
    returned = [tag for tag in sorted(query.fields) if tag in LEVEL_OF and LEVEL_OF[tag] <= Level.STUDY]
    keys = {tag: asked.get(tag, Key(tag, "UN")) for tag in returned}
    identifier = Identifier(Root.STUDY, Level.STUDY, keys, block={})
    seed = Seed(study_instance_uid=StudyInstanceUID(study_uid))
    question = Question(seed, context.settings.dicom.max_results, query.keys)
    aet = context.settings.storage.retrieve_aet or context.settings.dicom.aet
    try:
        for one in similar(context.view.lookup, context.search, identifier, question, aet, lambda: False):
            uid = str(one[STUDY_INSTANCE_UID].value)
            del one.QueryRetrieveLevel
            one.add_new(0x00081190, "UR", f"{root}/studies/{uid}")
            one.SpecificCharacterSet = "ISO_IR 192"
            described: JsonObject = one.to_json_dict()
            yield described
    except Refused as error:  # `similar` says so of whatever kept it from answering
        cause = error.__cause__
        raise (cause if isinstance(cause, PacsimileError) else error) from None
