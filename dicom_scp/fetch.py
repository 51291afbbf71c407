"""Getting a study that is asked about and is not here from a PACS that has it."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from config.access import Peer
from config.model import Settings
from dicom_scp import statuses
from dicom_scp.calling import associated
from dicom_scp.errors import Mismatched
from dicom_scp.patience import Patience
from dicom_scp.reception import Affected, Receiver
from dicom_scp.relay import ArchiveResponse, get, move
from dicom_scp.retrieval import Retrieval
from dicom_scp.seeds import Wanted
from indexer.catalog import Catalog
from indexer.catalog.lookup import Level
from indexer.errors import Refused, Transient
from indexer.uids import StudyInstanceUID

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """A study or series on its way; whoever asks for the same waits for it."""

    done: threading.Event = field(default_factory=threading.Event)
    problem: str = ""


class Fetcher:
    """Fetches from one PACS, each thing once however many ask; safe to share among threads.

    Parameters
    ----------
    settings : Settings
        `fetch.source_aet` must name a peer.
    receiver : Receiver
        Where instances go that come by C-GET; those of C-MOVE come to the node's own C-STORE.
    """

    def __init__(self, settings: Settings, catalog: Catalog, receiver: Receiver) -> None:
        source = settings.peer(settings.fetch.source_aet)
        assert source is not None  # noqa: S101 - the settings are valid
        self._source: Peer = source
        self._settings = settings
        self._catalog = catalog
        self._receiver = receiver
        self._lock = threading.Lock()
        self._jobs: dict[Wanted, _Job] = {}
        self._passing = set(catalog.holdings.fetched_studies())

    def fetch(self, wanted: Wanted, patience: Patience) -> None:
        """Fetch what is wanted. When this returns, all that the PACS sent is stored, if not yet indexed.

        What takes longer than the asker's patience goes on.

        Raises
        ------
        Refused
            The PACS cannot be asked so, does not have it, or the asker's patience ended.
        """
        with self._lock:
            job = self._jobs.get(wanted)
            if job is None:
                job = self._jobs[wanted] = _Job()
                threading.Thread(target=self._run, args=(wanted, job), name="fetch", daemon=True).start()
        while not job.done.wait(0.05):
            if not patience.lasts():
                raise Refused(f"the seed is still being fetched from {self._source.aet}: ask again")
        if job.problem:
            raise Refused(job.problem)

    def asked_about(self, study_instance_uid: StudyInstanceUID) -> None:
        """Note a question: it prolongs the stay of a study that is to be forgotten."""
        if study_instance_uid in self._passing:
            self._catalog.holdings.asked_about_fetched(study_instance_uid, is_new=False)

    def sent(self, study_instance_uid: StudyInstanceUID) -> None:
        """Somebody sends a study of their own accord: if it was fetched before, it stays."""
        if study_instance_uid in self._passing:
            self._passing.discard(study_instance_uid)
            self._catalog.holdings.keep_fetched(study_instance_uid)

    def forgotten(self, study_instance_uid: StudyInstanceUID) -> None:
        """A study that was fetched is not here any more."""
        self._passing.discard(study_instance_uid)

    def _run(self, wanted: Wanted, job: _Job) -> None:
        try:
            self._perform(wanted)
        except (Refused, Transient) as error:
            job.problem = str(error)
        except Exception as error:  # whatever it was, the askers must hear of it
            logger.error("fetching failed unexpectedly: %s", type(error).__name__)
            job.problem = "fetching failed unexpectedly, see the log of the node"
        finally:
            with self._lock:
                del self._jobs[wanted]
            job.done.set()

    def _perform(self, wanted: Wanted) -> None:
        study = wanted.study_instance_uid or self._study_of(wanted.accession_number)
        lookup = self._catalog.lookup
        was_here = bool(lookup.series_of_study(study))
        keys: dict[Level, tuple[str, ...]] = {Level.STUDY: (study,)}
        if wanted.series_instance_uid:
            keys[Level.SERIES] = (wanted.series_instance_uid,)
        retrieval = Retrieval(max(keys), keys)
        last: ArchiveResponse | None = None
        for last in self._responses(retrieval):
            logger.debug("fetching: %04X", last.status)
        if not lookup.series_of_study(study):
            raise Refused(f"{self._source.aet} sent nothing of the seed{_why(last)}")
        if last is not None and last.status != statuses.SUCCESS.code:
            logger.warning("%s did not send all of study %s: %04X", self._source.aet, study, last.status)
        if self._settings.fetch.keep == "none" and not was_here:
            self._catalog.holdings.asked_about_fetched(study, is_new=True)
            self._passing.add(study)

    def _responses(self, retrieval: Retrieval) -> Iterator[ArchiveResponse]:
        dicom = self._settings.dicom
        if self._settings.fetch.method == "c-get":
            return get(dicom, self._source, retrieval, receive=self._receive)
        return move(dicom, self._source, retrieval, destination=dicom.aet)

    def _receive(self, dataset: bytes, transfer_syntax_uid: str, affected: Affected) -> int:
        if len(dataset) > self._settings.dicom.max_object_mib << 20:
            return statuses.STORE_OUT_OF_RESOURCES.code
        try:
            self._receiver.receive(
                dataset, transfer_syntax_uid, source_ae_title=self._source.aet, affected=affected
            )
        except Mismatched:
            return statuses.STORE_MISMATCH.code
        except Refused:
            return statuses.STORE_CANNOT_UNDERSTAND.code
        except Transient:
            return statuses.STORE_OUT_OF_RESOURCES.code
        return statuses.SUCCESS.code

    def _study_of(self, accession_number: str) -> StudyInstanceUID:
        """Ask the PACS which study has an Accession Number."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.AccessionNumber = accession_number
        identifier.StudyInstanceUID = ""
        model = StudyRootQueryRetrieveInformationModelFind
        context = build_context(model, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        with associated(self._settings.dicom, self._source, [context]) as association:
            answers = [found for _, found in association.send_c_find(identifier, model) if found is not None]
        uids = {str(found.get("StudyInstanceUID", "")) for found in answers} - {""}
        if len(uids) != 1:
            raise Refused(f"{self._source.aet} has {len(uids) or 'no'} studies of the Accession Number: give a UID")
        return StudyInstanceUID(uids.pop())


def _why(response: ArchiveResponse | None) -> str:
    if response is None or response.status == statuses.SUCCESS.code:
        return ""
    return f": it answered {response.status:04X}"
