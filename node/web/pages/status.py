"""How the node stands, and another try for what is parked."""

import shutil
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.responses import RedirectResponse

from config.web import Scope
from indexer.catalog.states import SeriesState
from node.web.access import known, require_scopes
from node.web.context import Context, SeriesUid, WebContext
from node.web.gate import address_of
from node.web.pages.html import PageRoute, html, is_fragment
from node.web.problems import ProblemError

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_MOST_SHOWN = 100
"""Parked series in the list; `pacsimile status` has all of them."""
_STATES = (
    (SeriesState.RECEIVING, "Receiving", "instances still come in"),
    (SeriesState.SETTLED, "Waiting", "for the worker"),
    (SeriesState.INDEXING, "Indexing", "at this moment"),
    (SeriesState.INDEXED, "Indexed", "can be found"),
    (SeriesState.PARKED, "Parked", "wait for a person"),
    (SeriesState.STORED, "Stored", "hold nothing to index"),
)


def demand_own_page(request: Request) -> None:
    """Take a form from this site's own pages only, beside what `node.web.access` asks.

    Raises
    ------
    ProblemError
        The browser says that the form is another site's, or nothing says whose it is.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site != "same-origin":
        raise ProblemError(403, "other-site", "changes are taken from this site's own pages only")
    if origin is None and site is None:
        raise ProblemError(403, "other-site", "expected an Origin; send one, or use the command line")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise ProblemError(403, "other-site", "changes are taken from this site's own pages only")


OwnPage = Annotated[None, Depends(demand_own_page)]


@router.get("/ui/status")
def status(request: Request, context: Context) -> Response:
    """Show how the node stands; without the frame of the page for htmx."""
    return html("status_now.html" if is_fragment(request) else "status.html", **_now(context))


@router.post("/ui/series/{series_uid}/retry", dependencies=[Security(require_scopes, scopes=[Scope.ADMIN])])
def retry(request: Request, context: Context, series_uid: SeriesUid, _own: OwnPage) -> Response:
    """Send a parked series through indexing again."""
    if not context.catalog.progress.retry(series_uid):
        raise ProblemError(409, "not-parked", "no such series is parked, or its files are not here")
    who = known(request)
    context.witness.index_changed(who.name, address_of(request), f"series {series_uid} goes through indexing again")
    if is_fragment(request):
        return html("status_now.html", **_now(context))
    return RedirectResponse("/ui/status", 303)


def _now(context: WebContext) -> dict[str, object]:
    catalog, settings = context.catalog, context.settings
    counts = catalog.progress.counts()
    index, encoder_id = context.keeper.current()
    by_state = counts.series_by_state
    parked = catalog.progress.parked()
    return {
        "counts": counts,
        "states": [(label, hint, by_state.get(state, 0), str(state)) for state, label, hint in _STATES],
        "parked": parked[:_MOST_SHOWN],
        "more_parked": max(len(parked) - _MOST_SHOWN, 0),
        "quarantined": catalog.progress.quarantined(),
        "deliveries": {str(state): number for state, number in catalog.outbox.counts().items()},
        "delivery_problems": catalog.outbox.problems(),
        "worker": context.worker.health if context.worker is not None else None,
        "encoder_id": encoder_id,
        "index_size": len(index),
        "index_kind": settings.vectors.kind,
        "peers": settings.peers,
        "dicom": settings.dicom,
        "has_login": settings.http.is_guarded,
        "free_gb": shutil.disk_usage(settings.data_dir).free / 1e9,
    }
