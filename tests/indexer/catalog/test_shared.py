"""What nodes mind that share one catalog: whose turn it is, clocks, and that each has an index of its own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import Server
from sqlalchemy import update

from config.load import load_settings
from dicom_scp.forgetting import Forgetter
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.engine import writing
from indexer.catalog.lookup import Level
from indexer.catalog.schema import series
from indexer.catalog.tombstones import REQUEST, Target
from indexer.errors import Transient
from indexer.keeper import IndexKeeper
from indexer.uids import EncoderId
from node.forgetting import Eraser
from node.together import demand_same_clock

Factory = Callable[..., Any]
OTHER = EncoderId("encoder-b")


def test_what_one_embeds_again_no_other_does(archive: Any) -> None:  # noqa: ANN401 - see conftest
    progress, uids = archive.catalog.progress, ["2.25.11", "2.25.12"]
    for uid in uids:
        archive.indexed(uid)
    mine, yours = progress.lease_again("w1", 60.0, OTHER), progress.lease_again("w2", 60.0, OTHER)
    assert sorted(one.series_instance_uid for one in (mine, yours)) == uids
    assert progress.lease_again("w3", 60.0, OTHER) is None
    progress.let_go(mine, "w2")  # not his
    assert progress.lease_again("w3", 60.0, OTHER) is None
    assert progress.release("w1", 3, blame=True) == 0  # it was INDEXED all along, and is
    taken = progress.lease_again("w3", 60.0, OTHER)
    assert taken.series_pk == mine.series_pk
    archive.finish(taken, None, [], OTHER)
    progress.let_go(taken, "w3")
    progress.settle_again()
    assert {progress.lease(f"v{n}", 60.0).series_instance_uid for n in range(2)} == set(uids)


def test_a_lease_that_ran_out_is_anybodys(archive: Any) -> None:  # noqa: ANN401 - see conftest
    archive.indexed()
    progress = archive.catalog.progress
    assert progress.lease_again("w1", -1.0, OTHER) is not None
    assert progress.lease_again("w2", 60.0, OTHER) is not None


def test_what_another_node_is_still_being_sent_does_not_settle(archive: Any) -> None:  # noqa: ANN401 - see conftest
    archive.enter("2.25.11.1", "2.25.11")
    archive.enter("2.25.12.1", "2.25.12")
    progress = archive.catalog.progress
    with writing(archive.catalog._engine) as connection:
        connection.execute(update(series).values(last_instance_at=time.time() - 6000.0))
    progress.keep_unsettled({"2.25.11"}, 10_000.0)  # more than half of that has passed
    assert progress.settle(5000.0) == 1
    assert archive.state("2.25.11")[0] == "RECEIVING"
    assert archive.state("2.25.12")[0] == "SETTLED"


def test_a_clock_of_its_own_is_refused(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog(postgresql.new_database()) as catalog:
        demand_same_clock(catalog)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 60.0)
        with pytest.raises(Transient, match=r"got \+60 s"):
            demand_same_clock(catalog)


def test_each_node_makes_its_own_index_anew(
    postgresql: Server, an_archive: Factory, a_chunk: Factory, tmp_path: Path
) -> None:
    url = postgresql.new_database()
    with Catalog(url) as catalog:
        archive = an_archive(catalog)
        archive.indexed("2.25.11", study="2.25.1")
        archive.indexed("2.25.12", study="2.25.2")
        catalog.embeddings.activate(EncoderId("encoder-a"))
        nodes = []
        for name in ("a", "b"):
            given = {
                "data_dir": str(tmp_path / name),
                "catalog.url": url,
                "storage.spool_dir": str(tmp_path / "spool"),
            }
            settings = load_settings(None, {}, given)
            keeper = IndexKeeper(catalog, settings.vectors, settings.snapshot_dir, EncoderId("encoder-a"))
            forgetter = Forgetter(settings.forgetting, catalog, Spool(settings.spool_dir))
            nodes.append((keeper, Eraser(settings, catalog, forgetter, keeper)))
        catalog.tombstones.forget([Target(Level.STUDY, "2.25.1")], REQUEST, refuse=False)
        for keeper, eraser in nodes:
            old = keeper.current()[0]
            eraser.work_off()
            assert keeper.current()[0] is not old
            assert len(keeper.current()[0]) == 2
        assert catalog.tombstones.erasures() == []
        for keeper, eraser in nodes:
            old = keeper.current()[0]
            eraser.work_off()
            assert keeper.current()[0] is old  # once
            keeper.close()


def test_who_only_asks_a_shared_index_takes_over_from_its_keeper(
    postgresql: Server, an_archive: Factory, tmp_path: Path
) -> None:
    pytest.importorskip("milvus_lite")
    with Catalog(postgresql.new_database()) as catalog:
        archive, encoder = an_archive(catalog), EncoderId("encoder-a")
        archive.indexed("2.25.11", study="2.25.1")
        given = {
            "data_dir": str(tmp_path),
            "vectors.kind": "milvus",
            "vectors.milvus_uri": str(tmp_path / "lite.db"),
        }
        settings = load_settings(None, {}, given)
        first = IndexKeeper(catalog, settings.vectors, tmp_path / "a", encoder)
        second = IndexKeeper(catalog, settings.vectors, tmp_path / "b", encoder, read_only=True)
        archive.indexed("2.25.12", study="2.25.2")
        assert (second.refresh(), len(second.current()[0])) == (0, 2)  # its keeper's affair
        second.own()
        archive.indexed("2.25.13", study="2.25.3")
        assert (second.refresh(), len(second.current()[0])) == (2, 6)
        assert second.snapshot_if_due(now=True)
        for one in (second, first):
            one.close()


def test_one_of_several_holds_a_thing(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.new_database()
    with Catalog(url) as other:
        with Catalog(url) as first:
            assert first.hold("this")
            assert first.hold("this")
            assert not other.hold("this")
            assert other.hold("that")
        assert other.hold("this")
    with Catalog(f"sqlite:///{tmp_path / 'alone.sqlite'}") as alone:
        assert alone.hold("this")
