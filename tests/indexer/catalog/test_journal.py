"""The journal: everything that came and went, in an order that hides nothing from who follows it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, text

from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.catalog.engine import JOURNAL_LOCK, lock, open_engine, writing
from indexer.catalog.journal import Journal, JournalEntry
from indexer.catalog.schema import journal
from indexer.errors import NotFound
from indexer.uids import EncoderId

Archive = Any
"""The shortcuts of conftest.py."""
Chunk = Callable[..., EmbeddedChunk]

A, B = EncoderId("encoder-a"), EncoderId("encoder-b")


def _follow(catalog: Catalog, after: int = 0, encoder: EncoderId = A, kind: str = GLOBAL) -> list[JournalEntry]:
    return list(catalog.journal.after(after, encoder, kind, 1000))


def test_what_came_and_went(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    assert catalog.journal.last() == 0
    leased = archive.indexed(chunks=2)
    position = catalog.journal.last()
    old = catalog.embeddings.ids(A).tolist()
    assert [(one.embedding_id, one.added) for one in _follow(catalog)] == [(key, True) for key in old]
    archive.finish(leased, None, [a_chunk(kinds=(GLOBAL, "LUNG"))])
    new = catalog.embeddings.ids(A).tolist()
    entries = _follow(catalog, position)
    assert sorted((one.embedding_id, one.added) for one in entries) == sorted(
        [*((key, False) for key in old), *((key, True) for key in new)]
    )
    assert [one.sequence for one in entries] == sorted(one.sequence for one in entries)
    assert len(_follow(catalog, kind="LUNG")) == 1
    assert _follow(catalog, encoder=B) == []
    assert _follow(catalog, catalog.journal.last()) == []
    assert len(catalog.journal.after(0, A, GLOBAL, 3)) == 3


def test_a_pruned_journal_says_so(archive: Archive, catalog: Catalog) -> None:
    archive.indexed(chunks=5)
    last = catalog.journal.last()
    assert catalog.journal.prune(keep=10) == 0
    assert catalog.journal.prune(keep=2) == 3
    assert len(_follow(catalog, last - 2)) == 2
    with pytest.raises(NotFound):
        _follow(catalog, last - 3)
    assert catalog.journal.prune(keep=0) == 2
    assert catalog.journal.last() == last
    assert _follow(catalog, last) == []
    archive.indexed("2.25.12", chunks=1)
    assert [one.sequence for one in _follow(catalog, last)] == [last + 1]


def test_snapshots_that_are_vouched_for(catalog: Catalog) -> None:
    digests = [character * 64 for character in "abc"]
    assert not catalog.journal.vouches_for(digests[0])
    catalog.journal.vouch(digests[0], None)
    catalog.journal.vouch(digests[1], digests[0])
    assert [catalog.journal.vouches_for(digest) for digest in digests] == [False, True, False]
    catalog.journal.vouch(digests[1], digests[1])
    assert catalog.journal.vouches_for(digests[1])


def test_an_entry_is_never_seen_before_an_earlier_one(url: str) -> None:
    """A transaction that drew the lower number and commits later holds the higher one back."""
    engine = open_engine(url)
    follower, drawn, second_done = Journal(engine), threading.Event(), threading.Event()
    row = {"encoder_id": A, "embedding_id": 1, "kind": GLOBAL, "added": True}

    def slow() -> None:
        with writing(engine) as connection:
            lock(connection, JOURNAL_LOCK)
            connection.execute(insert(journal).values(**row))
            drawn.set()
            time.sleep(0.3)

    def quick() -> None:
        drawn.wait()
        with writing(engine) as connection:
            lock(connection, JOURNAL_LOCK)
            connection.execute(insert(journal).values(**row))
        second_done.set()

    threads = [threading.Thread(target=slow), threading.Thread(target=quick)]
    for thread in threads:
        thread.start()
    drawn.wait()
    seen: list[int] = []
    while not second_done.is_set():
        seen += [one.sequence for one in follower.after(max(seen, default=0), A, GLOBAL, 100)]
    seen += [one.sequence for one in follower.after(max(seen, default=0), A, GLOBAL, 100)]
    for thread in threads:
        thread.join()
    assert seen == [1, 2]
    engine.dispose()


@pytest.mark.parametrize("act", ["finish", "forget", "prune", "activate"])
def test_everything_that_writes_the_journal_waits_for_its_lock(
    postgresql: Any,  # noqa: ANN401 - a server
    an_archive: Callable[[Catalog], Archive],
    a_chunk: Chunk,
    act: str,
) -> None:
    """Otherwise the test above would prove the lock and not its use."""
    url = postgresql.new_database()
    engine = open_engine(url)
    with Catalog(url) as catalog:
        archive = an_archive(catalog)
        leased = archive.leased()
        archive.finish(leased, "w1", [a_chunk()])
        acts: dict[str, Callable[[], object]] = {
            "finish": lambda: archive.finish(leased, None, [a_chunk()]),
            "forget": lambda: catalog.embeddings.forget_other_encoders(B),
            "prune": lambda: catalog.journal.prune(keep=0),
            "activate": lambda: catalog.embeddings.activate_if_complete(A),
        }
        thread = threading.Thread(target=acts[act])
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        with writing(engine) as connection:
            lock(connection, JOURNAL_LOCK)
            thread.start()
            deadline = time.monotonic() + 120
            while not connection.execute(waiting).scalar_one():
                assert thread.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        thread.join()
    engine.dispose()


def test_following_while_many_write(archive: Archive, catalog: Catalog, a_chunk: Chunk) -> None:
    leases = [archive.leased(f"2.25.11.{n}", owner=f"w{n}") for n in range(6)]

    def finish(number: int) -> None:
        for _ in range(4):
            archive.finish(leases[number], None, [a_chunk(n) for n in range(2)])

    threads = [threading.Thread(target=finish, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    held: set[int] = set()
    position = 0
    while any(thread.is_alive() for thread in threads) or position < catalog.journal.last():
        for entry in catalog.journal.after(position, A, GLOBAL, 7):
            (held.add if entry.added else held.discard)(entry.embedding_id)
            position = entry.sequence
    for thread in threads:
        thread.join()
    assert sorted(held) == catalog.embeddings.ids(A).tolist()
    assert len(held) == 12
