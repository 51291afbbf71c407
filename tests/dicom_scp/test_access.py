"""Who is let in: by AE title, address and certificate; whoever is not known only where the settings say so."""

from typing import Any

import pytest

from config.access import Service
from config.errors import ConfigError
from config.exposure import findings
from config.load import load_settings
from dicom_scp.access import Gatekeeper
from dicom_scp.tls import PeerCertificate

SHA256 = "ab" * 32
COLONS = ":".join(["AB"] * 32)
OWN = PeerCertificate(SHA256, frozenset({"research.example"}))
OTHER = PeerCertificate("cd" * 32, frozenset({"other.example"}))
PEERS = [
    {"aet": "PACS", "host": "192.0.2.1", "port": 104},
    {"aet": "LOCAL", "host": "localhost", "port": 104},
    {"aet": "RESEARCH", "networks": ["10.1.0.0/16", "2001:db8::/32"], "cohort": "trial", "services": ["FIND"]},
    {"aet": "PINNED", "certificate_sha256": COLONS},
    {"aet": "NAMED", "certificate_name": "Research.example", "networks": ["10.1.0.0/16"]},
]
TLS = {
    "dicom.tls.certificate_file": "node.pem",
    "dicom.tls.ca_file": "ca.pem",
}


def gatekeeper(**settings: object) -> Gatekeeper:
    cohorts = [{"name": "trial", "patient_id": ["T*"]}]
    return Gatekeeper(load_settings(overrides={"peers": PEERS, "cohorts": cohorts, **TLS, **settings}))


CASES: list[tuple[str, str, PeerCertificate | None, set[str]]] = [
    # AE title, address, certificate; under which of the settings it is let in
    ("STRANGER", "127.0.0.1", None, {"LOOPBACK", "ALLOW"}),
    ("STRANGER", "::1", None, {"LOOPBACK", "ALLOW"}),
    ("STRANGER", "::ffff:127.0.0.1", None, {"LOOPBACK", "ALLOW"}),
    ("STRANGER", "10.1.2.3", OWN, {"ALLOW"}),
    ("PACS", "192.0.2.1", None, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("PACS", "192.0.2.2", None, {"ALLOW"}),
    ("PACS", "127.0.0.1", None, {"LOOPBACK", "ALLOW"}),
    ("LOCAL", "127.0.0.1", None, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("RESEARCH", "10.1.255.1", None, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("RESEARCH", "::ffff:10.1.0.1", None, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("RESEARCH", "2001:db8::7", None, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("RESEARCH", "10.2.0.1", None, set()),  # nobody else takes a name that says what it may see
    ("RESEARCH", "127.0.0.1", None, set()),
    ("PINNED", "198.51.100.1", OWN, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("PINNED", "198.51.100.1", OTHER, set()),
    ("PINNED", "127.0.0.1", None, set()),
    ("NAMED", "10.1.0.1", OWN, {"LOOPBACK", "ALLOW", "REFUSE"}),
    ("NAMED", "10.1.0.1", OTHER, set()),
    ("NAMED", "10.2.0.1", OWN, set()),
]


@pytest.mark.parametrize("policy", ["LOOPBACK", "ALLOW", "REFUSE"])
def test_who_is_let_in(policy: str) -> None:
    keeper = gatekeeper(**{"dicom.unknown_peers": policy})
    for ae_title, address, certificate, policies in CASES:
        admitted = keeper.admission(ae_title, address, certificate)
        assert (admitted is not None) == (policy in policies), (ae_title, address)


def test_what_a_peer_may_do_and_see() -> None:
    keeper = gatekeeper()
    research = keeper.admission("RESEARCH", "10.1.0.1", None)
    assert research is not None
    assert research.services == {Service.FIND}
    assert research.cohort is not None
    assert research.cohort.name == "trial"
    stranger = keeper.admission("STRANGER", "127.0.0.1", None)
    assert stranger is not None
    assert (stranger.services, stranger.cohort) == (frozenset(Service), None)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ({}, []),
        ({"dicom.host": "localhost"}, []),
        ({"dicom.host": "0.0.0.0"}, ["peers:", "dicom.tls.certificate_file:"]),
        ({"dicom.host": ""}, ["peers:", "dicom.tls.certificate_file:"]),
        ({"dicom.host": "192.0.2.1", "peers": PEERS[:1]}, ["dicom.tls.certificate_file:"]),
        ({"dicom.host": "192.0.2.1", "peers": PEERS[:1], "dicom.plain_beyond_loopback": True}, []),
        ({"dicom.host": "192.0.2.1", "peers": PEERS[:1], **TLS}, []),
        ({"dicom.host": "::", **TLS}, ["peers:"]),
        ({"dicom.host": "::", **TLS, "dicom.unknown_peers": "REFUSE"}, ["peers:"]),
        ({"dicom.host": "::", **TLS, "dicom.unknown_peers": "ALLOW"}, []),
    ],
)
def test_unsafe_combinations_are_told_with_the_way_out(overrides: dict[str, Any], found: list[str]) -> None:
    said = list(findings(load_settings(overrides=overrides)))
    assert [one.split()[0] for one in said] == found
    assert all("dicom.host to 127.0.0.1" in one for one in said)
    assert all(any(way in one for way in ("unknown_peers", "plain_beyond_loopback")) for one in said)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"peers": [{"aet": "A"}]}, "needs a host, networks, or a certificate"),
        ({"peers": [{"aet": "A", "networks": ["10.0.0.1/8"]}]}, "expected an address, a network"),
        ({"peers": [{"aet": "A", "networks": ["300.1.1.1"]}]}, "expected an address, a network"),
        ({"peers": [{"aet": "A", "host": "h", "services": ["ALL"]}]}, "services"),
        ({"peers": [{"aet": "A", "host": "h", "cohort": "none"}]}, "must be the name of one of the cohorts"),
        ({"peers": [{"aet": "A", "host": "h"}, {"aet": "A", "host": "i"}]}, "an aet of its own"),
        ({"peers": [{"aet": "A", "certificate_name": "n"}]}, "can be seen only where"),
        ({"cohorts": [{"name": "c"}]}, "at least one condition"),
        ({"cohorts": [{"name": "c", "patient_id": ["1"]}, {"name": "c", "patient_id": ["2"]}]}, "name of its own"),
        ({"dicom.tls.certificate_file": "c"}, "needs ca_file"),
        ({"dicom.tls.key_file": "k"}, "needs certificate_file"),
        ({"fetch.source_aet": "A", "peers": [{"aet": "A", "networks": ["::1"]}]}, "fetch.source_aet must be"),
    ],
)
def test_settings_that_cannot_be_meant(overrides: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_settings(overrides=overrides)
