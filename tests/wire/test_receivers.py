"""Receiver processes beside the main one: who serves what, what is counted where, and what a dead one loses."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from engines import settings_of
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import Association, evt
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_scp.contexts import storage_sop_classes
from dicom_scp.intake import StoreRequest
from dicom_scp.reception import Reception, Verdict
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.lookup import Level
from node.receivers import ReceiverSupervisor
from node.together import Elsewhere

Factory = Callable[..., Any]
CT = [(str(CTImageStorage), [str(ExplicitVRLittleEndian)])]
QUERY = [*CT, (str(StudyRootQueryRetrieveInformationModelFind), [str(ExplicitVRLittleEndian)])]
PER_HOST = 4
PATIENCE_S = 120.0


@dataclass
class Farm:
    """A main process (this one) with two receivers, and what it hears."""

    catalog: Catalog
    spool: Spool
    server: DicomServer
    statuses: Counter[int] = field(default_factory=Counter)
    kept: list[tuple[StoreRequest, Reception]] = field(default_factory=list)
    heard: Counter[Any] = field(default_factory=Counter)

    @property
    def port(self) -> int:
        return self.server.bound_port

    @property
    def handed(self) -> int:
        return len(self.server.handover.hosts)

    def stored(self, status: int, _size_bytes: int) -> None:
        self.statuses[status] += 1

    def found(self, _seconds: float, *, is_similarity_view: bool) -> None: ...


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, wait_for: Factory) -> Iterator[Farm]:
    values = {
        "dicom.port": 0,
        "dicom.receivers": 2,
        "dicom.max_associations_per_host": PER_HOST,
        "forgetting.rejection_aets": ["RADIOLOGIST"],
    }
    settings = settings_of(tmp_path_factory.mktemp("farm"), **values)
    with Catalog(settings.catalog_url) as catalog:
        spool = Spool(settings.spool_dir)
        farm = Farm(catalog, spool, None)  # type: ignore[arg-type]
        hears = [
            (evt.EVT_ACCEPTED, lambda event: farm.heard.update([("accepted", id(event.assoc))])),
            (evt.EVT_CONN_CLOSE, lambda event: farm.heard.update([("closed", id(event.assoc))])),
        ]
        farm.server = DicomServer(settings, catalog, spool, Elsewhere(), hears, farm)
        farm.server.tell_of_kept(lambda request, reception: farm.kept.append((request, reception)))
        receivers = ReceiverSupervisor(settings, farm.server.handover)
        receivers.start()
        farm.server.start()
        try:
            wait_for(lambda: farm.server.handover.receivers == 2, PATIENCE_S, "two receivers")
            yield farm
        finally:
            farm.server.stop(deadline_s=2.0)
            receivers.stop(2.0)
        assert not processes()


@pytest.fixture
def associate(farm: Farm, peer: Factory, wait_for: Factory) -> Iterator[Callable[..., Association]]:
    """Open associations that end with the test."""
    wait_for(lambda: farm.server.open_associations == 0, PATIENCE_S, "no association from before")
    with ExitStack() as opened:

        def begin(
            contexts: list[tuple[str, list[str]]] = CT, called: str = "PACSIMILE", calling: str = "MODALITY"
        ) -> Association:
            return opened.enter_context(peer(farm, calling, timeout_s=PATIENCE_S).associated(contexts, called))

        yield begin
    wait_for(lambda: farm.server.open_associations == 0, PATIENCE_S, "the end of all associations")


def processes() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "node.receiver" in one.cmdline()]


def uids(datasets: list[Dataset]) -> set[str]:
    return {str(dataset.SOPInstanceUID) for dataset in datasets}


def test_who_only_stores_is_served_by_a_receiver(
    farm: Farm, associate: Factory, instance: Factory, wait_for: Factory
) -> None:
    sent = [instance(SeriesInstanceUID=f"2.25.7{n}", StudyInstanceUID="2.25.7", InstanceNumber=n) for n in range(2)]
    before = farm.statuses[0]
    associations = [associate() for _ in sent]
    assert farm.handed == 2
    assert not farm.server._server.active_associations
    for association, dataset in zip(associations, sent, strict=True):
        assert association.send_c_store(dataset).Status == 0
    wait_for(lambda: uids(sent) <= {one.sop_instance_uid for _, one in farm.kept}, PATIENCE_S, "what was told")
    wait_for(lambda: farm.statuses[0] == before + 2, PATIENCE_S, "what was counted")
    assert farm.server.being_sent() >= {"2.25.70", "2.25.71"}
    told = {reception.sop_instance_uid: request for request, reception in farm.kept}
    keys = {told[dataset.SOPInstanceUID].association for dataset in sent}
    assert len(keys) == 2
    assert all(farm.heard["accepted", key] == 1 and not farm.heard["closed", key] for key in keys)
    for association in associations:
        association.release()
    wait_for(lambda: not farm.server.being_sent(), PATIENCE_S, "nobody sends any more")
    wait_for(lambda: all(farm.heard["closed", key] for key in keys), PATIENCE_S, "both ends")
    for dataset in sent:
        relative = farm.catalog.lookup.instance_path(dataset.SOPInstanceUID)
        assert relative is not None
        farm.spool.read(relative)


@pytest.mark.parametrize(
    ("contexts", "called", "calling"),
    [(QUERY, "PACSIMILE", "MODALITY"), (CT, "SIMILAR", "MODALITY"), (CT, "PACSIMILE", "RADIOLOGIST")],
)
def test_who_may_ask_stays_with_the_main_process(
    farm: Farm,
    associate: Factory,
    instance: Factory,
    contexts: list[tuple[str, list[str]]],
    called: str,
    calling: str,
) -> None:
    association = associate(contexts, called, calling)
    assert association.is_established
    assert farm.handed == 0
    assert association.send_c_store(instance()).Status == 0
    if contexts is QUERY:
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "2.25.1"
        answers = list(association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind))
        assert [status.Status for status, _ in answers] == [0xFF00, 0x0000]


def test_a_sender_of_everything_is_served_by_a_receiver(farm: Farm, associate: Factory) -> None:
    every = [(str(uid), [str(ExplicitVRLittleEndian)]) for uid in storage_sop_classes()[:127]]
    association = associate([*every, (str(Verification), [str(ExplicitVRLittleEndian)])])
    assert farm.handed == 1
    assert association.send_c_echo().Status == 0


def test_limits_count_all_processes(farm: Farm, associate: Factory) -> None:
    opened = [associate(QUERY if n == 0 else CT) for n in range(PER_HOST)]
    assert all(one.is_established for one in opened)
    assert farm.handed == PER_HOST - 1
    assert associate().is_rejected


def test_an_instance_that_another_process_has_taken_in_is_known(
    farm: Farm, associate: Factory, instance: Factory, wait_for: Factory
) -> None:
    uid = generate_uid()
    dataset, other = instance(SOPInstanceUID=uid), instance(SOPInstanceUID=uid, pixel_level=300)
    associations = [associate(), associate(), associate(QUERY)]
    assert [one.send_c_store(dataset).Status for one in associations] == [0, 0, 0]
    assert [one.send_c_store(other).Status for one in associations] == [0x0111] * 3

    def verdicts() -> Counter[Verdict]:
        return Counter(reception.verdict for _, reception in farm.kept if reception.sop_instance_uid == uid)

    wait_for(lambda: verdicts().total() == 6, PATIENCE_S, "what was told")
    assert verdicts() == {Verdict.STORED: 1, Verdict.KNOWN: 2, Verdict.KEPT_FIRST: 3}


def test_files_and_catalog_are_those_of_one_process(
    farm: Farm,
    associate: Factory,
    instance: Factory,
    peer: Factory,
    run_a_node: Callable[..., AbstractContextManager[Any]],
    tmp_path: Path,
) -> None:
    study, series = generate_uid(), generate_uid()
    sent = [
        instance(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n, pixel_level=1000 + n)
        for n in range(6)
    ]
    first, second = associate(), associate()
    assert farm.handed == 2
    for n, dataset in enumerate(sent):
        assert (second if n % 2 else first).send_c_store(dataset).Status == 0
    with run_a_node(tmp_path / "alone") as alone:
        assert all(status.Status == 0 for status in peer(alone, "MODALITY").send(*sent))
        paths = {uid: alone.catalog.lookup.instance_path(uid) for uid in uids(sent)}
        assert paths == {uid: farm.catalog.lookup.instance_path(uid) for uid in uids(sent)}
        for relative in paths.values():
            assert alone.spool.path(relative).read_bytes() == farm.spool.path(relative).read_bytes()
        rows = [
            sorted(
                str(one.attributes)
                for one in node.catalog.lookup.entities(Level.IMAGE)
                if one.attributes["00080018"]["Value"][0] in paths
            )
            for node in (alone, farm)
        ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(sent)


def test_what_a_killed_receiver_had_acknowledged_is_there(
    farm: Farm, associate: Factory, instance: Factory, wait_for: Factory
) -> None:
    wait_for(lambda: farm.server.handover.receivers == 2, PATIENCE_S, "two receivers")
    association, datasets = associate(), [instance(InstanceNumber=n) for n in range(20)]
    acknowledged, killed = [], processes()
    for dataset in datasets:
        if len(acknowledged) == 7:
            for process in killed:
                process.kill()
        status = association.send_c_store(dataset) if association.is_established else Dataset()
        if status.get("Status") == 0:
            acknowledged.append(dataset)
        else:
            break
    assert 7 <= len(acknowledged) < len(datasets)
    for dataset in acknowledged:
        farm.spool.read(str(farm.catalog.lookup.instance_path(dataset.SOPInstanceUID)))
    wait_for(lambda: farm.handed == 0, PATIENCE_S, "the main process to notice")
    assert not farm.server.being_sent()
    is_there = lambda: any(psutil.pid_exists(process.pid) for process in killed)  # noqa: E731
    wait_for(lambda: not is_there(), PATIENCE_S, "the supervisor to notice both")  # none is handed anything
    meanwhile = associate()
    assert [meanwhile.send_c_store(dataset).Status for dataset in datasets] == [0] * len(datasets)
    wait_for(lambda: farm.server.handover.receivers == 2, PATIENCE_S, "receivers that were started again")
    assert associate().send_c_store(datasets[0]).Status == 0
    assert farm.handed >= 1
