"""What a client of WADO-RS takes (PS3.18 8.7): media types and transfer syntaxes, read from its Accept header."""

from dataclasses import dataclass
from email.message import Message

from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_scp.transcoding import COMPRESSED_TARGETS, TARGETS
from node.web.problems import ProblemError

DICOM = "application/dicom"
OCTETS = "application/octet-stream"
MULTIPART = "multipart/related"
ANY = "*"
_MEDIA_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
}
"""Media types of compressed frames (PS3.18 table 8.7.3-5)."""


@dataclass(frozen=True)
class Wanted:
    """A media type that is taken.

    Attributes
    ----------
    is_multipart : bool
        Whether it is that of the parts of a multipart answer.
    syntax : str
        Transfer syntax; "*" for whatever it is stored in, "" where none was said.
    """

    media_type: str
    is_multipart: bool
    syntax: str


def read_accept(accept: str) -> list[Wanted]:
    """The media types of an Accept header, in its order."""
    found = []
    for part in _parts(accept):
        message = Message()
        message["Content-Type"] = part
        own = part.split(";")[0].strip().lower()
        syntax = str(message.get_param("transfer-syntax") or "").strip()
        if own == MULTIPART:
            inner = str(message.get_param("type") or "*/*").strip().lower()
            found.append(Wanted(inner, True, syntax))
        else:
            found.append(Wanted(own or "*/*", own in {"*/*", ""}, syntax))
    return found


def dicom_wanted(accept: str, *, is_single: bool) -> Wanted:
    """How whole instances are to be sent.

    Parameters
    ----------
    is_single : bool
        Whether a file alone is possible as well.

    Raises
    ------
    ProblemError
        406.
    """
    possible = {"", ANY, *TARGETS, *COMPRESSED_TARGETS}
    for one in read_accept(accept):
        fits = one.media_type in {DICOM, "*/*", "application/*"} and (one.is_multipart or is_single)
        if fits and (one.syntax in possible or _is_known(one.syntax)):
            return Wanted(DICOM, one.is_multipart, one.syntax or ExplicitVRLittleEndian)
    detail = f'expected Accept: {MULTIPART}; type="{DICOM}"; transfer-syntax=*'
    raise ProblemError(406, "not-acceptable", detail)


def frames_wanted(accept: str, stored: UID, *, is_single: bool) -> Wanted:
    """How frames of an instance are to be sent: media type and transfer syntax of each part.

    Raises
    ------
    ProblemError
        406.
    """
    native = Wanted(OCTETS, True, ExplicitVRLittleEndian)
    compressed = media_type_of(stored)
    as_stored = Wanted(compressed, True, stored) if stored.is_encapsulated else native
    for one in read_accept(accept):
        if not one.is_multipart and not is_single:
            continue
        plain = one.media_type in {OCTETS, "*/*", "application/*"}
        if one.syntax == ANY and (plain or one.media_type == compressed):
            return Wanted(as_stored.media_type, one.is_multipart, as_stored.syntax)
        if stored.is_encapsulated and one.syntax in {"", stored} and one.media_type == compressed:
            return Wanted(compressed, one.is_multipart, stored)
        if stored.is_encapsulated and one.syntax == stored and plain:
            return Wanted(compressed, one.is_multipart, stored)
        if plain and one.syntax in {"", *TARGETS}:
            return Wanted(OCTETS, one.is_multipart, ExplicitVRLittleEndian)
    detail = f'expected Accept: {MULTIPART}; type="{OCTETS}"; transfer-syntax=*, or type="{as_stored.media_type}"'
    raise ProblemError(406, "not-acceptable", detail)


def media_type_of(syntax: str) -> str:
    """Media type of one frame in a transfer syntax."""
    return _MEDIA_TYPES.get(syntax, OCTETS)


def _is_known(syntax: str) -> bool:
    uid = UID(syntax)
    return uid.is_valid and uid.is_transfer_syntax and not uid.is_private


def _parts(accept: str) -> list[str]:
    """The header's elements; commas within quotes do not separate them."""
    parts, start, quoted = [], 0, False
    for at, character in enumerate(accept):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            parts.append(accept[start:at])
            start = at + 1
    parts.append(accept[start:])
    return [part.strip() for part in parts]
