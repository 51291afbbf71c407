"""The first that a request meets: who asks, and whether they ask too much or too often in vain."""

import math
from dataclasses import dataclass, field

import anyio.to_thread
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.model import Settings
from node.web.clients import ANYBODY, Client, Clients, Sessions
from node.web.limits import RateLimit
from node.web.problems import problem_response
from node.web.witness import HttpWitness

COOKIE = "pacsimile_session"
CLIENT = "pacsimile.client"
"""Where in an ASGI scope the gate leaves who asks; None: nobody known."""
_MOST_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class Admission:
    """Who is known, and how much they may ask."""

    clients: Clients
    sessions: Sessions
    requests: RateLimit
    failures: RateLimit
    witness: HttpWitness
    unlimited_paths: frozenset[str] = field(default=frozenset({"/similar"}))
    """Whose routes limit the body themselves."""

    @classmethod
    def of(cls, settings: Settings, witness: HttpWitness) -> "Admission":
        """Make it as the settings say.

        Raises
        ------
        ConfigError
            A token cannot be read.
        """
        http = settings.http
        limits = RateLimit(http.requests_per_minute), RateLimit(http.failures_per_minute)
        return cls(Clients(settings), Sessions(http.session_hours), *limits, witness)


class Gate:
    """Middleware: finds out who asks; answers 429 to whoever asks too much, 413 to who sends too much."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        address, token = address_of(connection), _bearer_of(connection)
        failed_wait_s = self._admission.failures.wait_s(address) if token is not None else 0.0
        client = None if failed_wait_s else self._client(connection, token)
        if token is not None and client is None and not failed_wait_s:
            self._admission.failures.take(address)
            await anyio.to_thread.run_sync(self._admission.witness.refused, address)
        who = f"address {address}" if client is None or client is ANYBODY else f"client {client.name}"
        wait_s = failed_wait_s or self._admission.requests.take(who)
        if wait_s:
            await too_many(wait_s)(scope, receive, send)
            return
        scope[CLIENT] = client
        if scope["path"] in self._admission.unlimited_paths:
            await self._app(scope, receive, send)
        else:
            said = connection.headers.get("content-length", "0")
            await self._with_small_body(int(said) if said.isdecimal() else 0, scope, receive, send)

    def _client(self, connection: HTTPConnection, token: str | None) -> Client | None:
        if self._admission.clients.is_open:
            return ANYBODY
        if token is not None:
            return self._admission.clients.by_token(token)
        return self._admission.sessions.client(connection.cookies.get(COOKIE, ""))

    async def _with_small_body(self, size: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on whose body is short, whatever size it says: all of it is read first."""
        parts: list[bytes] = []
        while size <= _MOST_BODY_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            parts.append(message.get("body", b""))
            size = max(size, sum(map(len, parts)))
            if not message.get("more_body", False):
                break
        if size > _MOST_BODY_BYTES:
            detail = f"expected a body of {_MOST_BODY_BYTES} bytes or fewer"
            await problem_response(413, "too-large", detail)(scope, receive, send)
            return
        body: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def receive_again() -> Message:
            return body.pop() if body else await receive()

        await self._app(scope, receive_again, send)


def too_many(wait_s: float) -> ASGIApp:
    """Answer that it is too much."""
    detail = "too many requests, or too many tokens that are not valid"
    return problem_response(429, "too-many-requests", detail, {"Retry-After": str(math.ceil(wait_s))})


def address_of(connection: HTTPConnection) -> str:
    """Where a request comes from."""
    return connection.client.host if connection.client is not None else ""


def client_of(connection: HTTPConnection) -> Client | None:
    """Who asks, if they are known."""
    found: Client | None = connection.scope.get(CLIENT)
    return found


def _bearer_of(connection: HTTPConnection) -> str | None:
    """The token that a request shows (RFC 6750 section 2.1)."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
