"""Readers together, writers alone, and nobody starves."""

import threading
import time

from indexer.vectors.locks import PhaseFairLock


def test_readers_share_and_writers_exclude() -> None:
    lock, inside = PhaseFairLock(), threading.Barrier(3, timeout=60)
    seen: list[str] = []

    def read() -> None:
        with lock.read():
            inside.wait()
            time.sleep(0.05)
            seen.append("read")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    inside.wait()
    with lock.write():
        seen.append("write")
    for reader in readers:
        reader.join(10)
    assert seen == ["read", "read", "write"]


def test_a_reader_waits_for_one_writer_only() -> None:
    lock, stop = PhaseFairLock(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            with lock.write():
                time.sleep(0.02)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    started = time.monotonic()
    for _ in range(20):
        with lock.read():
            pass
    elapsed_s = time.monotonic() - started
    stop.set()
    for writer in writers:
        writer.join(10)
    assert elapsed_s < 5


def test_a_writer_gets_in_between_readers() -> None:
    lock, stop = PhaseFairLock(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            with lock.read():
                time.sleep(0.01)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    started = time.monotonic()
    for _ in range(10):
        with lock.write():
            pass
    elapsed_s = time.monotonic() - started
    stop.set()
    for reader in readers:
        reader.join(10)
    assert elapsed_s < 5


def test_no_writer_ever_overlaps_anybody() -> None:
    lock, faults = PhaseFairLock(), []
    state = {"readers": 0, "writers": 0}
    count = threading.Lock()

    def change(key: str, by: int) -> None:
        with count:
            state[key] += by
            if state["writers"] > 1 or (state["writers"] and state["readers"]):
                faults.append(dict(state))

    def use(key: str) -> None:
        for _ in range(300):
            with lock.read() if key == "readers" else lock.write():
                change(key, 1)
                change(key, -1)

    threads = [threading.Thread(target=use, args=(key,)) for key in ("readers", "writers") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not faults
    assert not any(thread.is_alive() for thread in threads)
