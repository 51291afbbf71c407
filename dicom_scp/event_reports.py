"""Storage Commitment Result: who gets it, on which association, and what it says (PS3.4 J.3.3)."""

import itertools
import logging
from collections.abc import Sequence
from io import BytesIO

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import build_context, build_role
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from pynetdicom.status import code_to_category

from config.access import Peer
from config.model import DicomSettings
from dicom_scp.calling import associated
from dicom_scp.commitment import OpenAssociation, OpenAssociations
from dicom_scp.contexts import QUERY_TRANSFER_SYNTAXES
from dicom_scp.safekeeping import COMMITTED
from indexer.catalog.commitments import Commitment, Reference
from indexer.errors import Transient

logger = logging.getLogger(__name__)

SUCCESSFUL, FAILURES_EXIST = 1, 2
"""Event Type ID (0000,1002), PS3.4 table J.3-2."""
_LONGEST_WAIT_S = 30.0
_MAX_MESSAGE_ID = 65_535


class EventReporter:
    """Delivers reports; safe to use from several threads.

    Parameters
    ----------
    peers : sequence of Peer
        Who can be called, by AE title.
    """

    def __init__(self, settings: DicomSettings, peers: Sequence[Peer], open_associations: OpenAssociations) -> None:
        self._settings = settings
        self._peers = {peer.aet: peer for peer in peers if peer.host}
        self._open = open_associations
        self._wait_s = min(settings.network_timeout_s, _LONGEST_WAIT_S)
        self._message_ids = itertools.count()

    def deliver(self, commitment: Commitment) -> None:
        """Report on the requester's association while it is open, else on one that the node opens.

        When this returns, the requester has acknowledged the report.

        Raises
        ------
        Transient
            It has not; the message says why.
        """
        where = self._open.of(commitment.transaction_uid)
        peer = self._peers.get(commitment.requester)
        if where is not None and self._acknowledged(self._same_association(where, commitment), peer is None):
            return
        if peer is None:
            raise Transient(f"no association is open to {commitment.requester}, and no peer has that AE title")
        self._acknowledged(self._new_association(peer, commitment), True)

    def forget(self, commitment: Commitment) -> None:
        """A request is at its end: nothing more is said about it."""
        self._open.forget(commitment.transaction_uid)

    def _acknowledged(self, status: int | None, raising: bool) -> bool:
        """Whether the requester took the report; raises instead where there is no other way to it."""
        if status is not None and code_to_category(status) in ("Success", "Warning"):
            return True
        if raising:
            said = "did not respond" if status is None else f"answered {status:04X}"
            raise Transient(f"the requester {said} to the N-EVENT-REPORT")
        return False

    def _same_association(self, where: OpenAssociation, commitment: Commitment) -> int | None:
        syntax = UID(where.transfer_syntax_uid)
        event_type, information = result(commitment, self._settings.aet)
        encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        request = N_EVENT_REPORT()
        request.MessageID = next(self._message_ids) % _MAX_MESSAGE_ID + 1
        request.AffectedSOPClassUID = StorageCommitmentPushModel
        request.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
        request.EventTypeID = event_type
        request.EventInformation = BytesIO(encoded)
        status: int | None = where.association.dimse.notify(request, where.context_id, self._wait_s)
        return status

    def _new_association(self, peer: Peer, commitment: Commitment) -> int | None:
        """Report as the SCP that the node proposes to be (PS3.4 J.3.3.1.3), under the AE title that was called."""
        event_type, information = result(commitment, self._settings.aet)
        own = self._settings.model_copy(update={"aet": commitment.called, "network_timeout_s": self._wait_s})
        context = build_context(StorageCommitmentPushModel, list(QUERY_TRANSFER_SYNTAXES))
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        with associated(own, peer, [context], roles=[role]) as association:
            status, _ = association.send_n_event_report(
                information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        return int(status.Status) if "Status" in status else None


def result(commitment: Commitment, retrieve_ae_title: str) -> tuple[int, Dataset]:
    """Event Type ID and Event Information of a report (PS3.4 table J.3-2).

    Parameters
    ----------
    commitment : Commitment
        Checked.
    retrieve_ae_title : str
        From where the instances committed to can be retrieved.
    """
    pairs = list(zip(commitment.references, commitment.reasons, strict=True))
    committed = [_item(reference) for reference, reason in pairs if reason == COMMITTED]
    failed = [_failed_item(reference, reason) for reference, reason in pairs if reason != COMMITTED]
    information = Dataset()
    information.TransactionUID = commitment.transaction_uid
    if committed:
        information.RetrieveAETitle = retrieve_ae_title
        information.ReferencedSOPSequence = committed
    if failed:
        information.FailedSOPSequence = failed
    return (FAILURES_EXIST if failed else SUCCESSFUL), information


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _failed_item(reference: Reference, reason: int) -> Dataset:
    item = _item(reference)
    item.FailureReason = reason
    return item
