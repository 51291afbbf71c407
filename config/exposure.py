"""What of the settings would let strangers in or be read by them: refused, with the way out."""

import ipaddress
from collections.abc import Iterator

from config.errors import ConfigError
from config.model import Settings
from config.web import HttpSettings


def demand_safe(settings: Settings) -> None:
    """Refuse to start where strangers could ask, or listen.

    Raises
    ------
    ConfigError
        With every finding.
    """
    if found := list(findings(settings)):
        raise ConfigError(found)


def findings(settings: Settings) -> Iterator[str]:
    """What is unsafe, one sentence each, with the way out."""
    yield from _dicom(settings)
    yield from _http(settings.http)


def is_loopback(host: str) -> bool:
    """Whether a host name or address reaches nothing but this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _dicom(settings: Settings) -> Iterator[str]:
    dicom = settings.dicom
    if is_loopback(dicom.host):
        return
    beyond = f"where dicom.host is {dicom.host or 'empty'}, beyond this machine"
    if not settings.peers and dicom.unknown_peers != "ALLOW":
        yield (
            f"peers: expected those who may call {beyond}; got none. Give [[peers]] with aet and networks, or set "
            'dicom.host to 127.0.0.1, or, to let anybody call, dicom.unknown_peers to "ALLOW"'
        )
    if not dicom.tls.is_on and not dicom.plain_beyond_loopback:
        yield (
            f"dicom.tls.certificate_file: expected a certificate {beyond}; got none. Set it, with "
            "dicom.tls.ca_file, or dicom.host to 127.0.0.1, or, where a tunnel or the network itself protects what "
            "is sent, dicom.plain_beyond_loopback to true"
        )


def _http(http: HttpSettings) -> Iterator[str]:
    if is_loopback(http.host):
        return
    beyond = f"where http.host is {http.host or 'empty'}, beyond this machine"
    if not http.is_guarded:
        yield (
            f"http.tokens: expected a token {beyond}; got none. Set PACSIMILE_HTTP_TOKENS (`openssl rand -hex 32` "
            "makes one) or [[http.clients]], or http.host to 127.0.0.1"
        )
    if not http.tls.certificate_file and not http.plain_beyond_loopback:
        yield (
            f"http.tls.certificate_file: expected a certificate {beyond}; got none. Set it, or http.host to "
            "127.0.0.1, or, where a proxy or tunnel in front encrypts, http.plain_beyond_loopback to true"
        )
