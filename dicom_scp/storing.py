"""The node as Storage SCU: sending what it holds, the bytes as they came wherever the peer accepts them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import Any, Protocol

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from config.access import Peer
from config.model import DicomSettings
from dicom_scp.calling import MAX_CONTEXTS, Association, associated, next_message, send_request
from dicom_scp.spool import Spool
from dicom_scp.transcoding import COMPRESSED_TARGETS, TARGETS, Transcoder
from indexer.catalog.holdings import HeldInstance
from indexer.errors import Damaged, Refused, Transient

logger = logging.getLogger(__name__)

_LARGEST_MESSAGE_ID = 0xFFFF
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)})
"""PS3.7 annex C.3 and PS3.4 table B.2-1."""


class Outcome(Enum):
    """How a C-STORE sub-operation ended."""

    COMPLETED = "completed"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Originator:
    """The C-MOVE or C-GET that a C-STORE is part of.

    Attributes
    ----------
    ae_title : str
        Who asked; empty where the C-STORE does not say, as in C-GET (PS3.7 9.1.1.1.6).
    priority : int
        The same for all sub-operations (PS3.4 C.4.2.1.2).
    """

    message_id: int
    priority: int
    ae_title: str = ""


class Store(Protocol):
    """Somewhere to send instances."""

    def send(self, instance: HeldInstance) -> Outcome:
        """Send one instance. What goes wrong with it is its outcome.

        Raises
        ------
        Transient
            The association is lost: nothing more can be sent.
        """
        ...


class AssociatedStore:
    """Sends over one association.

    Parameters
    ----------
    association
        In which the node may be the SCU of some storage contexts.
    transcoder : Transcoder
        For what the peer does not accept as it is.
    """

    def __init__(
        self, association: Association, spool: Spool, transcoder: Transcoder, originator: Originator
    ) -> None:
        self._association = association
        self._spool = spool
        self._transcoder = transcoder
        self._originator = originator
        self._message_id = originator.message_id
        self._contexts: dict[tuple[str, str], int] = {}
        for context in association.accepted_contexts:
            if context.as_scu:
                key = (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                self._contexts.setdefault(key, context.context_id)

    def send(self, instance: HeldInstance) -> Outcome:
        """Send one instance; see `Store`."""
        accepted = [
            syntax
            for syntax in (instance.transfer_syntax_uid, *TARGETS, *COMPRESSED_TARGETS)
            if (instance.sop_class_uid, syntax) in self._contexts
        ]
        if not accepted:
            logger.warning("instance %s not sent: the peer accepts no context for it", instance.sop_instance_uid)
            return Outcome.FAILED
        try:
            syntax, dataset = self._read(instance)
            if syntax != accepted[0]:
                dataset = self._transcoder.transcoded(dataset, syntax, accepted[0])
        except (Damaged, Refused) as error:
            logger.warning("instance %s not sent: %s", instance.sop_instance_uid, error)
            return Outcome.FAILED
        return self._store(instance, dataset, self._contexts[instance.sop_class_uid, accepted[0]])

    def _read(self, instance: HeldInstance) -> tuple[str, bytes]:
        try:
            return self._spool.read(instance.path)
        except Transient as error:  # of this instance: the association is not lost
            raise Damaged(str(error)) from error

    def _store(self, instance: HeldInstance, dataset: bytes, context_id: int) -> Outcome:
        self._message_id = self._message_id % _LARGEST_MESSAGE_ID + 1
        request = C_STORE()
        request.MessageID = self._message_id
        request.AffectedSOPClassUID = UID(instance.sop_class_uid)
        request.AffectedSOPInstanceUID = UID(instance.sop_instance_uid)
        request.Priority = self._originator.priority
        if self._originator.ae_title:
            request.MoveOriginatorApplicationEntityTitle = self._originator.ae_title
            request.MoveOriginatorMessageID = self._originator.message_id
        request.DataSet = BytesIO(dataset)
        send_request(self._association, request, context_id)
        _, response = next_message(self._association, self._association.dimse_timeout) or (0, None)
        if not isinstance(response, C_STORE) or not response.is_valid_response:
            self._association.abort()
            raise Transient("expected a C-STORE response, got none or something else")
        return _outcome(response)


def peer_store(
    dicom: DicomSettings, peer: Peer, spool: Spool, transcoder: Transcoder, originator: Originator
) -> Callable[[Sequence[HeldInstance]], AbstractContextManager[Store]]:
    """What opens an association with a peer for some instances; it raises `Transient` where that cannot be had."""

    @contextmanager
    def opened(instances: Sequence[HeldInstance]) -> Iterator[Store]:
        with associated(dicom, peer, proposed(instances)) as association:
            yield AssociatedStore(association, spool, transcoder, originator)

    return opened


def proposed(instances: Sequence[HeldInstance]) -> list[PresentationContext]:
    """Contexts for some instances: each SOP class as it is stored and uncompressed, one transfer syntax in each."""
    return [
        build_context(sop_class, [syntax])
        for sop_class, syntaxes in _syntaxes(instances).items()
        for syntax in syntaxes
    ]


def batches(instances: Sequence[HeldInstance]) -> Iterator[list[HeldInstance]]:
    """Split instances so that one association can have the contexts of each part; mostly there is one part."""
    part_of: dict[str, int] = {}
    part, used = 0, 0
    for sop_class, syntaxes in _syntaxes(instances).items():
        if used + len(syntaxes) > MAX_CONTEXTS:
            part, used = part + 1, 0
        used += len(syntaxes)
        part_of[sop_class] = part
    for number in range(part + 1):
        if chosen := [one for one in instances if part_of[one.sop_class_uid] == number]:
            yield chosen


def _syntaxes(instances: Sequence[HeldInstance]) -> Mapping[str, list[str]]:
    """SOP class to the transfer syntaxes to propose."""
    found: dict[str, dict[str, None]] = {}
    for one in instances:
        found.setdefault(one.sop_class_uid, dict.fromkeys(TARGETS))[one.transfer_syntax_uid] = None
    return {sop_class: [str(syntax) for syntax in syntaxes] for sop_class, syntaxes in found.items()}


def _outcome(response: Any) -> Outcome:  # noqa: ANN401 - the library has no types
    if response.Status == 0:
        return Outcome.COMPLETED
    if response.Status in _WARNINGS:
        return Outcome.WARNING
    logger.warning("instance not stored by the peer: status %04X", response.Status)
    return Outcome.FAILED
