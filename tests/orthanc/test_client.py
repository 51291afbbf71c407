"""The client of Orthanc's REST API: against a real one, with a password and TLS, and against one that fails."""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError
from config.load import load_settings
from config.model import OrthancSettings
from indexer.errors import NotFound, Refused, Transient
from node.orthanc.client import OrthancClient
from node.orthanc.filing import file_at_orthanc

Factory = Callable[..., Any]
Orthanc = Any
"""That of the conftest."""
MIB = 1 << 20


def settings_of(url: str, **more: object) -> OrthancSettings:
    quick = {"retries": 3, "timeout_s": 60.0, **more}
    return load_settings(overrides={"orthanc.url": url, **{f"orthanc.{k}": v for k, v in quick.items()}}).orthanc


@pytest.fixture(scope="module")
def orthanc(start_orthanc: Factory) -> Orthanc:
    return start_orthanc(AuthenticationEnabled=True, RegisteredUsers={"pacsimile": "schön: geheim"}, StableAge=1)


@pytest.fixture(scope="module")
def files(orthanc: Orthanc, make_series: Factory) -> dict[str, Path]:
    known: dict[str, Path] = orthanc.upload(make_series(81))
    return known


@pytest.fixture(scope="module")
def client(orthanc: Orthanc, files: dict[str, Path]) -> Iterator[OrthancClient]:
    assert files
    url = f"http://127.0.0.1:{orthanc.port}/"
    made = OrthancClient(settings_of(url, user="pacsimile", password="schön: geheim"))
    yield made
    made.close()


def test_system(client: OrthancClient) -> None:
    system = client.system()
    assert system.version.count(".") >= 2
    assert system.api_version > 0
    assert system.aet == "ORTHANC"


def test_studies_and_their_instances(client: OrthancClient, files: dict[str, Path]) -> None:
    (study_id,) = client.study_ids()
    study = client.study(study_id)
    assert (study.public_id, study.last_update[:2]) == (study_id, "20")
    listed = client.instances_of(study_id)
    assert {one.sop_instance_uid for one in listed} == set(files)
    assert len(client.series_uids_of(study_id)) == 1
    ids = [one.public_id for one in listed]
    assert [one.public_id for one in client.studies_of([*ids, "nonesuch"])] == [study_id]
    for one in listed:
        content = files[one.sop_instance_uid].read_bytes()
        assert client.file_of(one.public_id, MIB) == content
        assert one.size_bytes == len(content)
    with pytest.raises(Refused, match="larger"):
        client.file_of(ids[0], 100)
    with pytest.raises(NotFound):
        client.file_of("00000000-00000000-00000000-00000000-00000000", MIB)


def test_changes(client: OrthancClient, files: dict[str, Path]) -> None:
    first = client.changes(0, 2)
    assert [one.sequence for one in first.entries] == [1, 2]
    assert (first.is_last_page, first.last) == (False, 2)
    everything = client.changes(0, 1000)
    assert sum(one.kind == "NewInstance" for one in everything.entries) == len(files)
    newest = client.last_change()
    assert newest.last >= everything.last
    assert newest.entries[-1].sequence == newest.last
    assert client.changes(newest.last + 1000, 10).entries == ()


def test_storing_twice_is_storing_once(client: OrthancClient, make_series: Factory) -> None:
    file = next(make_series(82).rglob("*.dcm")).read_bytes()
    study_id = client.store(file)
    assert client.store(file) == study_id
    assert study_id in client.study_ids()
    with pytest.raises(Refused, match="400"):
        client.store(b"no DICOM")


def test_an_orthanc_without_labels_is_not_asked_for_them(
    client: OrthancClient, orthanc: Orthanc, make_series: Factory
) -> None:
    if client.system().has_labels:
        pytest.skip("this Orthanc has labels")
    settings = settings_of(
        f"http://127.0.0.1:{orthanc.port}", user="pacsimile", password="schön: geheim", label="similar"
    )
    file_at_orthanc(settings, next(make_series(82).rglob("*.dcm")).read_bytes())


@pytest.mark.parametrize("wrong", [{}, {"user": "pacsimile", "password": "wrong"}, {"token": "wrong"}])
def test_who_is_not_let_in_is_told_why_and_may_come_again(orthanc: Orthanc, wrong: dict[str, str]) -> None:
    client = OrthancClient(settings_of(f"http://127.0.0.1:{orthanc.port}", **wrong))
    with pytest.raises(Transient, match="answered 401"):
        client.system()
    client.close()


@dataclass
class Failing:
    """A server that answers what a test has prepared, and notes what it was asked."""

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def listening(self, certificate: Path | None = None) -> Iterator["Failing"]:
        failing = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                failing.asked.append((f"{self.command} {self.path}", dict(self.headers.items())))
                status, body = failing.answers.pop(0) if len(failing.answers) > 1 else failing.answers[0]
                self.send_response(status)
                self.send_header("Location", f"{failing.url}/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - names that the library calls

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


SYSTEM = b'{"ApiVersion": 99, "Version": "9.9", "DicomAet": "NEW", "HasLabels": true}'


@pytest.fixture
def failing() -> Iterator[Failing]:
    with Failing().listening() as one:
        yield one


def test_a_server_that_is_busy_is_asked_again(failing: Failing) -> None:
    failing.answers = [(503, b""), (502, b""), (200, SYSTEM)]
    client = OrthancClient(settings_of(failing.url))
    assert client.system().version == "9.9"
    client.close()
    assert len(failing.asked) == 3


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b"", Transient),
        (403, b"", Transient),
        (400, b"", Refused),
        (302, b"", Refused),
        (404, b"", NotFound),
        (200, b"<html>", Transient),
        (200, b"[]", Transient),
        (200, b"{}", Transient),
    ],
)
def test_what_failed_decides_what_happens_next(
    failing: Failing, status: int, body: bytes, error: type[Exception]
) -> None:
    failing.answers = [(status, body)]
    client = OrthancClient(settings_of(failing.url))
    with pytest.raises(error):
        client.system()
    client.close()
    assert len(failing.asked) == 1  # repeated by whoever asks; a redirect is not followed


def test_tls_is_verified(tool: Factory, tmp_path: Path) -> None:
    """In front of Orthanc: Debian's 1.10 ends at once where it is to speak TLS itself."""
    key, certificate, both = (tmp_path / name for name in ("key.pem", "certificate.pem", "both.pem"))
    make = [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *extra], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    with Failing([(200, SYSTEM)]).listening(both) as server:
        client = OrthancClient(settings_of(server.url, ca_file=str(certificate)))
        assert client.system().aet == "NEW"
        client.close()
        stranger = OrthancClient(settings_of(server.url, retries=0))
        with pytest.raises(Transient, match="SSLError"):
            stranger.system()
        stranger.close()
        assert len(server.asked) == 1


def test_nobody_there(find_port: Callable[[], int]) -> None:
    client = OrthancClient(settings_of(f"http://127.0.0.1:{find_port()}", retries=1))
    with pytest.raises(Transient, match="does not answer"):
        client.system()
    client.close()


def test_labels_where_the_server_has_them(failing: Failing) -> None:
    failing.answers = [(200, b'{"Status": "Success", "ParentStudy": "abc"}'), (200, SYSTEM), (200, b"")]
    file_at_orthanc(settings_of(failing.url, label="similar"), b"a file")
    assert [what for what, _ in failing.asked] == [
        "POST /instances", "GET /system", "PUT /studies/abc/labels/similar"
    ]  # fmt: skip
    failing.asked.clear()
    failing.answers = [(200, b'{"Status": "FilteredOut"}')]
    with pytest.raises(Refused, match="FilteredOut"):
        file_at_orthanc(settings_of(failing.url, label="similar"), b"a file")


def test_a_token_from_a_file_goes_into_the_header_of_the_settings(failing: Failing, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("Bearer geheim\n")
    failing.answers = [(200, SYSTEM)]
    for more in ({}, {"token_header": "api-key"}):
        client = OrthancClient(settings_of(failing.url, token_file=str(tmp_path / "token"), **more))
        client.system()
        client.close()
    assert failing.asked[0][1]["Authorization"] == "Bearer geheim"
    assert failing.asked[1][1]["api-key"] == "Bearer geheim"
    assert "Authorization" not in failing.asked[1][1]
    with pytest.raises(ConfigError, match="token_file"):
        OrthancClient(settings_of(failing.url, token_file=str(tmp_path / "nowhere")))


def test_secrets_are_shown_to_nobody(pacsimile: Factory) -> None:
    variables = {
        "PACSIMILE_ORTHANC_URL": "https://orthanc.example.org",
        "PACSIMILE_ORTHANC_USER": "pacsimile",
        "PACSIMILE_ORTHANC_PASSWORD": "geheim-1",
        "PACSIMILE_ORTHANC_TOKEN": "geheim-2",
        "PACSIMILE_BUNDLE": "tiny",
    }
    done = pacsimile("config", "check", "--json", variables=variables)
    assert done.status == 0, done.err
    assert done.json["settings"]["orthanc"]["user"] == "pacsimile"
    assert "geheim" not in done.out + done.err
    for wrong in (
        {"PACSIMILE_ORTHANC_URL": "https://name:geheim-3@orthanc.example.org"},
        {"PACSIMILE_ORTHANC_PASSWORD_FILE": "somewhere"},
        {"PACSIMILE_ORTHANC_USER": ""},
    ):
        done = pacsimile("config", "check", variables={**variables, **wrong})
        assert done.status == 2
        assert "orthanc" in done.err
        assert "geheim" not in done.out + done.err
