"""Following an Orthanc: nothing is missed, whoever is killed, and whatever becomes of its list of changes."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import engines
import pytest
from pydicom import dcmread

from config.model import Settings
from dicom_scp.forgetting import Forgetter
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.lookup import Level
from indexer.catalog.orthanc_studies import PullProblem
from indexer.errors import Transient
from node.orthanc import changes
from node.orthanc.changes import ChangeReader
from node.orthanc.client import OrthancClient
from node.orthanc.follower import Follower
from node.orthanc.takeover import Takeover, Tally

Factory = Callable[..., Any]
Node = Orthanc = Any
"""Those of the conftests."""
WAIT_S = 300.0


def url_of(orthanc: Orthanc) -> str:
    return f"http://127.0.0.1:{orthanc.port}"


def settings_of(orthanc: Orthanc, folder: Path, **more: object) -> Settings:
    quick = {"orthanc.poll_s": 0.2, "orthanc.first_retry_s": 0.2, "orthanc.retries": 0}
    return engines.settings_of(folder, **{"orthanc.url": url_of(orthanc), **quick, **more})


class Archive:
    """A catalog and a spool that take over from an Orthanc, without a node around them."""

    def __init__(self, settings: Settings, parts: ExitStack) -> None:
        self.settings = settings
        self.catalog = parts.enter_context(Catalog(settings.catalog_url))
        self.spool = Spool(settings.spool_dir)
        self.client = OrthancClient(settings.orthanc)
        parts.callback(self.client.close)
        self.reader = ChangeReader(self.catalog.orthanc_studies, self.client)

    def read(self) -> None:
        while self.reader.read_on():
            pass

    def take_over(self) -> list[Tally]:
        """Take over whatever is due."""
        return list(iter(self.take_one, None))

    def take_one(self, *, only_stable: bool = False) -> Tally | None:
        takeover = Takeover(
            self.settings, self.catalog, self.spool, self.client, only_stable=only_stable, stopping=Event()
        )
        return takeover.work_one()

    def held(self) -> set[str]:
        return {one.attributes["00080018"]["Value"][0] for one in self.catalog.lookup.entities(Level.IMAGE)}

    def file(self, uid: str) -> Path:
        return self.spool.path(str(self.catalog.lookup.instance_path(uid)))

    @property
    def waiting(self) -> int:
        return self.catalog.orthanc_studies.waiting(self.client.server)

    def problems(self) -> list[PullProblem]:
        return self.catalog.orthanc_studies.problems(self.client.server)

    @contextmanager
    def following(self) -> Iterator[Follower]:
        follower = Follower(self.settings, self.catalog, self.spool)
        follower.start()
        try:
            yield follower
        finally:
            follower.stop(WAIT_S)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Callable[..., Archive]]:
    with ExitStack() as parts:
        yield lambda orthanc, **more: Archive(settings_of(orthanc, tmp_path / "data", **more), parts)


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies that are not stable yet are looked at all the time."""
    monkeypatch.setattr(changes, "STABLE_CHECK_S", 0.0)


@pytest.fixture
def few(make_series: Factory, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Factory of the first instances of a series, for what is not to be indexed."""

    def make(number: int, instances: int = 4) -> Path:
        folder = tmp_path_factory.mktemp(f"few{number}")
        for file in sorted(make_series(number).rglob("*.dcm"))[:instances]:
            shutil.copy(file, folder)
        return folder

    return make


@pytest.fixture
def orthanc(start_orthanc: Factory) -> Iterator[Orthanc]:
    """One that calls a study stable after a second."""
    started = start_orthanc(StableAge=1)
    yield started
    started.stop()


@pytest.mark.slow
def test_a_node_follows_and_misses_nothing_while_it_is_killed(
    orthanc: Orthanc, start_node: Factory, make_series: Factory, wait_for: Factory
) -> None:
    variables = {"PACSIMILE_ORTHANC_URL": url_of(orthanc), "PACSIMILE_ORTHANC_POLL_S": "0.2"}
    before = orthanc.upload(make_series(91))
    node = start_node(**variables)
    wait_for(lambda: node.get("/status")["instances"] == len(before), WAIT_S, "what was there is taken over")
    node.stop(signal.SIGKILL)
    meanwhile = orthanc.upload(make_series(92))
    node = start_node(**variables)
    number = len(before) + len(meanwhile)
    wait_for(lambda: node.get("/status")["instances"] == number, WAIT_S, "what came meanwhile is taken over")
    assert node.wait_until_indexed()["series_by_state"] == {"INDEXED": 2}
    afterwards = orthanc.upload(make_series(93))
    number += len(afterwards)
    wait_for(lambda: node.get("/status")["instances"] == number, WAIT_S, "what comes now is taken over")
    assert node.wait_until_indexed()["series_by_state"] == {"INDEXED": 3}
    study = dcmread(next(iter(afterwards.values())), stop_before_pixels=True).StudyInstanceUID
    assert len(node.get(f"/studies/{study}/similar")["hits"]) == 2
    with node.catalog() as catalog:
        for uid, file in (before | meanwhile | afterwards).items():
            stored = dcmread(node.data_dir / "spool" / str(catalog.lookup.instance_path(uid)))
            assert stored.file_meta.SourceApplicationEntityTitle == "ORTHANC"
            assert stored.file_meta.TransferSyntaxUID == dcmread(file).file_meta.TransferSyntaxUID
            assert stored == dcmread(file)
    assert node.stop() == 0


def test_a_study_that_was_not_stable_when_orthanc_was_killed(
    start_orthanc: Factory,
    archive: Factory,
    few: Factory,
    wait_for: Factory,
) -> None:
    orthanc = start_orthanc(StableAge=3600)
    mine = archive(orthanc)
    mine.read()
    files = orthanc.upload(few(94))
    mine.read()
    assert mine.waiting == 1
    assert mine.take_one(only_stable=True) == Tally()
    assert mine.held() == set()
    orthanc.stop(signal.SIGKILL)
    with mine.following():  # Orthanc is away at first
        orthanc.start()
        wait_for(lambda: mine.held() == set(files), WAIT_S, "it is taken over")
        wait_for(lambda: not mine.waiting, WAIT_S, "nothing waits")
    changed = orthanc.get("/changes?limit=1000")["Changes"]
    assert "StableStudy" not in {one["ChangeType"] for one in changed}
    orthanc.stop()


def test_a_list_of_changes_that_was_cleared(
    orthanc: Orthanc, archive: Factory, few: Factory, wait_for: Factory
) -> None:
    mine = archive(orthanc)
    first = orthanc.upload(few(95))
    mine.read()
    assert [one.studies for one in mine.take_over()] == [1]
    second = orthanc.upload(few(96))
    wait_for(lambda: all(one["IsStable"] for one in orthanc.get("/studies?expand")), WAIT_S, "all are stable")
    orthanc.request("DELETE", "/changes").raise_for_status()
    mine.read()
    assert sum(one.verdicts["stored"] for one in mine.take_over()) == len(second)
    assert mine.held() == set(first) | set(second)
    mine.read()
    assert mine.waiting == 0
    third = orthanc.upload(few(97))
    mine.read()
    assert sum(one.verdicts["stored"] for one in mine.take_over()) == len(third)


@pytest.mark.parametrize("is_longer", [False, True])
def test_another_database_at_the_same_address(
    orthanc: Orthanc, archive: Factory, few: Factory, is_longer: bool
) -> None:
    mine = archive(orthanc)
    first, second = few(98), few(99)
    files = orthanc.upload(*([second] if is_longer else [first, second]))
    mine.read()
    mine.take_over()
    before = mine.catalog.orthanc_studies.cursor(mine.client.server)
    orthanc.stop()
    for name in ("storage", "index"):
        shutil.rmtree(orthanc.folder / name)
    orthanc.start()
    files |= orthanc.upload(*([first, second] if is_longer else [few(100)]))
    assert (orthanc.get("/changes?last")["Last"] > before.sequence) == is_longer
    mine.read()
    mine.take_over()
    assert mine.held() == set(files)  # what that Orthanc no longer has stays


def test_late_instances_are_taken_over_and_the_others_not_again(
    orthanc: Orthanc, archive: Factory, few: Factory, tmp_path: Path, wait_for: Factory
) -> None:
    mine = archive(orthanc)
    *early, late = sorted(few(101).rglob("*.dcm"))
    for file in early:
        (tmp_path / "early").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "early")
    with mine.following():
        orthanc.upload(tmp_path / "early")
        wait_for(lambda: len(mine.held()) == len(early) and not mine.waiting, WAIT_S, "the early ones")
        fetched = {uid: mine.file(uid).stat().st_mtime_ns for uid in mine.held()}
        orthanc.request("POST", "/instances", data=late.read_bytes()).raise_for_status()
        wait_for(lambda: len(mine.held()) == len(early) + 1 and not mine.waiting, WAIT_S, "the late one")
    assert {uid: mine.file(uid).stat().st_mtime_ns for uid in fetched} == fetched


def test_a_lost_file_is_fetched_again_with_the_next_instance(
    orthanc: Orthanc, archive: Factory, few: Factory, tmp_path: Path
) -> None:
    mine = archive(orthanc)
    files = orthanc.upload(few(102))
    mine.read()
    mine.take_over()
    lost = min(mine.held())
    mine.file(lost).unlink()
    next_one = dcmread(files[lost])
    next_one.SOPInstanceUID = next_one.file_meta.MediaStorageSOPInstanceUID = "2.25.4711"
    (tmp_path / "next").mkdir()
    next_one.save_as(tmp_path / "next" / "one.dcm")
    orthanc.upload(tmp_path / "next")
    mine.read()
    (tally,) = mine.take_over()
    assert tally.verdicts.total() == 2
    assert mine.file(lost).exists()


def test_what_was_deleted_in_orthanc_meanwhile_is_no_error_and_stays_here(
    orthanc: Orthanc, archive: Factory, few: Factory
) -> None:
    mine = archive(orthanc)
    files = orthanc.upload(few(104))
    mine.read()
    mine.take_over()
    orthanc.upload(few(105))
    mine.read()
    for study in orthanc.get("/studies"):
        orthanc.request("DELETE", f"/studies/{study}").raise_for_status()
    assert mine.waiting >= 1
    assert sum(one.studies for one in mine.take_over()) == 0
    mine.read()
    mine.take_over()
    assert mine.waiting == 0
    assert mine.held() == set(files)


def test_what_did_not_change_is_not_even_looked_at(
    orthanc: Orthanc, archive: Factory, few: Factory, wait_for: Factory
) -> None:
    mine = archive(orthanc)
    orthanc.upload(few(111), few(112))
    wait_for(lambda: all(one["IsStable"] for one in orthanc.get("/studies?expand")), WAIT_S, "all are stable")
    mine.reader.take_stock()
    assert [one.studies for one in mine.take_over()] == [1, 1]
    mine.reader.take_stock()
    assert mine.waiting == 0


def test_instances_that_are_not_accepted_do_not_hold_up_the_others(
    orthanc: Orthanc, archive: Factory, few: Factory
) -> None:
    files = orthanc.upload(few(106))
    mine = archive(orthanc, **{"dicom.max_object_mib": 1})
    large = dcmread(next(few(107).rglob("*.dcm")))
    large.PixelData = large.PixelData.ljust(2 << 20, b"\0")
    (folder := mine.spool.folder.parent / "large").mkdir()
    large.save_as(folder / "one.dcm")
    orthanc.upload(folder)
    mine.read()
    (refused,) = [one.refused for one in mine.take_over() if one.refused]
    assert "dicom.max_object_mib" in next(iter(refused))
    assert mine.held() == set(files)
    assert mine.waiting == 0
    (problem,) = mine.problems()
    assert problem.note.startswith("1 refused: ")


def test_what_is_forgotten_here_stays_forgotten_where_the_settings_say_so(
    orthanc: Orthanc, archive: Factory, few: Factory
) -> None:
    mine = archive(orthanc, **{"forgetting.refuse_again": ["REQUEST"]})
    files = orthanc.upload(few(108))
    mine.read()
    mine.take_over()
    study = str(dcmread(next(iter(files.values())), stop_before_pixels=True).StudyInstanceUID)
    forgetter = Forgetter(mine.settings.forgetting, mine.catalog, mine.spool)
    forgetter.forget(forgetter.targets_of_uid(study))
    assert mine.held() == set()
    mine.reader.take_stock()
    (tally,) = mine.take_over()
    (reason,) = tally.refused
    assert "forgotten" in reason
    assert (tally.refused[reason], mine.held(), mine.waiting) == (len(files), set(), 0)


def test_a_study_that_fails_does_not_keep_the_others_waiting(
    orthanc: Orthanc, archive: Factory, few: Factory, wait_for: Factory
) -> None:
    orthanc.upload(few(109))
    mine = archive(orthanc)
    mine.read()
    orthanc.stop()  # it keeps what came last in memory
    for file in (orthanc.folder / "storage").rglob("*"):
        if file.is_file():
            file.unlink()
    orthanc.start()
    with pytest.raises(Transient, match="Orthanc answered 500"):
        mine.take_over()
    (failing,) = mine.problems()
    files = orthanc.upload(few(110))
    (other,) = set(orthanc.get("/studies")) - {failing.public_id}
    wait_for(lambda: orthanc.get(f"/studies/{other}")["IsStable"], WAIT_S, "nothing more is told of it")
    with mine.following():
        wait_for(lambda: mine.held() == set(files), WAIT_S, "the study that can be fetched")
        wait_for(lambda: mine.waiting == 1, WAIT_S, "only the other one waits")
    (problem,) = mine.problems()
    assert (problem.public_id, problem.attempts >= 1) == (failing.public_id, True)
    assert mine.waiting == 1
