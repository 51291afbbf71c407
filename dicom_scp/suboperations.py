"""The responses of C-MOVE and C-GET: how the C-STORE sub-operations go (PS3.7 9.1.3, 9.1.4; PS3.4 C.4.2.1)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from dicom_scp import statuses
from dicom_scp.calling import Association, is_lost
from dicom_scp.relay import ArchiveResponse
from dicom_scp.statuses import Status, error_comment
from dicom_scp.storing import Outcome
from indexer.catalog.holdings import HeldInstance

logger = logging.getLogger(__name__)

MAX_COUNT = 0xFFFF
"""Sub-operations that the counts, of VR US, can tell."""
_LONGEST_SHORT_VALUE = 0xFFFE
"""Bytes of a value of VR UI in Explicit VR (PS3.5 7.1.2)."""


@dataclass
class Tally:
    """Counts of sub-operations, and the instances of those that failed."""

    total: int
    completed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Number of failed sub-operations."""
        return len(self.failed_uids)

    @property
    def counted(self) -> int:
        """Number of sub-operations that have ended."""
        return self.completed + self.warning + self.failed

    @property
    def status(self) -> Status:
        """The final status, once nothing remains (PS3.4 C.4.2.3.1)."""
        if self.failed == self.warning == 0:
            return statuses.SUCCESS
        if self.failed == self.total:
            return statuses.RETRIEVE_UNABLE_TO_PERFORM
        return statuses.RETRIEVE_INCOMPLETE

    def count(self, instance: HeldInstance, outcome: Outcome) -> None:
        """Count one that has ended."""
        if outcome is Outcome.FAILED:
            self.fail([instance])
        elif outcome is Outcome.WARNING:
            self.warning += 1
        else:
            self.completed += 1

    def fail(self, instances: Iterable[HeldInstance]) -> None:
        """Count some as failed."""
        self.failed_uids += [one.sop_instance_uid for one in instances]


class Reply:
    """The responses to one C-MOVE or C-GET request; none is sent once the asker is gone.

    Parameters
    ----------
    request : C_MOVE or C_GET
    context : PresentationContext
        The one that it came in.
    """

    def __init__(self, association: Association, request: Any, context: Any) -> None:  # noqa: ANN401 - no types
        self.association = association
        self.request = request
        self.context = context

    @property
    def message_id(self) -> int:
        """Message ID of the request."""
        return int(self.request.MessageID)

    @property
    def priority(self) -> int:
        """Priority (0000,0700) of the request: passed on, not acted upon."""
        return int(self.request.Priority or 0)

    @property
    def destination(self) -> str:
        """Move Destination, without padding."""
        return str(self.request.MoveDestination or "").strip()

    @property
    def asker(self) -> str:
        """AE title of who asks."""
        return str(self.association.requestor.ae_title).strip()

    @property
    def asker_address(self) -> str:
        """Network address of who asks."""
        return str(self.association.requestor.address or "")

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer syntax of identifiers."""
        return str(self.context.transfer_syntax[0])

    def is_cancelled(self) -> bool:
        """Whether C-CANCEL came for the request."""
        return self.message_id in self.association.dimse.cancel_req

    def pending(self, tally: Tally) -> None:
        """Say how far it is."""
        self._send(statuses.RETRIEVE_PENDING.code, tally, remaining=tally.total - tally.counted)

    def end(self, tally: Tally, *, comment: str = "", cancelled: bool = False) -> None:
        """Send the final response: as the sub-operations went, or ended by C-CANCEL."""
        if cancelled:
            remaining = tally.total - tally.counted
            self._send(statuses.RETRIEVE_CANCEL.code, tally, remaining=remaining)
        else:
            self._send(tally.status.code, tally, comment=comment)

    def refuse(self, status: Status, reason: str) -> None:
        """Send a final response that no sub-operation came before."""
        logger.warning("answered %04X: %s", status.code, reason)
        self._send(status.code, None, comment=reason)

    def pass_on(self, response: ArchiveResponse) -> None:
        """Send a response of an archive, as it came."""
        answer = self._response(response.status)
        for keyword, count in response.counts.items():
            setattr(answer, keyword, count)
        if response.comment:
            answer.ErrorComment = error_comment(response.comment)
        self._add_failed(answer, response.failed_uids)
        self._transmit(answer)

    def _send(self, status: int, tally: Tally | None, *, remaining: int | None = None, comment: str = "") -> None:
        answer = self._response(status)
        if remaining is not None:
            answer.NumberOfRemainingSuboperations = remaining
        if tally is not None:
            answer.NumberOfCompletedSuboperations = tally.completed
            answer.NumberOfFailedSuboperations = tally.failed
            answer.NumberOfWarningSuboperations = tally.warning
            if status != statuses.RETRIEVE_PENDING.code:
                self._add_failed(answer, tally.failed_uids)
        if comment:
            answer.ErrorComment = error_comment(comment)
        self._transmit(answer)

    def _response(self, status: int) -> Any:  # noqa: ANN401 - a primitive of the kind of the request
        answer = type(self.request)()
        answer.MessageIDBeingRespondedTo = self.request.MessageID
        answer.AffectedSOPClassUID = self.request.AffectedSOPClassUID
        answer.Status = status
        return answer

    def _add_failed(self, answer: Any, uids: Sequence[str]) -> None:  # noqa: ANN401 - see `_response`
        """Add the Failed SOP Instance UID List; without any failure there is no data set (PS3.4 C.4.2.1.4.2)."""
        if not uids:
            return
        syntax = UID(self.transfer_syntax_uid)
        identifier = Dataset()
        identifier.FailedSOPInstanceUIDList = list(uids) if syntax.is_implicit_VR else _fitting(uids)
        encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
        answer.Identifier = BytesIO(encoded or b"")

    def _transmit(self, answer: Any) -> None:  # noqa: ANN401 - see `_response`
        if not is_lost(self.association):
            self.association.dimse.send_msg(answer, self.context.context_id)


def _fitting(uids: Sequence[str]) -> list[str]:
    """As many UIDs as one value of Explicit VR holds; the counts tell of all."""
    length, chosen = -1, []
    for uid in uids:
        length += len(uid) + 1
        if length > _LONGEST_SHORT_VALUE:
            break
        chosen.append(uid)
    return chosen
