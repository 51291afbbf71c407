"""Storage commitment over the wire: what is promised, to whom, and what happens when somebody is away."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engines import catalog_url, variables_of
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel as PushModel
from pynetdicom.sop_class import StorageCommitmentPushModelInstance as WellKnown
from pynetdicom.sop_class import Verification

from dicom_scp import commitment
from indexer.catalog import Catalog
from indexer.catalog.commitments import CommitmentState

Factory = Callable[..., Any]
Node = Event = Association = Any
"""`Node` of the conftest; those of the network library, which have no types."""
QUICK = {"commitment.same_association_after_s": 0.2, "commitment.first_retry_s": 0.2}
PATIENCE_S = 120.0
refused_connections = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
"""The network library leaves it to Python to close the socket of a connection that was refused."""


RESPONSE = b"\x00\x00\x00\x01\x02\x00\x00\x00\x00\x81"
"""Command Field (0000,0100) of an N-EVENT-REPORT-RSP as it is sent (PS3.7 table E.1-1)."""


@dataclass
class Reports:
    """What a requester was told, and what it answers: a status, or None for an abort.

    A requester may leave only when its answers are on their way: after A-RELEASE-RQ there is no P-DATA-TF.
    """

    answers: list[int | None] = field(default_factory=list)
    came: list[tuple[int, Dataset]] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    hold: threading.Event | None = None
    answering: int = 0

    @property
    def handlers(self) -> list[tuple[Any, Callable[[Event], Any]]]:
        return [(evt.EVT_N_EVENT_REPORT, self.take), (evt.EVT_PDU_SENT, self.sent)]

    def take(self, event: Event) -> tuple[int, None]:
        answer = self.answers.pop(0) if self.answers else 0x0000
        self.answering += answer is not None
        self.events.append(event)
        self.came.append((event.request.EventTypeID, event.event_information))
        if self.hold is not None:
            self.hold.wait(PATIENCE_S)
        if answer is None:
            event.assoc.abort()
        return answer or 0x0000, None

    def sent(self, event: Event) -> None:
        self.answering -= isinstance(event.pdu, P_DATA_TF) and RESPONSE in event.pdu.encode()

    def wait(self, count: int = 1) -> tuple[int, Dataset]:
        """The report of this number, when it is answered; the answer is not waited for while it is held back."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.came) < count or (self.answering and self.hold is None):
            assert time.monotonic() < deadline, "no report came"
            time.sleep(0.02)
        return self.came[count - 1]


def request(*instances: tuple[str, str], uid: str | None = None) -> Dataset:
    """Action Information for pairs of SOP Class and SOP Instance UID."""
    information = Dataset()
    information.TransactionUID = uid or generate_uid()
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    return information


def of(*datasets: Dataset) -> list[tuple[str, str]]:
    return [(dataset.SOPClassUID, dataset.SOPInstanceUID) for dataset in datasets]


@contextmanager
def requester(
    port: int, reports: Reports, ae_title: str = "MODALITY", roles: bool = False, called: str = "PACSIMILE"
) -> Iterator[Any]:
    """An association with the node that can ask and be told."""
    entity = AE(ae_title=ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context(PushModel, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    entity.add_requested_context(Verification)
    association = entity.associate(
        "127.0.0.1",
        port,
        ae_title=called,
        ext_neg=[build_role(PushModel, scu_role=True)] if roles else [],
        evt_handlers=reports.handlers,
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        if association.dul.socket is not None and association.dul.socket.socket is not None:
            association.dul.socket.socket.close()


def ask(association: Association, information: Dataset | None, action: int = 1, instance: str = WellKnown) -> int:
    status, _ = association.send_n_action(information, action, PushModel, instance)
    return int(status.Status)


def ask_and_leave(port: int, information: Dataset, ae_title: str = "MODALITY") -> None:
    nobody = Reports()
    with requester(port, nobody, ae_title) as association:
        assert ask(association, information) == 0x0000
    assert not nobody.came


@contextmanager
def listening(port: int, reports: Reports, ae_title: str = "MODALITY") -> Iterator[None]:
    """The requester as an acceptor, to which the node proposes itself as the SCP."""
    entity = AE(ae_title=ae_title)
    entity.require_called_aet = True
    entity.add_supported_context(PushModel, scu_role=False, scp_role=True)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=reports.handlers)
    try:
        yield
    finally:
        server.shutdown()


@pytest.fixture
def free_port(find_port: Callable[[], int]) -> int:
    """A port that nobody listens on at the moment."""
    return find_port()


@pytest.fixture
def knowing(free_port: int) -> dict[str, Any]:
    """Settings of a node that knows where MODALITY listens, and does not wait long."""
    return {**QUICK, "peers": [{"aet": "MODALITY", "host": "127.0.0.1", "port": free_port}]}


@pytest.fixture
def quick_node(running_node: Factory) -> Iterator[Node]:
    """A node that knows nobody and does not wait long."""
    with running_node(QUICK) as node:
        yield node


def pairs(sequence: Iterable[Dataset]) -> set[tuple[str, str]]:
    return {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in sequence}


def reasons(information: Dataset) -> dict[str, int]:
    return {item.ReferencedSOPInstanceUID: item.FailureReason for item in information.FailedSOPSequence}


def wait_for_state(node: Node, uid: str, wanted: CommitmentState) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (state := node.catalog.commitments.state_of(uid)) is not wanted:
        assert time.monotonic() < deadline, f"{state} instead of {wanted}"
        time.sleep(0.02)


@pytest.mark.parametrize("roles", [False, True])
def test_success_on_the_same_association(quick_node: Node, peer: Factory, instance: Factory, roles: bool) -> None:
    datasets = [instance(InstanceNumber=number) for number in range(3)]
    peer(quick_node).send(*datasets)
    information, reports = request(*of(*datasets)), Reports()
    with requester(quick_node.port, reports, roles=roles) as association:
        assert ask(association, information) == 0x0000
        event_type, told = reports.wait()
        wait_for_state(quick_node, information.TransactionUID, CommitmentState.REPORTED)
    assert event_type == 1
    assert told.TransactionUID == information.TransactionUID
    assert pairs(told.ReferencedSOPSequence) == set(of(*datasets))
    assert told.RetrieveAETitle == "PACSIMILE"
    assert "FailedSOPSequence" not in told
    sent = reports.events[0].request
    assert (sent.AffectedSOPClassUID, sent.AffectedSOPInstanceUID) == (PushModel, WellKnown)


def test_success_on_an_association_that_the_node_opens(
    running_node: Factory, peer: Factory, instance: Factory, knowing: dict[str, Any], free_port: int
) -> None:
    dataset, reports = instance(), Reports()
    with running_node(knowing) as node, listening(free_port, reports):
        peer(node).send(dataset)
        information = request(*of(dataset))
        ask_and_leave(node.port, information)
        event_type, told = reports.wait()
        wait_for_state(node, information.TransactionUID, CommitmentState.REPORTED)
    assert event_type == 1
    assert told.TransactionUID == information.TransactionUID
    opened = reports.events[0].assoc
    assert opened.requestor.ae_title.strip() == "PACSIMILE"
    proposed = opened.requestor.role_selection[PushModel]
    assert (proposed.scu_role, proposed.scp_role) == (False, True)
    assert len(reports.came) == 1


def test_every_kind_of_failure_and_the_complete_set(quick_node: Node, peer: Factory, instance: Factory) -> None:
    kept, other, lost = (instance(InstanceNumber=number) for number in range(3))
    stray = instance(StudyInstanceUID=None)
    sender = peer(quick_node)
    sender.send(kept, other, lost)
    assert [status.Status for status in sender.send(stray)] == [0xB007]
    quick_node.spool.path(quick_node.catalog.lookup.instance_path(lost.SOPInstanceUID)).unlink()
    never, strange = generate_uid(), generate_uid()
    asked = [
        *of(kept, lost, stray),
        (MRImageStorage, other.SOPInstanceUID),
        (CTImageStorage, never),
        ("1.2.3.4", strange),
    ]
    reports = Reports()
    with requester(quick_node.port, reports) as association:
        assert ask(association, request(*asked)) == 0x0000
        event_type, told = reports.wait()
    assert event_type == 2
    assert pairs(told.ReferencedSOPSequence) == set(of(kept))
    assert pairs(told.ReferencedSOPSequence) | pairs(told.FailedSOPSequence) == set(asked)
    assert reasons(told) == {
        lost.SOPInstanceUID: 0x0112,
        stray.SOPInstanceUID: 0x0112,
        other.SOPInstanceUID: 0x0119,
        never: 0x0112,
        strange: 0x0122,
    }


def test_a_damaged_file_is_not_committed_to_until_it_is_sent_again(
    quick_node: Node, peer: Factory, instance: Factory
) -> None:
    dataset = instance()
    peer(quick_node).send(dataset)
    file = quick_node.spool.path(quick_node.catalog.lookup.instance_path(dataset.SOPInstanceUID))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    reports = Reports()
    with requester(quick_node.port, reports) as association:
        assert ask(association, request(*of(dataset))) == 0x0000
        event_type, told = reports.wait(1)
        assert (event_type, reasons(told)) == (2, {dataset.SOPInstanceUID: 0x0110})
        assert "ReferencedSOPSequence" not in told
        assert "RetrieveAETitle" not in told
        assert [status.Status for status in peer(quick_node).send(dataset)] == [0x0000]
        assert ask(association, request(*of(dataset))) == 0x0000
        event_type, _ = reports.wait(2)
        assert event_type == 1


@refused_connections
def test_a_requester_that_is_down_at_first(
    running_node: Factory, peer: Factory, instance: Factory, knowing: dict[str, Any], free_port: int
) -> None:
    dataset, reports = instance(), Reports()
    with running_node(knowing) as node:
        peer(node).send(dataset)
        information = request(*of(dataset))
        ask_and_leave(node.port, information)
        wait_for_state(node, information.TransactionUID, CommitmentState.CHECKED)
        time.sleep(0.5)  # reports are tried
        assert node.catalog.commitments.state_of(information.TransactionUID) is CommitmentState.CHECKED
        with listening(free_port, reports):
            event_type, _ = reports.wait()
            wait_for_state(node, information.TransactionUID, CommitmentState.REPORTED)
    assert event_type == 1


@refused_connections
def test_a_node_that_is_stopped_before_it_could_report(
    running_node: Factory, peer: Factory, instance: Factory, knowing: dict[str, Any], free_port: int
) -> None:
    dataset, reports = instance(), Reports()
    with running_node(knowing) as node:
        peer(node).send(dataset)
        ask_and_leave(node.port, request(*of(dataset), (CTImageStorage, "1.2.3")))
    with running_node(knowing), listening(free_port, reports):
        event_type, told = reports.wait()
    assert event_type == 2
    assert pairs(told.ReferencedSOPSequence) == set(of(dataset))
    assert reasons(told) == {"1.2.3": 0x0112}


RECEIVER = """
import json, sys, threading
from config.load import load_settings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.errors import NotFound

class Nobody:
    def similar(self, seed, **_):
        raise NotFound("nothing is compared here")

peers = [{"aet": "MODALITY", "host": "127.0.0.1", "port": int(sys.argv[2])}]
settings = load_settings(None, json.loads(sys.argv[3]), {"data_dir": sys.argv[1], "dicom.port": 0, "peers": peers})
catalog = Catalog(settings.catalog_url)
server = DicomServer(settings, catalog, Spool(settings.spool_dir), Nobody())
server.start()
print(server.bound_port, flush=True)
threading.Event().wait()
"""


@contextmanager
def process(folder: Path, peer_port: int) -> Iterator[Any]:
    """A node that is killed at the end; what it yields has its port."""
    child = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(folder), str(peer_port), json.dumps(variables_of(folder))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    try:
        yield type("At", (), {"port": int(child.stdout.readline())})
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        child.stdout.close()


def test_a_node_that_is_killed_after_its_answer(
    tmp_path: Path, peer: Factory, instance: Factory, free_port: int
) -> None:
    dataset, reports = instance(), Reports()
    with process(tmp_path, free_port) as at:
        peer(at).send(dataset)
        information = request(*of(dataset))
        with requester(at.port, Reports()) as association:
            assert ask(association, information) == 0x0000
            association.abort()
    with Catalog(catalog_url(tmp_path)) as catalog:
        assert catalog.commitments.state_of(information.TransactionUID) is not None
    with listening(free_port, reports), process(tmp_path, free_port):
        event_type, told = reports.wait()
    assert (event_type, told.TransactionUID) == (1, information.TransactionUID)


def test_a_report_that_cannot_be_delivered_is_given_up(
    running_node: Factory, peer: Factory, instance: Factory
) -> None:
    dataset = instance()
    with running_node({**QUICK, "commitment.give_up_after_hours": 0.5 / 3600}) as node:
        peer(node).send(dataset)
        information = request(*of(dataset))
        ask_and_leave(node.port, information, "NOBODY")
        wait_for_state(node, information.TransactionUID, CommitmentState.ABANDONED)


def test_a_requester_that_refuses_on_its_own_association_is_called(
    running_node: Factory, peer: Factory, instance: Factory, knowing: dict[str, Any], free_port: int
) -> None:
    dataset, here, there = instance(), Reports(answers=[0x0110]), Reports(answers=[0x0110, 0x0000])
    with running_node(knowing) as node, listening(free_port, there):
        peer(node).send(dataset)
        information = request(*of(dataset))
        with requester(node.port, here) as association:
            assert ask(association, information) == 0x0000
            here.wait()
            there.wait()
        there.wait(2)
        wait_for_state(node, information.TransactionUID, CommitmentState.REPORTED)


def test_a_requester_that_aborts_is_called_again(
    running_node: Factory, peer: Factory, instance: Factory, knowing: dict[str, Any], free_port: int
) -> None:
    dataset, here, there = instance(), Reports(answers=[None]), Reports(answers=[None, 0x0000])
    with running_node(knowing) as node, listening(free_port, there):
        peer(node).send(dataset)
        information = request(*of(dataset))
        with requester(node.port, here) as association:
            assert ask(association, information) == 0x0000
            here.wait()
        there.wait(2)
        wait_for_state(node, information.TransactionUID, CommitmentState.REPORTED)
    assert [event_type for event_type, _ in there.came] == [1, 1]


def test_requests_are_served_while_the_node_waits_for_a_response(
    quick_node: Node, peer: Factory, instance: Factory
) -> None:
    """The two directions are independent: a request may cross the N-EVENT-REPORT."""
    dataset, may_answer = instance(), threading.Event()
    reports = Reports(hold=may_answer)
    peer(quick_node).send(dataset)
    information = request(*of(dataset))
    with requester(quick_node.port, reports) as association:
        assert ask(association, information) == 0x0000
        reports.wait()
        for _ in range(3):
            assert association.send_c_echo().Status == 0x0000
        assert quick_node.catalog.commitments.state_of(information.TransactionUID) is CommitmentState.CHECKED
        may_answer.set()
        wait_for_state(quick_node, information.TransactionUID, CommitmentState.REPORTED)
        assert association.send_c_echo().Status == 0x0000
    assert len(reports.came) == 1


def without(keyword: str) -> Dataset:
    information = request((CTImageStorage, "1.2.3"))
    delattr(information, keyword)
    return information


@pytest.mark.parametrize(
    ("information", "action", "instance_uid", "status"),
    [
        (request((CTImageStorage, "1.2.3")), 1, "1.2.3.4", 0x0112),
        (request((CTImageStorage, "1.2.3")), 2, WellKnown, 0x0123),
        (None, 1, WellKnown, 0x0115),
        (without("TransactionUID"), 1, WellKnown, 0x0115),
        (without("ReferencedSOPSequence"), 1, WellKnown, 0x0115),
        (request(), 1, WellKnown, 0x0115),
        (request((CTImageStorage, "")), 1, WellKnown, 0x0115),
    ],
)
def test_what_is_no_request_is_not_acted_on(
    node: Node, information: Dataset | None, action: int, instance_uid: str, status: int
) -> None:
    reports = Reports()
    with requester(node.port, reports) as association:
        assert ask(association, information, action, instance_uid) == status
        assert association.send_c_echo().Status == 0x0000
        if information is not None and "TransactionUID" in information:
            assert node.catalog.commitments.state_of(information.TransactionUID) is None


def test_a_transaction_uid_is_used_once(quick_node: Node) -> None:
    information, reports = request((CTImageStorage, "1.2.3")), Reports()
    with requester(quick_node.port, reports) as association:
        assert ask(association, information) == 0x0000
        assert ask(association, information) == 0x0115
        reports.wait()
        assert ask(association, information) == 0x0115
        assert len(reports.came) == 1


def test_too_many_instances_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "MAX_REFERENCES", 2)
    with requester(node.port, Reports()) as association:
        assert ask(association, request(*[(CTImageStorage, f"1.2.{n}") for n in range(3)])) == 0x0213


def test_a_node_that_keeps_no_files_does_not_offer_commitment(running_node: Factory) -> None:
    pacs = {"aet": "PACS", "host": "127.0.0.1", "port": 104}
    settings = {"storage.keep": "none", "storage.retrieve_aet": "PACS", "peers": [pacs]}
    with running_node(settings) as node, requester(node.port, Reports()) as association:
        assert PushModel not in {context.abstract_syntax for context in association.accepted_contexts}
