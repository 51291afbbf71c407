"""What the node does with a C-STORE request, whichever way its data set came (PS3.7 9.1.1, PS3.4 annex B)."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from config.model import DicomSettings
from dicom_scp import statuses
from dicom_scp.draft import Draft
from dicom_scp.errors import Mismatched
from dicom_scp.fetch import Fetcher
from dicom_scp.metering import Meter, NoMeter
from dicom_scp.reception import Affected, Receiver, Reception, Verdict
from dicom_scp.rejection import Rejections
from dicom_scp.senders import Caller, Senders
from dicom_scp.statuses import Status, answer
from indexer.errors import Forgotten, Refused, Transient

logger = logging.getLogger(__name__)

_OF_VERDICT: dict[Verdict, tuple[Status, str]] = {
    Verdict.STORED: (statuses.SUCCESS, ""),
    Verdict.KNOWN: (statuses.SUCCESS, ""),
    Verdict.REPLACED: (statuses.SUCCESS, ""),
    Verdict.KEPT_FIRST: (statuses.DUPLICATE_SOP_INSTANCE, "other content is stored under this SOP Instance UID"),
    Verdict.QUARANTINED: (statuses.STORE_MISMATCH_WARNING, ""),
}
_SUCCESS = answer(statuses.SUCCESS)
"""Nobody changes it."""


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE request and whose it is, without its data set.

    Attributes
    ----------
    transfer_syntax_uid : str
        Of its presentation context.
    association : hashable
        Tells associations apart.
    as_seed : bool
        Whether it was sent to the similarity view.
    """

    affected: Affected
    transfer_syntax_uid: str
    caller: Caller
    association: Hashable
    as_seed: bool


class Intake:
    """Stores what C-STORE requests bring; shared by all associations of a node.

    Parameters
    ----------
    receiver : Receiver
        Where instances go.
    rejections : Rejections
        Who acts on rejection notes.
    fetcher : Fetcher, optional
        Who waits for studies that it asked for.
    meter : Meter, optional
        Who counts what was answered.
    """

    def __init__(
        self,
        settings: DicomSettings,
        receiver: Receiver,
        rejections: Rejections,
        senders: Senders,
        fetcher: Fetcher | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or NoMeter()
        self._max_object_mib = settings.max_object_mib
        self._receiver = receiver
        self._rejections = rejections
        self._senders = senders
        self._fetcher = fetcher
        self.on_kept: Callable[[StoreRequest, Reception], None] | None = None

    @property
    def max_dataset_bytes(self) -> int:
        """Longest data set that is taken."""
        return self._max_object_mib << 20

    def store(self, request: StoreRequest, dataset: bytes | None) -> Dataset:
        """Success is answered once the instance is durable and in the catalog (PS3.4 B.2.3).

        Parameters
        ----------
        dataset : bytes, optional
            As it came; of one that is too long, more than allowed is enough.

        Returns
        -------
        Dataset
            The status elements of the response.
        """
        if dataset is None:
            return self._metered(self._answer(request, _no_dataset), 0)

        def receive() -> Reception:
            self._demand_length(len(dataset))
            return self._receiver.receive(
                dataset,
                request.transfer_syntax_uid,
                source_ae_title=request.caller.ae_title,
                affected=request.affected,
            )

        return self._metered(self._answer(request, receive, lambda: dataset), len(dataset))

    def draft(self, request: StoreRequest) -> Draft:
        """Begin the file of an instance whose data set is still coming in."""
        return self._receiver.draft(request.affected, request.transfer_syntax_uid, request.caller.ae_title)

    def look(self, draft: Draft) -> None:
        """Look at what has come of a draft's data set, while its sender sends the rest."""
        self._receiver.look(draft)

    def store_draft(self, request: StoreRequest, draft: Draft) -> Dataset:
        """`store` what was written to a draft; it has ended then."""

        def receive() -> Reception:
            self._demand_length(draft.dataset_bytes)
            return self._receiver.take(draft, request.affected)

        try:
            return self._metered(self._answer(request, receive, draft.read), draft.dataset_bytes)
        finally:
            draft.discard()

    def _metered(self, answered: Dataset, size_bytes: int) -> Dataset:
        self._meter.stored(int(answered.Status), size_bytes)
        return answered

    def _answer(
        self, request: StoreRequest, receive: Callable[[], Reception], dataset: Callable[[], bytes] = lambda: b""
    ) -> Dataset:
        try:
            reception = receive()
            self._act_on_rejection(request, reception, dataset)
        except Forgotten as error:
            return _refusal(statuses.STORE_NOT_AUTHORIZED, str(error))
        except Mismatched as error:
            return _refusal(statuses.STORE_MISMATCH, str(error))
        except Refused as error:
            return _refusal(statuses.STORE_CANNOT_UNDERSTAND, str(error))
        except Transient as error:
            return _refusal(statuses.STORE_OUT_OF_RESOURCES, str(error))
        except Exception as error:  # one bad instance must not end the association
            logger.error("C-STORE failed unexpectedly: %s", type(error).__name__)
            return _refusal(statuses.PROCESSING_FAILURE, "unexpected failure, see the log of the node")
        self._note(request, reception)
        status, comment = _OF_VERDICT[reception.verdict]
        if status is statuses.SUCCESS and not reception.reason:
            return _SUCCESS
        return answer(status, comment or reception.reason)

    def _demand_length(self, length: int) -> None:
        if length > self.max_dataset_bytes:
            raise Transient(f"data set of more than {self._max_object_mib} MiB")

    def _act_on_rejection(self, request: StoreRequest, reception: Reception, dataset: Callable[[], bytes]) -> None:
        """Forget what a stored rejection note rejects, before success is answered: else it is sent again."""
        if request.affected.sop_class_uid != KeyObjectSelectionDocumentStorage:
            return
        if reception.verdict in (Verdict.STORED, Verdict.KNOWN, Verdict.REPLACED):
            self._rejections.act(
                request.affected.sop_class_uid,
                dataset(),
                request.transfer_syntax_uid,
                request.caller.ae_title,
            )

    def _note(self, request: StoreRequest, reception: Reception) -> None:
        self.tell_of(request, reception)
        if reception.verdict in (Verdict.QUARANTINED, Verdict.KEPT_FIRST):
            logger.warning("instance %s: %s", reception.sop_instance_uid, reception.verdict.value)

    def tell_of(self, request: StoreRequest, reception: Reception) -> None:
        """Tell all who want to hear of it that an instance was taken in."""
        if self.on_kept is not None:
            self.on_kept(request, reception)
        if reception.series_instance_uid is not None:
            self._senders.sent(request.association, reception.series_instance_uid)
        if reception.study_instance_uid is not None and self._fetcher is not None:
            self._fetcher.sent(reception.study_instance_uid)
        if reception.study_instance_uid is not None and request.as_seed:
            self._senders.offered_as_seed(request.caller, reception.study_instance_uid)


def _no_dataset() -> Reception:
    raise Refused("expected a data set, got none")


def _refusal(status: Status, reason: str) -> Dataset:
    logger.warning("answered %04X: %s", status.code, reason)
    return answer(status, reason)
