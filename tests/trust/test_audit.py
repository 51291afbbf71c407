"""The audit trail: schema-valid, never lost on a restart, and only where it is asked for."""

import base64
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import pytest

from config.load import load_settings
from config.telling import AuditSettings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import Transient
from node import audit_messages as messages
from node.audit import AuditTrail
from node.audit_dicom import DicomWitness
from node.audit_messages import Event, Participant, encode

Factory = Callable[..., Any]
etree = pytest.importorskip("lxml.etree", reason="lxml is not installed")


@pytest.fixture(scope="module")
def grammar() -> Any:  # noqa: ANN401 - lxml has no types
    return etree.RelaxNG(etree.parse(Path(__file__).with_name("audit-message.rng")))


def settings_of(**more: object) -> AuditSettings:
    return AuditSettings.model_validate(
        {"to": "file", "host": "", "port": 6514, "ca_file": "", "certificate_file": "", "key_file": "", **more}
    )


def started() -> Event:
    return messages.application_activity("PACSIMILE", messages.APPLICATION_START)


def test_hostile_text_stays_text(grammar: Any) -> None:  # noqa: ANN401
    nasty = 'x"/><AuditMessage>\x00\x1b\n\ud800 & \uffff é'
    event = Event(
        messages.INSTANCES_TRANSFERRED, "C",
        [Participant(nasty, [messages.SOURCE], is_requestor=True, address="::1")],
        [messages.study("1.2", {"1.3": 2}), messages.patient(nasty, nasty), messages.patient("", "")],
        description=nasty,
    )  # fmt: skip
    line = encode(event, nasty)
    assert "\n" not in line
    document = etree.fromstring(line.encode())
    grammar.assertValid(document)
    assert len(document.findall("ActiveParticipant")) == 1


def test_the_grammar_sees_faults(grammar: Any) -> None:  # noqa: ANN401
    document = etree.fromstring(encode(started(), "node").encode())
    grammar.assertValid(document)
    document.find("EventIdentification").set("EventActionCode", "X")
    assert not grammar.validate(document)


def test_what_peers_do(tmp_path: Path, send: Factory, tool: Factory, make_series: Factory, grammar: Any) -> None:  # noqa: ANN401
    settings = engines.settings_of(tmp_path, **{"dicom.port": 0, "audit.to": "file"})
    trail = AuditTrail(settings.audit, tmp_path, "PACSIMILE")
    series = make_series(1)
    with Catalog(settings.catalog_url) as catalog:
        witness = DicomWitness(trail, catalog, "PACSIMILE")
        server = DicomServer(settings, catalog, Spool(settings.spool_dir), None, witness.handlers())  # type: ignore[arg-type]
        server.tell_of_kept(witness.kept)
        server.tell_of_sent(witness.sending)
        server.start()
        send(server.bound_port, series)
        (study,) = {one.study_instance_uid for one in catalog.lookup.series_info([1]).values()}
        command = [tool("getscu"), "-S", "-aec", "PACSIMILE", "-od", tmp_path, "-k", f"StudyInstanceUID={study}",
                   "-k", "QueryRetrieveLevel=STUDY", "127.0.0.1", str(server.bound_port)]  # fmt: skip
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        for called in ("PACSIMILE", "NOBODY"):
            command = [tool("findscu"), "-S", "-aec", called, "-k", "QueryRetrieveLevel=STUDY", "-k",
                       "PatientName=Zz*", "127.0.0.1", str(server.bound_port)]  # fmt: skip
            subprocess.run(command, capture_output=True, check=False, timeout=120)
        server.stop()
    file = tmp_path / "audit" / "audit.log"
    assert file.parent.stat().st_mode & 0o077 == 0
    documents = [etree.fromstring(line) for line in file.read_bytes().splitlines()]
    for document in documents:
        grammar.assertValid(document)
    events = [one.find("EventIdentification/EventID").get("csd-code") for one in documents]
    assert events == ["110102", "110104", "110102", "110104", "110112", "110113"]
    _, stored, giving, given, query, _ = documents
    for one in (stored, giving, given):
        assert study in {about.get("ParticipantObjectID") for about in one.iter("ParticipantObjectIdentification")}
        number = one.find(".//SOPClass").get("NumberOfInstances")
        assert int(number) == len(list(series.rglob("*.dcm")))
    assert [one.get("UserID") for one in given.iter("ActiveParticipant")] == ["PACSIMILE", "GETSCU"]
    asked = base64.b64decode(query.find(".//ParticipantObjectQuery").text)
    assert b"Zz*" in asked


def test_off_by_default(tmp_path: Path) -> None:
    trail = AuditTrail(load_settings().audit, tmp_path, "node")
    trail.add(started())
    assert not trail.is_on
    assert list(tmp_path.iterdir()) == []


class _Server:
    """A syslog server over TLS that takes everything down."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out",
                   self.certificate, "-days", "2", "-subj", "/CN=localhost", "-addext",
                   "subjectAltName=DNS:localhost"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, key)
        self.taken = b""

    def serve(self, listener: socket.socket) -> threading.Thread:
        def run() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                    with self.context.wrap_socket(plain, server_side=True) as connection:
                        while part := connection.recv(65536):
                            self.taken += part
                except OSError:
                    if listener.fileno() < 0:
                        return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def messages(self) -> list[bytes]:
        left, found = self.taken, []
        while match := re.match(rb"(\d+) ", left):
            start, length = match.end(), int(match[1])
            found.append(left[start : start + length])
            left = left[start + length :]
        return found


def test_syslog_over_tls_outlives_a_restart(
    tmp_path: Path,
    find_port: Factory,
    wait_for: Factory,
    grammar: Any,  # noqa: ANN401
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    server, port = _Server(tmp_path), find_port()
    settings = settings_of(to="syslog", host="localhost", port=port, ca_file=str(server.certificate))
    trail = AuditTrail(settings, tmp_path, "node")
    trail.start()
    trail.add(started())  # nobody listens
    trail.stop(60.0)
    with socket.create_server(("127.0.0.1", port)) as listener:
        server.serve(listener)
        again = AuditTrail(settings, tmp_path, "node")
        again.start()
        again.add(messages.application_activity("PACSIMILE", messages.APPLICATION_STOP))
        wait_for(lambda: len(server.messages()) == 2, 60, "both have arrived")
        again.stop(60.0)
    for message, code in zip(server.messages(), ("110120", "110121"), strict=True):
        head, _, body = message.partition(b"\xef\xbb\xbf")
        assert re.fullmatch(rb"<85>1 \S+Z \S+ pacsimile \d+ DICOM\+RFC3881 - ", head)
        document = etree.fromstring(body)
        grammar.assertValid(document)
        assert document.find(".//EventTypeCode").get("csd-code") == code


def test_a_server_that_cannot_be_verified_is_told_nothing(
    tmp_path: Path, find_port: Factory, wait_for: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    server, port = _Server(tmp_path), find_port()
    trail = AuditTrail(settings_of(to="syslog", host="localhost", port=port), tmp_path, "node")
    with socket.create_server(("127.0.0.1", port)) as listener:
        server.serve(listener)
        trail.start()
        trail.add(started())
        wait_for(lambda: "cannot be reached" in caplog.text, 60, "it says so")
        trail.stop(60.0)
    assert server.taken == b""


def test_what_cannot_be_taken_down_is_not_given_away(tmp_path: Path) -> None:
    trail = AuditTrail(settings_of(), tmp_path, "node")
    (tmp_path / "audit" / "audit.log").mkdir()  # nobody can write there
    with pytest.raises(Transient, match="Application Activity"):
        trail.demand(started())
    trail.add(started())


def test_what_is_done_at_the_command_line(
    tmp_path: Path,
    pacsimile: Factory,
    make_series: Factory,
    grammar: Any,  # noqa: ANN401
) -> None:
    on = {"PACSIMILE_AUDIT_TO": "file"}
    data = tmp_path / "data"
    place = ("--data-dir", data)
    done = pacsimile("ingest", make_series(2), "--no-index", *place, variables=on)
    assert done.status == 0, done.err
    with Catalog(engines.catalog_url(data)) as catalog:
        (study,) = {one.study_instance_uid for one in catalog.lookup.series_info([1]).values()}
    assert pacsimile("backup", tmp_path / "elsewhere", *place, variables=on).status == 0
    assert pacsimile("forget", study, "--yes", *place, variables=on).status == 0
    documents = [etree.fromstring(line) for line in (data / "audit" / "audit.log").read_bytes().splitlines()]
    for document in documents:
        grammar.assertValid(document)
    events = [one.find("EventIdentification/EventID").get("csd-code") for one in documents]
    assert events == ["110106", "110105"]
    assert study in {one.get("ParticipantObjectID") for one in documents[1].iter("ParticipantObjectIdentification")}
