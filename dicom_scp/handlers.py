"""What the node does for each DIMSE request (PS3.7 section 9.1)."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind

from config.model import Settings
from dicom_scp import statuses
from dicom_scp.access import Access
from dicom_scp.calling import is_lost
from dicom_scp.errors import Mismatched
from dicom_scp.fetch import Fetcher
from dicom_scp.find import find, has_unsupported_keys
from dicom_scp.identifier import Identifier, Root, read_identifier
from dicom_scp.intake import Intake, StoreRequest
from dicom_scp.metering import Meter, NoMeter
from dicom_scp.patience import Patience, WaitingFinder, seed_series
from dicom_scp.reception import Affected
from dicom_scp.seeds import Question, UnknownSeed, demand_known, read_question
from dicom_scp.senders import Caller, Senders
from dicom_scp.similar import similar
from dicom_scp.statuses import Status, answer
from indexer.answer import Finder
from indexer.catalog import Catalog, CatalogView
from indexer.catalog.lookup import Level
from indexer.errors import Refused, Transient
from indexer.uids import StudyInstanceUID

logger = logging.getLogger(__name__)

Event = Any
"""`pynetdicom.events.Event`, which has no types."""
Association = Any
"""`pynetdicom.association.Association`, which has no types."""
Response = tuple[Dataset, Dataset | None]

_MAX_WAITING_PDUS = 64


class Handlers:
    """Handlers of one node, shared by all associations.

    Parameters
    ----------
    settings : Settings
    access : Access
        Who knows what the peer of an association may see.
    intake : Intake
        Where instances go.
    finder : Finder
        Who answers questions for similar studies.
    fetcher : Fetcher, optional
        Who gets seeds that are not here.
    meter : Meter, optional
        Who counts what was answered.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        access: Access,
        intake: Intake,
        finder: Finder,
        senders: Senders,
        fetcher: Fetcher | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or NoMeter()
        self.intake = intake
        self._settings = settings.dicom
        self._wait_s = settings.fetch.deadline_s
        self._retrieve_aet = settings.storage.retrieve_aet or settings.dicom.aet
        self._fetcher = fetcher
        self._catalog = catalog
        self._access = access
        self._finder = finder
        self._senders = senders

    def requested(self, event: Event) -> None:
        """A-ASSOCIATE-RQ: the node answers to two called AE titles, and the association knows to which it was."""
        called = str(event.assoc.requestor.primitive.called_ae_title).strip()
        if called in (self._settings.aet, self._settings.similar_aet):
            event.assoc.acceptor.ae_title = called

    def closed(self, event: Event) -> None:
        """The association's connection ended."""
        self._senders.closed(id(event.assoc))

    def echo(self, _event: Event) -> int:
        """C-ECHO."""
        return statuses.SUCCESS.code

    def store(self, event: Event) -> Dataset:
        """C-STORE (PS3.4 annex B)."""
        encoded = event.request.DataSet
        affected = Affected(str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID))
        request = self.store_request(event.assoc, affected, str(event.context.transfer_syntax))
        return self.intake.store(request, None if encoded is None else encoded.getvalue())

    def store_request(self, association: Association, affected: Affected, transfer_syntax_uid: str) -> StoreRequest:
        """What a C-STORE request on an association means."""
        return StoreRequest(
            affected,
            transfer_syntax_uid,
            _caller(association),
            id(association),
            self._is_similarity_view(association),
        )

    def find(self, event: Event) -> Iterator[Response]:
        """C-FIND: one pending response a match, a failure, or the end after C-CANCEL (PS3.4 C.4.1.3)."""
        began = time.monotonic()
        try:
            yield from self._find(event)
        finally:
            is_similarity_view = self._is_similarity_view(event.assoc)
            self._meter.found(time.monotonic() - began, is_similarity_view=is_similarity_view)

    def _find(self, event: Event) -> Iterator[Response]:
        cancel = _Cancel(event)
        try:
            identifier = self._identifier(event)
            pending = self._pending(event, identifier)
            for found in self._matches(event, identifier, cancel):
                if cancel.came():
                    break
                yield answer(pending), found
                _wait_for_peer(event)
            if cancel.came():
                yield answer(statuses.FIND_CANCEL), None
        except Mismatched as error:
            yield _refusal(statuses.FIND_MISMATCH, str(error)), None
        except Refused as error:
            if cancel.came():  # while it waited for the seed
                yield answer(statuses.FIND_CANCEL), None
            else:
                yield _refusal(statuses.FIND_UNABLE, str(error)), None
        except Transient as error:
            yield _refusal(statuses.FIND_OUT_OF_RESOURCES, str(error)), None
        except Exception as error:  # one bad query must not end the association
            logger.error("C-FIND failed unexpectedly: %s", type(error).__name__)
            yield _refusal(statuses.FIND_UNABLE, "unexpected failure, see the log of the node"), None

    def _identifier(self, event: Event) -> Identifier:
        is_patient_root = event.request.AffectedSOPClassUID == PatientRootQueryRetrieveInformationModelFind
        encoded = event.request.Identifier
        if encoded is None:
            raise Refused("expected an identifier, got none")
        root = Root.PATIENT if is_patient_root else Root.STUDY
        return read_identifier(encoded.getvalue(), str(event.context.transfer_syntax), root)

    def _pending(self, event: Event, identifier: Identifier) -> Status:
        if self._is_similarity_view(event.assoc):
            level = max(identifier.level, Level.SERIES)
            warn = has_unsupported_keys(identifier, level)
        else:
            warn = has_unsupported_keys(identifier) or identifier.block is not None
        return statuses.FIND_PENDING_WARNING if warn else statuses.FIND_PENDING

    def _matches(self, event: Event, identifier: Identifier, cancel: "_Cancel") -> Iterator[Dataset]:
        view = self._access.view(event.assoc)
        if not self._is_similarity_view(event.assoc):
            return find(view.lookup, identifier, self._retrieve_aet)
        patience = Patience(self._wait_s, lambda: cancel.came() or is_lost(event.assoc))
        question = self._question(event, identifier, view, patience)
        finder = WaitingFinder(
            self._finder, self._catalog, self._senders.being_sent, patience, self._asked_about
        ).within(view.cohort)
        return similar(view.lookup, finder, identifier, question, self._retrieve_aet, cancel.came)

    def _question(self, event: Event, identifier: Identifier, view: CatalogView, patience: Patience) -> Question:
        """What is asked; a seed that is not here is fetched, if there is a PACS to ask.

        Not for who sees a cohort only: what is not there for them may be here, and what the PACS has is not theirs.
        """
        try:
            return self._question_of_known(event, identifier, view)
        except UnknownSeed as error:
            if self._fetcher is None or error.wanted is None or view.cohort is not None:
                raise
            self._fetcher.fetch(error.wanted, patience)
        return self._question_of_known(event, identifier, view)

    def _question_of_known(self, event: Event, identifier: Identifier, view: CatalogView) -> Question:
        question = read_question(
            identifier,
            view.lookup,
            seed_from_standard_keys=self._settings.seed_from_standard_keys,
            last_sent=self._senders.last_study(_caller(event.assoc)),
            max_results=self._settings.max_results,
        )
        if self._fetcher is not None:
            demand_known(view.lookup, question.seed)
            for study in {info.study_instance_uid for info in seed_series(view.lookup, question.seed)}:
                self._asked_about(study)
        return question

    def _asked_about(self, study_instance_uid: StudyInstanceUID) -> None:
        if self._fetcher is not None:
            self._fetcher.asked_about(study_instance_uid)

    def _is_similarity_view(self, association: Association) -> bool:
        return str(association.acceptor.ae_title).strip() == self._settings.similar_aet


class _Cancel:
    """Whether C-CANCEL came for a request; the network library tells it only once."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._came = False

    def came(self) -> bool:
        self._came = self._came or bool(self._event.is_cancelled)
        return self._came


def _caller(association: Association) -> Caller:
    return Caller(str(association.requestor.ae_title).strip(), str(association.requestor.address))


def _refusal(status: Status, reason: str) -> Dataset:
    logger.warning("answered %04X: %s", status.code, reason)
    return answer(status, reason)


def _wait_for_peer(event: Event) -> None:
    """Let responses wait in the handler rather than pile up in memory; that leaves C-CANCEL something to stop."""
    waiting = event.assoc.dul.to_provider_queue
    while waiting.qsize() > _MAX_WAITING_PDUS and event.assoc.dul.is_alive() and event.assoc.is_established:
        time.sleep(0.001)
