"""What DICOM peers do, as audit messages; it only listens to what the DICOM face does anyway."""

import threading
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_MOVE

from dicom_scp.intake import StoreRequest
from dicom_scp.reception import Reception, Verdict
from dicom_scp.suboperations import Reply
from indexer.catalog import Catalog
from indexer.catalog.holdings import HeldInstance
from indexer.catalog.tombstones import Target
from node import audit_messages as messages
from node.audit import AuditTrail
from node.audit_messages import About, Code, Event, Outcome, Participant
from node.audit_subjects import deletion, of_instances, of_study


@dataclass
class _Received:
    """What one association has sent: SOP Instance UID to SOP Class UID."""

    peer: tuple[str, str]
    instances: dict[str, str] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)


class DicomWitness:
    """Tells an audit trail of instances that come and go, study by study, of queries and of rejections.

    Parameters
    ----------
    aet : str
        The node's own AE title.
    """

    def __init__(self, trail: AuditTrail, catalog: Catalog, aet: str) -> None:
        self._trail = trail
        self._catalog = catalog
        self._aet = aet
        self._lock = threading.Lock()
        self._received: dict[Hashable, _Received] = {}

    def handlers(self) -> list[tuple[Any, Any]]:
        """Handlers of the network library's notifications."""
        ends = (evt.EVT_RELEASED, evt.EVT_ABORTED, evt.EVT_CONN_CLOSE)
        return [
            (evt.EVT_DIMSE_RECV, self.received),
            (evt.EVT_REJECTED, self.rejected),
            *((end, self.ended) for end in ends),
        ]

    def received(self, event: Any) -> None:  # noqa: ANN401 - the library has no types
        """A request came: a query is told at once."""
        command = event.message.command_set
        if type(event.message).__name__ == "C_FIND_RQ":
            self._queried(event, str(command.AffectedSOPClassUID))

    def kept(self, request: StoreRequest, reception: Reception) -> None:
        """An instance was taken in: told when the association ends, unless other content was kept in its place."""
        if reception.verdict is Verdict.KEPT_FIRST or reception.study_instance_uid is None:
            return
        peer = (request.caller.ae_title, request.caller.address)
        with self._lock:
            received = self._received.setdefault(request.association, _Received(peer))
            received.instances[request.affected.sop_instance_uid] = request.affected.sop_class_uid
            is_first = reception.study_instance_uid not in received.studies
            received.studies.add(reception.study_instance_uid)
        if is_first and (about := of_study(self._catalog.lookup, reception.study_instance_uid)):
            participants = self._both(peer, peer_role=messages.SOURCE)
            self._trail.add(Event(messages.BEGIN_TRANSFERRING, "E", participants, about))

    @contextmanager
    def sending(self, reply: Reply, instances: Sequence[HeldInstance]) -> Iterator[set[str]]:
        """Instances are about to be sent: taken down before, and which of them were sent when that is over.

        Raises
        ------
        Transient
            It cannot be taken down; nothing is to be sent.
        """
        sop_classes = {str(one.sop_instance_uid): one.sop_class_uid for one in instances}
        is_move = isinstance(reply.request, C_MOVE)
        participants = [
            Participant(self._aet, [messages.SOURCE], is_requestor=False),
            Participant(
                reply.asker,
                [] if is_move else [messages.DESTINATION],
                is_requestor=True,
                address=reply.asker_address,
            ),
        ]
        if is_move:
            participants.append(Participant(reply.destination, [messages.DESTINATION], is_requestor=False))
        for about in of_instances(self._catalog.lookup, sop_classes):
            self._trail.demand(Event(messages.BEGIN_TRANSFERRING, "E", participants, about))
        sent: set[str] = set()
        try:
            yield sent
        finally:
            for about in of_instances(self._catalog.lookup, {uid: sop_classes[uid] for uid in sent}):
                self._trail.add(Event(messages.INSTANCES_TRANSFERRED, "C", participants, about))

    def rejecting(self, targets: Collection[Target], sender: str) -> AbstractContextManager[None]:
        """A rejection note is about to have instances forgotten."""
        participants = self._both((sender, ""), peer_role=messages.SOURCE)
        return deletion(self._trail, self._catalog.lookup, participants, targets)

    def _queried(self, event: Any, sop_class: str) -> None:  # noqa: ANN401 - the library has no types
        encoded = event.message.data_set
        asked = About(
            sop_class,
            messages.SOP_CLASS_UID,
            "2",
            "24",
            query=encoded.getvalue() if encoded is not None else b"",
            details={"TransferSyntax": _transfer_syntax(event, sop_class)},
        )
        self._trail.add(Event(messages.QUERY, "E", self._both(_peer(event), peer_role=messages.SOURCE), [asked]))

    def ended(self, event: Any) -> None:  # noqa: ANN401 - the library has no types
        """The association ended: what of it is held now, study by study."""
        with self._lock:
            received = self._received.pop(id(event.assoc), None)
        if received is not None:
            for about in of_instances(self._catalog.lookup, received.instances):
                participants = self._both(received.peer, peer_role=messages.SOURCE)
                self._trail.add(Event(messages.INSTANCES_TRANSFERRED, "C", participants, about))

    def rejected(self, event: Any) -> None:  # noqa: ANN401 - the library has no types
        """An association was not accepted."""
        self._trail.add(
            Event(
                messages.SECURITY_ALERT,
                "E",
                self._both(_peer(event), peer_role=messages.SOURCE),
                outcome=Outcome.MINOR_FAILURE,
                type_code=messages.NODE_AUTHENTICATION,
                description="the association was rejected",
            )
        )

    def _both(self, peer: tuple[str, str], *, peer_role: Code) -> list[Participant]:
        return [
            Participant(peer[0] or "unknown", [peer_role], is_requestor=True, address=peer[1]),
            Participant(self._aet, [messages.DESTINATION], is_requestor=False),
        ]


def _peer(event: Any) -> tuple[str, str]:  # noqa: ANN401 - the library has no types
    requestor = event.assoc.requestor
    return str(requestor.ae_title).strip(), str(requestor.address or "")


def _transfer_syntax(event: Any, sop_class: str) -> str:  # noqa: ANN401 - the library has no types
    found = [one for one in event.assoc.accepted_contexts if one.abstract_syntax == sop_class]
    return str(found[0].transfer_syntax[0]) if found else ""
