"""The node over HTTP: its routes put together."""

from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Security
from fastapi.openapi.utils import get_openapi

from config.web import Scope
from node.web import access, forget, health, priors, rendered, reports, scrape, similar, similar_uploads
from node.web.access import require_scopes
from node.web.context import Standing, WebContext
from node.web.dicomweb import retrieve, search
from node.web.gate import Admission, Gate
from node.web.pages import assets, routes
from node.web.problems import Problem, add_problem_handlers
from node.web.timing import QueryTimer

_DESCRIPTION = """Finds studies like this one. Not for diagnosis.

Errors are problem details (RFC 9457). Where the node's settings name tokens, every request but `/health` needs one:
`Authorization: Bearer TOKEN`. `security` of a route names the scopes that the token has to have. Any request may be
answered 429 where there are too many.
"""
_TAGS = [
    {"name": "similar", "description": "Studies that look like a study, series, slice, region or upload"},
    {"name": "images", "description": "Frames as pictures"},
    {"name": "dicomweb", "description": "QIDO-RS and WADO-RS over what the node holds (PS3.18)"},
    {"name": "node", "description": "What the node holds and how it is"},
]
_GUARDED = (
    (scrape.router, Scope.MONITOR),
    (similar.router, Scope.SEARCH),
    (similar_uploads.router, Scope.SEARCH),
    (priors.router, Scope.SEARCH),
    (search.router, Scope.SEARCH),
    (reports.router, Scope.STORE),
    (forget.router, Scope.ADMIN),
    (rendered.router, Scope.READ),
    (retrieve.router, Scope.READ),
)
"""What may be done with which scope, the first at every node; pages and /status say it of themselves."""


def make_app(context: Standing) -> FastAPI:
    """Make the application: all of it with a `WebContext`, else health, status and figures.

    Raises
    ------
    ConfigError
        A token cannot be read.
    """
    app = FastAPI(
        title="Pacsimile",
        version=version("pacsimile"),
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,  # would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.context = context
    admission = app.state.admission = Admission.of(context.settings, context.witness)
    app.add_middleware(Gate, admission=admission)
    app.add_middleware(QueryTimer, observe=context.metrics.answered_over_http)
    add_problem_handlers(app)
    app.include_router(health.router)
    for router, scope in _GUARDED if isinstance(context, WebContext) else _GUARDED[:1]:
        app.include_router(router, dependencies=[Security(require_scopes, scopes=[scope])])
    if isinstance(context, WebContext):
        _add_answers(app)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def _add_answers(app: FastAPI) -> None:
    """What only a node has that answers, and that is not guarded as a whole."""
    app.include_router(access.router)
    app.include_router(assets.router)
    reading = [Security(require_scopes, scopes=[Scope.READ])]
    app.include_router(rendered.router, prefix="/dicomweb", dependencies=reading)
    app.include_router(routes.router)


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
