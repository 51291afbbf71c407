"""C-MOVE and C-GET that do not go well: failures, cancels, hostile requests, peers that misbehave."""

import queue
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, config
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, Association, evt
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelMove as PatientMove
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove

from dicom_scp.contexts import storage_sop_classes

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
COUNTS = (
    "NumberOfRemainingSuboperations",
    "NumberOfCompletedSuboperations",
    "NumberOfFailedSuboperations",
    "NumberOfWarningSuboperations",
)


@pytest.fixture
def node(moving_node: Node) -> Node:
    return moving_node


def counts(status: Dataset) -> tuple[int | None, ...]:
    return tuple(status.get(keyword) for keyword in COUNTS)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_failures_and_warnings_are_counted_and_named(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory, syntax: UID
) -> None:
    own = fill(node)
    with destination(lambda _event, number: {2: 0xA700, 3: 0xB000}.get(number, 0)):
        answers = peer(node).move(query(StudyInstanceUID="2.25.1"), syntax=syntax)
    status, identifier = answers[-1]
    assert status.Status == 0xB000
    assert counts(status) == (None, 3, 1, 1)
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == own[1].SOPInstanceUID
    assert all(found is None for _, found in answers[:-1])


def test_warnings_alone_come_without_a_list(fill: Factory, node: Node, peer: Factory, query: Factory) -> None:
    fill(node, 2)
    answers, _ = peer(node).get(query(StudyInstanceUID="2.25.1"), StudyGet, respond=lambda _event, _number: 0xB007)
    assert answers[-1][0].Status == 0xB000
    assert counts(answers[-1][0]) == (None, 0, 0, 2)
    assert not answers[-1][1]


def test_all_failed(fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory) -> None:
    own = fill(node, 2)
    with destination(lambda _event, _number: 0xC000):
        status, identifier = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    assert status.Status == 0xA702
    assert counts(status) == (None, 0, 2, 0)
    assert identifier is not None
    assert list(identifier.FailedSOPInstanceUIDList) == [one.SOPInstanceUID for one in own]


def test_no_context_for_an_instance_is_a_failure(
    fill: Factory, node: Node, instance: Factory, peer: Factory, query: Factory, destination: Factory
) -> None:
    fill(node, 2)
    mr = instance(SOPInstanceUID="2.25.199", SeriesInstanceUID="2.25.19", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert peer(node).send(mr)[0].Status == 0
    with destination(lambda _event, _number: 0) as events:
        status, identifier = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    assert len(events) == 2
    assert status.Status == 0xB000
    assert counts(status) == (None, 2, 1, 0)
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == "2.25.199"


def test_the_destination_breaks_off(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory
) -> None:
    own = fill(node)

    def respond(event: Any, number: int) -> int:  # noqa: ANN401 - the library has no types
        if number == 3:
            event.assoc.abort()
        return 0

    with destination(respond):
        status, identifier = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    assert status.Status == 0xB000
    assert counts(status) == (None, 2, 3, 0)
    assert "lost" in status.ErrorComment
    assert identifier is not None
    assert list(identifier.FailedSOPInstanceUIDList) == [one.SOPInstanceUID for one in own[2:]]


@pytest.mark.parametrize("network_timeout_s", [3.0])
def test_the_destination_falls_silent(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory
) -> None:
    fill(node, 2)
    released = threading.Event()

    def respond(_event: Any, _number: int) -> int:  # noqa: ANN401 - the library has no types
        released.wait(120)
        return 0

    with destination(respond):
        status, _ = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
        assert not released.is_set()
        released.set()
    assert status.Status == 0xA702
    assert counts(status) == (None, 0, 2, 0)


def test_the_destination_is_down(fill: Factory, node: Node, peer: Factory, query: Factory) -> None:
    fill(node, 2)
    status, identifier = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    assert status.Status == 0xA702
    assert counts(status) == (None, 0, 2, 0)
    assert "DEST" in status.ErrorComment
    assert identifier is not None
    assert len(identifier.FailedSOPInstanceUIDList) == 2


def test_an_unknown_destination(fill: Factory, node: Node, peer: Factory, query: Factory) -> None:
    fill(node, 2)
    answers = peer(node).move(query(StudyInstanceUID="2.25.1"), to="NOWHERE")
    assert [status.Status for status, _ in answers] == [0xA801]
    assert "destination" in answers[0][0].ErrorComment
    assert peer(node).move(query(StudyInstanceUID="2.25.404"), to="NOWHERE")[0][0].Status == 0xA801


@pytest.mark.parametrize(
    ("level", "keys", "status"),
    [
        ("STUDY", {}, 0xA900),
        ("STUDY", {"StudyInstanceUID": ""}, 0xA900),
        ("STUDY", {"StudyInstanceUID": "*"}, 0xA900),
        ("STUDY", {"StudyInstanceUID": "2.25.*"}, 0xA900),
        ("STUDY", {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.11"}, 0xA900),
        ("STUDY", {"StudyInstanceUID": "2.25.1", "Modality": "CT"}, 0xA900),
        ("STUDY", {"AccessionNumber": "A1"}, 0xA900),
        ("STUDY", {"StudyInstanceUID": "2.25.1", "PatientID": ["P1", "P2"]}, 0xA900),
        ("SERIES", {"SeriesInstanceUID": "2.25.11"}, 0xA900),
        ("SERIES", {"StudyInstanceUID": ["2.25.1", "2.25.2"], "SeriesInstanceUID": "2.25.11"}, 0xA900),
        ("IMAGE", {"StudyInstanceUID": "2.25.1", "SOPInstanceUID": "2.25.110"}, 0xA900),
        ("PATIENT", {"PatientID": ["P1", "P2"]}, 0xA900),
        ("PATIENT", {"PatientID": "P*"}, 0xA900),
        ("PATIENT", {"PatientID": ""}, 0xA900),
        ("FRAME", {"SOPInstanceUID": "2.25.110"}, 0xA900),
        (None, {"StudyInstanceUID": "2.25.1"}, 0xA900),
    ],
)
def test_identifiers_that_do_not_match(
    fill: Factory,
    node: Node,
    peer: Factory,
    query: Factory,
    destination: Factory,
    level: str | None,
    keys: dict[str, Any],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    fill(node, 2)
    with destination(lambda _event, _number: 0) as events:
        answers = peer(node).move(query(level, **keys))
    assert [found.Status for found, _ in answers] == [status]
    assert answers[0][0].ErrorComment
    assert "2.25" not in answers[0][0].ErrorComment
    assert not events
    assert peer(node).get(query(level, **keys), StudyGet)[0][-1][0].Status == status


def test_patient_root_needs_a_patient(fill: Factory, node: Node, peer: Factory, query: Factory) -> None:
    fill(node, 2)
    for keys in ({"StudyInstanceUID": "2.25.1"}, {"PatientID": ["P1", "P2"], "StudyInstanceUID": "2.25.1"}):
        assert peer(node).move(query("STUDY", **keys), model=PatientMove)[-1][0].Status == 0xA900
    assert peer(node).move(query("PATIENT", PatientID=["P1", "P2"]), model=PatientMove)[-1][0].Status == 0xA900


@pytest.mark.parametrize(
    "identifier",
    [
        None,
        b"\x08\x00\x52\x00CS\x06\x00STUDY",
        b"\xff" * 100,
        b"\x20\x00\x0d\x00SQ\x00\x00\xff\xff\xff\xff"
        + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x20\x00\x0d\x00SQ\x00\x00\xff\xff\xff\xff" * 40,
        b"\x08\x00\x52\x00CS\x06\x00STUDY \x20\x00\x0d\x00UI\x40\x00" + b"../../../../etc/passwd\0\0" + b"9" * 40,
        b"\x08\x00\x52\x00CS\x06\x00STUDY \x20\x00\x0d\x00OB\x00\x00\x02\x00\x00\x00ab",
    ],
)
def test_hostile_identifiers_end_in_a_response(
    fill: Factory, node: Node, peer: Factory, query: Factory, identifier: bytes | None
) -> None:
    fill(node, 2)
    with peer(node).associated([(StudyMove, [ExplicitVRLittleEndian])]) as association:
        request = C_MOVE()
        request.MessageID, request.AffectedSOPClassUID, request.Priority = 1, StudyMove, 0
        request.MoveDestination = "DEST"
        request.Identifier = None if identifier is None else BytesIO(identifier)
        association._reactor_checkpoint.clear()
        while not association._is_paused:
            time.sleep(0.001)
        association.dimse.send_msg(request, 1)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert response.Status in (0xA900, 0xC001, 0xA702, 0x0000)
        assert association.is_established
    assert peer(node).move(query(StudyInstanceUID="2.25.404"))[-1][0].Status == 0


def has_heard_cancel(message_id: int) -> bool:
    """Whether some association of this process was sent a C-CANCEL of a request."""
    associations = [thread for thread in threading.enumerate() if isinstance(thread, Association)]
    return any(message_id in one.dimse.cancel_req for one in associations)


def test_cancel(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory, wait_for: Factory
) -> None:
    own = fill(node, 9)
    third: queue.Queue[bool] = queue.Queue()

    def respond(_event: Any, number: int) -> int:  # noqa: ANN401 - the library has no types
        if number == 3:
            third.put(True)
            wait_for(lambda: has_heard_cancel(5), 60, "the node hears C-CANCEL")
        return 0xA700 if number == 1 else 0

    with (
        destination(respond) as events,
        peer(node).associated([(StudyMove, [ExplicitVRLittleEndian])]) as association,
    ):
        answers = association.send_c_move(query(StudyInstanceUID="2.25.1"), "DEST", StudyMove, msg_id=5)
        third.get(timeout=60)
        association.send_c_cancel(5, query_model=StudyMove)
        responses = list(answers)
        status, identifier = responses[-1]
        assert status.Status == 0xFE00
        assert counts(status) == (6, 2, 1, 0)
        assert identifier is not None
        assert identifier.FailedSOPInstanceUIDList == own[0].SOPInstanceUID
        assert len(events) == 3
        again = list(association.send_c_move(query(StudyInstanceUID="2.25.1"), "DEST", StudyMove, msg_id=6))
        assert again[-1][0].Status == 0


def test_cancel_of_get(fill: Factory, node: Node, peer: Factory, query: Factory) -> None:
    fill(node, 9)

    def respond(event: Any, number: int) -> int:  # noqa: ANN401 - the library has no types
        if number == 2:
            event.assoc.send_c_cancel(1, query_model=StudyGet)
        return 0

    answers, came = peer(node).get(query(StudyInstanceUID="2.25.1"), StudyGet, respond=respond)
    assert answers[-1][0].Status == 0xFE00
    assert len(came) in (2, 3)
    assert counts(answers[-1][0]) == (9 - len(came), len(came), 0, 0)


def test_an_asker_that_leaves_stops_it(
    fill: Factory, node: Node, instance: Factory, peer: Factory, query: Factory, destination: Factory
) -> None:
    fill(node, 9)
    second: queue.Queue[bool] = queue.Queue()
    left = threading.Event()

    def respond(_event: Any, number: int) -> int:  # noqa: ANN401 - the library has no types
        if number == 2:
            second.put(True)
            left.wait(60)
            time.sleep(1.0)  # the node may hear of it meanwhile
        return 0

    with destination(respond) as events:
        with peer(node).associated([(StudyMove, [ExplicitVRLittleEndian])]) as association:
            association.send_c_move(query(StudyInstanceUID="2.25.1"), "DEST", StudyMove)
            second.get(timeout=60)
            association._reactor_checkpoint.set()
            association.abort()
            left.set()
        time.sleep(2.0)
        assert len(events) < 9
    assert peer(node).send(instance(SOPInstanceUID="2.25.999"))[0].Status == 0


def test_a_damaged_file_fails_and_the_others_are_sent(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory
) -> None:
    own = fill(node, 3)
    file = node.spool.path(node.catalog.lookup.instance_path(own[1].SOPInstanceUID))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with destination(lambda _event, _number: 0):
        status, identifier = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    assert status.Status == 0xB000
    assert counts(status) == (None, 2, 1, 0)
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == own[1].SOPInstanceUID


def test_more_kinds_than_one_association_can_have(
    node: Node, instance: Factory, peer: Factory, query: Factory, dest_port: int
) -> None:
    """Two contexts for each SOP class here: 70 classes need two associations."""
    classes = storage_sop_classes()[:70]
    sent = [instance(SOPClassUID=uid, SOPInstanceUID=generate_uid()) for uid in classes]
    for one in sent:
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert all(status.Status == 0 for status in peer(node).send(*sent))
    came: list[str] = []
    associations = set()

    def store(event: Any) -> int:  # noqa: ANN401 - the library has no types
        came.append(event.request.AffectedSOPInstanceUID)
        associations.add(event.assoc)
        return 0

    entity = AE("DEST")
    for uid in classes:
        entity.add_supported_context(uid, ImplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", dest_port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        status, _ = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    finally:
        server.shutdown()
    assert status.Status == 0
    assert sorted(came) == sorted(one.SOPInstanceUID for one in sent)
    assert len(associations) == 2
