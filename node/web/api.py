"""The node over HTTP: its routes put together."""

from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from node.web import access, forget, health, priors, rendered, reports, scrape, similar, similar_uploads
from node.web.access import require_token
from node.web.context import WebContext
from node.web.dicomweb import retrieve, search
from node.web.headers import SecurityHeaders
from node.web.pages import assets, routes
from node.web.problems import Problem, add_problem_handlers
from node.web.timing import QueryTimer

_DESCRIPTION = """Finds studies like this one. Not for diagnosis.

Errors are problem details (RFC 9457). Where the node's settings name tokens, every request but `/health` needs one:
`Authorization: Bearer TOKEN`.
"""
_TAGS = [
    {"name": "similar", "description": "Studies that look like a study, series, slice, region or upload"},
    {"name": "images", "description": "Frames as pictures"},
    {"name": "dicomweb", "description": "QIDO-RS and WADO-RS over what the node holds (PS3.18)"},
    {"name": "node", "description": "What the node holds and how it is"},
]
_GUARDED = (scrape, similar, priors, reports, forget, rendered, routes, search, retrieve, similar_uploads)


def make_app(context: WebContext) -> FastAPI:
    """Make the application."""
    app = FastAPI(
        title="Pacsimile",
        version=version("pacsimile"),
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,  # would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.context = context
    app.add_middleware(SecurityHeaders)
    app.add_middleware(QueryTimer, observe=context.metrics.answered_over_http)
    add_problem_handlers(app)
    app.include_router(health.router)
    app.include_router(access.router)
    app.include_router(assets.router)
    for part in _GUARDED:
        app.include_router(part.router, dependencies=[Depends(require_token)])
    app.include_router(rendered.router, prefix="/dicomweb", dependencies=[Depends(require_token)])
    app.openapi = partial(_document, app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schema of problems, which no route answers with by its type."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, tags=_TAGS, routes=app.routes
        )
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"]
        schemas |= problem.pop("$defs", {}) | {"Problem": problem}
        app.openapi_schema = document
    return app.openapi_schema
