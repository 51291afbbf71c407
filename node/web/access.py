"""Who may do what: bearer tokens with scopes (RFC 6750), or the cookie that a browser gets for one at /login."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request, Response, Security
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from config.exposure import is_loopback
from config.web import Scope
from node.web.clients import ANYBODY, Client
from node.web.context import context_of
from node.web.gate import COOKIE, Admission, address_of, client_of
from node.web.pages.html import html
from node.web.problems import ProblemError

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HERE = frozenset({"same-origin", "none"})
_REALM = 'Bearer realm="Pacsimile"'
_bearer = HTTPBearer(
    auto_error=False, description="A token of `[http] tokens` or `[[http.clients]]` of the settings."
)

Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
"""For the OpenAPI document; `node.web.gate` has looked at it before."""


def require_scopes(request: Request, scopes: SecurityScopes, bearer: Bearer) -> None:
    """Let only those in who may do what a route does; browsers are sent to the login form.

    What is asked and what is about to be given away is taken down in the audit trail, so that no route forgets it.

    Raises
    ------
    ProblemError
        401 without a valid token, 403 without a scope, or for a change that another site asks a browser for.
    """
    _demand_own_site(request)
    client = client_of(request)
    if client is None:
        raise _unknown(request, is_invalid=bearer is not None)
    if not client.may(scopes.scopes):
        wanted = " ".join(scopes.scopes)
        header = f'{_REALM}, error="insufficient_scope", scope="{wanted}"'
        detail = f"expected a token with the scope {wanted}"
        raise ProblemError(403, "insufficient-scope", detail, {"WWW-Authenticate": header})
    _take_down(request, client, scopes.scopes)


def known(request: Request) -> Client:
    """Who asks; `ANYBODY` where no token is needed.

    Raises
    ------
    ProblemError
        401 where they are not known.
    """
    client = client_of(request)
    if client is None:
        raise _unknown(request, is_invalid=False)
    return client


def _unknown(request: Request, *, is_invalid: bool) -> ProblemError:
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return ProblemError(303, "login", "log in first", {"Location": f"/login?next={quote(target, safe='')}"})
    header = f'{_REALM}, error="invalid_token"' if is_invalid else _REALM
    detail = "expected a valid token: Authorization: Bearer TOKEN"
    return ProblemError(401, "unauthorized", detail, {"WWW-Authenticate": header})


def _take_down(request: Request, client: Client, scopes: list[str]) -> None:
    context, who = context_of(request), (client.name, address_of(request))
    study_uid = request.path_params.get("study_uid")
    if Scope.READ in scopes and study_uid is not None:
        context.witness.gives(*who, study_uid, context.view.lookup)
    elif Scope.SEARCH in scopes or Scope.READ in scopes:
        url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        context.witness.asked(*who, request.scope["route"].path, url)


def _demand_own_site(request: Request) -> None:
    """Refuse what a page of another site makes a browser send (cross-site requests, DNS rebinding)."""
    if request.method not in _SAFE_METHODS and request.headers.get("sec-fetch-site", "none") not in _HERE:
        raise ProblemError(403, "other-site", "changes are taken from this site's own pages only")
    if client_of(request) is ANYBODY and not is_loopback(request.url.hostname or "localhost"):
        detail = "expected a Host of this machine where no token is set"
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
    admission, address = _admission(request), address_of(request)
    client = None if admission.failures.wait_s(address) else admission.clients.by_token(token)
    if client is None:
        wait_s = admission.failures.take(address)
        if wait_s:
            problem = "Too many tokens that are not valid; try again in a minute."
            answer = html("login.html", 429, problem=problem)
            answer.headers["Retry-After"] = str(int(wait_s) + 1)
            return answer
        admission.witness.refused(address)
        return html("login.html", 401, problem="That is no valid token.")
    admission.witness.logged_in(client.name, address)
    response = RedirectResponse(next if _is_own_path(next) else "/", 303)
    response.set_cookie(
        COOKIE,
        admission.sessions.open(client),
        max_age=admission.sessions.age_s,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session: the cookie is worth nothing any more, wherever it is kept."""
    _demand_own_site(request)
    admission = _admission(request)
    client = admission.sessions.close(request.cookies.get(COOKIE, ""))
    if client is not None:
        admission.witness.logged_out(client.name, address_of(request))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _admission(request: Request) -> Admission:
    found: Admission = request.app.state.admission
    return found


def _is_own_path(target: str) -> bool:
    plain = target.isascii() and target.isprintable()
    return plain and target.startswith("/") and not target.startswith("//") and "\\" not in target
