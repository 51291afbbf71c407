"""C-MOVE and C-GET: sending what the node holds, or having its archive send it (PS3.4 C.4.2, C.4.3)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
)

from config.model import Settings
from dicom_scp import statuses
from dicom_scp.access import Access
from dicom_scp.calling import Association, is_lost
from dicom_scp.contexts import by_preference
from dicom_scp.errors import Mismatched
from dicom_scp.identifier import Root, read_identifier
from dicom_scp.relay import move
from dicom_scp.retrieval import Retrieval, read_retrieval
from dicom_scp.spool import Spool
from dicom_scp.storing import AssociatedStore, Originator, Outcome, Store, batches, peer_store
from dicom_scp.suboperations import MAX_COUNT, Reply, Tally
from dicom_scp.transcoding import Transcoder
from indexer.catalog import CatalogView
from indexer.catalog.holdings import HeldInstance
from indexer.catalog.lookup import Level
from indexer.errors import Refused, Transient

logger = logging.getLogger(__name__)

Sending = Callable[[Reply, Sequence[HeldInstance]], AbstractContextManager[set[str]]]
"""Is entered before instances are sent, and left when they are; the UIDs of those that arrived are put in the set.

Raises `Transient` where nothing is to be sent.
"""
Opener = Callable[[Sequence[HeldInstance]], AbstractContextManager[Store]]

_PATIENT_ROOT = (PatientRootQueryRetrieveInformationModelGet, PatientRootQueryRetrieveInformationModelMove)


class RetrieveService:
    """Answers C-MOVE and C-GET requests, one at a time on each association.

    Parameters
    ----------
    settings : Settings
        Its peers are the move destinations.
    access : Access
        Who knows what the peer of an association may see.
    """

    def __init__(self, settings: Settings, access: Access, spool: Spool) -> None:
        self._settings = settings
        self._access = access
        self._spool = spool
        self.sending: Sending = lambda _reply, _instances: nullcontext(set())

    def requested(self, event: Any) -> None:  # noqa: ANN401 - the library has no types
        """A-ASSOCIATE-RQ: from now on C-MOVE and C-GET of the association are served here.

        The network library's own way decodes and encodes every data set, and keeps the whole answer to itself.
        """
        association: Association = event.assoc
        roles = {uid: item.scp_role for uid, item in association.requestor.role_selection.items()}
        acceptor, requestor = association.acceptor, association.requestor
        acceptor.supported_contexts = by_preference(
            acceptor.supported_contexts, requestor.requested_contexts, roles
        )
        otherwise = association._serve_request

        def serve_request(request: Any, context_id: int) -> None:  # noqa: ANN401 - the library has no types
            context = association._accepted_cx.get(context_id)
            if context is None or not isinstance(request, (C_MOVE, C_GET)) or not _can_be_answered(request):
                otherwise(request, context_id)
            else:
                association.dimse.cancel_req = {}
                association._is_paused = True
                self.serve(association, request, context)
                association._is_paused = False
                association.dimse.cancel_req = {}
            association.dul._idle_timer.restart()  # a long answer is no silence of the peer

        association._serve_request = serve_request

    def serve(self, association: Association, request: Any, context: Any) -> None:  # noqa: ANN401 - no types
        """Answer one request, to its final response.

        Parameters
        ----------
        request : C_MOVE or C_GET
        context : PresentationContext
            The one that it came in.
        """
        reply = Reply(association, request, context)
        try:
            self._retrieve(reply)
        except Mismatched as error:
            reply.refuse(statuses.RETRIEVE_MISMATCH, str(error))
        except Refused as error:
            reply.refuse(statuses.RETRIEVE_UNABLE, str(error))
        except Transient as error:
            reply.refuse(statuses.RETRIEVE_UNABLE_TO_PERFORM, str(error))
        except Exception as error:  # one bad request must not end the association
            logger.error("retrieval failed unexpectedly: %s", type(error).__name__)
            reply.refuse(statuses.RETRIEVE_UNABLE, "unexpected failure, see the log of the node")

    def _retrieve(self, reply: Reply) -> None:
        retrieval = _read(reply)
        view = self._access.view(reply.association)
        instances = view.holdings.instances(retrieval.unique_keys, MAX_COUNT + 1)
        if len(instances) > MAX_COUNT:
            reply.refuse(statuses.RETRIEVE_TOO_MANY, f"more than {MAX_COUNT} instances: ask for fewer at once")
        elif not all(one.is_here for one in instances):
            _demand_relayable(retrieval, view)
            with self.sending(reply, instances):
                self._relay(reply, retrieval)
        elif isinstance(reply.request, C_MOVE):
            self._move(reply, instances)
        else:
            self._get(reply, instances)

    def _move(self, reply: Reply, instances: Sequence[HeldInstance]) -> None:
        destination = self._settings.peer(reply.destination)
        if destination is None:
            reply.refuse(statuses.MOVE_DESTINATION_UNKNOWN, "the move destination is none of the node's peers")
            return
        with self._transcoder() as transcoder, self.sending(reply, instances) as sent:
            originator = Originator(reply.message_id, reply.priority, reply.asker)
            store = peer_store(self._settings.dicom, destination, self._spool, transcoder, originator)
            _send_all(reply, list(batches(instances)), store, sent)

    def _get(self, reply: Reply, instances: Sequence[HeldInstance]) -> None:
        with self._transcoder() as transcoder, self.sending(reply, instances) as sent:
            originator = Originator(reply.message_id, reply.priority)
            own = AssociatedStore(reply.association, self._spool, transcoder, originator)

            @contextmanager
            def store(_part: Sequence[HeldInstance]) -> Iterator[Store]:
                yield own

            _send_all(reply, [list(instances)], store, sent)

    def _relay(self, reply: Reply, retrieval: Retrieval) -> None:
        """Have the archive send it: C-MOVE only, for it cannot use the asker's association."""
        archive = self._settings.peer(self._settings.storage.retrieve_aet)
        if archive is None:
            raise Transient("the archive that has the instances is not configured any more")
        if not isinstance(reply.request, C_MOVE):
            raise Transient(f"the instances are in {archive.aet}: retrieve them there or by C-MOVE")
        for response in move(
            self._settings.dicom,
            archive,
            retrieval,
            destination=reply.destination,
            priority=reply.priority,
            cancelled=reply.is_cancelled,
        ):
            if is_lost(reply.association):
                return
            reply.pass_on(response)

    def _transcoder(self) -> Transcoder:
        return Transcoder(self._settings.indexing.memory_limit_mib)


def _demand_relayable(retrieval: Retrieval, view: CatalogView) -> None:
    """Refuse to ask the archive for more than the asker may see: it would send all that it has of these keys."""
    if view.cohort is None:
        return
    studies = retrieval.unique_keys.get(Level.STUDY, ())
    if not studies or not all(view.lookup.series_of_study(uid) for uid in studies):
        raise Transient("the instances are in the archive: ask for studies, all of which are known here")


def _can_be_answered(request: Any) -> bool:  # noqa: ANN401 - the library has no types
    """Whether it is a request, if perhaps an incomplete one."""
    return request.MessageID is not None and request.AffectedSOPClassUID is not None


def _read(reply: Reply) -> Retrieval:
    """What is asked for; at PATIENT level in the Study Root model as well, where PACS ask so (Orthanc does)."""
    root = Root.PATIENT if reply.context.abstract_syntax in _PATIENT_ROOT else Root.STUDY
    encoded = reply.request.Identifier
    if encoded is None:
        raise Refused("expected an identifier, got none")
    return read_retrieval(read_identifier(encoded.getvalue(), reply.transfer_syntax_uid, root, Level.PATIENT))


def _send_all(reply: Reply, parts: Sequence[Sequence[HeldInstance]], opened: Opener, sent: set[str]) -> None:
    """Perform the sub-operations and answer; when an association is lost, what remains has failed."""
    tally, comment = Tally(sum(map(len, parts))), ""
    for part in parts:
        try:
            with opened(part) as store:
                for number, one in enumerate(part):
                    if is_lost(reply.association):
                        return
                    if reply.is_cancelled():
                        reply.end(tally, cancelled=True)
                        return
                    try:
                        outcome = store.send(one)
                        tally.count(one, outcome)
                        if outcome is not Outcome.FAILED:
                            sent.add(one.sop_instance_uid)
                    except Transient:
                        tally.fail(part[number:])
                        raise
                    reply.pending(tally)
        except Transient as error:
            comment = str(error)
            logger.warning("%d sub-operations failed: %s", len(part), error)
            break
    counted = tally.counted
    tally.fail([one for part in parts for one in part][counted:])
    reply.end(tally, comment=comment)
