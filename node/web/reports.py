"""Evidence reports over HTTP."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from indexer.answer import Seed
from indexer.uids import StudyInstanceUID
from node.courier import REPORT
from node.web.access import known
from node.web.context import Context, StudyUid
from node.web.gate import address_of
from node.web.models import SentReport
from node.web.problems import ProblemError, responses

router = APIRouter(tags=["similar"])
_MOST_RESULTS = 100
_DICOM = {"application/dicom": {"schema": {"type": "string", "format": "binary"}}}


@router.post(
    "/studies/{study_uid}/report",
    response_class=Response,
    responses={
        200: {"description": "The report, a DICOM file", "content": _DICOM},
        202: {"description": "The report is being sent", "model": SentReport},
        **responses(403, 404, 422, 503),
    },
)
def report(
    request: Request,
    context: Context,
    study_uid: StudyUid,
    limit: Annotated[int, Query(ge=1, le=_MOST_RESULTS)] = 20,
    send: Annotated[list[str] | None, Query(description="AE title of a peer; repeatable")] = None,
) -> Response:
    """Write down the studies that look like one, as a DICOM SR that is kept in that study.

    Answers with the DICOM file; with `send`, 202 and its UIDs: it is then sent until the peers have it.
    """
    targets = list(dict.fromkeys(send or []))
    if not all(context.reports.can_send_to(aet) for aet in targets):
        raise ProblemError(422, "unknown-peer", "send: expected AE titles of peers in the settings, got another")
    context.witness.created(known(request).name, address_of(request), study_uid)
    made = context.reports.make(Seed(study_instance_uid=StudyInstanceUID(study_uid)), limit)
    if not targets:
        name = f'attachment; filename="{made.sop_instance_uid}.dcm"'
        content = context.reports.part10(made.sop_instance_uid)
        return Response(content, media_type="application/dicom", headers={"Content-Disposition": name})
    for aet in targets:
        payload = {"sop_instance_uid": made.sop_instance_uid}
        context.catalog.outbox.request(made.study_instance_uid, REPORT, aet, payload)
    sent = SentReport.model_validate({**asdict(made), "send": targets})
    return JSONResponse(sent.model_dump(), status_code=202)
