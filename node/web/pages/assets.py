"""The files that pages load: style, scripts, and htmx as its package ships it; in memory, under one version."""

import hashlib
from importlib import resources

from fastapi import APIRouter, Response

from node.web.problems import ProblemError

_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HTMX = ("django_htmx", "static/django_htmx/htmx-2.min.js")


def _read() -> dict[str, bytes]:
    own = resources.files("node.web").joinpath("static")
    files = {one.name: one.read_bytes() for one in own.iterdir() if one.name.rpartition(".")[2] in _KINDS}
    return files | {"htmx.min.js": resources.files(_HTMX[0]).joinpath(_HTMX[1]).read_bytes()}


_FILES = _read()
_VERSION = hashlib.sha256(b"".join(name.encode() + _FILES[name] for name in sorted(_FILES))).hexdigest()[:16]
router = APIRouter(include_in_schema=False)
"""Open to all: there is nothing of the node in these files, and the login form needs them."""


def asset(name: str) -> str:
    """Path of a file for a page; another one whenever any file changes, so that browsers may keep them.

    Raises
    ------
    KeyError
        There is no such file.
    """
    _FILES[name]
    return f"/ui/static/{_VERSION}/{name}"


@router.get("/ui/static/{version}/{name}")
def file(version: str, name: str) -> Response:
    """Answer with a file."""
    if name not in _FILES:
        raise ProblemError(404, "not-found", "no such file")
    kept = "public, max-age=31536000, immutable" if version == _VERSION else "no-store"
    return Response(_FILES[name], media_type=_KINDS[name.rpartition(".")[2]], headers={"Cache-Control": kept})
