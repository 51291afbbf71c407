"""The HTTP face: where it listens, who may ask and for what."""

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from config.section import Port, PositiveInt, Section

HttpToken = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~+/-]{16,512}=*$")]
"""A bearer token (RFC 6750 section 2.1), too long to be guessed."""
_PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _demand_viewer_url(value: str) -> str:
    name, _, url = value.partition("=")
    scheme = re.match(r"([a-z][a-z0-9+.-]*):", url)
    if not name.strip() or scheme is None or scheme[1] in {"javascript", "data", "vbscript", "blob", "file"}:
        raise ValueError("expected NAME=URL with the address of a viewer")
    if (fields := set(re.findall(r"{(.*?)}", url))) - {"study", "accession"} or not fields:
        raise ValueError("expected {study} or {accession}, and nothing else in braces, in the address of a viewer")
    return value


ViewerUrl = Annotated[str, AfterValidator(_demand_viewer_url)]
"""The name and the address of a viewer: ``OHIF=https://host/viewer?StudyInstanceUIDs={study}``."""


class Scope(StrEnum):
    """What a bearer of a token may do over HTTP."""

    SEARCH = "SEARCH"
    READ = "READ"
    STORE = "STORE"
    MONITOR = "MONITOR"
    ADMIN = "ADMIN"


class HttpClient(Section):
    """Who may ask over HTTP, and for what.

    Attributes
    ----------
    name : str
        For the log and the audit trail.
    sha256, file : str
        One of these: the SHA-256 of the token, in hexadecimal, or a file with nothing but the token.
    expires : date, optional
        From this day on, in UTC, the token is not valid any more.
    cohort : str
        Name of the studies that may be seen; empty: all.
    """

    name: Annotated[str, StringConstraints(pattern=r"^\w[\w .@-]{0,63}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^($|[0-9a-f]{64}$)")] = ""
    file: str = ""
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    expires: date | None = None
    cohort: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.sha256) == bool(self.file):
            raise ValueError("expected one of sha256 and file")
        if self.cohort and (whole := self.scopes - {Scope.SEARCH, Scope.READ}):
            raise ValueError(
                f"scopes that concern the whole node need an empty cohort; got {', '.join(sorted(whole))}"
            )
        return self


class TlsSettings(Section):
    """A certificate that is shown to who connects (PEM files)."""

    certificate_file: str
    key_file: str

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file needs certificate_file")
        return self


class HttpSettings(Section):
    """The HTTP face.

    Attributes
    ----------
    viewer_urls : tuple of str
        ``NAME=URL``: links that the page offers for a study, with what is to be filled in, in braces.
    tokens : tuple of str
        Any of these lets its bearer do everything (RFC 6750).
    clients : tuple of HttpClient
        Tokens with less rights. Without any token, whoever reaches the port may do everything.
    plain_beyond_loopback : bool
        Whether to answer without TLS beyond this machine, because something else encrypts.
    proxies : tuple of str
        Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
    """

    host: str
    port: Port
    viewer_urls: tuple[ViewerUrl, ...]
    tokens: tuple[HttpToken, ...]
    clients: tuple[HttpClient, ...]
    plain_beyond_loopback: bool
    proxies: tuple[str, ...]
    requests_per_minute: PositiveInt
    failures_per_minute: PositiveInt
    session_hours: _PositiveFloat
    tls: TlsSettings

    @model_validator(mode="after")
    def _tell_clients_apart(self) -> Self:
        if len({one.name for one in self.clients}) < len(self.clients):
            raise ValueError("every client must have a name of its own")
        return self

    @property
    def is_guarded(self) -> bool:
        """Whether a token is needed."""
        return bool(self.tokens or self.clients)
