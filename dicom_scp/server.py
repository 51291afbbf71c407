"""The DICOM face of a node: one port, two called AE titles."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from config.model import Role, Settings
from dicom_scp.access import Access
from dicom_scp.commitment import CommitmentHandlers, OpenAssociations
from dicom_scp.committer import Committer
from dicom_scp.contexts import commitment_context, storage_sop_classes, supported_contexts
from dicom_scp.custody import Custody
from dicom_scp.event_reports import EventReporter
from dicom_scp.fetch import Fetcher
from dicom_scp.forgetting import Forgetter
from dicom_scp.handlers import Handlers
from dicom_scp.handover import HandedAssociation, Handover
from dicom_scp.incoming import Incoming, recover
from dicom_scp.intake import Intake, StoreRequest
from dicom_scp.listening import NodeServer
from dicom_scp.metering import Meter, NoMeter
from dicom_scp.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_scp.reception import Receiver, Reception
from dicom_scp.rejection import Rejecting, Rejections
from dicom_scp.retrieve import RetrieveService, Sending
from dicom_scp.senders import Senders
from dicom_scp.spool import Spool
from dicom_scp.tls import client_context, server_context
from indexer.answer import Finder
from indexer.catalog import Catalog
from indexer.errors import Transient
from indexer.uids import SeriesInstanceUID

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_TIDY_S = 5.0
_MAX_NEGOTIATION_S = 30.0
_SWITCH_INTERVAL_S = 0.0005
"""A thread whose data have come, or are on the disk, waits no longer than that for one that computes."""


class DicomServer:
    """Receives instances and answers queries.

    Parameters
    ----------
    settings : Settings
    catalog : Catalog
        Opened and closed by the caller.
    spool : Spool
    finder : Finder
        Answers questions for similar studies.
    observers : sequence
        Notifications of the network library, and who hears of them.
    meter : Meter, optional
        Who counts what happens.

    Raises
    ------
    ConfigError
        A file of TLS cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        spool: Spool,
        finder: Finder,
        observers: Sequence[tuple[Any, Any]] = (),
        meter: Meter | None = None,
    ) -> None:
        self._observers = observers
        self._settings = settings.dicom
        self._senders = Senders(settings.dicom.seed_by_sending_minutes * 60)
        recover(catalog, spool)
        is_plain = spool.takes_incoming and catalog.receipts.can_flush
        self._incoming = Incoming(catalog, spool.incoming) if is_plain else None
        self._meter = meter or NoMeter()
        receiver = Receiver(catalog, spool, settings.storage.on_conflict, self._incoming)
        fetcher = self._fetcher = Fetcher(settings, catalog, receiver) if settings.fetch.source_aet else None
        forgetter = Forgetter(settings.forgetting, catalog, spool)
        rejections = self._rejections = Rejections(settings.forgetting, catalog.lookup, forgetter)
        intake = Intake(settings.dicom, receiver, rejections, self._senders, fetcher, meter)
        access = self._access = Access(settings, catalog)
        self._tls = server_context(settings.dicom.tls)
        for peer in settings.peers:
            client_context(settings.dicom.tls, peer)  # files that cannot be used are told of now
        self._handlers = Handlers(settings, catalog, access, intake, finder, self._senders, fetcher, meter)
        self._commits = settings.storage.keep == "all"
        self._commits_are_reported = settings.has(Role.RECEIVE)
        associations = OpenAssociations()
        self._committer = Committer(
            settings.commitment,
            catalog.commitments,
            spool,
            EventReporter(settings.dicom, settings.peers, associations),
            storage_sop_classes(settings.dicom.private_storage_sop_classes),
            access.cohort_of,
        )
        self._commitment = CommitmentHandlers(catalog.commitments, associations, self._committer.recorded)
        self._retrieval = RetrieveService(settings, access, spool)
        self._custody = Custody(settings, catalog, spool)
        rejecting = settings.forgetting.rejection_aets
        self.handover = Handover(settings.dicom.aet, _kept_here(settings), rejecting, self, observers)
        self._tidy_at = 0.0
        self._server: NodeServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def bound_port(self) -> int:
        """The port that is listened on, also where the system chose it; 0 before the start."""
        return int(self._server.server_address[1]) if self._server is not None else 0

    @property
    def is_listening(self) -> bool:
        """Whether associations are accepted."""
        return self._server is not None and self._thread is not None and self._thread.is_alive()

    @property
    def open_associations(self) -> int:
        """Associations that are open now, those of receiver processes included."""
        return (len(self._server.active_associations) if self._server is not None else 0) + len(self.handover.hosts)

    def tell_of_kept(self, listener: Callable[[StoreRequest, Reception], None]) -> None:
        """Have a listener hear of every instance that was taken in, before its sender does."""
        self._handlers.intake.on_kept = listener

    def tell_of_sent(self, listener: Sending) -> None:
        """Have a listener hear of instances that C-MOVE or C-GET is about to send, and of those that arrived."""
        self._retrieval.sending = listener

    def tell_of_rejected(self, listener: Rejecting) -> None:
        """Have a listener hear of instances that a rejection note is about to have forgotten."""
        self._rejections.rejecting = listener

    def stored_elsewhere(self, status: int, size_bytes: int, kept: tuple[StoreRequest, Reception] | None) -> None:
        """See `handover.Listener`."""
        if kept is not None:
            self._handlers.intake.tell_of(*kept)
        self._meter.stored(status, size_bytes)

    def ended_elsewhere(self, association: HandedAssociation) -> None:
        """See `handover.Listener`."""
        self._senders.closed(id(association))

    def being_sent(self) -> set[SeriesInstanceUID]:
        """Series to which open associations are sending; they do not settle."""
        return self._senders.being_sent()

    def tidy_if_due(self) -> None:
        """Now and then, give up files that may go, and forget studies that were fetched for a question.

        Raises
        ------
        Transient
            The catalog cannot be reached.
        """
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY_S
        for study in self._custody.tidy():
            if self._fetcher is not None:
                self._fetcher.forgotten(study)

    def start(self) -> None:
        """Listen; associations are served in threads of their own.

        The network library's logging of identifiers, which hold patient data, is switched off.

        Raises
        ------
        Transient
            The port cannot be had.
        """
        try:
            self._serve(NodeServer, handover=self.handover)
        except OSError as error:
            dicom = self._settings
            place = f"{dicom.host}:{dicom.port} (--dicom-port)"
            raise Transient(f"cannot listen for DICOM on {place}: {error.strerror}") from error
        if self._commits_are_reported:
            self._committer.start()
        how, dicom = "over TLS" if self._tls is not None else "without TLS", self._settings
        logger.info(
            "DICOM on %s:%d %s as %s and %s", dicom.host, self.bound_port, how, dicom.aet, dicom.similar_aet
        )

    def _serve(self, server_class: type[NodeServer], **more: Any) -> None:  # noqa: ANN401 - of the class
        """Serve associations in threads of their own."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        _config.LOG_REQUEST_IDENTIFIERS = False
        _config.LOG_RESPONSE_IDENTIFIERS = False
        dicom = self._settings
        self._server = self._application_entity().make_server(
            (dicom.host, dicom.port),
            evt_handlers=self._events(),
            ssl_context=self._tls,
            server_class=server_class,
            max_object_bytes=dicom.max_object_mib << 20,
            max_pdu_bytes=dicom.max_pdu_bytes,
            max_associations=dicom.max_associations,
            max_associations_per_host=dicom.max_associations_per_host,
            max_waiting=dicom.max_waiting_connections,
            negotiation_timeout_s=dicom.negotiation_timeout_s,
            timeout_s=dicom.network_timeout_s,
            storage=self._handlers if dicom.fast_lane else None,
            **more,
        )
        self._server.ae._servers.append(self._server)  # where the library's shutdown expects it
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="dicom-listener", daemon=True
        )
        self._thread.start()

    def stop(self, deadline_s: float = 10.0) -> None:
        """Listen no more, let open associations end for `deadline_s` seconds, then abort those left."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + deadline_s
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        left = server.active_associations
        for association in left:
            association.abort()
        for association in left:
            association.join(timeout=_MAX_NEGOTIATION_S)
        self._committer.stop(deadline_s)
        if self._incoming is not None:
            self._incoming.close()
        logger.info("DICOM stopped, %d associations aborted", len(left))

    def _application_entity(self) -> Any:  # noqa: ANN401 - the library has no types
        dicom = self._settings
        entity = AE(ae_title=dicom.aet)
        contexts = supported_contexts(dicom.private_storage_sop_classes)
        for one in [*contexts, commitment_context()] if self._commits else contexts:  # a list would lose the roles
            entity.add_supported_context(one.abstract_syntax, one.transfer_syntax, one.scu_role, one.scp_role)
        entity.require_called_aet = True
        entity.maximum_associations = dicom.max_associations
        entity.maximum_pdu_size = dicom.max_pdu_bytes
        entity.network_timeout = dicom.network_timeout_s
        entity.dimse_timeout = dicom.network_timeout_s
        entity.acse_timeout = min(dicom.network_timeout_s, _MAX_NEGOTIATION_S)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        return entity

    def _events(self) -> list[tuple[Any, Any]]:
        handlers = self._handlers
        return [
            (evt.EVT_REQUESTED, handlers.requested),
            (evt.EVT_CONN_CLOSE, handlers.closed),
            (evt.EVT_RELEASED, handlers.closed),
            (evt.EVT_ABORTED, handlers.closed),
            (evt.EVT_C_ECHO, handlers.echo),
            (evt.EVT_C_STORE, handlers.store),
            (evt.EVT_C_FIND, handlers.find),
            (evt.EVT_REQUESTED, self._retrieval.requested),
            (evt.EVT_N_ACTION, self._commitment.action),
            (evt.EVT_CONN_CLOSE, self._commitment.closed),
            (evt.EVT_RELEASED, self._commitment.closed),
            (evt.EVT_ABORTED, self._commitment.closed),
            (evt.EVT_REQUESTED, self._access.requested),  # the last of these: it wraps what others arranged
            *self._observers,
        ]


def _kept_here(settings: Settings) -> set[str]:
    """SOP classes whose associations the main process serves itself: all but storage."""
    private = settings.dicom.private_storage_sop_classes
    supported = {str(one.abstract_syntax) for one in [*supported_contexts(private), commitment_context()]}
    return supported - set(storage_sop_classes(private)) - {str(Verification)}
