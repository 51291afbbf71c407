"""TLS on the wire, with DCMTK and OpenSSL: who gets through, who does not, and that nothing else changes."""

import datetime
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove

from config.access import DicomTlsSettings
from config.errors import ConfigError
from dicom_scp.tls import server_context

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Identity:
    """A key and its certificate in files."""

    key: Path
    certificate: Path
    sha256: str


class Authority:
    """Somebody who issues certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self._write(self.file, self._certificate(name, self._key.public_key(), authority=True))

    def issue(self, name: str) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        files = self._folder / f"{name}.key", self._folder / f"{name}.crt"
        files[0].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate = self._certificate(name, key.public_key(), authority=False)
        self._write(files[1], certificate)
        return Identity(*files, certificate.fingerprint(hashes.SHA256()).hex(":"))

    def _certificate(self, name: str, key: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        hosts = x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName("localhost")])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(hosts, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, file: Path, certificate: x509.Certificate) -> None:
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@dataclass(frozen=True)
class Keys:
    """Whom the node believes, and who calls it."""

    authority: Authority
    node: Identity
    pinned: Identity
    other: Identity
    stranger: Identity


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    return Keys(ours, ours.issue("node"), ours.issue("pinned"), ours.issue("other"), theirs.issue("stranger"))


@pytest.fixture(scope="module")
def dest_port(find_port: Callable[[], int]) -> int:
    return find_port()


def tls_settings(keys: Keys) -> dict[str, object]:
    return {
        "dicom.tls.certificate_file": str(keys.node.certificate),
        "dicom.tls.key_file": str(keys.node.key),
        "dicom.tls.ca_file": str(keys.authority.file),
    }


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, run_a_node: Factory, keys: Keys, dest_port: int
) -> Iterator[Node]:
    called = {"host": "localhost", "port": dest_port, "tls": True}
    peers = [
        {"aet": "PINNED", "certificate_sha256": keys.pinned.sha256},
        {"aet": "NAMED", "certificate_name": "pinned", "networks": ["127.0.0.1"]},
        {"aet": "DEST", **called},
        {"aet": "WRONG", **called, "certificate_sha256": keys.stranger.sha256},
        {"aet": "LONG", "host": "localhost", "port": dest_port},
    ]
    settings = {"peers": peers, "dicom.network_timeout_s": 60.0, **tls_settings(keys)}
    with run_a_node(tmp_path_factory.mktemp("tls") / "data", settings) as running:
        yield running


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, instance: Factory) -> Path:
    """An image of some megabytes: many PDUs, and more TLS records."""
    made = instance(SOPInstanceUID="2.25.1001", Rows=1024, Columns=1024)
    made.PixelData = os.urandom(2 << 20)
    file: Path = tmp_path_factory.mktemp("large") / "large.dcm"
    made.save_as(file, enforce_file_format=True)
    return file


@pytest.fixture(scope="module")
def dcmtk(tool: Callable[[str], str], keys: Keys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a tool of DCMTK over TLS."""

    def run(
        name: str, port: int, who: Identity | None, *arguments: object, ae_title: str = "PINNED"
    ) -> subprocess.CompletedProcess[str]:
        shown = ["+tls", str(who.key), str(who.certificate)] if who else ["+tla"]
        options = [*shown, "+cf", str(keys.authority.file), "-aet", ae_title, "-to", "60"]
        command = [tool(name), *options, *map(str, arguments[:-1]), "localhost", str(port), str(arguments[-1])]
        environment = {**os.environ, "TCP_NODELAY": "1"}
        return subprocess.run(
            [one for one in command if one],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_dcmtk_stores_and_finds(
    node: Node, keys: Keys, dcmtk: Factory, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake, by_the_lane = node.server._handlers.intake, []
    take = intake.store_draft
    monkeypatch.setattr(intake, "store_draft", lambda *what: by_the_lane.append(what) or take(*what))
    for _ in range(2):  # again: known
        done = dcmtk("storescu", node.port, keys.pinned, "-aec", "PACSIMILE", large)
        assert done.returncode == 0, done.stderr
    assert len(by_the_lane) == 2
    (stored,) = node.files()
    assert dcmread(stored).PixelData == dcmread(large).PixelData
    found = dcmtk("findscu", node.port, keys.pinned, "-S", "-aec", "PACSIMILE", "-k", "0008,0052=STUDY",
                  "-k", "0020,000d", "")  # fmt: skip
    assert found.returncode == 0
    assert "2.25.1" in found.stderr + found.stdout


def test_others_do_not_get_through(node: Node, keys: Keys, dcmtk: Factory, large: Path) -> None:
    refused = [
        (None, "PINNED"),  # shows none
        (keys.stranger, "PINNED"),  # of another authority
        (keys.other, "PINNED"),  # of ours, and not the one
        (keys.other, "NAMED"),
    ]
    for who, ae_title in refused:
        done = dcmtk("storescu", node.port, who, "-aec", "PACSIMILE", large, ae_title=ae_title)
        assert done.returncode != 0, (who, ae_title)
    for who, ae_title in [(keys.pinned, "NAMED"), (keys.other, "LOCAL")]:
        done = dcmtk("storescu", node.port, who, "-aec", "PACSIMILE", large, ae_title=ae_title)
        assert done.returncode == 0, done.stderr


def test_plain_connections_get_nothing(node: Node, peer: Factory, instance: Factory) -> None:
    with peer(node, "LOCAL").associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        assert not association.is_established


def test_a_silent_connection_keeps_nobody_waiting(node: Node, keys: Keys, dcmtk: Factory, large: Path) -> None:
    with (
        socket.create_connection(("127.0.0.1", node.port)),
        socket.create_connection(("127.0.0.1", node.port)) as half,
    ):
        half.sendall(b"\x16\x03\x01\x02\x00\x01")  # begins a handshake
        done = dcmtk("storescu", node.port, keys.pinned, "-aec", "PACSIMILE", large)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        (["-tls1_3"], True),
        (["-tls1_2"], True),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], True),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384@SECLEVEL=0"], False),
        (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], False),
        (["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"], False),
    ],
)
def test_versions_and_ciphers(node: Node, keys: Keys, tool: Factory, options: list[str], accepted: bool) -> None:
    command = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{node.port}", "-brief", "-verify_return_error"]
    shown = [
        "-cert",
        str(keys.pinned.certificate),
        "-key",
        str(keys.pinned.key),
        "-CAfile",
        str(keys.authority.file),
    ]
    done = subprocess.run(
        [*command, *shown, *options], input="", capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ("CONNECTION ESTABLISHED" in done.stderr) == accepted, done.stderr


@pytest.fixture
def destination(keys: Keys, dest_port: int) -> Iterator[list[Dataset]]:
    """Who is moved to, over TLS, and what came there with the certificate of who sent it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.other.certificate, keys.other.key)
    context.load_verify_locations(keys.authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    came: list[Dataset] = []

    def store(event: Any) -> int:  # noqa: ANN401 - the library has no types
        came.append(event.dataset)
        return 0x0000

    entity = AE("DEST")
    entity.add_supported_context(CTImageStorage, [ExplicitVRLittleEndian])
    server = entity.start_server(
        ("127.0.0.1", dest_port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=context
    )
    yield came
    server.shutdown()


def moved(port: int, keys: Keys, to: str) -> int:
    """Have the study moved; the final status. (DCMTK's movescu speaks no TLS.)"""
    context = ssl.create_default_context(cafile=str(keys.authority.file))
    context.load_cert_chain(keys.pinned.certificate, keys.pinned.key)
    entity = AE("PINNED")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE_S
    entity.add_requested_context(StudyMove, [ExplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", port, ae_title="PACSIMILE", tls_args=(context, "localhost"))
    assert association.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "2.25.1"
    *_, (last, _) = association.send_c_move(identifier, to, StudyMove)
    association.release()
    return int(last.Status)


def test_the_node_calls_over_tls(
    node: Node, keys: Keys, dcmtk: Factory, large: Path, destination: list[Dataset]
) -> None:
    assert dcmtk("storescu", node.port, keys.pinned, "-aec", "PACSIMILE", large).returncode == 0
    assert moved(node.port, keys, "DEST") == 0x0000
    assert [one.PixelData for one in destination] == [dcmread(large).PixelData]
    for wrong in ("WRONG", "LONG"):  # another certificate than was told; without TLS
        assert moved(node.port, keys, wrong) == 0xA702
    assert len(destination) == 1


def test_files_that_cannot_be_used_are_told_at_once(tmp_path: Path, run_a_node: Factory, keys: Keys) -> None:
    for key, value in [
        ("certificate_file", tmp_path / "none"),
        ("key_file", keys.other.key),  # of another certificate
        ("ca_file", keys.node.key),  # no certificate
    ]:
        settings = {**tls_settings(keys), f"dicom.tls.{key}": str(value)}
        with pytest.raises(ConfigError, match=r"dicom\.tls\."), run_a_node(tmp_path / "data", settings):
            pass


def test_a_key_with_a_password(tmp_path: Path, keys: Keys) -> None:
    """Nobody is asked for it at a terminal."""
    key = serialization.load_pem_private_key(keys.node.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    password = tmp_path / "password"
    for told, opens in ((None, False), ("wrong", False), ("open sesame\n", True)):
        if told is not None:
            password.write_text(told)
        settings = DicomTlsSettings(
            certificate_file=str(keys.node.certificate),
            key_file=str(locked),
            key_password_file=str(password) if told is not None else "",
            ca_file=str(keys.authority.file),
            require_client_certificate=True,
        )
        if opens:
            context = server_context(settings)
            assert context is not None
            assert context.verify_mode is ssl.CERT_REQUIRED
        else:
            with pytest.raises(ConfigError, match="certificate_file"):
                server_context(settings)
