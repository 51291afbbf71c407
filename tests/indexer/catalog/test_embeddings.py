"""Embeddings: replaced as a whole, read back exact and in order, switched from one encoder to the next."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from indexer.alignment import align
from indexer.catalog import Catalog, SeriesState
from indexer.catalog import embeddings as embeddings_module
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.sequences import PART_WEIGHTS, sequence_of
from indexer.uids import EncoderId

Archive = Any
"""The shortcuts of conftest.py."""
Chunk = Callable[..., EmbeddedChunk]

LUNGS = "LUNGS"
A, B = EncoderId("encoder-a"), EncoderId("encoder-b")


def _all_ids(catalog: Catalog, encoder: EncoderId = A, kind: str = GLOBAL) -> list[int]:
    return [int(i) for ids, _ in catalog.embeddings.vectors(encoder, kind) for i in ids]


def test_finishing_ends_the_lease_and_keeps_everything(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    leased = archive.leased()
    chunks = [a_chunk(n, seed=n, kinds=(GLOBAL, LUNGS)) for n in range(3)]
    archive.finish(leased, "w1", chunks)
    assert archive.state() == (SeriesState.INDEXED, "")
    stored = catalog.embeddings.chunks([leased.series_pk], A)
    assert [(one.volume, one.position, one.box_lps_mm, one.slices) for one in stored] == [
        (one.volume, one.position, one.box_lps_mm, one.slices) for one in chunks
    ]
    assert set(catalog.embeddings.chunks_by_pk([one.chunk_pk for one in stored])) == {
        one.chunk_pk for one in stored
    }
    sequence = catalog.embeddings.sequences([leased.series_pk], A)[leased.series_pk]
    assert sequence.chunk_pks == tuple(one.chunk_pk for one in stored)
    assert sequence.parts is not None
    for kind, vectors in (
        (GLOBAL, sequence.vectors),
        (LUNGS, sequence.parts / np.sqrt(np.float32(PART_WEIGHTS[LUNGS]))),
    ):
        np.testing.assert_allclose(vectors, np.stack([one.embeddings[kind] for one in chunks]), atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert catalog.embeddings.count(A, kind) == 3
    assert catalog.embeddings.record_of(leased.series_pk, A) == ({"encode": 1.5}, ["a note"])
    assert catalog.embeddings.record_of(leased.series_pk, B) == ({}, [])


def test_sequences_are_ordered_by_volume_and_z(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    leased = archive.leased()
    places = [(1, 1), (0, 2), (1, 0), (0, 0), (0, 1)]
    chunks = [a_chunk(position, volume=volume, seed=10 * volume + position) for volume, position in places]
    archive.finish(leased, "w1", chunks)
    sequence = catalog.embeddings.sequences([leased.series_pk], A)[leased.series_pk]
    assert sequence.volumes == (0, 0, 0, 1, 1)
    wanted = [a_chunk(seed=seed).embeddings[GLOBAL] for seed in (0, 1, 2, 10, 11)]
    np.testing.assert_allclose(sequence.vectors, np.stack(wanted), atol=1e-3)


def test_chunks_are_compared_by_their_part_where_both_have_one() -> None:
    rng = np.random.default_rng(5)
    drawn = rng.standard_normal((5, 8)).astype(np.float32)
    whole, other, part, another, third = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    both = sequence_of([1, 2], [0, 0], [{GLOBAL: whole, LUNGS: part}, {GLOBAL: other}])
    rest = sequence_of([3, 4], [0, 1], [{GLOBAL: other, LUNGS: another}, {GLOBAL: third, "OTHER": part}])
    plain = sequence_of([5], [0], [{GLOBAL: third}])
    np.testing.assert_allclose(np.linalg.norm(np.vstack([both.looks, rest.looks]), axis=1), 1, atol=1e-6)
    expected = (1 - PART_WEIGHTS[LUNGS]) * whole @ other + PART_WEIGHTS[LUNGS] * part @ another
    assert align(both.rows([0]).looks, rest.rows([0]).looks).score == pytest.approx(expected, abs=1e-6)
    assert align(both.rows([1]).looks, rest.rows([1]).looks).score == pytest.approx(other @ third, abs=1e-6)
    assert align(both.rows([1]).looks, plain.looks).score == pytest.approx(other @ third, abs=1e-6)
    lessened = np.sqrt(1 - PART_WEIGHTS[LUNGS]) * whole @ third  # one of the two alone
    assert align(both.rows([0]).looks, plain.looks).score == pytest.approx(lessened, abs=1e-6)
    assert [one.chunk_pks for one in rest.by_volume()] == [(3,), (4,)]


def test_a_chunk_is_ranked_by_the_first_part_that_it_has_and_by_bones(
    archive: Archive, catalog: Catalog, a_chunk: Chunk
) -> None:
    leased = archive.leased()
    ranked = ((LUNGS, "BONES"), ("ORGANS",), (), ("INNER",), ("BRAIN", "BONES"), ("BONES",))
    others = (("ORGANS",), (), ("OTHER",), (), ("ORGANS",), ())
    chunks = [
        a_chunk(n, seed=n, kinds=("BONES", *kinds, GLOBAL) if "BONES" in kinds else (GLOBAL, *kinds))
        for n, kinds in enumerate(tuple(set(one + other)) for one, other in zip(ranked, others, strict=True))
    ]
    archive.finish(leased, "w1", chunks)
    kept = catalog.embeddings.sequences([leased.series_pk], A)[leased.series_pk]
    made = sequence_of(range(6), [0] * 6, [one.embeddings for one in chunks])
    for one in (kept, made):
        assert one.parts is not None and one.part_weights is not None  # noqa: PT018
        assert one.part_weights == pytest.approx([sum(PART_WEIGHTS[kind] for kind in kinds) for kinds in ranked])
        for row, kinds in enumerate(ranked):
            wanted = sum(np.sqrt(PART_WEIGHTS[kind]) * chunks[row].embeddings[kind] for kind in kinds)
            np.testing.assert_allclose(one.parts[row], wanted, atol=1e-3)
        assert one.rows([1, 3]).part_weights == pytest.approx(one.part_weights[[1, 3]])


def test_vectors_come_in_blocks(
    archive: Archive, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, a_chunk: Chunk
) -> None:
    leased = archive.indexed(chunks=5)
    monkeypatch.setattr(embeddings_module, "BLOCK", 2)
    parts = list(catalog.embeddings.vectors(A))
    assert [len(ids) for ids, _ in parts] == [2, 2, 1]
    ids = np.concatenate([ids for ids, _ in parts])
    assert (np.diff(ids) > 0).all()
    np.testing.assert_array_equal(ids, catalog.embeddings.ids(A))
    np.testing.assert_array_equal(ids, catalog.embeddings.ids_of_series([leased.series_pk], A))
    again, vectors = catalog.embeddings.vectors_of([*ids.tolist(), 10**6])
    np.testing.assert_array_equal(np.sort(again), ids)
    np.testing.assert_array_equal(vectors[np.argsort(again)], np.concatenate([part for _, part in parts]))
    assert catalog.embeddings.series_of([*ids.tolist(), 10**6]) == dict.fromkeys(ids.tolist(), leased.series_pk)
    assert [row.series_uid for row in catalog.embeddings.rows(A)] == ["2.25.11"] * 5


def test_of_nothing_nothing_is_read(catalog: Catalog) -> None:
    embeddings = catalog.embeddings
    assert list(embeddings.vectors(A)) == []
    assert [part.size for part in embeddings.vectors_of([])] == [0, 0]
    assert embeddings.ids(A).size == embeddings.ids_of_series([], A).size == embeddings.count(A) == 0
    assert embeddings.series_of([]) == embeddings.sequences([1], A) == embeddings.chunks_by_pk([1]) == {}
    assert embeddings.chunks([1], A) == list(embeddings.rows(A)) == []
    assert embeddings.revisions([1], A) == {}
    assert embeddings.active_encoder() is None


def test_more_keys_than_a_statement_can_hold(archive: Archive, catalog: Catalog) -> None:
    leased = archive.indexed()
    many = [*range(40_000, 110_000), leased.series_pk]
    embeddings = catalog.embeddings
    assert list(embeddings.sequences(many, A)) == list(embeddings.revisions(many, A)) == [leased.series_pk]
    assert len(embeddings.chunks(many, A)) == len(embeddings.ids_of_series(many, A)) == 2
    pks = [one.chunk_pk for one in embeddings.chunks([leased.series_pk], A)]
    assert len(embeddings.chunks_by_pk([*range(40_000, 110_000), *pks])) == 2
    ids = embeddings.ids(A).tolist()
    assert len(embeddings.series_of([*range(40_000, 110_000), *ids])) == 2
    assert len(embeddings.vectors_of([*range(40_000, 110_000), *ids])[0]) == 2
    assert list(catalog.lookup.series_info(many)) == [leased.series_pk]
    uids = [f"2.25.7.{n}" for n in range(70_000)]
    assert [one.series_pk for one in catalog.lookup.series_of_instances([*uids, "2.25.11.0"])] == [leased.series_pk]


def test_new_embeddings_replace_the_old_ones_as_a_whole(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    old = archive.indexed(chunks=3)
    before = _all_ids(catalog)
    assert catalog.embeddings.revisions([old.series_pk], A) == {old.series_pk: True}
    archive.enter("2.25.5")
    assert catalog.embeddings.revisions([old.series_pk], A) == {old.series_pk: False}
    assert _all_ids(catalog) == before
    new = archive.leased(instances=0)
    archive.finish(new, "w1", [a_chunk(seed=50)])
    (after,) = _all_ids(catalog)
    assert after > max(before)
    assert len(catalog.embeddings.chunks([new.series_pk], A)) == 1
    assert catalog.embeddings.revisions([old.series_pk], A) == {old.series_pk: True}


def test_keys_are_never_given_twice(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    leased = archive.indexed(chunks=2)
    before = {one.chunk_pk for one in catalog.embeddings.chunks([leased.series_pk], A)}
    archive.finish(leased, None, [a_chunk(n) for n in range(2)])
    after = {one.chunk_pk for one in catalog.embeddings.chunks([leased.series_pk], A)}
    assert not before & after


def test_embeddings_of_fewer_images_never_replace_those_of_more(
    archive: Archive, catalog: Catalog, a_chunk: Chunk
) -> None:
    slow = archive.leased(owner="slow")
    archive.enter("2.25.5")
    quick = archive.leased(owner="quick", instances=0)
    archive.finish(quick, "quick", [a_chunk(n) for n in range(2)])
    archive.finish(slow, "slow", [a_chunk()])
    assert catalog.embeddings.count(A) == 2
    assert catalog.embeddings.revisions([quick.series_pk], A) == {quick.series_pk: True}


def test_an_image_that_comes_while_a_series_is_embedded_is_not_lost(
    archive: Archive, catalog: Catalog, a_chunk: Chunk
) -> None:
    leased = archive.leased()
    archive.enter("2.25.5")
    archive.finish(leased, "w1", [a_chunk()])
    assert archive.state() == (SeriesState.RECEIVING, "")
    assert catalog.embeddings.revisions([leased.series_pk], A) == {leased.series_pk: False}
    again = archive.leased(instances=0)
    assert len(again.paths) == 3


def test_a_crash_within_finishing_leaves_the_old_embeddings(
    archive: Archive, catalog: Catalog, a_chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.indexed(chunks=3)
    before, position = _all_ids(catalog), catalog.journal.last()
    archive.enter("2.25.5")
    leased = archive.leased(instances=0)
    monkeypatch.setattr(embeddings_module, "end_lease", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        archive.finish(leased, "w1", [a_chunk()])
    assert _all_ids(catalog) == before
    assert catalog.journal.last() == position
    assert archive.state()[0] == SeriesState.INDEXING


def test_two_encoders_side_by_side(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    leased = archive.indexed(chunks=2)
    catalog.embeddings.activate(A)
    other = archive.indexed("2.25.12", chunks=1)
    archive.finish(leased, None, [a_chunk(n) for n in range(3)], B)
    assert (catalog.embeddings.count(A), catalog.embeddings.count(B)) == (3, 3)
    assert not catalog.embeddings.activate_if_complete(B)
    assert catalog.embeddings.active_encoder() == A
    archive.finish(other, None, [], B)
    assert catalog.embeddings.activate_if_complete(B)
    assert catalog.embeddings.active_encoder() == B
    assert catalog.embeddings.forget_other_encoders(B) == 2
    assert (catalog.embeddings.count(A), catalog.embeddings.count(B)) == (0, 3)
    assert catalog.embeddings.chunks([leased.series_pk, other.series_pk], A) == []
    assert catalog.embeddings.revisions([other.series_pk], B) == {other.series_pk: True}


def test_many_series_are_forgotten_a_few_at_a_time(
    archive: Archive, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings_module, "_FORGOTTEN_AT_ONCE", 2)
    for number in range(4):
        archive.indexed(f"2.25.11.{number}", chunks=1)
    assert catalog.embeddings.forget_other_encoders(B) == 4
    assert catalog.embeddings.count(A) == 0
    assert catalog.embeddings.forget_other_encoders(B) == 0


@pytest.mark.parametrize(
    "vectors",
    [
        {},
        {"LUNG": np.eye(256, dtype=np.float32)[0]},
        {GLOBAL: np.full(256, np.nan, np.float32)},
        {GLOBAL: np.zeros(256, np.float32)},
        {GLOBAL: np.ones(256, np.float32)},
        {GLOBAL: np.eye(256, dtype=np.float32)},
    ],
)
def test_a_chunk_that_no_index_could_hold_is_never_made(vectors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EmbeddedChunk(0, 0, (0, 0, 0, 1, 1, 1), (), vectors)
