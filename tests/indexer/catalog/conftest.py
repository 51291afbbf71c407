"""A catalog on SQLite and on a private PostgreSQL server, and instances without files to enter into it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from engines import Server
from pydicom.uid import UID, ExplicitVRLittleEndian

from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.progress import LeasedSeries
from indexer.catalog.receipts import OnConflict, Receipt, StoredFile
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

CT = "1.2.840.10008.5.1.4.1.1.2"
ENCODER = EncoderId("encoder-a")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of every kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    server: Server = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog(url) as opened:
        yield opened


def build_header(
    sop: str,
    series: str = "2.25.11",
    study: str = "2.25.1",
    patient_id: str = "P1",
    modality: str = "CT",
    sop_class: str = CT,
    **attributes: str,
) -> InstanceHeader:
    """Header of an instance; further attributes (by JSON Model tag) go to the study level."""
    return InstanceHeader(
        sop_instance_uid=SOPInstanceUID(sop),
        sop_class_uid=UID(sop_class),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_instance_uid=SeriesInstanceUID(series),
        study_instance_uid=StudyInstanceUID(study),
        patient={"00100020": {"vr": "LO", "Value": [patient_id]}},
        study={
            "0020000D": {"vr": "UI", "Value": [study]},
            **{tag: {"vr": "SH", "Value": [value]} for tag, value in attributes.items()},
        },
        series={
            "0020000E": {"vr": "UI", "Value": [series]},
            "00080060": {"vr": "CS", "Value": [modality]},
        },
        instance={"00080018": {"vr": "UI", "Value": [sop]}},
    )


def build_file(sop: str, content: str = "") -> StoredFile:
    return StoredFile(path=f"{sop}{content}.dcm", size_bytes=100, sha256=f"{sop}{content}".rjust(64, "0"))


def build_chunk(
    position: int = 0, *, seed: int = 0, volume: int = 0, kinds: Sequence[str] = (GLOBAL,)
) -> EmbeddedChunk:
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((len(kinds), 256))
    return EmbeddedChunk(
        volume=volume,
        position=position,
        box_lps_mm=(0.0, 0.0, 40.0 * position, 100.0, 100.0, 40.0 * position + 80.0),
        slices=(SliceRef(SOPInstanceUID(f"2.25.9.{position}"), None),),
        embeddings={
            kind: (one / np.linalg.norm(one)).astype(np.float32) for kind, one in zip(kinds, drawn, strict=True)
        },
    )


@dataclass
class Archive:
    """Shortcuts through a catalog."""

    catalog: Catalog
    entered: list[str] = field(default_factory=list)

    def enter(
        self,
        sop: str,
        series: str = "2.25.11",
        *,
        content: str = "",
        on_conflict: OnConflict = "keep-first",
        **who: str,
    ) -> Receipt:
        header = build_header(sop, series, **who)
        return self.catalog.receipts.enter(header, build_file(sop, content), on_conflict)

    def settled(self, series: str = "2.25.11", instances: int = 2, **who: str) -> None:
        for number in range(instances):
            self.enter(f"{series}.{number}", series, **who)
        self.catalog.progress.settle(0.0)

    def leased(self, series: str = "2.25.11", owner: str = "w1", **who: str) -> LeasedSeries:
        self.settled(series, **who)
        leased = self.catalog.progress.lease(owner, 60.0)
        assert leased is not None
        return leased

    def indexed(
        self, series: str = "2.25.11", chunks: int = 2, encoder: EncoderId = ENCODER, **who: str
    ) -> LeasedSeries:
        leased = self.leased(series, **who)
        self.finish(leased, "w1", [build_chunk(n, seed=n) for n in range(chunks)], encoder)
        return leased

    def finish(
        self,
        leased: LeasedSeries,
        owner: str | None,
        chunks: Sequence[EmbeddedChunk],
        encoder: EncoderId = ENCODER,
    ) -> None:
        self.catalog.embeddings.finish(leased, owner, encoder, chunks, seconds={"encode": 1.5}, notes=["a note"])

    def state(self, series: str = "2.25.11") -> tuple[str, str]:
        info = self.catalog.lookup.series_by_uid(series)
        assert info is not None
        return info.state, info.reason


@pytest.fixture
def archive(catalog: Catalog) -> Archive:
    return Archive(catalog)


@pytest.fixture
def an_archive() -> Callable[[Catalog], Archive]:
    return Archive


@pytest.fixture
def a_header() -> Callable[..., InstanceHeader]:
    return build_header


@pytest.fixture
def a_file() -> Callable[..., StoredFile]:
    return build_file


@pytest.fixture
def a_chunk() -> Callable[..., EmbeddedChunk]:
    return build_chunk
