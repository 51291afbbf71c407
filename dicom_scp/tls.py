"""TLS by the BCP 195 RFC 8996, 9325 profile (PS3.15 B.12): 1.2 and 1.3 only, forward secrecy, both sides known."""

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.access import DicomTlsSettings, Peer
from config.errors import ConfigError

_CIPHERS_1_2 = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2"
)
"""RFC 9325 section 4.2; those of TLS 1.3 are all as good. Level 2: no RSA below 2048 bits, no SHA-1."""


@dataclass(frozen=True)
class PeerCertificate:
    """The certificate that a peer has shown, and that an authority of ours vouches for.

    Attributes
    ----------
    sha256 : str
        Of its DER encoding, in hexadecimal.
    names : frozenset of str
        Common name of its subject, and DNS names; in lower case.
    """

    sha256: str
    names: frozenset[str]

    def is_of(self, peer: Peer) -> bool:
        """Whether it is what the settings say of a peer."""
        return peer.certificate_sha256 in ("", self.sha256) and (
            not peer.certificate_name or peer.certificate_name.lower() in self.names
        )


def shown_certificate(connection: Any) -> PeerCertificate | None:  # noqa: ANN401 - a socket of any kind
    """The verified certificate of the other side; None without TLS, or where it showed none."""
    encoded = connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None
    known = connection.getpeercert() if encoded else None
    if not encoded or not known:
        return None
    subject = [value for part in known.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for key, value in known.get("subjectAltName", ()) if key == "DNS"]
    names = frozenset(name.lower() for name in (*subject, *others))
    return PeerCertificate(hashlib.sha256(encoded).hexdigest(), names)


def server_context(settings: DicomTlsSettings) -> ssl.SSLContext | None:
    """How associations are accepted; None: without TLS.

    Raises
    ------
    ConfigError
        A file cannot be used.
    """
    if not settings.is_on:
        return None
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0  # every association is a handshake of its own
    context.verify_mode = ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_NONE
    return context


def client_context(settings: DicomTlsSettings, peer: Peer) -> tuple[ssl.SSLContext, str] | None:
    """How a peer is called, and the name that its certificate has to be for; None: without TLS.

    Where the settings name the certificate itself, its name does not matter; see `demand_certificate`.

    Raises
    ------
    ConfigError
        A file cannot be used.
    """
    if not peer.tls:
        return None
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
    if not settings.ca_file:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.check_hostname = not peer.has_certificate
    context.verify_mode = ssl.CERT_REQUIRED
    return context, peer.host


def is_who_was_called(connection: Any, peer: Peer) -> bool:  # noqa: ANN401 - a socket of any kind
    """Whether the other side of a connection that the node opened has shown what the settings say of it."""
    if not (peer.tls and peer.has_certificate):
        return True
    shown = shown_certificate(connection)
    return shown is not None and shown.is_of(peer)


def _context(protocol: int, settings: DicomTlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS_1_2)
    if settings.certificate_file:
        password = _password(settings.key_password_file)
        _load(
            "certificate_file",
            settings.certificate_file,
            lambda file: context.load_cert_chain(file, settings.key_file or None, password),
        )
    if settings.ca_file:
        _load("ca_file", settings.ca_file, lambda file: context.load_verify_locations(cafile=file))
    return context


def _password(file: str) -> Callable[[], str]:
    """The key's password; without a file an empty one, so that nobody is asked at a terminal."""
    found: list[str] = [""]
    if file:
        _load("key_password_file", file, lambda name: found.append(Path(name).read_text(encoding="utf-8").strip()))
    return lambda: found[-1]


def _load(key: str, file: str, load: Callable[[str], Any]) -> None:
    try:
        load(file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        said = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(
            [f"dicom.tls.{key}: {file} (with its key, if it has one) cannot be used: {said}"]
        ) from error
