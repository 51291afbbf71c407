"""Studies that look like what is sent along; and the jobs that such a question becomes."""

import shutil
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from dicom_scp.similar import allowed_series
from indexer.sealing import folder_of
from node.web.access import known
from node.web.context import Context
from node.web.jobs import Job, Upload
from node.web.models import JobStatus
from node.web.paging import PagingQuery
from node.web.problems import responses
from node.web.questions import FilterQuery, page
from node.web.uploads import receive

router = APIRouter(tags=["similar"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "DICOM files of any number of series, or one NIfTI file (CT in Hounsfield units)",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/dicom": _BINARY,
            "application/octet-stream": _BINARY,
        },
    }
}
_LINK = {"Location": {"description": "Where the job is", "schema": {"type": "string"}}}
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", examples=["0123456789abcdef0123456789abcdef"])]


@router.post(
    "/similar",
    status_code=202,
    openapi_extra=_BODY,
    responses={
        202: {"description": "The question is a job now", "headers": _LINK},
        **responses(400, 403, 413, 503),
    },
)
async def similar_to_upload(
    request: Request,
    response: Response,
    context: Context,
    filters: FilterQuery,
    paging: PagingQuery,
    modality_of_file: Annotated[Literal["CT", "MR"], Query(description="Of a NIfTI file")] = "CT",
) -> JobStatus:
    """Find the studies that look like files sent along; nothing of them is stored.

    The files are embedded by a process of its own. The answer is a job: ask at its `Location` until it is DONE or
    FAILED.
    """
    context.jobs.demand_room()
    allowed = await anyio.to_thread.run_sync(allowed_series, context.view.lookup, filters.keys)
    folder = context.jobs.new_folder()
    try:
        files = await receive(
            request, folder_of(folder, context.catalog.vault), context.settings.dicom.max_object_mib << 20
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    who = known(request)
    upload = Upload(folder, tuple(files), modality_of_file, paging, allowed, who.name, who.cohort)
    job = context.jobs.submit(upload)
    response.headers["Location"] = f"/jobs/{job.id}"
    return described(job)


@router.get("/jobs/{job_id}", responses=responses(404))
def job_status(request: Request, context: Context, job_id: JobId) -> JobStatus:
    """Say how a job stands; its answer once it is done. Jobs are kept for an hour after they end."""
    return described(context.jobs.job(job_id, known(request).name))


@router.delete("/jobs/{job_id}", status_code=204, response_class=Response, responses=responses(403, 404))
def forget_job(request: Request, context: Context, job_id: JobId) -> Response:
    """Drop a job and its answer; one that runs is ended."""
    context.jobs.forget(job_id, known(request).name)
    return Response(status_code=204)


def described(job: Job) -> JobStatus:
    """Describe a job."""
    return JobStatus(
        id=job.id,
        state=job.state,
        stage=job.stage,
        progress=job.progress,
        answer=page(job.answer, job.paging, None) if job.answer else None,
        problem=job.problem or None,
    )
