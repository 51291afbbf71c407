"""Multipart answers (RFC 2387), written as they are read: memory is taken for one part at most."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastapi.responses import StreamingResponse

from node.web.dicomweb.acceptance import MULTIPART


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes
    ----------
    content_type : str
        With parameters.
    content : iterable of bytes
        Read once.
    """

    content_type: str
    content: Iterable[bytes]


def multipart_response(parts: Iterable[Part], inner_type: str) -> StreamingResponse:
    """Answer with parts of one media type."""
    boundary = secrets.token_hex(16)
    media_type = f'{MULTIPART}; type="{inner_type}"; boundary={boundary}'
    return StreamingResponse(_written(parts, boundary), headers={"Content-Type": media_type})


def _written(parts: Iterable[Part], boundary: str) -> Iterator[bytes]:
    for part in parts:
        yield f"--{boundary}\r\nContent-Type: {part.content_type}\r\n\r\n".encode("ascii")
        yield from part.content
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode("ascii")
