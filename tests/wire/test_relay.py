"""C-MOVE at a node that keeps no files: its archive is asked, and what that answers is passed on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelMove as PatientMove
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
Step = tuple[int, tuple[int, int, int, int]]
"""A status, and the numbers of remaining, completed, failed and warning sub-operations."""


@contextmanager
def archive(port: int, steps: list[Step], failed: list[str], pause_s: float = 0.0) -> Iterator[list[Any]]:
    """An archive that answers C-MOVE with given steps, or FE00 once C-CANCEL came; yields the requests."""
    asked: list[Any] = []

    def respond(association: Any, request: Any, context_id: int) -> None:  # noqa: ANN401 - the library has no types
        asked.append(request)
        for status, numbers in steps:
            time.sleep(pause_s)
            cancelled = request.MessageID in association.dimse.cancel_req
            answer = C_MOVE()
            answer.MessageIDBeingRespondedTo = request.MessageID
            answer.AffectedSOPClassUID = request.AffectedSOPClassUID
            answer.Status = 0xFE00 if cancelled else status
            remaining, completed, fails, warnings = numbers
            answer.NumberOfRemainingSuboperations = remaining
            answer.NumberOfCompletedSuboperations = completed
            answer.NumberOfFailedSuboperations = fails
            answer.NumberOfWarningSuboperations = warnings
            if answer.Status not in (0, 0xFF00) and failed:
                answer.Identifier = _listed(failed)
                answer.ErrorComment = "tape is torn"
            association.dimse.send_msg(answer, context_id)
            if answer.Status != 0xFF00:
                return

    def requested(event: Any) -> None:  # noqa: ANN401 - the library has no types
        event.assoc._serve_request = lambda request, context_id: respond(event.assoc, request, context_id)

    entity = AE("PACS")
    for model in (StudyMove, PatientMove):
        entity.add_supported_context(model, ImplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_REQUESTED, requested)])
    try:
        yield asked
    finally:
        server.shutdown()


def _listed(uids: list[str]) -> Any:  # noqa: ANN401 - a file of the library's kind
    identifier = Dataset()
    identifier.FailedSOPInstanceUIDList = uids
    return BytesIO(encode(identifier, True, True) or b"")


@pytest.fixture
def node(
    running_node: Callable[..., AbstractContextManager[Node]], dest_port: int, fill: Factory
) -> Iterator[Node]:
    """A node that has given up the files of all its series but one."""
    peers = [
        {"aet": "PACS", "host": "127.0.0.1", "port": dest_port},
        {"aet": "RESEARCH", "networks": ["127.0.0.1"], "cohort": "one"},
    ]
    cohorts = [{"name": "one", "study_instance_uid": ["2.25.1"]}]
    storage = {"storage.keep": "none", "storage.retrieve_aet": "PACS", "storage.release_after_minutes": 0.0}
    with running_node({"peers": peers, "cohorts": cohorts, **storage}) as running:
        fill(running)
        running.catalog.embeddings.activate(running.finder.encoder_id)
        running.catalog.progress.settle(0.0)
        for _ in range(2):
            leased = running.catalog.progress.lease("test", 60.0)
            running.catalog.embeddings.finish(leased, "test", running.finder.encoder_id, [], seconds={}, notes=[])
        running.server.tidy_if_due()
        assert len(running.files()) == 1
        yield running


def counts(status: Dataset) -> tuple[int | None, ...]:
    names = ("Remaining", "Completed", "Failed", "Warning")
    return tuple(status.get(f"NumberOf{name}Suboperations") for name in names)


def test_responses_are_passed_on_as_they_come(node: Node, peer: Factory, query: Factory, dest_port: int) -> None:
    steps = [(0xFF00, (2, 1, 0, 0)), (0xFF00, (1, 1, 1, 0)), (0xB000, (0, 1, 1, 1))]
    with archive(dest_port, steps, ["2.25.111"]) as asked:
        answers = peer(node).move(query(StudyInstanceUID="2.25.1"), "ANYBODY")
    assert [(status.Status, counts(status)) for status, _ in answers] == steps
    assert answers[-1][0].ErrorComment == "tape is torn"
    assert answers[-1][1].FailedSOPInstanceUIDList == "2.25.111"
    assert [one.MoveDestination for one in asked] == ["ANYBODY"]


def test_the_archive_names_itself_in_answers(node: Node, peer: Factory, query: Factory) -> None:
    found, _ = peer(node).find(query(StudyInstanceUID=""))
    assert [one.RetrieveAETitle for _, one in found] == ["PACS", "PACS"]


@pytest.mark.parametrize("status", [0xA801, 0xA702, 0xC123, 0x0122])
def test_a_refusal_of_the_archive_is_passed_on(
    node: Node, peer: Factory, query: Factory, dest_port: int, status: int
) -> None:
    with archive(dest_port, [(status, (0, 0, 3, 0))], []):
        answers = peer(node).move(query("PATIENT", PatientID="P1"), "NOBODY", PatientMove)
    assert [found.Status for found, _ in answers] == [status]


def test_what_is_here_is_not_relayed(node: Node, peer: Factory, query: Factory, dest_port: int) -> None:
    with archive(dest_port, [(0x0000, (0, 1, 0, 0))], []) as asked:
        answers = peer(node).move(query(StudyInstanceUID="2.25.2"), "NOBODY")
    assert [found.Status for found, _ in answers] == [0xA801]
    assert asked == []


def test_who_sees_a_cohort_has_no_more_relayed(node: Node, peer: Factory, query: Factory, dest_port: int) -> None:
    research = peer(node, "RESEARCH")
    with archive(dest_port, [(0x0000, (0, 1, 0, 0))], []) as asked:
        for more in (query(StudyInstanceUID=["2.25.1", "2.25.404"]), query(StudyInstanceUID=["2.25.1", "2.25.2"])):
            assert [found.Status for found, _ in research.move(more, "DEST")] == [0xA702]
        patient = research.move(query("PATIENT", PatientID="P1"), "DEST", PatientMove)
        assert [found.Status for found, _ in patient] == [0xA702]
        assert asked == []
        assert [found.Status for found, _ in research.move(query(StudyInstanceUID="2.25.1"), "DEST")] == [0x0000]
        assert len(asked) == 1


def test_cancel_is_passed_on(node: Node, peer: Factory, query: Factory, dest_port: int) -> None:
    steps = [(0xFF00, (9 - n, n, 0, 0)) for n in range(9)]
    with (
        archive(dest_port, steps, [], pause_s=0.3),
        peer(node).associated([(StudyMove, [ExplicitVRLittleEndian])]) as association,
    ):
        answers = association.send_c_move(query(StudyInstanceUID="2.25.1"), "DEST", StudyMove, msg_id=9)
        threading.Timer(0.5, association.send_c_cancel, (9,), {"query_model": StudyMove}).start()
        statuses = [status.Status for status, _ in answers]
    assert statuses[-1] == 0xFE00
    assert set(statuses[:-1]) == {0xFF00}
    assert len(statuses) < 6


def test_the_archive_is_down_or_the_asker_wants_c_get(node: Node, peer: Factory, query: Factory) -> None:
    status, _ = peer(node).move(query(StudyInstanceUID="2.25.1"))[-1]
    assert status.Status == 0xA702
    assert status.ErrorComment.startswith("no association with PACS")
    answers, came = peer(node).get(query(StudyInstanceUID="2.25.1"))
    assert (answers[-1][0].Status, came) == (0xA702, [])
    assert answers[-1][0].ErrorComment == "the instances are in PACS: retrieve them there or by C-MOVE"


def test_what_comes_again_is_not_stored(node: Node, peer: Factory, instance: Factory) -> None:
    again = instance(SOPInstanceUID="2.25.110", SeriesInstanceUID="2.25.11", InstanceNumber=0)
    other_encoding = instance(SOPInstanceUID="2.25.111", SeriesInstanceUID="2.25.12", InstanceNumber=1)
    other_encoding.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert [status.Status for status in peer(node).send(again, other_encoding)] == [0, 0]
    assert len(node.files()) == 1
    assert node.catalog.progress.counts().conflicts == 0
