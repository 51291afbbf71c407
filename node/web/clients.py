"""Who asks over HTTP: bearers of tokens, and browsers that logged in with one."""

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from config.access import Cohort
from config.errors import ConfigError
from config.model import Settings
from config.web import HttpClient, Scope

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")
_MOST_SESSIONS = 10_000


@dataclass(frozen=True)
class Client:
    """Somebody who may ask.

    Attributes
    ----------
    expires : date, optional
        From this day on, in UTC, no longer.
    cohort : Cohort, optional
        The studies that are there for them; None: all.
    """

    name: str
    scopes: frozenset[Scope] = frozenset(Scope)
    expires: date | None = None
    cohort: Cohort | None = None

    @property
    def is_expired(self) -> bool:
        """Whether the day has come."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires

    def may(self, scopes: Collection[str]) -> bool:
        """Whether all of these are allowed."""
        return self.scopes.issuperset(Scope(one) for one in scopes)


ANYBODY = Client("anybody")
"""Who asks a node that has no tokens."""


class Clients:
    """Knows clients by their tokens, of which only the SHA-256 is kept.

    Raises
    ------
    ConfigError
        A file that should hold a token cannot be read, or holds something else.
    """

    def __init__(self, settings: Settings) -> None:
        problems: list[str] = []
        self._known: dict[str, Client] = {}
        for token in settings.http.tokens:
            digest = sha256_of(token)
            self._known[digest] = Client(f"token {digest[:8]}")
        for one in settings.http.clients:
            try:
                digest = one.sha256 or sha256_of(_read_token(one))
            except ValueError as error:
                problems.append(str(error))
            else:
                self._known[digest] = Client(one.name, one.scopes, one.expires, settings.cohort(one.cohort))
        if problems:
            raise ConfigError(problems)

    @property
    def is_open(self) -> bool:
        """Whether anybody may ask."""
        return not self._known

    def by_token(self, token: str) -> Client | None:
        """Whose token it is, if it is valid."""
        client = self._known.get(sha256_of(token.strip()))
        return None if client is None or client.is_expired else client


class Sessions:
    """Browsers that are logged in; they are not known any more after a restart.

    Parameters
    ----------
    hours : float
        So long a browser stays logged in.
    """

    def __init__(self, hours: float) -> None:
        self.age_s = int(hours * 3600)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[Client, float]] = OrderedDict()

    def open(self, client: Client) -> str:
        """Log in; returns what the browser has to show from now on."""
        cookie = secrets.token_urlsafe(32)
        with self._lock:
            self._open[sha256_of(cookie)] = (client, time.monotonic() + self.age_s)
            if len(self._open) > _MOST_SESSIONS:
                self._open.popitem(last=False)
        return cookie

    def client(self, cookie: str) -> Client | None:
        """Who logged in and got this cookie, while that is valid."""
        with self._lock:
            client, ends = self._open.get(sha256_of(cookie), (None, 0.0))
        return None if client is None or client.is_expired or time.monotonic() >= ends else client

    def close(self, cookie: str) -> Client | None:
        """Log out; returns who was logged in."""
        with self._lock:
            client, _ = self._open.pop(sha256_of(cookie), (None, 0.0))
        return client


def sha256_of(token: str) -> str:
    """What is kept of a token: it is too long to be guessed, so that a quick digest does."""
    return hashlib.sha256(token.encode()).hexdigest()


def _read_token(client: HttpClient) -> str:
    try:
        token = Path(client.file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"http.clients.file of {client.name}: cannot be read: {type(error).__name__}") from error
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"http.clients.file of {client.name}: expected a token of 16 characters or more, alone")
    return token
