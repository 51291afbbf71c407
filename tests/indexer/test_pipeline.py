"""From stored instances to embeddings, with a real network of a few weights: what succeeds, and what does not."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from engines import catalog_url
from pydicom import Dataset

from indexer.attributes import header_of
from indexer.bundle import read_bundle
from indexer.catalog import Catalog, SeriesState
from indexer.catalog.embeddings import GLOBAL
from indexer.catalog.lookup import Level
from indexer.catalog.receipts import StoredFile
from indexer.encoder import Encoded, Encoder, MonaiEncoder
from indexer.errors import Damaged, Parked, Transient
from indexer.pipeline import Outcome, Pipeline, embed_series
from indexer.uids import EncoderId
from indexer.volume import Volume

Scan = Callable[..., list[Dataset]]
Save = Callable[[Iterable[Dataset]], list[Path]]
HEIGHTS = range(-30, 50, 4)
UID = "2.25.1001"


@pytest.fixture(scope="module")
def encoder() -> MonaiEncoder:
    return MonaiEncoder(read_bundle("tiny"), "cpu", 1)


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> MonaiEncoder:
    shipped = resources.files("indexer").joinpath("bundles", "tiny.toml").read_text(encoding="utf-8")
    file = tmp_path_factory.mktemp("bundle") / "other.toml"
    file.write_text(shipped.replace('name = "tiny"', 'name = "other"').replace("seed = 20240229", "seed = 7"))
    return MonaiEncoder(read_bundle(str(file)), "cpu", 1)


@dataclass
class Meddled:
    """The real encoder, and something that happens before it sees a volume."""

    encoder: Encoder
    meddle: Callable[[int], None]
    seen: list[int] = field(default_factory=list)

    @property
    def encoder_id(self) -> EncoderId:
        return self.encoder.encoder_id

    def encode(self, volume: Volume, ordinal: int = 0) -> Encoded:
        self.seen.append(ordinal)
        self.meddle(ordinal)
        return self.encoder.encode(volume, ordinal)


def raising(error: BaseException, at: int | None = None) -> Callable[[int], None]:
    def meddle(ordinal: int) -> None:
        if at in (None, ordinal):
            raise error

    return meddle


class Site:
    """A catalog and its spool."""

    def __init__(self, catalog: Catalog, folder: Path, scan: Scan, save: Save) -> None:
        self.catalog, self.folder, self._scan, self._save = catalog, folder, scan, save

    def receive(self, heights: Iterable[float] = HEIGHTS, series: str = UID, **attributes: object) -> list[Path]:
        positions = [(-40.0, -45.0, float(height)) for height in heights]
        datasets = self._scan(
            positions, shape=(40, 40), spacing_mm=(2.0, 2.0), SeriesInstanceUID=series, **attributes
        )
        return self.store(datasets)

    def store(self, datasets: list[Dataset]) -> list[Path]:
        paths = self._save(datasets)
        for dataset, path in zip(datasets, paths, strict=True):
            header = header_of(dataset, dataset.file_meta.TransferSyntaxUID)
            file = StoredFile(path.name, path.stat().st_size, dataset.SOPInstanceUID.rjust(64, "0"))
            self.catalog.receipts.enter(header, file, "keep-first")
        self.catalog.progress.settle(0.0)
        return paths

    def pipeline(self, encoder: Encoder, max_attempts: int = 2, lease_s: float = 60.0) -> Pipeline:
        return Pipeline(self.catalog, encoder, self.folder, "w1", lease_s=lease_s, max_attempts=max_attempts)

    def receive_several(self, number: int) -> list[str]:
        """Receive so many series, the oldest first."""
        names = [f"2.25.{k}" for k in range(1, number + 1)]
        for name in names:
            self.receive(HEIGHTS[:8], name, StudyInstanceUID=f"{name}0")
        return names

    def reading_ahead(self, encoder: Encoder, max_attempts: int = 2) -> Pipeline:
        return Pipeline(
            self.catalog, encoder, self.folder, "w1", lease_s=60.0, max_attempts=max_attempts, read_ahead=True
        )

    def work(self, encoder: Encoder, **keywords: float) -> Outcome:
        outcome = self.pipeline(encoder, **keywords).work_one()
        assert outcome is not None
        return outcome

    def chunks(self, encoder: Encoder, series: str = UID) -> int:
        return len(self.catalog.embeddings.chunks([self.pk(series)], encoder.encoder_id))

    def pk(self, series: str = UID) -> int:
        info = self.catalog.lookup.series_by_uid(series)
        assert info is not None
        return info.series_pk

    def state(self, series: str = UID) -> str:
        info = self.catalog.lookup.series_by_uid(series)
        assert info is not None
        return info.state

    def is_complete(self, encoder: Encoder, series: str = UID) -> bool:
        return self.catalog.embeddings.revisions([self.pk(series)], encoder.encoder_id)[self.pk(series)]


@pytest.fixture
def site(tmp_path: Path, scan: Scan, save: Save) -> Iterator[Site]:
    with Catalog(catalog_url(tmp_path / "catalog")) as catalog:
        yield Site(catalog, tmp_path, scan, save)


def test_a_series_is_indexed(site: Site, encoder: MonaiEncoder) -> None:
    site.receive()
    outcome = site.work(encoder)
    assert (outcome.state, outcome.reason, site.state()) == (SeriesState.INDEXED, "", SeriesState.INDEXED)
    assert {"read", "volume", "encode", "index"} <= set(outcome.seconds)
    assert site.is_complete(encoder)
    chunks = site.catalog.embeddings.chunks([site.pk()], encoder.encoder_id)
    assert {ref.sop_instance_uid for chunk in chunks for ref in chunk.slices} == {str(one) for one in _sops(site)}
    assert chunks[0].box_lps_mm[2] < HEIGHTS[0] + 6
    assert chunks[-1].box_lps_mm[5] > HEIGHTS[-1] - 6
    seconds, notes = site.catalog.embeddings.record_of(site.pk(), encoder.encoder_id)
    assert seconds.keys() == outcome.seconds.keys() - {"index"}
    assert notes == []
    assert site.pipeline(encoder).work_one() is None


def _sops(site: Site) -> list[str]:
    return [one.attributes["00080018"]["Value"][0] for one in site.catalog.lookup.entities(Level.IMAGE)]


def test_a_series_that_is_no_volume_is_parked_with_a_reason(site: Site, encoder: MonaiEncoder) -> None:
    site.receive([0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    outcome = site.work(encoder)
    assert outcome.state == SeriesState.PARKED
    (parked,) = site.catalog.progress.parked()
    assert parked.reason == outcome.reason != ""
    assert site.pipeline(encoder).work_one() is None


def test_late_instances_replace_the_embeddings(site: Site, encoder: MonaiEncoder) -> None:
    site.receive(HEIGHTS[:8])
    site.work(encoder)
    before = site.catalog.embeddings.ids(encoder.encoder_id).tolist()
    few = site.chunks(encoder)
    site.receive([*HEIGHTS[8:], *range(50, 130, 4)])
    assert not site.is_complete(encoder)
    assert site.catalog.embeddings.ids(encoder.encoder_id).tolist() == before
    site.work(encoder)
    assert site.is_complete(encoder)
    assert site.chunks(encoder) > few
    assert not set(before) & set(site.catalog.embeddings.ids(encoder.encoder_id).tolist())


def test_an_instance_that_comes_while_its_series_is_embedded(site: Site, encoder: MonaiEncoder) -> None:
    site.receive(HEIGHTS[:8])
    slow = Meddled(encoder, lambda _: None if len(slow.seen) > 1 else site.receive([HEIGHTS[8]]) and None)
    first = site.work(slow)
    assert first.state == SeriesState.INDEXED
    assert site.state() == SeriesState.SETTLED
    assert not site.is_complete(encoder)
    site.work(slow)
    assert (site.state(), site.is_complete(encoder)) == (SeriesState.INDEXED, True)
    refs = {ref for one in site.catalog.embeddings.chunks([site.pk()], encoder.encoder_id) for ref in one.slices}
    assert len(refs) == 9
    assert site.pipeline(slow).work_one() is None


def test_the_unexpected_is_tried_again_and_then_parked(
    site: Site, encoder: MonaiEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    site.receive()
    failing = Meddled(encoder, raising(RuntimeError("Doe^Jane")))
    with caplog.at_level(logging.CRITICAL, "indexer.pipeline"):
        first, second = site.work(failing), site.work(failing)
    assert (first.state, second.state) == (SeriesState.SETTLED, SeriesState.PARKED)
    assert second.reason == "unexpected RuntimeError while indexing it; see the log, 2 times"
    assert site.catalog.progress.parked()[0].reason == second.reason
    assert "Doe" not in first.reason + second.reason
    site.receive([60.0])
    assert site.work(encoder).state == SeriesState.INDEXED


@pytest.mark.parametrize("late", [False, True])
def test_too_large_for_the_worker(site: Site, encoder: MonaiEncoder, late: bool) -> None:
    """What was embedded before stays."""
    site.receive(HEIGHTS[:8])
    if late:
        site.work(encoder)
        site.receive(HEIGHTS[8:])
    outcome = site.work(Meddled(encoder, raising(MemoryError())))
    assert outcome.state == SeriesState.PARKED
    assert "indexing.memory_limit_mib" in outcome.reason
    assert (site.chunks(encoder) > 0) == late


def test_one_bad_volume_of_several_is_left_out_with_a_note(site: Site, encoder: MonaiEncoder) -> None:
    for number, echo_time in enumerate((10.0, 90.0)):
        positions = [float(height) for height in HEIGHTS]
        site.receive(positions, EchoTime=echo_time, EchoNumbers=number + 1)
    picky = Meddled(encoder, raising(Parked("the encoder has no use for it"), at=0))
    outcome = site.work(picky)
    assert picky.seen == [0, 1]
    assert outcome.state == SeriesState.INDEXED
    notes = site.catalog.embeddings.record_of(site.pk(), encoder.encoder_id)[1]
    assert "a volume was left out: the encoder has no use for it" in notes
    assert {one.volume for one in site.catalog.embeddings.chunks([site.pk()], encoder.encoder_id)} == {1}


def test_every_volume_bad(site: Site, encoder: MonaiEncoder) -> None:
    site.receive()
    outcome = site.work(Meddled(encoder, raising(Parked("the encoder has no use for it"))))
    assert (outcome.state, outcome.reason) == (SeriesState.PARKED, "the encoder has no use for it")


def test_part_of_a_series_never_passes_for_the_whole(site: Site, encoder: MonaiEncoder) -> None:
    paths = site.receive()
    paths[3].unlink()
    outcome = site.work(encoder)
    assert outcome.state == SeriesState.PARKED
    assert outcome.reason == f"1 of its {len(HEIGHTS)} files are missing from the spool"


def test_what_cannot_be_read_for_now_lets_others_pass(site: Site, encoder: MonaiEncoder) -> None:
    paths = site.receive()
    content = paths[3].read_bytes()
    paths[3].unlink()
    paths[3].mkdir()  # the system refuses to read it, and not because it is not there
    site.receive(series="2.25.2001", StudyInstanceUID="2.25.2000")
    first, second = site.work(encoder), site.work(encoder)
    assert (first.series_instance_uid, first.state) == (UID, SeriesState.SETTLED)
    assert (second.series_instance_uid, second.state) == ("2.25.2001", SeriesState.INDEXED)
    assert site.pipeline(encoder).work_one() is None
    paths[3].rmdir()
    paths[3].write_bytes(content)
    site.receive([60.0])
    assert site.work(encoder).state == SeriesState.INDEXED


@dataclass
class Unfetched:
    """Objects of which none can be fetched."""

    error: Exception

    def __truediv__(self, name: str | Path, /) -> Path:
        raise self.error

    def is_dir(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Transient("the store is away"), SeriesState.SETTLED, "the store is away"),
        (Damaged("it is not"), SeriesState.PARKED, f"one of its {len(HEIGHTS)} files is damaged: it is not"),
    ],
)
def test_objects_that_cannot_be_fetched(
    site: Site, encoder: MonaiEncoder, error: Exception, state: SeriesState, reason: str
) -> None:
    site.receive()
    outcome = Pipeline(site.catalog, encoder, Unfetched(error), "w1", lease_s=60.0, max_attempts=1).work_one()
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (state, reason)


def test_without_its_spool_nothing_is_parked(site: Site, encoder: MonaiEncoder, tmp_path: Path) -> None:
    site.receive()
    elsewhere = Pipeline(site.catalog, encoder, tmp_path / "unmounted", "w1", lease_s=60.0, max_attempts=1)
    outcome = elsewhere.work_one()
    assert outcome is not None
    assert (outcome.state, outcome.reason) == (SeriesState.SETTLED, "the spool folder is not there")


def test_workers_that_never_come_back_are_counted(site: Site, encoder: MonaiEncoder) -> None:
    site.receive()
    for _ in range(2):
        assert site.catalog.progress.lease("lost", -1.0) is not None
    outcome = site.work(encoder)
    assert (outcome.state, outcome.reason) == (
        SeriesState.PARKED,
        "its worker was lost while indexing it, 2 times",
    )


def test_embeddings_that_are_no_numbers_never_reach_the_catalog(site: Site, encoder: MonaiEncoder) -> None:
    class Broken(Meddled):
        def encode(self, volume: Volume, ordinal: int = 0) -> Encoded:
            encoded = self.encoder.encode(volume, ordinal)
            one = encoded.chunks[0]
            vector = np.full_like(one.embeddings[GLOBAL], np.nan)
            chunk = type(one)(one.volume, one.position, one.box_lps_mm, one.slices, {GLOBAL: vector})
            return Encoded((chunk,), encoded.seconds)

    site.receive()
    outcome = site.work(Broken(encoder, lambda _: None), max_attempts=1)
    assert outcome.state == SeriesState.PARKED
    assert "ValueError" in outcome.reason
    assert site.catalog.embeddings.count(encoder.encoder_id) == 0


def test_a_new_encoder_takes_over_once_it_has_seen_everything(
    site: Site, encoder: MonaiEncoder, other_encoder: MonaiEncoder
) -> None:
    for number in (1, 2):
        site.receive(HEIGHTS[:8], f"2.25.{number}", StudyInstanceUID=f"2.25.{number}0")
        site.work(encoder)
    embeddings = site.catalog.embeddings
    assert site.pipeline(encoder).embed_again() is None
    assert embeddings.active_encoder() == encoder.encoder_id
    new = site.pipeline(other_encoder)
    first = new.embed_again()
    assert first is not None
    assert (first.series_instance_uid, first.state) == ("2.25.1", SeriesState.INDEXED)
    assert new.embed_again() is not None
    assert embeddings.active_encoder() == encoder.encoder_id
    assert new.embed_again() is None
    assert embeddings.active_encoder() == other_encoder.encoder_id
    assert embeddings.count(encoder.encoder_id) == embeddings.count(other_encoder.encoder_id) > 0


def test_a_series_that_a_new_encoder_cannot_embed_stops_no_other(
    site: Site, encoder: MonaiEncoder, other_encoder: MonaiEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        site.receive(HEIGHTS[:8], f"2.25.{number}", StudyInstanceUID=f"2.25.{number}0")
        site.work(encoder)
    failing = Meddled(other_encoder, lambda _: raising(KeyError("layer"))(0) if len(failing.seen) == 1 else None)
    new = site.pipeline(failing)
    with caplog.at_level(logging.CRITICAL, "indexer.pipeline"):
        outcomes = [new.embed_again() for _ in range(3)]
    assert outcomes[2] is None
    assert site.catalog.embeddings.active_encoder() == other_encoder.encoder_id
    assert (site.chunks(failing, "2.25.1"), site.chunks(failing, "2.25.2") > 0) == (0, True)
    notes = site.catalog.embeddings.record_of(site.pk("2.25.1"), failing.encoder_id)[1]
    assert notes == ["not embedded by this encoder: unexpected KeyError while indexing it; see the log"]


def test_an_idle_worker_does_not_go_through_every_series(
    site: Site, encoder: MonaiEncoder, other_encoder: MonaiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.receive(HEIGHTS[:8])
    site.work(encoder)
    pipeline = site.pipeline(other_encoder)
    assert pipeline.embed_again() is not None
    assert pipeline.embed_again() is None
    with monkeypatch.context() as patched:
        patched.setattr(type(site.catalog.progress), "not_yet_by", lambda *_: 1 / 0)
        assert pipeline.embed_again() is None
    site.receive([60.0])
    site.work(encoder)
    assert pipeline.embed_again() is not None


def test_an_image_that_comes_while_a_new_encoder_is_at_work(
    site: Site, encoder: MonaiEncoder, other_encoder: MonaiEncoder
) -> None:
    site.receive(HEIGHTS[:8])
    site.work(encoder)
    slow = Meddled(other_encoder, lambda _: None if len(slow.seen) > 1 else site.receive([HEIGHTS[8]]) and None)
    assert site.pipeline(slow).embed_again() is not None
    assert not site.is_complete(other_encoder)
    site.work(encoder)
    assert site.pipeline(slow).embed_again() is not None
    assert site.is_complete(other_encoder)
    assert site.pipeline(slow).embed_again() is None


def test_the_next_series_is_read_while_one_is_embedded(site: Site, encoder: MonaiEncoder) -> None:
    """Read beforehand it needs its files no more; when the pipeline is closed it waits again, without blame."""
    first, second, third = site.receive_several(3)
    states: list[list[str]] = []

    def wait_for_reading(_: int) -> None:
        states.append([site.state(one) for one in (first, second, third)])
        waiting = pipeline._ahead._next
        assert waiting is not None
        assert waiting[1] is not None
        waiting[1].result(60)
        if waiting[0].series_instance_uid == second:
            for path in waiting[0].paths:
                (site.folder / path).unlink()

    pipeline = site.reading_ahead(Meddled(encoder, wait_for_reading))
    outcomes = [pipeline.work_one() for _ in range(2)]
    assert [(one.series_instance_uid, one.state) for one in outcomes if one] == [
        (first, SeriesState.INDEXED),
        (second, SeriesState.INDEXED),
    ]
    assert states == [["INDEXING", "INDEXING", "SETTLED"], ["INDEXED", "INDEXING", "INDEXING"]]
    alone, ahead = (site.catalog.embeddings.chunks([site.pk(one)], encoder.encoder_id) for one in (first, second))
    assert [one.box_lps_mm for one in ahead] == [one.box_lps_mm for one in alone]
    pipeline.close()
    assert site.state(third) == SeriesState.SETTLED
    assert site.work(encoder, max_attempts=1).state == SeriesState.INDEXED


def test_a_series_that_was_tried_is_worked_on_alone(site: Site, encoder: MonaiEncoder) -> None:
    """Two that a worker held when it ended are both blamed; each is then tried without the other."""
    names = site.receive_several(2)
    for untried in (False, True):
        assert site.catalog.progress.lease("lost", 60.0, untried=untried) is not None
    assert site.catalog.progress.release("lost", 3, blame=True) == 2
    states: list[set[str]] = []
    pipeline = site.reading_ahead(
        Meddled(encoder, lambda _: states.append({site.state(one) for one in names})), max_attempts=3
    )
    assert [pipeline.work_one() is None for _ in range(3)] == [False, False, True]
    assert states == [{"INDEXING", "SETTLED"}, {"INDEXING", "INDEXED"}]


def test_too_large_for_two_at_once(site: Site, encoder: MonaiEncoder) -> None:
    """What is read ahead is let go, and the series embedded alone; the other one's turn comes all the same."""
    names = site.receive_several(2)
    narrow = Meddled(encoder, lambda _: raising(MemoryError())(0) if pipeline._ahead.is_busy else None)
    pipeline = site.reading_ahead(narrow)
    assert [pipeline.work_one() is None for _ in range(3)] == [False, False, True]
    assert [site.state(one) for one in names] == [SeriesState.INDEXED, SeriesState.INDEXED]
    assert len(narrow.seen) == 3


def test_embed_series_needs_no_catalog(site: Site, encoder: MonaiEncoder) -> None:
    done = embed_series(site.receive(), encoder)
    assert len(done.chunks) >= 1
    assert done.notes == []
    with pytest.raises(Parked):
        embed_series([], encoder)
