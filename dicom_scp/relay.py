"""The node as C-MOVE and C-GET SCU: having another archive send instances (PS3.4 C.4.2, C.4.3)."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role
from pynetdicom.dimse_primitives import C_CANCEL, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from config.access import Peer
from config.model import DicomSettings
from dicom_scp import statuses
from dicom_scp.calling import Association, associated, next_message, send_request
from dicom_scp.contexts import STORAGE_TRANSFER_SYNTAXES
from dicom_scp.identifier import Root
from dicom_scp.parsing import parse, quiet
from dicom_scp.reception import Affected
from dicom_scp.retrieval import Retrieval
from indexer.attributes import EMBEDDABLE_SOP_CLASSES
from indexer.errors import Refused, Transient

Receive = Callable[[bytes, str, Affected], int]

_MOVE_MODELS = {
    Root.PATIENT: PatientRootQueryRetrieveInformationModelMove,
    Root.STUDY: StudyRootQueryRetrieveInformationModelMove,
}
_GET_MODELS = {
    Root.PATIENT: PatientRootQueryRetrieveInformationModelGet,
    Root.STUDY: StudyRootQueryRetrieveInformationModelGet,
}
_IDENTIFIER_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_MESSAGE_ID = 1
_POLL_S = 0.1
_COUNTS = (
    "NumberOfRemainingSuboperations",
    "NumberOfCompletedSuboperations",
    "NumberOfFailedSuboperations",
    "NumberOfWarningSuboperations",
)
_PATIENCE = 10
"""An archive may take so many network timeouts between two responses: tapes are slow, and pending ones optional."""


@dataclass(frozen=True)
class ArchiveResponse:
    """One response of an archive to C-MOVE or C-GET.

    Attributes
    ----------
    counts : mapping of str to int
        Keyword of each Number of … Sub-operations that it holds.
    failed_uids : tuple of str
        Failed SOP Instance UID List (0008,0058).
    comment : str
        Error Comment (0000,0902).
    """

    status: int
    counts: Mapping[str, int]
    failed_uids: tuple[str, ...] = ()
    comment: str = ""

    @property
    def is_final(self) -> bool:
        """Whether no other one follows."""
        return self.status != statuses.RETRIEVE_PENDING.code


def move(
    dicom: DicomSettings,
    archive: Peer,
    retrieval: Retrieval,
    *,
    destination: str,
    priority: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[ArchiveResponse]:
    """Ask an archive to send instances to a destination; yields its responses, the last one final.

    Parameters
    ----------
    cancelled : callable
        Asked now and then; once true, C-CANCEL is sent and the final response waited for.

    Raises
    ------
    Transient
        The archive cannot be reached, does not accept or stops answering.
    """
    model = _MOVE_MODELS[retrieval.root]
    request = C_MOVE()
    request.MoveDestination = destination
    request.Priority = priority
    with associated(dicom, archive, [build_context(model, _IDENTIFIER_SYNTAXES)]) as association:
        yield from _Dialogue(association, model, request, retrieval).responses(cancelled)


def get(
    dicom: DicomSettings,
    archive: Peer,
    retrieval: Retrieval,
    *,
    receive: Receive,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[ArchiveResponse]:
    """Ask an archive for instances; yields its responses, the last one final.

    Only CT and MR images: each SOP class in every transfer syntax that the node decodes takes a context.

    Parameters
    ----------
    receive : callable
        Takes each data set in, with its transfer syntax and what the request says of it; returns the status.
    cancelled : callable
        As in `move`.

    Raises
    ------
    Transient
        As in `move`.
    """
    model = _GET_MODELS[retrieval.root]
    contexts = [build_context(model, _IDENTIFIER_SYNTAXES)]
    contexts += [
        build_context(sop_class, [syntax])
        for sop_class in sorted(EMBEDDABLE_SOP_CLASSES)
        for syntax in STORAGE_TRANSFER_SYNTAXES
    ]
    roles = [build_role(sop_class, scp_role=True) for sop_class in sorted(EMBEDDABLE_SOP_CLASSES)]
    request = C_GET()
    request.Priority = 0
    with associated(dicom, archive, contexts, roles=roles) as association:
        yield from _Dialogue(association, model, request, retrieval, receive).responses(cancelled)


class _Dialogue:
    """One C-MOVE or C-GET request on an association, and what comes back."""

    def __init__(
        self,
        association: Association,
        model: UID,
        request: Any,  # noqa: ANN401 - C_MOVE or C_GET, which have no types
        retrieval: Retrieval,
        receive: Receive | None = None,
    ) -> None:
        self._association = association
        self._receive = receive
        accepted = [one for one in association.accepted_contexts if one.abstract_syntax == model]
        if not accepted:
            raise Transient("the archive does not serve this kind of retrieval")
        self._context_id = accepted[0].context_id
        self._syntax = UID(accepted[0].transfer_syntax[0])
        request.MessageID = _MESSAGE_ID
        request.AffectedSOPClassUID = model
        encoded = encode(retrieval.identifier(), self._syntax.is_implicit_VR, self._syntax.is_little_endian)
        request.Identifier = BytesIO(encoded or b"")
        self._request = request

    def responses(self, cancelled: Callable[[], bool]) -> Iterator[ArchiveResponse]:
        """Send the request; yield the responses, the last one final."""
        association, told = self._association, False
        send_request(association, self._request, self._context_id)
        silent_until = self._patience()
        while time.monotonic() < silent_until:
            if not told and cancelled():
                self._cancel()
                told = True
            context_id, message = next_message(association, _POLL_S) or (0, None)
            if message is None:
                continue
            silent_until = self._patience()
            if isinstance(message, C_STORE) and self._receive is not None and message.is_valid_request:
                self._store(context_id, message)
            elif isinstance(message, type(self._request)) and message.is_valid_response:
                response = _read(message, str(self._syntax))
                yield response
                if response.is_final:
                    return
            else:
                raise Transient(f"expected a response of the archive, got {type(message).__name__}")
        raise Transient("the archive stopped answering")

    def _patience(self) -> float:
        return time.monotonic() + _PATIENCE * float(self._association.dimse_timeout)

    def _cancel(self) -> None:
        cancel = C_CANCEL()
        cancel.MessageIDBeingRespondedTo = _MESSAGE_ID
        self._association.dimse.send_msg(cancel, self._context_id)

    def _store(self, context_id: int, request: Any) -> None:  # noqa: ANN401 - the library has no types
        """Answer a C-STORE sub-operation of C-GET."""
        assert self._receive is not None  # noqa: S101 - `responses` has looked
        context = self._association._accepted_cx[context_id]
        affected = Affected(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        dataset = b"" if request.DataSet is None else request.DataSet.getvalue()
        response = C_STORE()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = request.AffectedSOPInstanceUID
        response.Status = self._receive(dataset, str(context.transfer_syntax[0]), affected)
        self._association.dimse.send_msg(response, context_id)


def _read(message: Any, transfer_syntax_uid: str) -> ArchiveResponse:  # noqa: ANN401 - the library has no types
    counts = {keyword: int(value) for keyword in _COUNTS if (value := getattr(message, keyword)) is not None}
    failed: tuple[str, ...] = ()
    if message.Identifier is not None:
        try:
            with quiet():
                listed = parse(message.Identifier.getvalue(), transfer_syntax_uid).get("FailedSOPInstanceUIDList")
        except Refused:
            listed = None
        failed = () if not listed else (str(listed),) if isinstance(listed, str) else tuple(map(str, listed))
    return ArchiveResponse(int(message.Status), counts, failed, str(message.ErrorComment or ""))
