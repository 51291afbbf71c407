"""A running node on a real port, peers that associate with it, small instances, and an honest small finder."""

import copy
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from engines import settings_of
from pydicom import Dataset, config, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, Association, build_role, evt
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind as PatientRoot
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove

from config.access import Cohort
from config.model import Settings
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.answer import Answer, ChunkMatch, Completeness, Relation, Seed, SeriesHit, StudyHit
from indexer.catalog import Catalog
from indexer.catalog.lookup import Level, SeriesInfo
from indexer.errors import NotFound, Parked, Transient
from indexer.own_order import own_newest_first
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"


@pytest.fixture(scope="session")
def real_series() -> list[list[Path]]:
    """Files of every real series that names its instances."""
    if not REAL.is_dir():
        pytest.skip(f"real CT and MR series are not there: {REAL}")
    folders = [folder for folder in sorted(REAL.iterdir()) if "no-series-uid" not in folder.name]
    return [sorted(folder.glob("*.dcm")) for folder in folders]


@pytest.fixture(scope="session")
def dcmtk() -> Callable[[str], str]:
    """Path of a tool of DCMTK."""

    def tool(name: str) -> str:
        if (found := shutil.which(name, path="/usr/bin:/usr/local/bin")) is None:
            pytest.skip(f"DCMTK's {name} is not installed")
        return found

    return tool


def build_instance(**attributes: object) -> Dataset:
    """A CT image of 8 x 8 pixels; an attribute of None is left out."""
    level = int(attributes.pop("pixel_level", 100))  # type: ignore[call-overload]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.1", "2.25.11"
    dataset.PatientID, dataset.PatientName, dataset.PatientSex = "P1", "Doe^Jane", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200305", "101112", "1"
    dataset.AccessionNumber, dataset.Modality = "A1", "CT"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    rng = np.random.default_rng(level)
    dataset.PixelData = rng.integers(level, level + 50, (8, 8), dtype=np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


@pytest.fixture(scope="session")
def instance() -> Callable[..., Dataset]:
    """Factory of small instances."""
    return build_instance


class HistogramFinder:
    """Compares series by the histogram of their pixels; `index` reads what the catalog holds by then."""

    encoder_id = EncoderId("histogram-16")

    def __init__(self, catalog: Catalog, spool: Spool) -> None:
        self._catalog, self._lookup, self._spool = catalog, catalog.lookup, spool
        self._features: dict[int, np.ndarray] = {}
        self._slices: dict[int, tuple[SliceRef, ...]] = {}
        self.asked: list[tuple[Seed, frozenset[int] | None]] = []

    def index(self) -> None:
        found: dict[int, list[tuple[SliceRef, np.ndarray]]] = {}
        for entity in self._lookup.entities(Level.IMAGE):
            uid = entity.attributes["00080018"]["Value"][0]
            syntax_file = self._spool.path(str(self._lookup.instance_path(uid)))
            pixels = dcmread(BytesIO(syntax_file.read_bytes()))
            if "PixelData" in pixels and pixels.PixelData:
                counts, _ = np.histogram(pixels.pixel_array, bins=16, range=(0, 1600))
                ref = SliceRef(SOPInstanceUID(uid), None)
                found.setdefault(entity.series_pk, []).append((ref, counts / np.linalg.norm(counts)))
        for key, slices in found.items():
            mean = np.mean([feature for _, feature in slices], axis=0)
            self._features[key] = mean / np.linalg.norm(mean)
            self._slices[key] = tuple(ref for ref, _ in slices)

    def within(self, cohort: Cohort | None) -> Self:
        seen = copy.copy(self)
        seen._lookup = self._catalog.within(cohort).lookup
        return seen

    def similar(
        self,
        seed: Seed,
        *,
        limit: int,
        allowed_series: frozenset[int] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        explained: bool = True,
    ) -> Answer:
        self.asked.append((seed, allowed_series))
        query = self._seed(seed)
        scored: dict[int, list[tuple[float, SeriesInfo]]] = {}
        for info in self._lookup.series_info(list(self._features)).values():
            permitted = allowed_series is None or info.series_pk in allowed_series
            if permitted and info.study_pk != query.study_pk and not cancelled():
                similarity = float(self._features[query.series_pk] @ self._features[info.series_pk])
                scored.setdefault(info.study_pk, []).append((similarity, info))
        ranked = sorted(scored.values(), key=lambda study: -max(one[0] for one in study))
        own = [study for study in ranked if study[0][1].patient_pk == query.patient_pk]
        others = [study for study in ranked if study[0][1].patient_pk != query.patient_pk]
        together = others[:limit] + own
        hits = [self._hit(query, s, i) for i, s in enumerate(together, start=1)]
        return Answer(self.encoder_id, tuple(own_newest_first(self._lookup, hits, limit)))

    def _seed(self, seed: Seed) -> SeriesInfo:
        if seed.sop_instance_uids:
            candidates = list(self._lookup.series_of_instances(seed.sop_instance_uids))
        elif seed.series_instance_uid:
            one = self._lookup.series_by_uid(seed.series_instance_uid)
            candidates = [one] if one else []
        else:
            candidates = list(self._lookup.series_of_study(str(seed.study_instance_uid)))
        if not candidates:
            raise NotFound("the seed is not in the catalog")
        images = [one for one in candidates if one.modality in ("CT", "MR")]
        if not images:
            raise Parked("the seed has no CT or MR image")
        if images[0].series_pk not in self._features:
            raise Transient("the seed is not indexed yet")
        return images[0]

    def _hit(self, query: SeriesInfo, study: list[tuple[float, SeriesInfo]], rank: int) -> StudyHit:
        best = sorted(study, key=lambda one: -one[0])
        hits = tuple(
            SeriesHit(
                info.series_pk,
                info.series_instance_uid,
                similarity,
                (
                    ChunkMatch(
                        query.series_instance_uid,
                        self._slices[query.series_pk],
                        (0.0, 1.0),
                        self._slices[info.series_pk],
                        (0.0, 1.0),
                        similarity,
                    ),
                ),
            )
            for similarity, info in best
        )
        info = best[0][1]
        own = info.patient_pk == query.patient_pk
        return StudyHit(
            info.study_pk,
            StudyInstanceUID(info.study_instance_uid),
            rank,
            best[0][0],
            Relation.PRIOR if own else Relation.ANALOGUE,
            Completeness.COMPLETE,
            hits,
        )


@dataclass
class Node:
    """A running node and what a test looks into."""

    settings: Settings
    catalog: Catalog
    spool: Spool
    finder: HistogramFinder
    server: DicomServer

    @property
    def port(self) -> int:
        return self.server.bound_port

    def files(self) -> list[Path]:
        return sorted(self.spool.folder.glob("*/*/*.dcm"))

    def series_uids(self) -> set[SeriesInstanceUID]:
        found = self.catalog.lookup.entities(Level.SERIES)
        return {SeriesInstanceUID(entity.attributes["0020000E"]["Value"][0]) for entity in found}


@contextmanager
def run_node(data_dir: Path, overrides: Mapping[str, Any] | None = None) -> Iterator[Node]:
    """A node that runs in this process; arguments are settings (``dicom.max_results``) by dotted key."""
    settings = settings_of(data_dir, **{"dicom.port": 0, "fetch.deadline_s": 0.2, **(overrides or {})})
    with Catalog(settings.catalog_url) as catalog:
        spool = Spool(settings.spool_dir)
        finder = HistogramFinder(catalog, spool)
        server = DicomServer(settings, catalog, spool, finder)
        server.start()
        try:
            yield Node(settings, catalog, spool, finder, server)
        finally:
            server.stop(deadline_s=2.0)


@pytest.fixture(scope="session")
def run_a_node() -> Callable[..., AbstractContextManager[Node]]:
    """Factory of running nodes on a data folder; see `run_node`."""
    return run_node


@pytest.fixture
def running_node(tmp_path: Path) -> Callable[..., AbstractContextManager[Node]]:
    """Factory of running nodes; see `run_node`."""
    return lambda overrides=None: run_node(tmp_path / "data", overrides)


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node with default settings, for the tests of a module that only ask."""
    with run_node(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture
def node(running_node: Callable[..., AbstractContextManager[Node]]) -> Iterator[Node]:
    """A running node with default settings."""
    with running_node() as running:
        yield running


@dataclass
class Peer:
    """An application entity that asks a node."""

    ae_title: str
    port: int
    timeout_s: float = 120.0

    @contextmanager
    def associated(
        self,
        contexts: list[tuple[str, list[str]]],
        called: str = "PACSIMILE",
    ) -> Iterator[Association]:
        entity = AE(ae_title=self.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.timeout_s
        for abstract, syntaxes in contexts:
            entity.add_requested_context(abstract, syntaxes)
        association = entity.associate("127.0.0.1", self.port, ae_title=called)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()
            if association.dul.socket is not None and association.dul.socket.socket is not None:
                association.dul.socket.socket.close()

    def send(self, *datasets: Dataset, called: str = "PACSIMILE") -> list[Dataset]:
        """C-STORE each; the status data sets."""
        wanted = {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}
        with self.associated([(str(uid), [syntax]) for uid, syntax in sorted(wanted)], called) as association:
            assert association.is_established
            return [association.send_c_store(dataset) for dataset in datasets]

    def find(
        self,
        identifier: Dataset,
        called: str = "PACSIMILE",
        model: UID = StudyRoot,
        syntax: UID = ExplicitVRLittleEndian,
    ) -> tuple[list[tuple[int, Dataset]], Dataset]:
        """C-FIND; the pending responses with their status codes, and the final status."""
        with self.associated([(model, [syntax])], called) as association:
            assert association.is_established
            answers = list(association.send_c_find(identifier, model))
        pending = [(status.Status, found) for status, found in answers if found is not None]
        return pending, answers[-1][0]

    def move(
        self,
        identifier: Dataset,
        to: str = "DEST",
        model: UID = StudyMove,
        syntax: UID = ExplicitVRLittleEndian,
        called: str = "PACSIMILE",
    ) -> list[tuple[Dataset, Dataset | None]]:
        """C-MOVE; the responses with what their identifiers say."""
        with self.associated([(model, [syntax])], called) as association:
            assert association.is_established
            return list(association.send_c_move(identifier, to, model))

    def get(
        self,
        identifier: Dataset,
        model: UID = StudyGet,
        syntax: str = ExplicitVRLittleEndian,
        respond: Callable[[Any, int], int] = lambda _event, _number: 0,
    ) -> tuple[list[tuple[Dataset, Dataset | None]], list[Dataset]]:
        """C-GET of CT images; the responses, and what came. `respond` decides what each C-STORE is answered."""
        came: list[Dataset] = []

        def store(event: Any) -> int:  # noqa: ANN401 - the library has no types
            came.append(event.dataset)
            return respond(event, len(came))

        entity = AE(ae_title=self.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.timeout_s
        entity.add_requested_context(model, ExplicitVRLittleEndian)
        entity.add_requested_context(CTImageStorage, syntax)
        roles = [build_role(CTImageStorage, scp_role=True)]
        handlers = [(evt.EVT_C_STORE, store)]
        association = entity.associate(
            "127.0.0.1", self.port, ae_title="PACSIMILE", ext_neg=roles, evt_handlers=handlers
        )
        assert association.is_established
        responses = list(association.send_c_get(identifier, model))
        association.release()
        return responses, came


@pytest.fixture(scope="session")
def peer() -> Callable[..., Peer]:
    """Factory of peers: a node and, if it matters, a calling AE title."""
    return lambda node, ae_title="WORKSTATION", **more: Peer(ae_title, node.port, **more)


@pytest.fixture(scope="session")
def patient_root() -> UID:
    """Patient Root Query/Retrieve Information Model - FIND."""
    return UID(PatientRoot)


@pytest.fixture
def _unchecked_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pydicom write keys whose ranges and wild cards are no values of their VR."""
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)


@pytest.fixture(scope="session")
def query() -> Callable[..., Dataset]:
    """Factory of identifiers: the level, then keys by keyword; None asks for the value."""

    def build(level: str | None = "STUDY", **keys: object) -> Dataset:
        identifier = Dataset()
        if level is not None:
            identifier.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(identifier, keyword, value)
        return identifier

    return build


@pytest.fixture
def dest_port(find_port: Callable[[], int]) -> int:
    """Where the move destination DEST listens, if a test starts it."""
    return find_port()


@pytest.fixture
def network_timeout_s() -> float:
    """How long a node that moves waits for those that do not answer; tests may want less."""
    return 120.0


@pytest.fixture
def moving_node(
    running_node: Callable[..., AbstractContextManager[Node]], dest_port: int, network_timeout_s: float
) -> Iterator[Node]:
    """A node with one peer."""
    peers = [{"aet": "DEST", "host": "127.0.0.1", "port": dest_port}]
    with running_node({"peers": peers, "dicom.network_timeout_s": network_timeout_s}) as running:
        yield running


@pytest.fixture
def storescp(dcmtk: Callable[[str], str], dest_port: int, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start DCMTK's storescp as DEST; the folder that it writes to."""
    processes = []

    def start(*options: str) -> Path:
        folder = tmp_path / "dest"
        folder.mkdir()
        command = [dcmtk("storescp"), "-aet", "DEST", "-od", str(folder), "-uf", "+B", *options, str(dest_port)]
        processes.append(subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"}))
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", dest_port), 1).close()
                return folder
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def destination(dest_port: int) -> Callable[..., AbstractContextManager[list[Any]]]:
    """Start a destination whose answers a test decides: `respond` is given each event and its number."""

    @contextmanager
    def start(respond: Callable[[Any, int], int], *syntaxes: str) -> Iterator[list[Any]]:
        events: list[Any] = []

        def store(event: Any) -> int:  # noqa: ANN401 - the library has no types
            events.append(event)
            return respond(event, len(events))

        entity = AE("DEST")
        entity.add_supported_context(CTImageStorage, list(syntaxes) or [ExplicitVRLittleEndian])
        server = entity.start_server(("127.0.0.1", dest_port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
        try:
            yield events
        finally:
            server.shutdown()

    return start


def fill_node(node: Node, number: int = 5) -> list[Dataset]:
    """Send one study of two series, and one of another patient; the instances of the first."""
    own = [
        build_instance(SOPInstanceUID=f"2.25.11{n}", SeriesInstanceUID=f"2.25.1{1 + n % 2}", InstanceNumber=n)
        for n in range(number)
    ]
    other = build_instance(
        StudyInstanceUID="2.25.2", SeriesInstanceUID="2.25.21", SOPInstanceUID="2.25.211", PatientID="P2"
    )
    assert all(status.Status == 0 for status in Peer("SENDER", node.port).send(*own, other))
    return own


@pytest.fixture(scope="session")
def fill() -> Callable[..., list[Dataset]]:
    """Fill a node with a small archive."""
    return fill_node
