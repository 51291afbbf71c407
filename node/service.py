"""The running node: its parts started in order, stopped in reverse, drained within a deadline."""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from config.errors import ConfigError
from config.exposure import demand_safe
from config.model import Role, Settings
from dicom_scp.disk import Reserve
from dicom_scp.forgetting import Forgetter
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.bundle import read_bundle
from indexer.catalog import Catalog
from indexer.errors import Transient
from indexer.keeper import IndexKeeper
from indexer.priors import Priors
from indexer.search import Search
from indexer.uids import EncoderId
from indexer.vectors import milvus
from node import folder
from node.audit import AuditTrail
from node.audit_dicom import DicomWitness
from node.audit_messages import (
    APPLICATION,
    APPLICATION_START,
    APPLICATION_STOP,
    Participant,
    application_activity,
    index_changed,
)
from node.copies import CopyKeeper
from node.courier import Courier
from node.forgetting import Eraser
from node.metrics import Metrics
from node.orthanc.follower import Follower
from node.receivers import ReceiverSupervisor
from node.reports import Reports
from node.storage import open_catalog, open_spool
from node.supervisor import WorkerHealth, WorkerState, WorkerSupervisor
from node.together import MILVUS_KEEPER, Elsewhere, demand_same_clock
from node.web.api import make_app
from node.web.context import Standing, WebContext
from node.web.decoding import TranscoderPool
from node.web.jobs import Jobs
from node.web.rendering import Pictures
from node.web.server import HttpServer
from node.web.witness import HttpWitness

log = logging.getLogger(__name__)

_TICK_S = 0.25
_DRAIN_S = 10.0
_HOLD_S = 5.0
"""How often a node that only asks a shared index looks whether its keeper is gone."""
_LAST_RESORT_S = 60.0
"""Beyond `indexing.stop_deadline_s`: longer than all parts drain, one after another."""
_FORCED = 130


class Node:
    """One node on one data folder.

    Parameters
    ----------
    settings : Settings
        Complete and valid.

    Raises
    ------
    config.errors.ConfigError
        The bundle cannot be used, for instance because its weights are not installed; or strangers on the network
        could ask, or listen.
    """

    def __init__(self, settings: Settings) -> None:
        demand_safe(settings)
        self.settings = settings
        self._bundle = read_bundle(settings.bundle)
        if set(settings.roles) - {Role.RECEIVE}:
            self._bundle.weight_files()
        self._parts = ExitStack()
        self._stopping = threading.Event()
        self._dicom: DicomServer | None = None
        self._http: HttpServer | None = None
        self._supervisor: WorkerSupervisor | None = None
        self._had_room = True
        self._trail: AuditTrail | None = None
        self._told_encoder: EncoderId | None = None
        self._follower: Follower | None = None
        self._hold_at = 0.0

    @property
    def worker(self) -> WorkerHealth:
        """How the worker process is."""
        return self._supervisor.health if self._supervisor else WorkerHealth(WorkerState.STARTING)

    @property
    def dicom_port(self) -> int:
        """Port of the DICOM face; 0 before the start."""
        return self._dicom.bound_port if self._dicom else 0

    @property
    def http_port(self) -> int:
        """Port of the HTTP face; 0 before the start."""
        return self._http.bound_port if self._http else 0

    def start(self) -> None:
        """Start every part; on an error those started already are stopped.

        Raises
        ------
        Transient
            Another node uses the data folder, a port is taken, the catalog cannot be opened.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        settings, parts = self.settings, self._parts
        me = folder.Holder(is_node=True, encoder_id=self._bundle.encoder_id)
        parts.enter_context(folder.exclusively(settings.data_dir, me))
        catalog = parts.enter_context(open_catalog(settings))
        demand_same_clock(catalog)
        spool = open_spool(settings, catalog, settings.storage.reserve_mib)
        keeper = self._index_keeper(catalog) if settings.has(Role.QUERY) else None
        search = Search(catalog, keeper, settings.search) if keeper is not None else None
        metrics = Metrics(settings, catalog, keeper)
        parts.callback(metrics.close)
        trail = self._trail = self._audit_trail()
        dicom = self._dicom = self._dicom_face(spool, catalog, search, metrics, trail)
        self._keep_copies(catalog)
        supervisor = self._supervisor = WorkerSupervisor(settings, catalog) if settings.has(Role.WORK) else None
        metrics.watch(dicom, supervisor)
        forgetter = Forgetter(settings.forgetting, catalog, spool)
        witness = HttpWitness(trail, catalog, settings.dicom.aet)
        context = Standing(settings, catalog, keeper, dicom, supervisor, metrics, witness)
        if keeper is not None and search is not None and dicom is not None:
            context = self._answering(context, keeper, dicom, search, spool, forgetter)
        http = self._http = HttpServer(settings.http, make_app(context))
        if supervisor is not None:
            supervisor.start()
            parts.callback(supervisor.stop)
        eraser = Eraser(settings, catalog, forgetter, keeper) if keeper is not None else None
        self._start_housekeeping(catalog, keeper, dicom, eraser)
        if isinstance(context, WebContext):
            courier = Courier(settings, catalog, spool, context.search, context.reports)
            courier.start()
            parts.callback(courier.stop, _DRAIN_S)
        if settings.has(Role.RECEIVE):
            self._follow_orthanc(catalog, spool)
        http.start()
        parts.callback(http.stop)
        if dicom is not None:
            self._start_receivers(dicom)
            dicom.start()
            parts.callback(dicom.stop, _DRAIN_S)
        gc.collect()
        gc.freeze()  # collections, of which ended associations need many, look at what came since only

    def _start_receivers(self, dicom: DicomServer) -> None:
        if self.settings.has(Role.RECEIVE):
            receivers = ReceiverSupervisor(self.settings, dicom.handover)
            receivers.start()
            self._parts.callback(receivers.stop, _DRAIN_S)

    def _index_keeper(self, catalog: Catalog) -> IndexKeeper:
        settings = self.settings
        active = self._active_encoder(catalog)
        kept_by_another = settings.vectors.kind == milvus.KIND and not catalog.hold(MILVUS_KEEPER)
        if kept_by_another:
            log.info("another node keeps the Milvus collection; this one only asks it")
        keeper = IndexKeeper(catalog, settings.vectors, settings.snapshot_dir, active, read_only=kept_by_another)
        self._parts.callback(keeper.close)
        return keeper

    def _answering(
        self,
        standing: Standing,
        keeper: IndexKeeper,
        dicom: DicomServer,
        search: Search,
        spool: Spool,
        forgetter: Forgetter,
    ) -> WebContext:
        """What the HTTP face of a node that answers works with."""
        settings, catalog = self.settings, standing.catalog
        transcoders = TranscoderPool(settings.indexing.memory_limit_mib)
        self._parts.callback(transcoders.close)
        jobs = Jobs(settings, search)
        self._parts.callback(jobs.close)
        return WebContext(
            settings=settings,
            catalog=catalog,
            keeper=keeper,
            dicom=dicom,
            worker=standing.worker,
            metrics=standing.metrics,
            witness=standing.witness,
            view=catalog.within(None),
            spool=spool,
            search=search,
            reports=Reports(settings, catalog, spool, search),
            forgetter=forgetter,
            priors=Priors(catalog),
            pictures=Pictures(spool, transcoders),
            transcoders=transcoders,
            jobs=jobs,
        )

    def _active_encoder(self, catalog: Catalog) -> EncoderId:
        """Whose embeddings answer; in an empty catalog from now on the bundle's."""
        active = catalog.embeddings.active_encoder()
        if active is None:
            catalog.embeddings.activate(self._bundle.encoder_id)
            return self._bundle.encoder_id
        if active != self._bundle.encoder_id:
            _demand_files(catalog, active)
            log.warning(
                "the archive was embedded by %s, which answers until %s has seen all of it",
                active,
                self._bundle.encoder_id,
            )
        return active

    def _audit_trail(self) -> AuditTrail:
        """Make the audit trail; it hears that the node starts, and at the end that it stops."""
        settings, parts = self.settings, self._parts
        trail = AuditTrail(settings.audit, settings.data_dir, settings.dicom.aet)
        trail.start()
        parts.callback(trail.stop, _DRAIN_S)
        trail.add(application_activity(settings.dicom.aet, APPLICATION_START))
        parts.callback(lambda: trail.add(application_activity(settings.dicom.aet, APPLICATION_STOP)))
        return trail

    def _dicom_face(
        self, spool: Spool, catalog: Catalog, search: Search | None, metrics: Metrics, trail: AuditTrail
    ) -> DicomServer | None:
        settings = self.settings
        if settings.roles == (Role.WORK,):
            return None
        witness = DicomWitness(trail, catalog, settings.dicom.aet) if trail.is_on else None
        observers = [*(witness.handlers() if witness else ()), *metrics.observers()]
        dicom = DicomServer(settings, catalog, spool, search or Elsewhere(), observers, metrics)
        if witness is not None:
            dicom.tell_of_kept(witness.kept)
            dicom.tell_of_sent(witness.sending)
            dicom.tell_of_rejected(witness.rejecting)
        return dicom

    def _start_housekeeping(
        self, catalog: Catalog, keeper: IndexKeeper | None, dicom: DicomServer | None, eraser: Eraser | None
    ) -> None:
        work = (catalog, keeper, dicom, eraser)
        housekeeper = threading.Thread(target=self._housekeeping, args=work, name="housekeeper", daemon=True)
        housekeeper.start()
        self._parts.callback(housekeeper.join)
        self._parts.callback(self._stopping.set)

    def _keep_copies(self, catalog: Catalog) -> None:
        if self.settings.storage.object_store:
            copies = CopyKeeper(self.settings, catalog)
            copies.start()
            self._parts.callback(copies.stop)

    def _follow_orthanc(self, catalog: Catalog, spool: Spool) -> None:
        if self.settings.orthanc.url and self.settings.orthanc.follow:
            follower = self._follower = Follower(self.settings, catalog, spool)
            follower.start()
            self._parts.callback(follower.stop, _DRAIN_S)

    def _settle(self, catalog: Catalog, dicom: DicomServer | None) -> None:
        """Settle series, but for those that somebody is just sending, or that are just being fetched."""
        coming_in = dicom.being_sent() if dicom is not None else set()
        coming_in |= self._follower.being_taken() if self._follower else set()
        quiet_time_s = self.settings.indexing.quiet_time_s
        if coming_in and self.settings.is_shared:
            catalog.progress.keep_unsettled(coming_in, quiet_time_s)
        catalog.progress.settle(quiet_time_s, coming_in)

    def _has_room(self) -> bool:
        """Whether the disk has more than its reserve free; says so where that changes."""
        has_room = not Reserve(self.settings.spool_dir, self.settings.storage.reserve_mib).is_used_up
        if has_room is not self._had_room:
            if has_room:
                log.info("the disk has room again")
            else:
                log.error("the disk is nearly full: instances are refused and index snapshots wait")
        self._had_room = has_room
        return has_room

    def stop(self) -> None:
        """Stop every part in reverse order: no new work, open associations and the present series drained."""
        self._stopping.set()
        self._parts.close()

    def run(self, started: Callable[["Node"], None]) -> None:
        """Start, say so, and serve until SIGTERM or Ctrl-C; a second one ends the process where it stands.

        That loses nothing: what was acknowledged is durable, and the worker ends with its parent.
        """
        asked = threading.Event()

        def ask(_number: int, _frame: FrameType | None) -> None:
            if asked.is_set():
                os._exit(_FORCED)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask)
        self.start()
        try:
            started(self)
            while not asked.wait(_TICK_S):
                pass
            log.info("stopping")
        finally:
            deadline_s = self.settings.indexing.stop_deadline_s + _LAST_RESORT_S
            last_resort = threading.Timer(deadline_s, _end_where_it_stands, (deadline_s,))
            last_resort.daemon = True
            last_resort.start()
            self.stop()
            last_resort.cancel()

    def _keep_if_nobody_does(self, catalog: Catalog, keeper: IndexKeeper) -> None:
        """Write the shared collection from now on, if the node is gone that did."""
        if keeper.is_read_only and time.monotonic() >= self._hold_at:
            self._hold_at = time.monotonic() + _HOLD_S
            if catalog.hold(MILVUS_KEEPER):
                keeper.own()
                log.info("this node keeps the Milvus collection from now on")

    def _tell_of_encoder(self, active: EncoderId) -> None:
        """Have the audit trail hear whose embeddings answer, when that changes or is about to."""
        wanted = self._bundle.encoder_id
        if active == self._told_encoder or self._trail is None:
            return
        if self._told_encoder is not None or active != wanted:
            later = "" if active == wanted else f", until {wanted} has embedded all"
            who = Participant(self.settings.dicom.aet, [APPLICATION], is_requestor=True)
            self._trail.add(index_changed(who, f"embeddings of {active} answer now{later}"))
        self._told_encoder = active

    def _housekeeping(
        self, catalog: Catalog, keeper: IndexKeeper | None, dicom: DicomServer | None, eraser: Eraser | None
    ) -> None:
        """Settle series, follow the catalog's journal, write snapshots, erase what was forgotten."""
        while not self._stopping.wait(_TICK_S):
            try:
                self._settle(catalog, dicom)
                has_room = self._has_room()
                if keeper is not None:
                    self._tell_of_encoder(keeper.current()[1])
                    self._keep_if_nobody_does(catalog, keeper)
                    keeper.refresh()
                    if has_room:
                        keeper.snapshot_if_due()
                if eraser is not None:
                    eraser.work_off()
                if dicom is not None:
                    dicom.tidy_if_due()
            except Transient as error:
                log.warning("tried again soon: %s", error)
            except Exception:  # whatever happens, the next round is worth trying
                log.exception("housekeeping")


def _end_where_it_stands(deadline_s: float) -> None:
    """End a process that does not stop; what was acknowledged is durable."""
    log.error("some part did not stop in %.0f s: the node ends where it stands", deadline_s)
    os._exit(1)


def _demand_files(catalog: Catalog, active: EncoderId) -> None:
    """Refuse to take another encoder where series cannot be embedded by it: they would be lost to every answer."""
    if given_up := catalog.holdings.released_series():
        raise ConfigError(
            [
                f"bundle: {given_up} series were embedded by {active} and their files given up (storage.keep): "
                "another encoder cannot embed them; start the node with that bundle"
            ]
        )
