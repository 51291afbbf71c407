"""With a key configured nothing of images and embeddings is on the disk in plain, and all works as without."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from pydicom import dcmread

from config.errors import ConfigError
from config.load import load_settings
from config.model import Settings
from dicom_scp.part10 import split_file
from dicom_scp.reception import Receiver
from indexer.catalog.embeddings import GLOBAL, EmbeddedChunk
from indexer.errors import Damaged
from indexer.keyring import KEYRING, new_key
from indexer.sealing import is_sealed
from indexer.uids import EncoderId, SliceRef, SOPInstanceUID
from node.backup import back_up, restore
from node.conversion import rotate, seal
from node.storage import open_catalog, open_spool, vault_of
from node.verification import Fault, check

Factory = Callable[..., Any]
FIRST, SECOND = "mr-abdomen-ts", "mr-brain-vol-adc"


def plain(_what: str, items: Sequence[Any]) -> Iterable[Any]:
    return items


def settings_of(data_dir: Path, key_file: Path | None) -> Settings:
    key = {"storage.encryption_key_file": str(key_file)} if key_file else {}
    return load_settings(overrides={"data_dir": str(data_dir), **key})


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "old.key", tmp_path / "new.key"
    for file in files:
        file.write_text(new_key() + "\n")
    return files


def traces_of(files: Iterable[Path]) -> set[bytes]:
    """Bytes of each data set that appear nowhere by chance: of its header and of its pixel data."""
    found = set()
    for file in files:
        _, dataset = split_file(file.read_bytes())
        for start in (200, len(dataset) // 2, len(dataset) - 500):
            trace = dataset[start : start + 48]
            if len(set(trace)) > 12:
                found.add(trace)
    assert found
    return found | {b"DICM", b"PACSIMILE_0_1"}


def traces_of_embeddings(settings: Settings) -> set[bytes]:
    with open_catalog(settings) as catalog:
        active = catalog.embeddings.active_encoder()
        assert active is not None
        vectors = [row.embedding for row in catalog.embeddings.rows(active)]
    assert vectors
    return {vector.astype(kind).tobytes()[32:44] for vector in vectors for kind in ("<f2", "<f4")}


def demand_no_trace(folder: Path, traces: set[bytes]) -> None:
    looked_at = 0
    for file in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            content = file.read_bytes() if file.is_file() else b""
            looked_at += bool(content)
            seen = sum(trace in content for trace in traces)
            assert not seen, f"{seen} traces of plain data in {file.relative_to(folder)}"
    assert looked_at


def sent_as(data: Path, name: str) -> list[Path]:
    return sorted((data / name).glob("*.dcm"))


def ask_about(node: Any, files: Iterable[Path], traces: set[bytes]) -> dict[str, Any]:  # noqa: ANN401
    """Send files along with a question; the job when it has ended. Meanwhile there is no trace of them."""
    address = f"http://127.0.0.1:{node.ports['http']}"
    sent = [("files", (file.name, file.read_bytes(), "application/dicom")) for file in files]
    job = requests.post(f"{address}/similar", files=sent, timeout=60).json()
    deadline = time.monotonic() + 240
    while job["state"] not in {"DONE", "FAILED"} and time.monotonic() < deadline:
        demand_no_trace(node.data_dir, traces)
        time.sleep(0.2)
        job = requests.get(f"{address}/jobs/{job['id']}", timeout=60).json()
    return dict(job)


@pytest.mark.slow
@pytest.mark.default_engines
def test_the_whole_way(
    shared_dicom: Path,
    start_node: Factory,
    send: Factory,
    wait_for: Factory,
    keys: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    key, other_key = keys
    files = sent_as(shared_dicom, FIRST) + sent_as(shared_dicom, SECOND)
    traces = traces_of(files)
    variables = {"PACSIMILE_STORAGE_ENCRYPTION_KEY_FILE": str(key)}
    node = start_node(**variables)
    data, settings = node.data_dir, settings_of(node.data_dir, key)
    send(node.dicom_port, shared_dicom / FIRST)
    node.wait_until_indexed(len(sent_as(shared_dicom, FIRST)))
    traces |= traces_of_embeddings(settings)
    demand_no_trace(data, traces)

    kill_while_sending(node, shared_dicom / SECOND, send, wait_for)
    demand_no_trace(data, traces)
    node = start_node(**variables)
    send(node.dicom_port, shared_dicom / SECOND, options=["-xt"])
    node.wait_until_indexed(len(files))
    file = files[len(files) // 2]
    header = dcmread(file, stop_before_pixels=True)
    path = f"{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
    address, accept = f"http://127.0.0.1:{node.ports['http']}", "application/dicom; transfer-syntax=*"
    answer = requests.get(f"{address}/dicomweb/studies/{path}", headers={"Accept": accept}, timeout=60)
    assert split_file(answer.content) == split_file(file.read_bytes())
    assert node.get(f"/studies/{header.StudyInstanceUID}/similar")["encoder_id"]
    job = ask_about(node, sent_as(shared_dicom, FIRST), traces)
    assert (job["state"], job["problem"]) == ("DONE", None)
    traces |= traces_of_embeddings(settings)
    demand_no_trace(data, traces)
    assert node.stop() == 0
    assert not any(trace.decode("latin-1") in node.log for trace in traces)
    demand_no_trace(data, traces)
    assert list((data / "index").rglob("graph.bin"))  # a snapshot is there, and sealed
    look_after(settings, other_key, traces, tmp_path)


def kill_while_sending(node: Any, folder: Path, send: Factory, wait_for: Factory) -> None:  # noqa: ANN401
    """Send a folder, and kill the node without warning as soon as it has taken one more instance in."""
    held = node.get("/status")["instances"]
    sender = threading.Thread(
        target=send, args=(node.dicom_port, folder), kwargs={"check": False, "options": ["-xt"]}
    )
    sender.start()
    spool = node.data_dir / "spool"
    wait_for(lambda: len(list(spool.glob("*/*/*.dcm"))) > held, 60, "something came in")
    node.stop(signal.SIGKILL)
    sender.join()


def look_after(settings: Settings, other_key: Path, traces: set[bytes], tmp_path: Path) -> None:
    """Verify, damage, exchange the key, back up and restore."""
    assert findings(settings) == []
    stored = sorted(settings.spool_dir.rglob("*.dcm"))
    whole = stored[0].read_bytes()
    for place in (3, len(whole) - 1):
        stored[0].write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert findings(settings) == [(Fault.DAMAGED, str(stored[0].relative_to(settings.spool_dir)))]
    stored[0].write_bytes(whole)

    with pytest.raises(ConfigError, match="must name its key"):
        vault_of(settings_of(settings.data_dir, None))
    with pytest.raises(ConfigError, match="got another"):
        vault_of(settings_of(settings.data_dir, other_key))
    rotate(settings, other_key)
    with pytest.raises(ConfigError, match="got another"):
        vault_of(settings)
    assert stored[0].read_bytes() == whole
    settings = settings_of(settings.data_dir, other_key)
    assert findings(settings) == []

    with open_catalog(settings) as catalog:
        assert back_up(settings, catalog, tmp_path / "backup", link=False, track=plain).problems == {}
    demand_no_trace(tmp_path / "backup", traces)
    with pytest.raises(ConfigError, match="the backup is encrypted"):
        restore(settings_of(tmp_path / "nothing", None), tmp_path / "backup", plain)
    again = settings_of(tmp_path / "again", other_key)
    restore(again, tmp_path / "backup", plain)
    assert findings(again) == []
    demand_no_trace(again.data_dir, traces)


def findings(settings: Settings) -> list[tuple[Fault, str]]:
    with open_catalog(settings) as catalog:
        return [(one.what, one.where) for one in check(settings, catalog, plain)]


def test_an_archive_that_was_kept_in_plain(make_series: Factory, keys: tuple[Path, Path], tmp_path: Path) -> None:
    files = sorted(make_series(1).rglob("*.dcm"))
    in_plain, settings = settings_of(tmp_path / "data", None), settings_of(tmp_path / "data", keys[0])
    vector = embed(in_plain, files)
    traces = traces_of(files) | {vector.astype("<f2").tobytes()[32:44]}
    with pytest.raises(AssertionError, match="traces of plain data"):
        demand_no_trace(settings.data_dir, traces)
    with pytest.raises(ConfigError, match="not encrypted: run"):
        vault_of(settings)

    def breaking_off(what: str, items: Sequence[Path]) -> Iterator[Path]:
        for number, item in enumerate(items):
            if what == "sealing instances" and number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        seal(settings, breaking_off)
    assert sum(map(is_sealed, settings.spool_dir.rglob("*.dcm"))) == 2
    for one in (settings, in_plain):
        with pytest.raises(ConfigError, match="encrypted"):
            vault_of(one)
    assert seal(settings, plain) == len(files) - 2
    assert seal(settings, plain) == 0
    demand_no_trace(settings.data_dir, traces)
    with open_catalog(settings) as catalog:
        spool = open_spool(settings, catalog)
        held = [spool.read(path) for path, _, _ in catalog.receipts.files()]
        (row,) = catalog.embeddings.rows(EncoderId("e"))
    assert sorted(held) == sorted(split_file(file.read_bytes()) for file in files)
    assert np.abs(row.embedding - vector).max() < 1e-3
    (settings.data_dir / KEYRING).unlink()
    with pytest.raises(ConfigError, match="run"):
        vault_of(settings)  # no new key is made where there are data


def embed(settings: Settings, files: Sequence[Path]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Take files in and embed their series, with one vector."""
    vector = np.random.default_rng(1).standard_normal(256).astype(np.float32)
    vector /= np.linalg.norm(vector)
    with open_catalog(settings) as catalog:
        receiver = Receiver(catalog, open_spool(settings, catalog), "keep-first")
        for file in files:
            receiver.take_file(file)
        catalog.progress.settle(0.0, set())
        leased = catalog.progress.lease("me", 60.0)
        assert leased is not None
        box = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
        chunk = EmbeddedChunk(0, 0, box, (SliceRef(SOPInstanceUID("2.25.1"), None),), {GLOBAL: vector})
        catalog.embeddings.finish(leased, "me", EncoderId("e"), [chunk], seconds={}, notes=[])
    return vector


def test_what_is_plain_in_a_sealed_archive_is_damage(
    make_series: Factory, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    file = next(make_series(2).rglob("*.dcm"))
    settings = settings_of(tmp_path / "data", keys[0])
    with open_catalog(settings) as catalog:
        spool = open_spool(settings, catalog)
        Receiver(catalog, spool, "keep-first").take_file(file)
        ((path, _, _),) = catalog.receipts.files()
        spool.path(path).write_bytes(file.read_bytes())
        with pytest.raises(Damaged):
            spool.read(path)


def test_what_milvus_keeps_is_not_reached(keys: tuple[Path, Path]) -> None:
    settings = settings_of(Path("data"), keys[0])
    milvus = {"vectors.kind": "milvus", "vectors.milvus_uri": "http://localhost:1"}
    overrides = {"storage.encryption_key_file": settings.storage.encryption_key_file, **milvus}
    with pytest.raises(ConfigError, match="does not reach"):
        load_settings(overrides=overrides)
