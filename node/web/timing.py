"""How long questions for similar studies take over HTTP."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class QueryTimer:
    """Middleware: tells the seconds of each request whose route asks for similar studies.

    Parameters
    ----------
    observe : callable
        Is told the seconds.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        began = time.monotonic()
        await self._app(scope, receive, send)
        template = str(getattr(scope.get("route"), "path", ""))
        if "similar" in template.strip("/").split("/"):
            self._observe(time.monotonic() - began)
