"""Search over embeddings made by hand, entered into a real catalog: who is found, why, where, and who is not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from engines import catalog_url
from numpy.typing import NDArray
from pydicom.uid import UID, ExplicitVRLittleEndian

from config.access import Cohort
from config.model import SearchSettings, VectorSettings
from indexer import remembered as remembered_module
from indexer import search as search_module
from indexer import shortlist
from indexer.answer import Answer, Completeness, Relation, Seed, StudyHit
from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.lookup import Level
from indexer.catalog.progress import LeasedSeries
from indexer.catalog.receipts import StoredFile
from indexer.catalog.tombstones import Target
from indexer.errors import NotFound, Parked, Transient
from indexer.keeper import IndexKeeper
from indexer.search import SHOWN_MATCHES, Search
from indexer.uids import EncoderId, SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID
from indexer.vectors import Neighbours, VectorIndex

ENCODER = EncoderId("encoder-a")
CHUNK_MM, STEP_MM = 80.0, 40.0
_BODY = np.linalg.qr(np.random.default_rng(5).standard_normal((256, 40)))[0].T
"""What lies at each of 40 heights of a body: directions that have nothing in common."""


def look(heights: Sequence[int], person: int, difference: float = 0.5) -> list[NDArray[np.float32]]:
    """A person's embeddings at some heights: the body's, and a difference of their own."""
    own = np.random.default_rng(1000 + person).standard_normal((40, 256)) / 16
    found = [_BODY[height] + difference * own[height] for height in heights]
    return [(one / np.linalg.norm(one)).astype(np.float32) for one in found]


def search_settings(candidates_per_chunk: int) -> SearchSettings:
    return SearchSettings(candidates_per_chunk=candidates_per_chunk, least_similarity=0.5)


def header(sop: str, series: str, study: str, patient: str, modality: str, sop_class: str) -> InstanceHeader:
    return InstanceHeader(
        sop_instance_uid=SOPInstanceUID(sop),
        sop_class_uid=UID(sop_class),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_instance_uid=SeriesInstanceUID(series),
        study_instance_uid=StudyInstanceUID(study),
        patient={"00100020": {"vr": "LO", "Value": [patient]}},
        study={},
        series={"00080060": {"vr": "CS", "Value": [modality]}},
        instance={},
    )


@dataclass
class World:
    """A catalog, an index, a search."""

    catalog: Catalog
    folder: Path
    kind: str = "exact"
    keeper: IndexKeeper | None = None

    def receive(
        self,
        study: str,
        series: str,
        patient: str = "",
        modality: str = "CT",
        sop_class: str = "1.2.840.10008.5.1.4.1.1.2",
        sop: str = "",
    ) -> None:
        sop = sop or f"{series}.0"
        one = header(sop, series, study, patient or study, modality, sop_class)
        self.catalog.receipts.enter(one, StoredFile(sop, 1, sop.rjust(64, "0")), "keep-first")

    def lease(self) -> LeasedSeries:
        self.catalog.progress.settle(0.0)
        leased = self.catalog.progress.lease("w", 60.0)
        assert leased is not None
        return leased

    def finish(
        self, leased: LeasedSeries, *volumes: list[NDArray[np.float32]], encoder: EncoderId = ENCODER
    ) -> None:
        uid = leased.series_instance_uid
        chunks = [
            EmbeddedChunk(
                volume=number,
                position=position,
                box_lps_mm=(-100.0, -100.0, STEP_MM * position, 100.0, 100.0, STEP_MM * position + CHUNK_MM),
                slices=tuple(SliceRef(SOPInstanceUID(f"{uid}.{number}.{position + k}"), None) for k in range(2)),
                embeddings={GLOBAL: vector},
            )
            for number, vectors in enumerate(volumes)
            for position, vector in enumerate(vectors)
        ]
        self.catalog.embeddings.finish(leased, "w", encoder, chunks, seconds={}, notes=[])

    def add(
        self,
        study: str,
        *volumes: list[NDArray[np.float32]],
        series: str = "",
        patient: str = "",
        modality: str = "CT",
    ) -> None:
        self.receive(study, series or f"{study}.1", patient, modality)
        self.finish(self.lease(), *volumes)

    def search(self) -> Search:
        if self.keeper is None:
            settings = VectorSettings(kind=self.kind, milvus_uri="", snapshot_interval_s=1000)
            self.keeper = IndexKeeper(self.catalog, settings, self.folder / self.kind, ENCODER)
        self.keeper.refresh()
        return Search(self.catalog, self.keeper, search_settings(200))

    def similar(self, study: str, limit: int = 10, **further: object) -> Answer:
        return self.search().similar(Seed(study_instance_uid=StudyInstanceUID(study)), limit=limit, **further)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Catalog(catalog_url(tmp_path)) as catalog:
        made = World(catalog, tmp_path)
        yield made
        if made.keeper is not None:
            made.keeper.close()


def uids(hits: Sequence[StudyHit], relation: Relation | None = Relation.ANALOGUE) -> list[str]:
    return [hit.study_instance_uid for hit in hits if relation in (None, hit.relation)]


def scores(answer: Answer) -> dict[str, float]:
    return {hit.study_instance_uid: hit.similarity for hit in answer.hits}


def test_the_most_similar_come_first(world: World) -> None:
    world.add("2.25.1", look(range(5), 0, 0.0))
    for person, difference in ((1, 0.8), (2, 0.4), (3, 1.2)):
        world.add(f"2.25.1{person}", look(range(5), person, difference))
    world.add("2.25.20", look(range(20, 25), 4))
    answer = world.similar("2.25.1")
    assert answer.encoder_id == ENCODER
    assert uids(answer.hits) == ["2.25.12", "2.25.11", "2.25.13", "2.25.20"]
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4]
    similarities = [hit.similarity for hit in answer.hits]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > 0.9
    assert similarities[-1] == pytest.approx(0.5, abs=0.1)
    assert all(hit.completeness is Completeness.COMPLETE for hit in answer.hits)


def test_every_hit_says_why_and_where(world: World) -> None:
    world.add("2.25.1", look(range(10, 13), 0))
    world.add("2.25.2", look(range(4, 20), 1))
    (hit,) = world.similar("2.25.1").hits
    (series,) = hit.series
    assert (series.series_instance_uid, series.similarity) == ("2.25.2.1", hit.similarity)
    by_query = sorted(series.matches, key=lambda match: match.query_z_mm)
    assert [match.query_z_mm for match in by_query] == [(0, 80), (40, 120), (80, 160)]
    assert [match.found_z_mm for match in by_query] == [(240, 320), (280, 360), (320, 400)]
    assert [ref.sop_instance_uid for ref in by_query[0].found_slices] == ["2.25.2.1.0.6", "2.25.2.1.0.7"]
    assert [ref.sop_instance_uid for ref in by_query[0].query_slices] == ["2.25.1.1.0.0", "2.25.1.1.0.1"]
    assert {match.query_series_instance_uid for match in by_query} == {"2.25.1.1"}
    assert [match.similarity for match in series.matches] == sorted(
        (match.similarity for match in series.matches), reverse=True
    )


def test_an_abdomen_inside_a_whole_body_scores_as_high_as_alone(world: World) -> None:
    abdomen = look(range(10, 13), 1)
    world.add("2.25.1", look(range(10, 13), 0))
    world.add("2.25.2", [*look(range(10), 2), *abdomen, *look(range(13, 30), 2)])
    inside = scores(world.similar("2.25.1"))["2.25.2"]
    world.catalog.progress.settle_again(StudyInstanceUID("2.25.2"))
    world.finish(world.lease(), abdomen)
    assert scores(world.similar("2.25.1"))["2.25.2"] == inside > 0.85
    world.add("2.25.3", look(range(30), 3))
    assert scores(world.similar("2.25.3"))["2.25.2"] < 0.7  # most of a whole body is not in an abdomen


def test_the_best_volume_of_a_series_counts(world: World) -> None:
    world.add("2.25.1", look(range(3), 0))
    world.add("2.25.2", look(range(20, 23), 1), look(range(3), 1), look(range(30, 33), 1))
    (hit,) = world.similar("2.25.1").hits
    assert hit.similarity > 0.8
    assert {ref.sop_instance_uid.split(".")[4] for m in hit.series[0].matches for ref in m.found_slices} == {"1"}


def test_all_series_of_the_query_have_a_say(world: World) -> None:
    """A study that has both the chest and the head comes before one that has the same chest alone."""
    for study, parts in {"2.25.1": 2, "2.25.2": 2, "2.25.3": 1}.items():
        person = 0 if study == "2.25.1" else 1
        for number, heights in enumerate([range(5), range(20, 24)][:parts]):
            other = look(heights, person + 10 * number * (study == "2.25.2"))
            world.add(study, other, series=f"{study}.{number}")
    answer = world.similar("2.25.1")
    assert uids(answer.hits) == ["2.25.2", "2.25.3"]
    assert [len(hit.series) for hit in answer.hits] == [2, 1]


def test_equal_similarities_keep_the_order_of_arrival(world: World) -> None:
    axes = np.eye(256, dtype=np.float32)
    world.add("2.25.1", [axes[0]] * 3)
    for number in range(5, 1, -1):  # as similar, each in a direction of its own
        world.add(f"2.25.{number}", [(0.8 * axes[0] + 0.6 * axes[number]).astype(np.float32)] * 3)
    answers = [world.similar("2.25.1") for _ in range(3)]
    assert [uids(answer.hits) for answer in answers] == [["2.25.5", "2.25.4", "2.25.3", "2.25.2"]] * 3
    assert len({hit.similarity for hit in answers[0].hits}) == 1


def _turned(vector: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """Another vector at the same angle."""
    side = np.random.default_rng(number).standard_normal(256)
    side -= vector * (side @ vector)
    return (0.8 * vector + 0.6 * side / np.linalg.norm(side)).astype(np.float32)


def test_the_patient_s_own_studies_are_set_apart(world: World) -> None:
    world.add("2.25.1", look(range(5), 0), patient="P")
    world.add("2.25.2", look(range(5), 1), patient="P")
    world.add("2.25.3", look(range(30, 35), 2), patient="P")
    world.add("2.25.4", look(range(5), 3, 1.5))
    answer = world.similar("2.25.1")
    assert uids(answer.hits) == ["2.25.4"]
    assert uids(answer.hits, Relation.PRIOR) == ["2.25.2", "2.25.3"]
    assert [hit.rank for hit in answer.hits] == [1, 2, 3]


def test_a_prior_is_there_however_many_others_are_nearer(world: World) -> None:
    world.add("2.25.1", look([0], 0), patient="P")
    world.add("2.25.2", look([30], 0), patient="P")
    for number in range(30):
        world.add(f"2.25.1{number}", look([0], number + 1))
    search = Search(world.catalog, world.search()._source, search_settings(3))
    answer = search.similar(Seed(study_instance_uid=StudyInstanceUID("2.25.1")), limit=2)
    assert uids(answer.hits, Relation.PRIOR) == ["2.25.2"]
    assert len(uids(answer.hits)) == 2


def test_the_patient_s_own_chunks_take_no_place_of_others(world: World) -> None:
    for number in range(8):
        world.add("2.25.1", look([0], 0, 0.05), series=f"2.25.1.{number}", patient="P")
    world.add("2.25.2", look([0], 1, 1.0))
    search = Search(world.catalog, world.search()._source, search_settings(2))
    answer = search.similar(Seed(series_instance_uid=SeriesInstanceUID("2.25.1.0")), limit=5)
    assert uids(answer.hits) == ["2.25.2"]


def test_nearly_the_same_images_are_duplicates(world: World) -> None:
    world.add("2.25.1", look(range(5), 0))
    world.add("2.25.2", look(range(5), 0))
    world.add("2.25.3", look(range(5), 1))
    answer = world.similar("2.25.1")
    assert uids(answer.hits) == ["2.25.3"]
    assert uids(answer.hits, Relation.DUPLICATE) == ["2.25.2"]


def test_of_copies_among_the_found_only_the_best_is_shown(world: World) -> None:
    world.add("2.25.1", look(range(5), 0))
    for copy in range(3):
        world.add(f"2.25.2{copy}", look(range(5), 1))
    world.add("2.25.3", look(range(5), 2, 1.0))
    assert uids(world.similar("2.25.1").hits) == ["2.25.20", "2.25.3"]


def test_copies_are_known_by_their_images_and_not_by_their_score(world: World) -> None:
    """Two that are alike may differ in similarity to the query by more than they differ from each other."""
    query = look([0], 0, 0.0)[0]
    side = _turned(query, 1) - 0.8 * query
    side /= np.linalg.norm(side)
    world.add("2.25.1", [query])
    for number, angle in ((2, 0.9), (3, 1.1)):  # 0.2 rad apart: cosine 0.98
        world.add(f"2.25.{number}", [(np.cos(angle) * query + np.sin(angle) * side).astype(np.float32)])
    answer = world.similar("2.25.1")
    assert uids(answer.hits) == ["2.25.2"]


def test_only_allowed_series_are_found(world: World) -> None:
    world.add("2.25.1", look(range(5), 0), patient="P")
    world.add("2.25.2", look(range(5), 1, 0.3))
    world.add("2.25.2", look(range(5), 2, 0.1), series="2.25.2.2")
    world.add("2.25.3", look(range(5), 3))
    world.add("2.25.4", look(range(5), 4), patient="P")
    infos = {uid: world.catalog.lookup.series_by_uid(uid) for uid in ("2.25.2.1", "2.25.3.1", "2.25.4.1")}
    pks = {uid: info.series_pk for uid, info in infos.items() if info is not None}
    answer = world.similar("2.25.1", allowed_series=frozenset([pks["2.25.2.1"], pks["2.25.3.1"]]))
    assert uids(answer.hits, None) == ["2.25.2", "2.25.3"]
    assert [one.series_instance_uid for one in answer.hits[0].series] == ["2.25.2.1"]
    assert uids(world.similar("2.25.1", allowed_series=frozenset([pks["2.25.4.1"]])).hits, None) == ["2.25.4"]
    assert world.similar("2.25.1", allowed_series=frozenset()).hits == ()
    assert world.similar("2.25.1", allowed_series=frozenset([10**6])).hits == ()


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_cohort_is_all_that_there_is(world: World, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "_MOST_LOOKED_AT", 0)  # as in a large archive
    world.kind = kind
    world.add("2.25.1", look(range(5), 0), patient="P")
    for number in range(10, 20):  # hidden, and nearer than anything that is seen
        world.add(f"2.25.{number}", look(range(5), number, 0.05))
    world.add("2.25.20", look(range(5), 20, 0.05), patient="P")  # a prior that is hidden
    world.add("2.25.3", look(range(5), 3, 0.6))
    world.add("2.25.4", look(range(5), 4, 0.7))
    world.search()
    assert world.keeper is not None
    whole = Search(world.catalog, world.keeper, SearchSettings(candidates_per_chunk=1, least_similarity=0))
    seed = Seed(study_instance_uid=StudyInstanceUID("2.25.1"))
    seen = whole.within(Cohort(name="some", study_instance_uid=("2.25.1", "2.25.3", "2.25.4")))
    assert uids(seen.similar(seed, limit=10).hits, None)[0] == "2.25.3"
    assert set(uids(seen.similar(seed, limit=10).hits, None)) <= {"2.25.3", "2.25.4"}
    assert "2.25.3" not in uids(whole.similar(seed, limit=10).hits, None)  # there the nearer ones take its place
    infos = {uid: world.catalog.lookup.series_by_uid(f"{uid}.1") for uid in ("2.25.10", "2.25.4")}
    both = frozenset(info.series_pk for info in infos.values() if info is not None)
    assert uids(seen.similar(seed, limit=10, allowed_series=both).hits, None) == ["2.25.4"]
    for hidden in (
        Seed(study_instance_uid=StudyInstanceUID("2.25.10")),
        Seed(series_instance_uid=SeriesInstanceUID("2.25.10.1")),
        Seed(sop_instance_uids=(SOPInstanceUID("2.25.10.1.0"),)),
    ):
        with pytest.raises(NotFound):
            seen.similar(hidden, limit=1)
    assert whole.similar(Seed(series_instance_uid=SeriesInstanceUID("2.25.10.1")), limit=1).hits


def test_a_region_and_instances_choose_the_chunks_asked_about(world: World) -> None:
    world.add("2.25.1", [*look(range(3), 0), *look(range(20, 23), 0)])
    world.add("2.25.2", look(range(3), 1))
    world.add("2.25.3", look(range(20, 23), 1))
    search = world.search()
    below = Seed(study_instance_uid=StudyInstanceUID("2.25.1"), region_lps_mm=(-10, -10, 10, 10, 10, 30))
    above = Seed(series_instance_uid=SeriesInstanceUID("2.25.1.1"), region_lps_mm=(-10, -10, 210, 10, 10, 230))
    assert uids(search.similar(below, limit=1).hits) == ["2.25.2"]
    assert uids(search.similar(above, limit=1).hits) == ["2.25.3"]
    (hit,) = search.similar(below, limit=1).hits
    assert [match.query_z_mm for match in hit.series[0].matches] == [(0, 80)]
    world.receive("2.25.1", "2.25.1.1", sop="2.25.1.1.0.5")  # a slice of the topmost chunks, now in the catalog
    slices = Seed(sop_instance_uids=(SOPInstanceUID("2.25.1.1.0.5"),))
    assert uids(search.similar(slices, limit=1).hits) == ["2.25.3"]


def test_a_region_that_meets_nothing_cannot_be_compared(world: World) -> None:
    world.add("2.25.1", look(range(3), 0))
    seed = Seed(study_instance_uid=StudyInstanceUID("2.25.1"), region_lps_mm=(500, 500, 500, 600, 600, 600))
    with pytest.raises(Parked, match="region"):
        world.search().similar(seed, limit=1)


@pytest.mark.parametrize(
    "seed",
    [
        Seed(),
        Seed(study_instance_uid=StudyInstanceUID("2.25.9")),
        Seed(series_instance_uid=SeriesInstanceUID("2.25.9")),
        Seed(sop_instance_uids=(SOPInstanceUID("2.25.9"),)),
    ],
)
def test_a_seed_that_is_not_there(world: World, seed: Seed) -> None:
    with pytest.raises(NotFound):
        world.search().similar(seed, limit=1)


def test_a_seed_that_is_not_indexed_yet(world: World) -> None:
    world.receive("2.25.1", "2.25.1.1")
    with pytest.raises(Transient, match="not indexed yet"):
        world.similar("2.25.1")
    leased = world.lease()
    with pytest.raises(Transient, match="not indexed yet"):
        world.similar("2.25.1")
    world.finish(leased, look([0], 0), encoder=EncoderId("encoder-b"))
    with pytest.raises(Transient, match="present encoder"):
        world.similar("2.25.1")


def test_a_seed_that_is_parked_says_why(world: World) -> None:
    world.receive("2.25.1", "2.25.1.1")
    world.catalog.progress.park(world.lease(), "w", "its slices do not fit together")
    with pytest.raises(Parked, match="its slices do not fit together"):
        world.similar("2.25.1")


def test_a_seed_without_images(world: World) -> None:
    world.receive("2.25.1", "2.25.1.1", modality="SR", sop_class="1.2.840.10008.5.1.4.1.1.88.34")
    with pytest.raises(Parked, match="no CT or MR"):
        world.similar("2.25.1")


def test_a_seed_that_the_encoder_has_no_use_for(world: World) -> None:
    world.add("2.25.1")
    with pytest.raises(Parked, match="no use"):
        world.similar("2.25.1")


def test_with_late_images_answers_are_provisional(world: World) -> None:
    world.add("2.25.1", look(range(3), 0))
    world.add("2.25.2", look(range(3), 1))
    world.receive("2.25.2", "2.25.2.1", sop="2.25.2.1.late")
    (hit,) = world.similar("2.25.1").hits
    assert hit.completeness is Completeness.PROVISIONAL
    world.finish(world.lease(), look(range(3), 1))
    (hit,) = world.similar("2.25.1").hits
    assert hit.completeness is Completeness.COMPLETE


def test_modalities_are_never_compared(world: World) -> None:
    world.add("2.25.1", look(range(3), 0))
    world.add("2.25.1", look(range(3), 0), series="2.25.1.2", modality="MR")
    world.add("2.25.2", look(range(3), 1), modality="MR")
    world.add("2.25.3", look(range(3), 2))
    search = world.search()
    ct = search.similar(Seed(series_instance_uid=SeriesInstanceUID("2.25.1.1")), limit=5)
    mr = search.similar(Seed(series_instance_uid=SeriesInstanceUID("2.25.1.2")), limit=5)
    assert (uids(ct.hits), uids(mr.hits)) == (["2.25.3"], ["2.25.2"])
    assert set(uids(world.similar("2.25.1").hits)) == {"2.25.2", "2.25.3"}


def test_the_limit(world: World) -> None:
    world.add("2.25.1", look(range(3), 0), patient="P")
    for number in range(4):
        world.add(f"2.25.1{number}", look(range(3), number + 1))
        world.add(f"2.25.2{number}", look(range(3), number + 11), patient="P")
    answer = world.similar("2.25.1", limit=3)
    assert (len(uids(answer.hits)), len(uids(answer.hits, Relation.PRIOR))) == (3, 3)
    assert world.similar("2.25.1", limit=0).hits == ()


def test_long_matches_are_shown_in_part(world: World) -> None:
    world.add("2.25.1", look(range(SHOWN_MATCHES + 5), 0))
    world.add("2.25.2", look(range(SHOWN_MATCHES + 5), 1))
    (hit,) = world.similar("2.25.1").hits
    assert len(hit.series[0].matches) == SHOWN_MATCHES


def test_cancelled_it_answers_what_it_has(world: World) -> None:
    world.add("2.25.1", look(range(3), 0))
    world.add("2.25.2", look(range(3), 1))
    assert world.similar("2.25.1", cancelled=lambda: True).hits == ()


class _Meanwhile:
    """An index at whose answer something happens in the catalog, before it is read."""

    def __init__(self, index: VectorIndex, happens: Callable[[], None]) -> None:
        self._index, self.happens = index, happens
        self.dim, self.encoder_id = index.dim, index.encoder_id

    def __len__(self) -> int:
        return len(self._index)

    def ids(self) -> NDArray[np.int64]:
        return self._index.ids()

    def search(self, *arguments: object, **named: object) -> Neighbours:
        answer = self._index.search(*arguments, **named)
        self.happens()
        self.happens = lambda: None
        return answer

    def current(self) -> tuple["_Meanwhile", EncoderId]:
        return self, ENCODER


@pytest.mark.parametrize("what", ["found", "seed"])
def test_chunks_replaced_between_index_and_catalog(world: World, what: str) -> None:
    """Stale ids are never taken for other chunks; what cannot be explained any more is left out."""
    world.add("2.25.1", look(range(3), 0))
    world.add("2.25.2", look(range(3), 1))
    world.search()
    study = "2.25.2" if what == "found" else "2.25.1"

    def replaced() -> None:
        world.catalog.progress.settle_again(StudyInstanceUID(study))
        world.finish(world.lease(), look(range(5, 9), 7))

    assert world.keeper is not None
    source = _Meanwhile(world.keeper.current()[0], lambda: None)
    search = Search(world.catalog, source, search_settings(10))
    seed = Seed(study_instance_uid=StudyInstanceUID("2.25.1"))
    search.similar(seed, limit=5)
    source.happens = replaced
    (hit,) = search.similar(seed, limit=5).hits
    assert hit.study_instance_uid == "2.25.2"
    for match in hit.series[0].matches:
        assert all(ref.sop_instance_uid.startswith("2.25.2.1.") for ref in match.found_slices)
        assert all(ref.sop_instance_uid.startswith("2.25.1.1.") for ref in match.query_slices)
    assert (hit.similarity < 0.7) == (what == "found")  # its new chunks were read
    assert (hit.series[0].matches == ()) == (what == "seed")  # those asked about are gone


def test_what_is_remembered_is_never_out_of_date(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_module, "MOST_CHUNKS", 7)
    world.add("2.25.1", look(range(3), 0))
    for number in range(4):
        world.add(f"2.25.1{number}", look(range(3), number + 1, 0.3 + 0.2 * number))
    search = world.search()
    seed = Seed(study_instance_uid=StudyInstanceUID("2.25.1"))
    assert [uids(search.similar(seed, limit=9).hits) for _ in range(2)] == [[f"2.25.1{n}" for n in range(4)]] * 2
    world.catalog.progress.settle_again(StudyInstanceUID("2.25.10"))
    world.finish(world.lease(), look(range(3), 1, 2.0))
    assert world.keeper is not None
    world.keeper.refresh()
    assert uids(search.similar(seed, limit=9).hits) == ["2.25.11", "2.25.12", "2.25.13", "2.25.10"]


def test_what_a_similarity_means_in_a_large_enough_archive(world: World) -> None:
    """0.5 is what unrelated studies come to: those below are left out, and nothing may be left."""
    for number in range(12):
        world.add(f"2.25.{number}", look(range(4), number, 1.5))
    outsider = look(range(30, 34), 99, 1.5)
    world.add("2.25.100", outsider)
    world.add("2.25.101", look(range(30, 34), 99, 1.6), patient="2.25.100")
    search = world.search()
    answer = search.similar(Seed(study_instance_uid=StudyInstanceUID("2.25.1")), limit=50)
    assert answer.is_calibrated
    assert not answer.is_unusual
    assert not answer.is_no_good_match
    similarities = [hit.similarity for hit in answer.hits]
    assert similarities == sorted(similarities, reverse=True)
    assert 0.5 <= similarities[-1] <= similarities[0] < 1
    assert 0 < len(similarities) < 12
    strange = search.similar(Seed(study_instance_uid=StudyInstanceUID("2.25.100")), limit=50)
    assert strange.is_no_good_match
    assert [hit.study_instance_uid for hit in strange.hits] == ["2.25.101"]
    everything = SearchSettings(candidates_per_chunk=200, least_similarity=0)
    all_shown = Search(world.catalog, search._source, everything)
    shown = all_shown.similar(Seed(study_instance_uid=StudyInstanceUID("2.25.1")), limit=50)
    assert len(shown.hits) == 12  # the last two are nearly the same
    part = Seed(study_instance_uid=StudyInstanceUID("2.25.1"), region_lps_mm=(-9.0, -9.0, 0.0, 9.0, 9.0, 30.0))
    assert not search.similar(part, limit=50).is_unusual


def test_who_was_forgotten_calibrates_no_more(world: World) -> None:
    for number in range(9):
        world.add(f"2.25.{number}", look(range(4), number, 1.5))
    search = world.search()
    seed = Seed(study_instance_uid=StudyInstanceUID("2.25.1"))

    def references() -> set[int]:
        search.similar(seed, limit=50)
        index, encoder_id = search._source.current()
        backgrounds = search._recalibration.current(index, encoder_id).backgrounds
        return {patient for one in backgrounds.values() for patient, _ in one.references}

    before = references()
    forgotten = world.catalog.lookup.series_of_study("2.25.8")[0].patient_pk
    assert forgotten in before
    world.catalog.tombstones.forget([Target(Level.STUDY, "2.25.8")], "REQUEST", refuse=False)
    assert world.keeper is not None
    world.keeper.refresh()
    world.keeper.purge()
    assert references() == before - {forgotten}


def test_a_small_archive_does_not_say_what_is_usual(world: World) -> None:
    for number in range(7):
        world.add(f"2.25.{number}", look(range(4), number))
    answer = world.search().similar(Seed(study_instance_uid=StudyInstanceUID("2.25.1")), limit=50)
    assert not answer.is_calibrated
    assert len(answer.hits) == 6


def test_the_graph_gives_the_same_answer(world: World, tmp_path: Path) -> None:
    for number in range(60):
        heights = range(number % 7, number % 7 + 4)
        world.add(f"2.25.{100 + number}", look(heights, number), patient=f"P{number // 2}")
    graph = World(world.catalog, tmp_path, kind="hnsw")
    for study in ("2.25.100", "2.25.131", "2.25.159"):
        exact, found = world.similar(study), graph.similar(study)
        assert found == exact
        assert len(exact.hits) > 10
    assert graph.keeper is not None
    graph.keeper.close()


@pytest.mark.parametrize("looks_by", ["all", "vectors", "bounds"])
def test_of_many_series_the_most_promising_are_compared_and_the_nearest_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch, looks_by: str
) -> None:
    for number in range(12):
        world.add(f"2.25.{100 + number}", look(range(3), number, 0.2 + 0.1 * number))
    search = world.search()
    seed = Seed(study_instance_uid=StudyInstanceUID("2.25.100"))
    expected = uids(search.similar(seed, limit=3).hits)
    compared: list[int] = []
    scored = search_module._scored
    monkeypatch.setattr(
        search_module,
        "_scored",
        lambda query, infos, *rest: compared.append(len(infos)) or scored(query, infos, *rest),
    )
    monkeypatch.setattr(shortlist, "_LEAST", 6)
    monkeypatch.setattr(shortlist, "_SHARE", 1)
    if looks_by == "vectors":
        monkeypatch.setattr(shortlist, "_MOST_LOOKED_AT", 0)
    elif looks_by == "bounds":
        monkeypatch.setattr(shortlist, "HoldsVectors", ())
    assert uids(search.similar(seed, limit=3).hits) == expected
    assert compared == [6]
    world.add("2.25.200", look(range(3), 77, 0.22))  # later than what is remembered
    assert world.keeper is not None
    world.keeper.refresh()
    assert uids(search.similar(seed, limit=3).hits)[0] == "2.25.200"
