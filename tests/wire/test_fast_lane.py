"""The fast lane and the network library alone: the same traffic leaves the same answers, files and catalog."""

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, Association, build_role, evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelGet, Verification

from dicom_scp.intake import Intake, StoreRequest
from dicom_scp.part10 import split_file
from dicom_scp.spool import Spool
from indexer.catalog.lookup import Level

Running = Callable[..., AbstractContextManager[Any]]
Factory = Callable[..., Any]
Pdv = tuple[int, int, bytes]
COMMAND, LAST_COMMAND, DATA, LAST_DATA = 0b01, 0b11, 0b00, 0b10
PATIENCE_S = 60.0


@dataclass
class Conversation:
    """One association of a peer that writes its bytes itself."""

    association: Association
    heard: list[tuple[int, str]] = field(default_factory=list)

    def context(self, abstract: str, syntax: str = ExplicitVRLittleEndian) -> int:
        found = [c for c in self.association.accepted_contexts if c.abstract_syntax == abstract]
        return int(next(c.context_id for c in found if c.transfer_syntax[0] == syntax))

    def send(self, *pieces: bytes) -> None:
        with suppress(OSError, AttributeError):  # the node may have hung up already
            for piece in pieces:
                self.association.dul.socket.socket.sendall(piece)

    def hear(self, responses: int = 1) -> None:
        """Wait for responses; what is heard instead is that the association ended."""
        for _ in range(responses):
            _, response = self.association.dimse.get_msg(block=True)
            if response is None:
                self.heard.append((-1, "ended"))
                return
            self.heard.append((response.Status, getattr(response, "ErrorComment", None) or ""))

    def hear_end(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.association.dul.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.heard.append((-1, "open" if self.association.dul.is_alive() else "ended"))


def pdu(*pdvs: Pdv, kind: int = 0x04) -> bytes:
    items = b"".join(struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in pdvs)
    return struct.pack(">BxL", kind, len(items)) + items


def command(dataset: Dataset, message_id: int = 1, **changed: object) -> bytes:
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.command_set.CommandDataSetType = 1
    for keyword, value in changed.items():
        if value is None:
            delattr(message.command_set, keyword)
        else:
            setattr(message.command_set, keyword, value)
    message.command_set.CommandGroupLength = len(encode(message.command_set, True, True) or b"") - 12
    return encode(message.command_set, True, True) or b""


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@dataclass
class Material:
    """A talk and what is talked about."""

    talk: Conversation
    datasets: list[Dataset]
    wire: list[tuple[int, bytes, bytes]]
    """Context ID, command set and data set of each."""

    def store(self, number: int) -> None:
        context, encoded_command, data = self.wire[number]
        self.talk.send(pdu((context, LAST_COMMAND, encoded_command)), pdu((context, LAST_DATA, data)))


Scenario = Callable[[Material], None]
SCENARIOS: dict[str, tuple[Scenario, int]] = {}
"""What a peer does, and how many requests the fast lane has to serve of it."""


def scenario(by_fast_lane: int) -> Callable[[Scenario], Scenario]:
    def add(function: Scenario) -> Scenario:
        SCENARIOS[function.__name__] = function, by_fast_lane
        return function

    return add


@scenario(3)
def one_after_the_other(m: Material) -> None:
    for number in range(3):
        m.store(number)
        m.talk.hear()


@scenario(3)
def without_waiting_for_responses(m: Material) -> None:
    for number in range(3):
        m.store(number)
    m.talk.hear(3)


@scenario(1)
def small_fragments(m: Material) -> None:
    context, encoded, data = m.wire[0]
    *firsts, last = pieces_of(data, 50)
    m.talk.send(pdu((context, LAST_COMMAND, encoded)))
    m.talk.send(*(pdu((context, DATA, piece)) for piece in firsts), pdu((context, LAST_DATA, last)))
    m.talk.hear()


@scenario(1)
def command_and_data_in_one_pdu(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded), (context, DATA, data[:99]), (context, LAST_DATA, data[99:])))
    m.talk.hear()


@scenario(1)
def several_fragments_in_one_pdu(m: Material) -> None:
    context, encoded, data = m.wire[0]
    *firsts, last = pieces_of(data, 10)
    m.talk.send(pdu((context, LAST_COMMAND, encoded)))
    m.talk.send(pdu(*((context, DATA, piece) for piece in firsts), (context, LAST_DATA, last)))
    m.talk.hear()


@scenario(1)
def more_fragments_than_one_call_writes(m: Material) -> None:
    context, encoded, data = m.wire[0]
    *firsts, last = [*pieces_of(data, 1), *[b""] * 2000, b""]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)))
    m.talk.send(pdu(*((context, DATA, piece) for piece in firsts), (context, LAST_DATA, last)))
    m.talk.hear()


@scenario(1)
def empty_fragments(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, b"")))
    m.talk.send(pdu((context, DATA, data), (context, DATA, b"")), pdu((context, LAST_DATA, b"")))
    m.talk.hear()


@scenario(1)
def no_data_but_an_empty_fragment(m: Material) -> None:
    context, encoded, _ = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, LAST_DATA, b"")))
    m.talk.hear()


@scenario(1)
def one_byte_at_a_time(m: Material) -> None:
    context, encoded, data = m.wire[0]
    whole = pdu((context, LAST_COMMAND, encoded)) + pdu((context, LAST_DATA, data))
    m.talk.send(*pieces_of(whole[:200], 1), whole[200:])
    m.talk.hear()


@scenario(1)
def a_command_in_two_fragments(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, COMMAND, encoded[:20])), pdu((context, LAST_COMMAND, encoded[20:])))
    m.talk.send(pdu((context, LAST_DATA, data)))
    m.talk.hear()
    m.store(1)
    m.talk.hear()


@scenario(1)
def bits_that_mean_nothing(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, 0xFC | LAST_COMMAND, encoded)), pdu((context, 0xFC | LAST_DATA, data)))
    m.talk.hear()
    m.store(1)
    m.talk.hear()


@scenario(2)
def an_echo_in_between(m: Material) -> None:
    m.store(0)
    m.talk.hear()
    m.talk.association._reactor_checkpoint.set()
    m.talk.heard.append((m.talk.association.send_c_echo().Status, "echo"))
    m.talk.association._reactor_checkpoint.clear()
    m.store(1)
    m.talk.hear()


@scenario(0)
def a_fragment_of_another_context_within(m: Material) -> None:
    context, encoded, data = m.wire[0]
    other = m.wire[2][0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, data[:100])))
    m.talk.send(pdu((other, LAST_DATA, data[100:])))
    m.talk.hear()


@scenario(0)
def the_next_command_in_the_pdu_of_the_last_fragment(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, data[:100])))
    m.talk.send(pdu((context, LAST_DATA, data[100:]), (context, LAST_COMMAND, m.wire[1][1])))
    m.talk.hear()


@scenario(0)
def a_pdu_longer_than_announced(m: Material) -> None:
    context, encoded, data = m.wire[0]
    longer = data[:100] + data[100:] + struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 500_000) + bytes(500_000)
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, longer[:100])))
    m.talk.send(pdu((context, LAST_DATA, longer[100:])))
    m.talk.hear()


@scenario(1)
def a_pdu_that_claims_to_be_huge(m: Material) -> None:
    m.store(0)
    m.talk.hear()
    context, encoded, _ = m.wire[1]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), b"\x04\x00\xff\xff\xff\xf0" + bytes(64))
    m.talk.hear_end()


@scenario(0)
def an_unknown_context(m: Material) -> None:
    _, encoded, data = m.wire[0]
    m.talk.send(pdu((251, LAST_COMMAND, encoded)), pdu((251, LAST_DATA, data)))
    m.talk.hear_end()


@scenario(1)
def a_pdu_without_fragments(m: Material) -> None:
    m.store(0)
    m.talk.hear()
    m.talk.send(pdu())
    m.store(1)
    m.talk.hear()


@scenario(0)
def a_priority_that_there_is_not(m: Material) -> None:
    context, _, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, command(m.datasets[0], Priority=7))), pdu((context, LAST_DATA, data)))
    m.talk.hear_end()


@scenario(1)
def another_instance_than_announced(m: Material) -> None:
    context, _, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, m.wire[1][1])), pdu((context, LAST_DATA, data)))
    m.talk.hear()


@scenario(1)
def half_a_data_set(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, LAST_DATA, data[:150])))
    m.talk.hear()


@scenario(1)
def an_abort_within(m: Material) -> None:
    m.store(0)
    m.talk.hear()
    context, encoded, data = m.wire[1]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, data[:100])))
    m.talk.send(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")
    m.talk.association.abort()
    m.talk.hear_end()


@scenario(1)
def a_release_within(m: Material) -> None:
    m.store(0)
    m.talk.hear()
    context, encoded, data = m.wire[1]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, data[:100])))
    m.talk.association._reactor_checkpoint.set()
    m.talk.association.release()
    m.talk.heard.append((int(m.talk.association.is_released), "released"))


@scenario(0)
def a_connection_lost_within(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, LAST_DATA, data))[:100])
    m.talk.association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    m.talk.hear_end()


@scenario(0)
def an_unknown_kind_of_pdu_within(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, data[:100])), pdu(kind=0x2A))
    m.talk.hear_end()


@scenario(0)
def lengths_that_do_not_add_up(m: Material) -> None:
    context, encoded, data = m.wire[0]
    torn = pdu((context, DATA, data[:100]))
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), torn[:6] + struct.pack(">L", 5000) + torn[10:])
    m.talk.hear_end()


@scenario(0)
def silence_within_a_data_set(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, DATA, data[:100])))
    m.talk.hear_end()


@scenario(0)
def silence_within_a_pdu(m: Material) -> None:
    context, encoded, data = m.wire[0]
    m.talk.send(pdu((context, LAST_COMMAND, encoded)), pdu((context, LAST_DATA, data))[:100])
    m.talk.hear_end()


@pytest.fixture
def by_fast_lane(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SOP Instance UIDs of the requests that the fast lane served."""
    served: list[str] = []
    store_draft = Intake.store_draft

    def counted(self: Intake, request: StoreRequest, draft: Any) -> Dataset:  # noqa: ANN401 - a draft
        served.append(request.affected.sop_instance_uid)
        return store_draft(self, request, draft)

    monkeypatch.setattr(Intake, "store_draft", counted)
    return served


@contextmanager
def conversation(node: Any, peer: Factory) -> Iterator[Conversation]:  # noqa: ANN401 - a node
    contexts = [
        (CTImageStorage, [ExplicitVRLittleEndian]),
        (CTImageStorage, [ImplicitVRLittleEndian]),
        (Verification, [ImplicitVRLittleEndian]),
    ]
    with peer(node, timeout_s=PATIENCE_S).associated(contexts) as association:
        association._reactor_checkpoint.clear()  # the library's own thread would take the responses
        connection = association.dul.socket.socket
        try:
            yield Conversation(association)
        finally:
            association._reactor_checkpoint.set()
    connection.close()  # the library leaves it open where the node was the first to close it


def half_written(spool: Spool) -> list[Path]:
    """Files that something was written to and that have no final name."""
    known = [(path, path.stat()) for path in (spool.folder / "tmp").iterdir()]
    known += [(path, path.stat()) for path in spool.incoming.glob("*/*")]
    return [path for path, stat in known if stat.st_size and stat.st_nlink < 2]


def outcome(node: Any) -> tuple[dict[str, bytes], list[Any]]:  # noqa: ANN401 - a node
    """What is in the spool, and what the catalog says."""
    spool = node.spool.folder
    files = {
        str(file.relative_to(spool)): file.read_bytes()
        for file in spool.rglob("*")
        if file.is_file() and node.spool.incoming not in file.parents  # named by chance
    }
    rows = [(entity.level, entity.attributes) for level in Level for entity in node.catalog.lookup.entities(level)]
    stored = sorted(node.catalog.receipts.files())
    counts = node.catalog.progress.counts()
    return {name: data for name, data in files.items() if data}, [rows, stored, counts]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_as_without(
    running_node: Running, peer: Factory, instance: Factory, by_fast_lane: list[str], tmp_path: Path, name: str
) -> None:
    perform, expected = SCENARIOS[name]
    datasets = [instance(SOPInstanceUID=f"2.25.{n}", InstanceNumber=n, pixel_level=100 * n) for n in (1, 2, 3)]
    heard, outcomes = [], []
    for fast_lane in (True, False):
        by_fast_lane.clear()
        settings = {"dicom.fast_lane": fast_lane, "data_dir": str(tmp_path / str(fast_lane))}
        if name.startswith("silence"):
            settings["dicom.network_timeout_s"] = 0.5
        with running_node(settings) as node:
            with conversation(node, peer) as talk:
                explicit, implicit = (
                    talk.context(CTImageStorage, one) for one in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
                )
                wire = [
                    (implicit if n == 2 else explicit, command(d, n + 1), encode(d, n == 2, True) or b"")
                    for n, d in enumerate(datasets)
                ]
                perform(Material(talk, datasets, wire))
            _until(lambda node=node: not node.server._server.active_associations)
            _until(lambda node=node: not half_written(node.spool))
            heard.append(talk.heard)
            outcomes.append(outcome(node))
        assert len(by_fast_lane) == (expected if fast_lane else 0)
    assert heard[0] == heard[1]
    assert outcomes[0] == outcomes[1]


def test_every_real_series_leaves_the_same(
    running_node: Running, peer: Factory, real_series: list[list[Path]], by_fast_lane: list[str], tmp_path: Path
) -> None:
    unnamed = sorted(real_series[0][0].parents[1].glob("*no-series-uid*/*.dcm"))
    files = [file for series in [*real_series, unnamed] for file in (*series[:2], *series[-1:])]
    datasets = [dcmread(file) for file in files]
    for number, dataset in enumerate(datasets):
        dataset.SOPClassUID = dataset.get("SOPClassUID") or CTImageStorage
        dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or f"2.25.{number}"
    outcomes, answers = [], []
    for fast_lane in (True, False):
        with running_node({"dicom.fast_lane": fast_lane, "data_dir": str(tmp_path / str(fast_lane))}) as node:
            statuses = peer(node, timeout_s=PATIENCE_S).send(*datasets)
            answers.append([(one.Status, one.get("ErrorComment", "")) for one in statuses])
            outcomes.append(outcome(node))
    assert len(by_fast_lane) == len(files)
    assert answers[0] == answers[1]
    assert outcomes[0] == outcomes[1]


def test_between_the_suboperations_of_a_c_get(
    node: Any,  # noqa: ANN401 - a node
    instance: Factory,
    query: Factory,
    by_fast_lane: list[str],
) -> None:
    came: list[str] = []
    entity = AE(ae_title="WORKSTATION")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE_S
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet, ExplicitVRLittleEndian)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)

    def store(event: Any) -> int:  # noqa: ANN401 - the library has no types
        came.append(event.dataset.SOPInstanceUID)
        return 0

    association = entity.associate(
        "127.0.0.1", node.port, ae_title="PACSIMILE",
        ext_neg=[build_role(CTImageStorage, scu_role=True, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, store)],
    )  # fmt: skip
    assert association.is_established
    datasets = [instance(SOPInstanceUID=f"2.25.{n}", InstanceNumber=n) for n in (1, 2, 3)]
    assert [association.send_c_store(one).Status for one in datasets[:2]] == [0, 0]
    identifier = query("STUDY", StudyInstanceUID="2.25.1")
    *_, (final, _) = association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet)
    assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 2)
    assert association.send_c_store(datasets[2]).Status == 0
    association.release()
    assert sorted(came) == ["2.25.1", "2.25.2"]
    assert by_fast_lane == ["2.25.1", "2.25.2", "2.25.3"]


def test_a_data_set_that_is_too_long(
    running_node: Running, peer: Factory, instance: Factory, by_fast_lane: list[str]
) -> None:
    with running_node({"dicom.max_object_mib": 1}) as node:
        large = instance(Rows=1024, Columns=1024, PixelData=b"\0" * (2 << 20))
        one, two = peer(node).send(large, instance())
        assert (one.Status, one.ErrorComment) == (0xA700, "data set of more than 1 MiB")
        assert two.Status == 0
        assert len(by_fast_lane) == 2
        assert len(node.files()) == 1
        assert not half_written(node.spool)


RECEIVER = """
import sys, threading
from config.load import load_settings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog

settings = load_settings(overrides={"data_dir": sys.argv[1], "dicom.port": 0})
server = DicomServer(settings, Catalog(settings.catalog_url), Spool(settings.spool_dir), None)
server.start()
print(server.bound_port, flush=True)
threading.Event().wait()
"""


def test_a_large_data_set_is_not_held_in_memory(tmp_path: Path, peer: Factory, instance: Factory) -> None:
    size = 192 << 20
    dataset = instance(SOPInstanceUID="2.25.1", PixelData=None)
    head = (encode(dataset, False, True) or b"") + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, size)
    with subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as receiver:  # fmt: skip
        try:
            assert receiver.stdout is not None
            port = int(receiver.stdout.readline())
            with conversation(SimpleNamespace(port=port), peer) as talk:
                context = talk.context(CTImageStorage)
                before = peak_bytes(receiver.pid)
                talk.send(pdu((context, LAST_COMMAND, command(dataset))), pdu((context, DATA, head)))
                chunk = pdu((context, DATA, bytes(1 << 16)))
                talk.send(*[chunk] * (size >> 16), pdu((context, LAST_DATA, b"")))
                talk.hear()
            assert talk.heard == [(0, "")]
            assert peak_bytes(receiver.pid) - before < size // 4
        finally:
            receiver.kill()
    (file,) = tmp_path.glob("spool/*/*/*.dcm")
    assert file.stat().st_size > size
    assert split_file(file.read_bytes()[:4096])[1].startswith(head[:100])


def peak_bytes(pid: int) -> int:
    """Most memory that a process ever had."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
