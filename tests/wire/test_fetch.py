"""Seeds that are not here, or not indexed yet: fetched, waited for, given up after a deadline or C-CANCEL."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyFind
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove
from sqlalchemy import update

from indexer.catalog import SeriesState
from indexer.catalog.schema import fetched

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
SIMILAR = "SIMILAR"
_LONG_S = 120.0
"""No test waits so long unless something is wrong."""


@contextmanager
def pacs(
    port: int, instances: list[Dataset], node_port: Callable[[], int], held: threading.Event | None = None
) -> Iterator[list[Dataset]]:
    """A PACS that moves its instances to the node, not before `held` is set; yields what it was asked with."""
    asked: list[Dataset] = []

    def move(event: Any) -> Iterator[Any]:  # noqa: ANN401 - the library has no types
        asked.append(event.identifier)
        chosen = [one for one in instances if one.StudyInstanceUID == event.identifier.StudyInstanceUID]
        yield ("127.0.0.1", node_port(), {"contexts": entity.requested_contexts})
        yield len(chosen)
        if held is not None:
            held.wait(_LONG_S)
        for one in chosen:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, one

    entity = AE("PACS")
    entity.add_supported_context(StudyMove, ExplicitVRLittleEndian)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_MOVE, move)])
    try:
        yield asked
    finally:
        if held is not None:
            held.set()
        server.shutdown()


@pytest.fixture
def fetching(
    running_node: Callable[..., AbstractContextManager[Node]], dest_port: int, instance: Factory, peer: Factory
) -> Callable[..., AbstractContextManager[Node]]:
    """A node that fetches from a PACS on `dest_port`, with an archive of two studies."""

    @contextmanager
    def start(**settings: object) -> Iterator[Node]:
        peers = [{"aet": "PACS", "host": "127.0.0.1", "port": dest_port}]
        more = {f"fetch.{key}": value for key, value in settings.items()}
        with running_node({"peers": peers, "fetch.source_aet": "PACS", **more}) as node:
            for n in (1, 2):
                study = {"StudyInstanceUID": f"2.25.{n}", "SeriesInstanceUID": f"2.25.{n}1", "PatientID": f"P{n}"}
                assert peer(node).send(instance(**study, pixel_level=100 * n))[0].Status == 0
            node.finder.index()
            yield node

    return start


@pytest.fixture
def elsewhere(instance: Factory) -> list[Dataset]:
    """A study that only the PACS has."""
    whose = {"StudyInstanceUID": "2.25.7", "SeriesInstanceUID": "2.25.71", "PatientID": "P7"}
    return [instance(**whose, SOPInstanceUID=f"2.25.71{n}", pixel_level=210) for n in range(3)]


@contextmanager
def indexing(node: Node) -> Iterator[None]:
    """What a worker does, for the small finder: it indexes, and says so in the catalog."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            leased = node.catalog.progress.lease("test", 60.0)
            if leased is not None:
                node.finder.index()
                node.catalog.embeddings.finish(leased, "test", node.finder.encoder_id, [], seconds={}, notes=[])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_seed_is_fetched_within_the_query(
    fetching: Factory, dest_port: int, elsewhere: list[Dataset], peer: Factory, query: Factory
) -> None:
    with (
        fetching(deadline_s=_LONG_S) as node,
        pacs(dest_port, elsewhere, lambda: node.port) as asked,
        indexing(node),
    ):
        found, last = peer(node).find(query(StudyInstanceUID="2.25.7"), SIMILAR)
        assert last.Status == 0
        assert [one.StudyInstanceUID for _, one in found] == ["2.25.2", "2.25.1"]
        assert [(one.QueryRetrieveLevel, one.StudyInstanceUID) for one in asked] == [("STUDY", "2.25.7")]
        peer(node).find(query(StudyInstanceUID="2.25.7"), SIMILAR)
        assert len(asked) == 1
        plain, last = peer(node).find(query(StudyInstanceUID="2.25.99"))
        assert (plain, last.Status) == ([], 0)
        assert len(asked) == 1


def test_one_series_is_fetched_where_the_study_is_named(
    fetching: Factory, dest_port: int, elsewhere: list[Dataset], peer: Factory, query: Factory
) -> None:
    with (
        fetching(deadline_s=_LONG_S) as node,
        pacs(dest_port, elsewhere, lambda: node.port) as asked,
        indexing(node),
    ):
        keys = {"StudyInstanceUID": "2.25.7", "SeriesInstanceUID": "2.25.71"}
        assert peer(node).find(query(**keys), SIMILAR)[1].Status == 0
        assert [(one.QueryRetrieveLevel, one.SeriesInstanceUID) for one in asked] == [("SERIES", "2.25.71")]
        _, last = peer(node).find(query(SeriesInstanceUID="2.25.404"), SIMILAR)
        assert (last.Status, last.ErrorComment) == (0xC001, "the seed is not known here: send it first")


def test_many_askers_make_one_fetch(
    fetching: Factory, dest_port: int, elsewhere: list[Dataset], peer: Factory, query: Factory, wait_for: Factory
) -> None:
    held = threading.Event()
    with (
        fetching(deadline_s=_LONG_S) as node,
        pacs(dest_port, elsewhere, lambda: node.port, held) as asked,
        indexing(node),
    ):
        ends: list[int] = []
        ask = lambda: ends.append(peer(node).find(query(StudyInstanceUID="2.25.7"), SIMILAR)[1].Status)  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(asked) == 1, 60, "the first asker's fetch")
        time.sleep(0.5)  # the others have every chance to make one of their own
        held.set()
        for thread in threads:
            thread.join()
        assert ends == [0] * 4
        assert len(asked) == 1


def test_a_pacs_that_is_slow(
    fetching: Factory, dest_port: int, elsewhere: list[Dataset], peer: Factory, query: Factory, wait_for: Factory
) -> None:
    held = threading.Event()
    with fetching(deadline_s=0.5) as node, pacs(dest_port, elsewhere, lambda: node.port, held) as asked:
        found, last = peer(node).find(query(StudyInstanceUID="2.25.7"), SIMILAR)
        assert found == []
        assert last.Status == 0xC001
        assert last.ErrorComment == "the seed is still being fetched from PACS: ask again"
        held.set()
        wait_for(lambda: "2.25.71" in node.series_uids(), 60, "it comes all the same")
        with indexing(node):
            wait_for(
                lambda: peer(node).find(query(StudyInstanceUID="2.25.7"), SIMILAR)[1].Status == 0, 10, "an answer"
            )
        assert len(asked) == 1


@pytest.mark.parametrize("uid", ["2.25.7", "2.25.404"])
def test_a_pacs_that_has_nothing_or_is_down(
    fetching: Factory, dest_port: int, peer: Factory, query: Factory, uid: str
) -> None:
    with fetching(deadline_s=_LONG_S) as node:
        with pacs(dest_port, [], lambda: node.port):
            _, last = peer(node).find(query(StudyInstanceUID=uid), SIMILAR)
            assert (last.Status, last.ErrorComment) == (0xC001, "PACS sent nothing of the seed")
        _, last = peer(node).find(query(StudyInstanceUID=uid), SIMILAR)
        assert last.Status == 0xC001
        assert last.ErrorComment.startswith("no association with PACS")


def cancelled_find(node: Node, peer: Factory, identifier: Dataset, after_s: float) -> list[int]:
    """Ask SIMILAR and cancel; the statuses."""
    with peer(node).associated([(StudyFind, [ExplicitVRLittleEndian])], SIMILAR) as association:
        answers = association.send_c_find(identifier, StudyFind, msg_id=3)
        time.sleep(after_s)
        association.send_c_cancel(3, query_model=StudyFind)
        return [status.Status for status, _ in answers]


def test_cancel_while_fetching_and_while_waiting(
    fetching: Factory,
    dest_port: int,
    elsewhere: list[Dataset],
    peer: Factory,
    instance: Factory,
    query: Factory,
) -> None:
    held = threading.Event()
    with fetching(deadline_s=_LONG_S) as node, pacs(dest_port, elsewhere, lambda: node.port, held):
        assert cancelled_find(node, peer, query(StudyInstanceUID="2.25.7"), 0.5) == [0xFE00]
        assert not held.is_set()
        assert peer(node).send(instance(StudyInstanceUID="2.25.8", SeriesInstanceUID="2.25.81"))[0].Status == 0
        assert cancelled_find(node, peer, query(StudyInstanceUID="2.25.8"), 0.5) == [0xFE00]


def test_a_study_just_sent_is_settled_at_once_and_goes_first(
    running_node: Callable[..., AbstractContextManager[Node]],
    peer: Factory,
    instance: Factory,
    query: Factory,
    wait_for: Factory,
) -> None:
    with running_node({"fetch.deadline_s": _LONG_S}) as node:
        for n in (1, 2, 3):
            whose = {"StudyInstanceUID": f"2.25.{n}", "SeriesInstanceUID": f"2.25.{n}1", "PatientID": f"P{n}"}
            peer(node).send(instance(**whose, pixel_level=100 * n), called=SIMILAR)
        node.catalog.progress.settle(0.0)
        peer(node).send(
            instance(StudyInstanceUID="2.25.4", SeriesInstanceUID="2.25.41", PatientID="P4"), called=SIMILAR
        )
        answers: list[int] = []
        asker = threading.Thread(
            target=lambda: answers.append(peer(node).find(query(StudyInstanceUID=""), SIMILAR)[1].Status)
        )
        asker.start()
        state = lambda: node.catalog.lookup.series_by_uid("2.25.41").state  # noqa: E731
        wait_for(lambda: state() == SeriesState.SETTLED, 60, "the asker settles it")
        leased = node.catalog.progress.lease("test", 60.0)
        assert leased is not None
        assert leased.series_instance_uid == "2.25.41"
        assert not answers
        node.finder.index()
        node.catalog.embeddings.finish(leased, "test", node.finder.encoder_id, [], seconds={}, notes=[])
        asker.join(_LONG_S)
        assert answers == [0]


def test_a_study_that_is_still_being_sent_is_waited_for(
    running_node: Callable[..., AbstractContextManager[Node]],
    peer: Factory,
    instance: Factory,
    query: Factory,
    wait_for: Factory,
) -> None:
    with running_node({"fetch.deadline_s": 1.5}) as node:
        state = lambda: node.catalog.lookup.series_by_uid("2.25.11").state  # noqa: E731
        with peer(node).associated([(CTImageStorage, [ExplicitVRLittleEndian])], SIMILAR) as association:
            assert association.send_c_store(instance()).Status == 0
            time.sleep(0.6)
            _, last = peer(node).find(query(StudyInstanceUID="2.25.1"), SIMILAR)
            assert (last.Status, last.ErrorComment) == (0xC001, "the seed is not indexed yet")
            assert state() == SeriesState.RECEIVING

        def settled() -> bool:
            peer(node).find(query(StudyInstanceUID="2.25.1"), SIMILAR)
            return bool(state() == SeriesState.SETTLED)

        wait_for(settled, 60, "an asker settles it")


def test_a_fetched_study_is_forgotten_unless_it_is_asked_about_or_sent(
    fetching: Factory, dest_port: int, elsewhere: list[Dataset], peer: Factory, query: Factory
) -> None:
    def tidy(minutes_later: float) -> None:
        earlier = update(fetched).values(asked_at=fetched.c.asked_at - 60 * minutes_later)
        with node.catalog._engine.begin() as connection:
            connection.execute(earlier)
        node.server._tidy_at = 0.0
        node.server.tidy_if_due()

    policy = {"deadline_s": _LONG_S, "keep": "none", "forget_after_minutes": 60.0}
    with fetching(**policy) as node, pacs(dest_port, elsewhere, lambda: node.port) as asked, indexing(node):
        ask = lambda: peer(node).find(query(StudyInstanceUID="2.25.7"), SIMILAR)[1].Status  # noqa: E731
        assert ask() == 0
        for _ in range(2):
            tidy(minutes_later=40)
            assert ask() == 0
        assert len(asked) == 1
        files = len(node.files())
        tidy(minutes_later=61)
        assert "2.25.71" not in node.series_uids()
        assert len(node.files()) == files - len(elsewhere)
        assert ask() == 0
        assert len(asked) == 2
        peer(node).send(elsewhere[0])
        tidy(minutes_later=61)
        assert {"2.25.71", "2.25.11", "2.25.21"} <= node.series_uids()
