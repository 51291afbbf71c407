"""Requests for storage commitment: read, recorded durably, and only then acknowledged (PS3.4 J.3.2).

The Storage Commitment Push Model: a peer that has sent instances asks the node by N-ACTION to commit to their
safekeeping, and later gets an N-EVENT-REPORT that says for which ones it does.
"""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_scp import statuses
from dicom_scp.parsing import parse, quiet
from dicom_scp.statuses import Status, answer
from indexer.catalog import Commitments
from indexer.catalog.commitments import Reference
from indexer.errors import Refused, Transient
from indexer.uids import SOPInstanceUID

logger = logging.getLogger(__name__)

REQUEST_STORAGE_COMMITMENT = 1
"""Action Type ID (0000,1008), PS3.4 table J.3-1."""
MAX_REFERENCES = 50_000
_MAX_INFORMATION_BYTES = 16 << 20
_UID = re.compile(r"[0-9.]{1,64}")

Event = Any
"""`pynetdicom.events.Event`, which has no types."""


class NotActedOn(Refused):
    """An N-ACTION request is not acted on; `status` says why (PS3.7 10.1.4.1.10)."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What a peer asks the node to commit to.

    Attributes
    ----------
    references : tuple of Reference
        From 1 to `MAX_REFERENCES`, each once.
    """

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class OpenAssociation:
    """Where a request came from; `association` is pynetdicom's."""

    association: Any
    context_id: int
    transfer_syntax_uid: str


class OpenAssociations:
    """The associations that brought requests and are still open; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_transaction: dict[str, OpenAssociation] = {}

    def remember(self, transaction_uid: str, where: OpenAssociation) -> None:
        """A request came on an association."""
        with self._lock:
            self._by_transaction[transaction_uid] = where

    def of(self, transaction_uid: str) -> OpenAssociation | None:
        """The association of a request; None if it has ended, or the request came to another process."""
        with self._lock:
            found = self._by_transaction.get(transaction_uid)
        return found if found is not None and found.association.is_established else None

    def forget(self, transaction_uid: str) -> None:
        """A request is at its end."""
        with self._lock:
            self._by_transaction.pop(transaction_uid, None)

    def closed(self, association: Any) -> None:  # noqa: ANN401 - the library has no types
        """An association ended, one way or another."""
        with self._lock:
            kept = {t: w for t, w in self._by_transaction.items() if w.association is not association}
            self._by_transaction = kept


class CommitmentHandlers:
    """Handlers of storage commitment, shared by all associations.

    Parameters
    ----------
    commitments : Commitments
        Where requests are recorded.
    recorded : callable
        Called when there is a new one.
    """

    def __init__(
        self, commitments: Commitments, open_associations: OpenAssociations, recorded: Callable[[], None]
    ) -> None:
        self._commitments = commitments
        self._open = open_associations
        self._recorded = recorded

    def action(self, event: Event) -> tuple[Dataset, None]:
        """N-ACTION: success is answered once the request is in the catalog (PS3.4 J.3.2.1.3)."""
        try:
            self._record(event, read_request(event))
        except NotActedOn as error:
            return _refusal(error.status, str(error)), None
        except Refused as error:
            return _refusal(statuses.ACTION_INVALID_ARGUMENT, str(error)), None
        except Transient as error:
            return _refusal(statuses.ACTION_RESOURCE_LIMITATION, str(error)), None
        except Exception as error:  # one bad request must not end the association
            logger.error("N-ACTION failed unexpectedly: %s", type(error).__name__)
            return _refusal(statuses.PROCESSING_FAILURE, "unexpected failure, see the log of the node"), None
        return answer(statuses.SUCCESS), None

    def closed(self, event: Event) -> None:
        """The association's connection ended."""
        self._open.closed(event.assoc)

    def _record(self, event: Event, request: Request) -> None:
        association = event.assoc
        uid = request.transaction_uid
        where = OpenAssociation(association, event.context.context_id, str(event.context.transfer_syntax))
        if not self._commitments.request(
            uid,
            str(association.requestor.ae_title).strip(),
            str(association.acceptor.ae_title).strip(),
            request.references,
        ):
            raise NotActedOn(statuses.ACTION_INVALID_ARGUMENT, "the Transaction UID (0008,1195) was used before")
        self._open.remember(uid, where)
        logger.info("storage commitment of %d instances requested: %s", len(request.references), uid)
        self._recorded()


def read_request(event: Event) -> Request:
    """Check an N-ACTION request.

    Raises
    ------
    NotActedOn
        It is not a request for storage commitment, or one too large.
    Refused
        Its Action Information is not as PS3.4 table J.3-1 says.
    """
    request = event.request
    if request.RequestedSOPClassUID != StorageCommitmentPushModel:
        raise NotActedOn(statuses.ACTION_NO_SUCH_SOP_CLASS, "expected the Storage Commitment Push Model")
    if request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
        raise NotActedOn(statuses.ACTION_NO_SUCH_SOP_INSTANCE, "expected the well-known SOP Instance UID")
    if request.ActionTypeID != REQUEST_STORAGE_COMMITMENT:
        raise NotActedOn(statuses.ACTION_NO_SUCH_ACTION, "expected Action Type ID 1")
    information = request.ActionInformation
    if information is None:
        raise Refused("expected Action Information, got none")
    if information.getbuffer().nbytes > _MAX_INFORMATION_BYTES:
        raise NotActedOn(statuses.ACTION_RESOURCE_LIMITATION, "more Action Information than is taken at once")
    dataset = parse(information.getvalue(), str(event.context.transfer_syntax))
    with quiet():
        transaction_uid = _uid(dataset, "TransactionUID", "Transaction UID (0008,1195)")
        references = _references(dataset)
    return Request(transaction_uid, references)


def _references(dataset: Dataset) -> tuple[Reference, ...]:
    items = dataset.get("ReferencedSOPSequence") or []
    if not items:
        raise Refused("Referenced SOP Sequence (0008,1199) is missing or empty")
    if len(items) > MAX_REFERENCES:
        raise NotActedOn(statuses.ACTION_RESOURCE_LIMITATION, f"more than {MAX_REFERENCES} instances")
    return tuple(
        dict.fromkeys(
            Reference(
                _uid(item, "ReferencedSOPClassUID", "Referenced SOP Class UID (0008,1150)"),
                SOPInstanceUID(_uid(item, "ReferencedSOPInstanceUID", "Referenced SOP Instance UID (0008,1155)")),
            )
            for item in items
        )
    )


def _uid(dataset: Dataset, keyword: str, name: str) -> str:
    value = str(dataset.get(keyword) or "").strip(" \0")
    if not _UID.fullmatch(value):
        raise Refused(f"{name}: expected one UID")
    return value


def _refusal(status: Status, reason: str) -> Dataset:
    logger.warning("answered %04X: %s", status.code, reason)
    return answer(status, reason)
