"""Is the node ready, and what does it hold."""

from fastapi import APIRouter, Depends, Request, Response

from dicom_scp.disk import Reserve
from indexer.errors import Transient
from node.describe import status_json
from node.web.access import Bearer, is_known, require_token
from node.web.context import Context
from node.web.models import Disk, Health, Status, Worker
from node.web.problems import responses

router = APIRouter(tags=["node"])


@router.get("/health", responses={503: {"model": Health, "description": "The catalog is out of reach"}})
def health(request: Request, response: Response, context: Context, bearer: Bearer) -> Health:
    """Say whether the node can receive and answer: 200, or 503 where the catalog is out of reach.

    A node whose worker does not run still receives and answers; `worker` says what is wrong with it. Without a
    token, where one is needed, only `ready` is told.
    """
    try:
        outstanding: int | None = context.catalog.progress.outstanding()
    except Exception:
        outstanding = None
        response.status_code = 503
    ready = outstanding is not None
    if not is_known(request, bearer):
        return Health(ready=ready)
    worker = Worker.model_validate(context.worker.health)
    if not ready:
        return Health(ready=False, worker=worker, disk=_disk(context))
    index, encoder_id = context.keeper.current()
    return Health(
        ready=True,
        worker=worker,
        disk=_disk(context),
        encoder_id=encoder_id,
        index_size=len(index),
        outstanding_series=outstanding,
    )


def _disk(context: Context) -> Disk | None:
    """How much room there is; None where the disk cannot be asked."""
    reserve = Reserve(context.settings.spool_dir, context.settings.storage.reserve_mib)
    try:
        return Disk(free_mib=reserve.free_mib, reserve_mib=reserve.reserve_mib, is_full=reserve.is_used_up)
    except Transient:
        return None


@router.get("/status", dependencies=[Depends(require_token)], responses=responses(503))
def status(context: Context) -> Status:
    """Count what the catalog holds, and list parked series with their reasons."""
    return Status.model_validate(status_json(context.catalog))
