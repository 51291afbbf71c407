"""Is the node ready, and what does it hold."""

from fastapi import APIRouter, Request, Response, Security

from config.web import Scope
from dicom_scp.disk import Reserve
from indexer.errors import Transient
from node.describe import status_json
from node.supervisor import WorkerState
from node.web.access import Bearer, require_scopes
from node.web.context import AnyNode
from node.web.gate import client_of
from node.web.models import Disk, Health, Status, Worker
from node.web.problems import responses

router = APIRouter(tags=["node"])


@router.get("/health", responses={503: {"model": Health, "description": "It cannot receive or answer"}})
def health(request: Request, response: Response, context: AnyNode, _bearer: Bearer) -> Health:
    """Say whether every part of the node is ready: the DICOM face, the catalog, the index and the worker.

    Parts that its roles do without are left out.

    The status is 503 where the node cannot receive or answer. A node whose worker does not run, or is still
    starting, is not ready: it receives and answers, and indexes nothing. Where tokens are needed, only `ready` is
    told without one that has the scope MONITOR.
    """
    outstanding = _outstanding(context)
    index, encoder_id = context.keeper.current() if context.keeper is not None else (None, None)
    listens = context.dicom is None or context.dicom.is_listening
    receives = outstanding is not None and listens
    if not receives:
        response.status_code = 503
    ready = receives and (context.worker is None or context.worker.health.state is WorkerState.RUNNING)
    client = client_of(request)
    if client is None or not client.may([Scope.MONITOR]):
        return Health(ready=ready)
    return Health(
        ready=ready,
        roles=context.settings.roles,
        dicom=None if context.dicom is None else listens,
        catalog=outstanding is not None,
        worker=None if context.worker is None else Worker.model_validate(context.worker.health),
        disk=_disk(context),
        encoder_id=encoder_id,
        index_size=None if index is None else len(index),
        outstanding_series=outstanding,
    )


def _outstanding(context: AnyNode) -> int | None:
    """Series that are not indexed yet; None where the catalog is out of reach."""
    try:
        return context.catalog.progress.outstanding()
    except Exception:
        return None


def _disk(context: AnyNode) -> Disk | None:
    """How much room there is; None where the disk cannot be asked."""
    reserve = Reserve(context.settings.spool_dir, context.settings.storage.reserve_mib)
    try:
        return Disk(free_mib=reserve.free_mib, reserve_mib=reserve.reserve_mib, is_full=reserve.is_used_up)
    except Transient:
        return None


@router.get(
    "/status",
    dependencies=[Security(require_scopes, scopes=[Scope.MONITOR])],
    responses=responses(503),
)
def status(context: AnyNode) -> Status:
    """Count what the catalog holds, and list parked series with their reasons."""
    return Status.model_validate(status_json(context.catalog))
