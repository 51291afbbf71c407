"""Peers on the wire: strangers are rejected, services refused, and what is outside of a cohort is not there."""

import socket
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind as PatientRoot
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelGet as PatientGet
from pynetdicom.sop_class import StorageCommitmentPushModel as PushModel
from pynetdicom.sop_class import StorageCommitmentPushModelInstance as WellKnown
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove
from pynetdicom.sop_class import Verification

from indexer.catalog.commitments import CommitmentState

Factory = Callable[..., Any]
Node = Association = Any
"""`Node` of the conftest; that of the network library, which has no types."""
PATIENCE_S = 120.0
SEEN, HIDDEN = "2.25.1", "2.25.2"
"""Two studies of one patient."""
OTHERS = ("2.25.3", "2.25.4")
"""A study that is seen and one that is not, of others."""
STUDIES = (SEEN, HIDDEN, *OTHERS)


@pytest.fixture(scope="module")
def dest_port(find_port: Callable[[], int]) -> int:
    """Where the move destination DEST listens, if a test starts it."""
    return find_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, run_a_node: Factory, dest_port: int) -> Iterator[Node]:
    here = {"networks": ["127.0.0.0/8"]}
    peers = [
        {"aet": "SENDER", **here},
        {"aet": "RESEARCH", **here, "cohort": "trial"},
        {"aet": "VIEWER", **here, "services": ["ECHO", "FIND"]},
        {"aet": "ASKER", **here, "services": ["SIMILAR", "GET"]},
        {"aet": "FAR", "networks": ["192.0.2.0/24"]},
        {"aet": "DEST", "host": "127.0.0.1", "port": dest_port},
    ]
    cohorts = [{"name": "trial", "clinical_trial_protocol_id": ["PROTO-*"]}]
    overrides = {
        "peers": peers,
        "cohorts": cohorts,
        "dicom.unknown_peers": "REFUSE",
        "commitment.same_association_after_s": 0.2,
    }
    with run_a_node(tmp_path_factory.mktemp("access") / "data", overrides) as running:
        yield running


@pytest.fixture(scope="module")
def archive(node: Node, peer: Factory, instance: Factory) -> Node:
    """Three patients, four studies of two instances each, half of them of the trial."""
    sent = [
        instance(
            StudyInstanceUID=study,
            SeriesInstanceUID=f"{study}.1",
            SOPInstanceUID=f"{study}.1.{number}",
            PatientID="P1" if study in (SEEN, HIDDEN) else study,
            AccessionNumber=f"A{study[-1]}",
            pixel_level=(400 if study == SEEN else 100) + number,
            **({"ClinicalTrialProtocolID": "PROTO-7"} if study in (SEEN, OTHERS[0]) else {}),
        )
        for study in STUDIES
        for number in range(2)
    ]
    assert all(status.Status == 0 for status in peer(node, "SENDER").send(*sent))
    node.finder.index()
    return node


def rejection(port: int, ae_title: str, host: str = "127.0.0.1") -> tuple[int, int, int] | None:
    """Result, source and reason of an A-ASSOCIATE-RJ; None if the association was accepted."""
    entity = AE(ae_title)
    entity.add_requested_context(Verification)
    association = entity.associate(host, port, ae_title="PACSIMILE")
    if association.is_established:
        association.release()
        return None
    assert association.is_rejected
    answer = association.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_strangers_are_rejected(node: Node) -> None:
    assert rejection(node.port, "SENDER") is None
    assert rejection(node.port, "STRANGER") == (1, 1, 3)  # calling AE title not recognized
    assert rejection(node.port, "FAR") == (1, 1, 3)  # its name, from elsewhere


def test_from_beyond_the_machine_only_peers_get_in_by_default(
    tmp_path: Path, run_a_node: Factory, own_address: str
) -> None:
    peers = [
        {"aet": "PEER", "networks": [own_address]},
        {"aet": "HOST", "host": own_address, "port": 104},
        {"aet": "FAR", "host": "192.0.2.1", "port": 104},
    ]
    with run_a_node(tmp_path / "data", {"dicom.host": "0.0.0.0", "peers": peers}) as running:
        assert rejection(running.port, "STRANGER") is None
        assert rejection(running.port, "STRANGER", own_address) == (1, 1, 3)
        assert rejection(running.port, "FAR", own_address) == (1, 1, 3)
        assert rejection(running.port, "PEER", own_address) is None
        assert rejection(running.port, "HOST", own_address) is None


@pytest.fixture
def own_address() -> str:
    """An address of this machine that is not of the loopback interface; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has no address beyond the loopback interface")
    return address


def test_contexts_of_other_services_are_refused(node: Node, peer: Factory) -> None:
    wanted = [
        (one, [ExplicitVRLittleEndian]) for one in (Verification, StudyRoot, StudyMove, CTImageStorage, PushModel)
    ]
    unknown = [("1.2.3.4", [ExplicitVRLittleEndian])]
    with peer(node, "VIEWER").associated(wanted + unknown) as association:
        assert {one.abstract_syntax for one in association.accepted_contexts} == {Verification, StudyRoot}
        results = {one.abstract_syntax: one.result for one in association.rejected_contexts}
    assert results == {StudyMove: 1, CTImageStorage: 1, PushModel: 1, "1.2.3.4": 3}
    with peer(node, "VIEWER").associated(wanted, called="SIMILAR") as association:
        assert [one.abstract_syntax for one in association.accepted_contexts] == [Verification]
    with peer(node, "ASKER").associated(wanted, called="SIMILAR") as association:
        assert {one.abstract_syntax for one in association.accepted_contexts} == {StudyRoot, CTImageStorage}
    with peer(node, "ASKER").associated(wanted, called="PACSIMILE") as association:
        assert [one.abstract_syntax for one in association.accepted_contexts] == [CTImageStorage]


def test_requests_in_a_context_of_another_service_are_not_authorized(
    node: Node, peer: Factory, instance: Factory
) -> None:
    """What is asked for decides, not the context that it comes in."""
    dataset = instance(StudyInstanceUID="2.25.99", SOPInstanceUID="2.25.991")
    store = C_STORE()
    store.MessageID, store.Priority = 1, 2
    store.AffectedSOPClassUID, store.AffectedSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    store.DataSet = BytesIO(encode(dataset, is_implicit_vr=False, is_little_endian=True) or b"")
    find = C_FIND()
    find.MessageID, find.Priority, find.AffectedSOPClassUID = 2, 2, StudyRoot
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    find.Identifier = BytesIO(encode(identifier, is_implicit_vr=False, is_little_endian=True) or b"")
    echo = [(Verification, [ExplicitVRLittleEndian])]
    for ae_title, called, request in [("VIEWER", "PACSIMILE", store), ("VIEWER", "SIMILAR", find)]:
        with peer(node, ae_title).associated(echo, called=called) as association:
            association._reactor_checkpoint.clear()
            association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
            _, answer = association.dimse.get_msg(block=True)
            association._reactor_checkpoint.set()
            assert (type(answer), answer.Status) == (type(request), 0x0124)
    with peer(node, "ASKER").associated([(CTImageStorage, [ExplicitVRLittleEndian])]) as association:
        assert association.send_c_store(dataset).Status == 0x0124  # open for C-GET only
    assert not node.catalog.lookup.series_of_study("2.25.99")


@pytest.mark.parametrize(("ae_title", "counts"), [("SENDER", (3, 4, 4, 8)), ("RESEARCH", (2, 2, 2, 4))])
def test_a_query_counts_what_is_seen(
    archive: Node, peer: Factory, query: Factory, ae_title: str, counts: tuple[int, ...]
) -> None:
    asker = peer(archive, ae_title)
    found = [
        len(asker.find(query("PATIENT", PatientID=""), model=PatientRoot)[0]),
        len(asker.find(query(StudyInstanceUID=""))[0]),
        sum(len(asker.find(query("SERIES", StudyInstanceUID=one, SeriesInstanceUID=""))[0]) for one in STUDIES),
        sum(
            len(
                asker.find(query("IMAGE", StudyInstanceUID=one, SeriesInstanceUID=f"{one}.1", SOPInstanceUID=""))[0]
            )
            for one in STUDIES
        ),
    ]
    assert tuple(found) == counts
    (patient,), _ = asker.find(
        query("PATIENT", PatientID="P1", NumberOfPatientRelatedStudies=None), model=PatientRoot
    )
    assert patient[1].NumberOfPatientRelatedStudies == (2 if ae_title == "SENDER" else 1)


def similar(asker: Any, query: Factory, **seed: str) -> tuple[list[str], int]:  # noqa: ANN401 - `Peer`
    keys = {"StudyInstanceUID": None, **seed}
    found, last = asker.find(query(**keys), called="SIMILAR")
    return [one.StudyInstanceUID for _, one in found], int(last.Status)


def test_similar_studies_are_of_the_cohort_and_so_are_seeds(archive: Node, peer: Factory, query: Factory) -> None:
    asker, all_seeing = peer(archive, "RESEARCH"), peer(archive, "SENDER")
    assert similar(asker, query, StudyInstanceUID=SEEN) == ([OTHERS[0]], 0x0000)
    assert sorted(similar(all_seeing, query, StudyInstanceUID=SEEN)[0]) == sorted({*STUDIES} - {SEEN})
    for hidden in ({"StudyInstanceUID": HIDDEN}, {"AccessionNumber": "A2"}, {"SeriesInstanceUID": f"{HIDDEN}.1"}):
        assert similar(all_seeing, query, **hidden)[0], hidden
        unknown = dict.fromkeys(hidden, "2.25.404")
        assert similar(asker, query, **hidden) == similar(asker, query, **unknown) == ([], 0xC001)


def test_what_is_hidden_takes_no_place_in_an_answer(archive: Node, peer: Factory, query: Factory) -> None:
    best = query(StudyInstanceUID=OTHERS[0])
    best.private_block(0x0077, "PACSIMILE", create=True).add_new(0x06, "US", 1)
    for ae_title, nearest in (("SENDER", {HIDDEN, OTHERS[1]}), ("RESEARCH", {SEEN})):
        ((_, found),), _ = peer(archive, ae_title).find(best, called="SIMILAR")
        assert found.StudyInstanceUID in nearest
        assert found.private_block(0x0077, "PACSIMILE")[0x11].value == 1  # its rank


def test_retrieval_sends_what_is_seen(archive: Node, peer: Factory, query: Factory) -> None:
    for ae_title, counts in (("SENDER", (2, 4)), ("RESEARCH", (0, 2))):
        asker = peer(archive, ae_title)
        responses, came = asker.get(query(StudyInstanceUID=HIDDEN))
        assert (len(came), responses[-1][0].Status) == (counts[0], 0x0000)
        _, came = asker.get(query("PATIENT", PatientID="P1"), model=PatientGet)
        assert len(came) == counts[1]
        assert {one.StudyInstanceUID for one in came} == ({SEEN, HIDDEN} if ae_title == "SENDER" else {SEEN})


def test_moving_sends_what_is_seen(archive: Node, peer: Factory, query: Factory, destination: Factory) -> None:
    with destination(lambda _event, _number: 0) as events:
        last = peer(archive, "RESEARCH").move(query(StudyInstanceUID=[SEEN, HIDDEN]))[-1][0]
        assert (last.Status, last.NumberOfCompletedSuboperations) == (0x0000, 2)
        image = query(
            "IMAGE", StudyInstanceUID=HIDDEN, SeriesInstanceUID=f"{HIDDEN}.1", SOPInstanceUID=f"{HIDDEN}.1.0"
        )
        last = peer(archive, "RESEARCH").move(image)[-1][0]
        assert (last.Status, last.NumberOfCompletedSuboperations) == (0x0000, 0)
    assert {event.dataset.StudyInstanceUID for event in events} == {SEEN}


def test_what_is_hidden_is_not_committed_to(archive: Node, wait_for: Factory) -> None:
    information = Dataset()
    information.TransactionUID = generate_uid()
    information.ReferencedSOPSequence = []
    for uid in (f"{SEEN}.1.0", f"{HIDDEN}.1.0"):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
        information.ReferencedSOPSequence.append(item)
    told: list[Dataset] = []

    def reported(event: Any) -> tuple[int, None]:  # noqa: ANN401 - the library has no types
        told.append(event.event_information)
        return 0x0000, None

    entity = AE("RESEARCH")
    entity.add_requested_context(PushModel)
    association = entity.associate(
        "127.0.0.1", archive.port, ae_title="PACSIMILE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, reported)]
    )
    status, _ = association.send_n_action(information, 1, PushModel, WellKnown)
    assert status.Status == 0
    state_of = archive.catalog.commitments.state_of
    wait_for(lambda: state_of(information.TransactionUID) is CommitmentState.REPORTED, PATIENCE_S, "the report")
    association.release()
    assert [one.ReferencedSOPInstanceUID for one in told[0].ReferencedSOPSequence] == [f"{SEEN}.1.0"]
    (failed,) = told[0].FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (f"{HIDDEN}.1.0", 0x0112)
