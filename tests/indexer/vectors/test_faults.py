"""Damaged snapshots, full disks, interruptions: what is answered then is right or refused."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import Damaged, Transient
from indexer.sealing import SealedFolder, Vault
from indexer.uids import EncoderId
from indexer.vectors import snapshot

if TYPE_CHECKING:
    from tests.indexer.vectors.conftest import Kind, Vectors


def _ids(n: int) -> NDArray[Any]:
    return np.arange(n, dtype=np.int64)


@pytest.fixture
def saved(file_kind: Kind, vectors: Vectors, tmp_path: Path) -> Path:
    """Return the folder of a snapshot of 300 vectors."""
    index = file_kind.create()
    index.add(_ids(300), vectors(300))
    index.snapshot(tmp_path / "saved", 7)
    return tmp_path / "saved"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_byte_anywhere_is_damage(file_kind: Kind, saved: Path) -> None:
    for path in _files(saved):
        sound = path.read_bytes()
        for at in (0, len(sound) // 3, len(sound) // 2, len(sound) - 1):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            with pytest.raises(Damaged):
                file_kind.restore(saved)
        path.write_bytes(sound)
    assert file_kind.restore(saved)[1] == 7


def test_a_truncated_longer_or_missing_file_is_damage(file_kind: Kind, saved: Path) -> None:
    for path in _files(saved):
        sound = path.read_bytes()
        for wrong in (b"", sound[:-1], sound[: len(sound) // 2], sound + b"\0"):
            path.write_bytes(wrong)
            with pytest.raises(Damaged):
                file_kind.restore(saved)
        path.unlink()
        with pytest.raises(Damaged):
            file_kind.restore(saved)
        path.write_bytes(sound)
    assert len(file_kind.restore(saved)[0]) == 300


def _forge(folder: Path, **changes: object) -> None:
    """Change the manifest and sign it again, so that only the comparison with the content can tell."""
    description, name, files = snapshot._decode(folder / snapshot.MANIFEST)
    fields = {**vars(description), **changes}
    files = [snapshot._stored(folder / name / file.name) for file in files]
    (folder / snapshot.MANIFEST).write_bytes(snapshot._encode(snapshot.Description(**fields), name, files))


@pytest.mark.parametrize(
    "changes",
    [{"count": 299}, {"dim": 31}, {"encoder_id": EncoderId("another")}, {"kind": "other"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_manifest_of_another_index_is_damage(file_kind: Kind, saved: Path, changes: dict[str, object]) -> None:
    _forge(saved)
    assert len(file_kind.restore(saved)[0]) == 300
    _forge(saved, **changes)
    with pytest.raises(Damaged, match="expected"):
        file_kind.restore(saved)


def test_a_manifest_with_changed_values_is_damage(file_kind: Kind, saved: Path) -> None:
    path = saved / snapshot.MANIFEST
    path.write_text(path.read_text().replace('"sequence": 7', '"sequence": 8'))
    with pytest.raises(Damaged, match="manifest"):
        file_kind.restore(saved)
    for wrong in ([], {}, {"manifest": []}, {"manifest": {"data": "x", "files": []}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(Damaged, match="manifest"):
            file_kind.restore(saved)


def test_vectors_of_another_dim_under_a_signed_manifest_are_damage(
    file_kind: Kind, saved: Path, vectors: Vectors
) -> None:
    (path,) = saved.rglob("vectors.npy")
    np.save(path, vectors(300, dim=16))
    _forge(saved)
    with pytest.raises(Damaged, match="float32"):
        file_kind.restore(saved)


def test_leftovers_of_an_interruption_are_removed(file_kind: Kind, saved: Path, vectors: Vectors) -> None:
    shutil.copytree(next(saved.glob("data-*")), saved / "data-left")
    (saved / f"{snapshot.MANIFEST}.new").write_text("{")
    index, sequence = file_kind.restore(saved)
    assert sequence == 7
    index.snapshot(saved, 8)
    assert not (saved / "data-left").exists()
    assert sorted(path.name[:5] for path in saved.iterdir()) == ["data-", "manif"]


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size_bytes", [100, 2_000, 30_000, 50_000])
def test_a_refusing_disk_leaves_the_previous_snapshot(
    file_kind: Kind, saved: Path, vectors: Vectors, size_bytes: int
) -> None:
    index, _ = file_kind.restore(saved)
    index.add(_ids(320), vectors(320, seed=3))
    with _files_of_at_most(min(size_bytes, 320 * 32 * 4)), pytest.raises(Transient):
        index.snapshot(saved, 8)
    again, sequence = file_kind.restore(saved)
    assert (len(again), sequence) == (300, 7)
    assert again.search(vectors(300)[:9], 1).ids[:, 0].tolist() == list(range(9))
    assert len(list(saved.glob("data-*"))) == 1
    index.snapshot(saved, 9)
    assert file_kind.restore(saved)[1] == 9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("mounting a small file system needs privileges this run does not have")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_previous_snapshot(file_kind: Kind, vectors: Vectors, small_disk: Path) -> None:
    index, folder = file_kind.create(), small_disk / "snapshot"
    index.add(_ids(300), vectors(300))
    index.snapshot(folder, 1)
    index.add(_ids(1700), vectors(1700))
    with pytest.raises(Transient, match="snapshot"):
        index.snapshot(folder, 2)
    again, sequence = file_kind.restore(folder)
    assert (len(again), sequence) == (300, 1)


def test_a_folder_that_cannot_be_made_is_transient(file_kind: Kind, vectors: Vectors, tmp_path: Path) -> None:
    index = file_kind.create()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Transient, match="snapshot"):
        index.snapshot(tmp_path / "file" / "snapshot", 1)


_BUSY = """
    import signal, sys, threading
    import numpy as np
    from indexer.uids import EncoderId
    from indexer.vectors import factory, hnsw
    from indexer.vectors.graph import GraphParameters
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    hnsw._GRAPH_COST = 0  # the graph answers however few there are
    vectors = np.random.default_rng(0).standard_normal((60_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = factory.create("hnsw", dim=64, encoder_id=EncoderId("e"),
                           parameters=factory.IndexParameters(hnsw=GraphParameters(threads=2)))
    index.add(np.arange(1000), vectors[:1000])
    stop = threading.Event()
    def search():
        while not stop.is_set():
            index.search(vectors[:100], 10)
    threads = [threading.Thread(target=search, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    print("busy", flush=True)
    try:
        index.add(np.arange(60_000), vectors)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.set()
        for thread in threads:
            thread.join()  # a thread in C++ while the interpreter ends is another matter
        found = index.search(vectors[:9], 1)
        sound = found.ids[:, 0].tolist() == list(range(9)) and 1000 <= len(index) < 60_000
        print("interrupted", sound, flush=True)
        sys.exit(3)
"""


def _stopped(process: subprocess.Popen[str], number: int) -> str:
    """Ask a process to end, again where Python had to swallow the first interrupt (in a callback, in `__del__`)."""
    for _ in range(60):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=2)[0]
    raise AssertionError("the process does not end")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 3), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_busy_process_can_be_stopped(number: int, code: int) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_BUSY)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.3)
        try:
            rest = _stopped(process, number)
        finally:
            process.kill()
        assert process.returncode == code
        assert rest == ("interrupted True\n" if number == signal.SIGINT else "")


def test_a_sealed_snapshot_shows_no_vector(file_kind: Kind, vectors: Vectors, tmp_path: Path) -> None:
    index, data = file_kind.create(), vectors(300)
    index.add(_ids(300), data)
    before = index.search(data[:9], 3)
    folder = SealedFolder(tmp_path / "saved", Vault(bytes(32)))
    index.snapshot(folder, 7)
    written = b"".join(path.read_bytes() for path in _files(folder.path))
    assert not any(vector.tobytes()[:16] in written for vector in data)
    again, sequence = file_kind.restore(folder)
    assert sequence == 7
    assert (again.search(data[:9], 3).ids == before.ids).all()
    for other in (SealedFolder(folder.path, Vault(bytes(31) + b"1")), folder.path):
        with pytest.raises(Damaged):
            file_kind.restore(other)
