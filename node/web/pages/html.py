"""Pages out of templates: everything escaped, errors shown as a page too."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from config.errors import PacsimileError
from indexer.errors import NotFound, Transient
from node.web.pages import words
from node.web.pages.assets import asset

_TEMPLATES = Environment(
    loader=PackageLoader("node.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {"asset": asset, "version": version("pacsimile")}
_TEMPLATES.filters |= {"segment": words.segment, "day": words.day}


def html(template: str, status: int = 200, /, **values: object) -> HTMLResponse:
    """Render a template."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)


def is_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("hx-request") == "true"


class PageRoute(APIRoute):
    """A route of the page: what goes wrong is said in a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_and_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                return _explained(422, "The address of this page is not complete or not valid.")
            except NotFound as error:
                return _explained(404, str(error))
            except Transient as error:
                return _explained(503, str(error))
            except PacsimileError as error:
                return _explained(422, str(error))

        return handle_and_explain


def _explained(status: int, detail: str) -> Response:
    return html("error.html", status, title=HTTPStatus(status).phrase, detail=detail)
