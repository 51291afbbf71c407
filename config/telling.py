"""What a node tells of itself, and to whom: log and audit trail."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from config.section import PositiveInt, Section


class AuditSettings(Section):
    """Where audit messages (PS3.15 A.5) go.

    Attributes
    ----------
    host, port, ca_file, certificate_file, key_file
        Of the syslog server, over TLS (RFC 5425); the certificate is this node's own.
    """

    to: Literal["none", "file", "syslog"]
    host: str
    port: Annotated[int, Field(gt=0, le=65535)]
    ca_file: str
    certificate_file: str
    key_file: str

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.to == "syslog" and not self.host:
            raise ValueError('to = "syslog" needs host')
        return self


class LogSettings(Section):
    """What the node says of itself, and where.

    Attributes
    ----------
    file_mib, files, days : int
        A file is closed at this size and at midnight, UTC; so many closed ones are kept, each so long.
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    to: Literal["stderr", "file"]
    format: Literal["text", "json"]
    file_mib: PositiveInt
    files: PositiveInt
    days: PositiveInt
