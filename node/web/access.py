"""Who may ask: bearer tokens (RFC 6750), or the cookie that a browser gets for one at /login."""

import hashlib
import hmac
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request, Response, Security
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from config.exposure import is_loopback
from node.web.context import context_of
from node.web.pages.html import html
from node.web.problems import ProblemError

COOKIE = "pacsimile_session"
_COOKIE_PURPOSE = b"pacsimile browser session"
_COOKIE_AGE_S = 12 * 3600
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HERE = frozenset({"same-origin", "none"})
_bearer = HTTPBearer(auto_error=False, description="One of the tokens of `[http] tokens` in the node's settings.")

Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def is_known(request: Request, bearer: HTTPAuthorizationCredentials | None) -> bool:
    """Whether the asker may see what the node holds: always, where no token is set."""
    tokens = context_of(request).settings.http.tokens
    if not tokens:
        return True
    if bearer is not None:
        return any(_same(bearer.credentials, token) for token in tokens)
    cookie = request.cookies.get(COOKIE, "")
    return any(_same(cookie, _cookie_of(token)) for token in tokens)


def require_token(request: Request, bearer: Bearer) -> None:
    """Let only those in who have a token; browsers are sent to the login form.

    Raises
    ------
    ProblemError
        401 without a valid token; 403 for a change that another site asks a browser for.
    """
    _demand_own_site(request)
    if is_known(request, bearer):
        return
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise ProblemError(303, "login", "log in first", {"Location": f"/login?next={quote(target, safe='')}"})
    detail = "expected a valid token: Authorization: Bearer TOKEN"
    raise ProblemError(401, "unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="Pacsimile"'})


def _demand_own_site(request: Request) -> None:
    """Refuse what a page of another site makes a browser send (cross-site requests, DNS rebinding)."""
    settings = context_of(request).settings.http
    if request.method not in _SAFE_METHODS and request.headers.get("sec-fetch-site", "none") not in _HERE:
        raise ProblemError(403, "other-site", "changes are taken from this site's own pages only")
    if not settings.tokens and not is_loopback(request.url.hostname or "localhost"):
        detail = "expected a Host of this machine where http.tokens is empty"
        raise ProblemError(403, "other-host", detail)


router = APIRouter(tags=["access"], include_in_schema=False)


@router.get("/login")
def login_form() -> HTMLResponse:
    """Ask for a token."""
    return html("login.html", problem="")


@router.post("/login")
def login(request: Request, token: Annotated[str, Form(max_length=1024)], next: str = "/") -> Response:  # noqa: A002
    """Exchange a token for a cookie that only this site's pages send."""
    _demand_own_site(request)
    cookie = session_cookie(request, token)
    if cookie is None:
        return html("login.html", 401, problem="That is no valid token.")
    response = RedirectResponse(next if _is_own_path(next) else "/", 303)
    set_session(request, response, cookie)
    return response


@router.post("/logout")
def logout(request: Request) -> Response:
    """Take the cookie back."""
    _demand_own_site(request)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


def session_cookie(request: Request, token: str) -> str | None:
    """The cookie's value for a token; None if it is not valid."""
    known = [one for one in context_of(request).settings.http.tokens if _same(token.strip(), one)]
    return _cookie_of(known[0]) if known else None


def set_session(request: Request, response: Response, cookie: str) -> None:
    """Have the browser keep the cookie: not readable by scripts, not sent with other sites' requests."""
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, max_age=_COOKIE_AGE_S, httponly=True, samesite="lax", secure=secure)


def _is_own_path(target: str) -> bool:
    plain = target.isascii() and target.isprintable()
    return plain and target.startswith("/") and not target.startswith("//") and "\\" not in target


def _cookie_of(token: str) -> str:
    return hmac.new(token.encode(), _COOKIE_PURPOSE, hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
