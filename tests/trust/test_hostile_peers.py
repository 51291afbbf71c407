"""Peers that mean harm, before anybody knows who they are: the node stays small, and others are served.

Figures are printed (`pytest -s`); `tests/benchmarks/bench_hostile.py` takes them with larger numbers.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage, Verification

Factory = Callable[..., Any]
Node = Any
ASSOCIATIONS = int(os.environ.get("PACSIMILE_HOSTILE_ASSOCIATIONS", "400"))
IDLE, TRICKLING = 300, 20
NEGOTIATION_S = 8.0
ACCEPTED, REJECTED, ABORTED, RELEASED = 0x02, 0x03, 0x07, 0x06
MIB = 1 << 20


@pytest.fixture(scope="module")
def node(start_shared_node: Factory) -> Iterator[Any]:
    running = start_shared_node(
        PACSIMILE_DICOM_NEGOTIATION_TIMEOUT_S=str(NEGOTIATION_S), PACSIMILE_DICOM_NETWORK_TIMEOUT_S="20"
    )
    running.wait_until_worker_runs()
    for _ in range(10):  # what is loaded at first use is no growth
        echo_s(running)
    yield running
    assert running.process.poll() is None
    assert "Traceback" not in running.log


def request(*abstract: str) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    asked = A_ASSOCIATE()
    asked.application_context_name = "1.2.840.10008.3.1.1.1"
    asked.calling_ae_title, asked.called_ae_title = "STRANGER", "PACSIMILE"
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16384, "2.25.1"
    asked.user_information = [length, implementation]
    contexts = [build_context(one) for one in abstract or (Verification,)]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    asked.presentation_context_definition_list = contexts
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(asked)
    return bytes(pdu.encode())


RELEASE = struct.pack(">BxLxxxx", 0x05, 4)


def connect(node: Node) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", node.dicom_port), timeout=60)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def pdu_from(connection: socket.socket) -> int:
    """Type of the next PDU; 0 where the connection ended instead."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while len(received) < 6 or len(received) < 6 + struct.unpack_from(">L", received, 2)[0]:
            if not (piece := connection.recv(65536)):
                return 0
            received += piece
    return received[0] if received else 0


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def associate(node: Node, *abstract: str) -> socket.socket:
    found = connect(node)
    found.sendall(request(*abstract))
    assert pdu_from(found) == ACCEPTED
    return found


def echo_s(node: Node) -> float:
    """Seconds that a known peer's association with a C-ECHO takes."""
    began = time.monotonic()
    entity = AE("KNOWN")
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 60
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", node.dicom_port, ae_title="PACSIMILE")
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()
    return time.monotonic() - began


def footprint(node: Node) -> tuple[int, int, int]:
    """Resident bytes, threads and open files of the node's main process."""
    process = psutil.Process(node.process.pid)
    return process.memory_info().rss, process.num_threads(), process.num_fds()


def until_as_before(node: Node, before: tuple[int, int, int], wait_for: Factory) -> None:
    """Wait until no thread and no file is left over, except for connections that the catalog keeps open."""

    def is_so() -> bool:
        _, threads, files = footprint(node)
        return threads <= before[1] + 2 and files <= before[2] + 9

    wait_for(is_so, 120, f"{before[1]} threads and {before[2]} files again")


@pytest.mark.parametrize("established", [False, True], ids=["at once", "when associated"])
def test_a_pdu_that_claims_4_gib_is_aborted(node: Node, wait_for: Factory, established: bool) -> None:
    before = footprint(node)
    with associate(node, CTImageStorage) if established else connect(node) as peer:
        began = time.monotonic()
        peer.sendall(struct.pack(">BxL", 0x04 if established else 0x01, 0xFFFFFFF0))
        heard = pdu_from(peer)
        seconds = time.monotonic() - began
    grown = footprint(node)[0] - before[0]
    print(f"4 GiB claimed: aborted after {seconds * 1000:.0f} ms, {grown / MIB:.1f} MiB more")
    assert heard == ABORTED
    assert grown < 10 * MIB
    until_as_before(node, before, wait_for)


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", struct.pack(">BxL", 0x04, 12) + bytes(12), b"\x16\x03\x01\x02\x00"]
)
def test_what_is_no_request_is_aborted(node: Node, first: bytes) -> None:
    with connect(node) as peer:
        peer.sendall(first)
        assert pdu_from(peer) == ABORTED


def nested(depth: int, undefined: bool) -> bytes:
    """A data set, implicit VR little endian, whose Content Sequence (0040,A730) holds itself so many times."""
    elements = (
        (0x0008, 0x0016, CTImageStorage.encode()), (0x0008, 0x0018, b"2.25.5%d" % undefined),
        (0x0020, 0x000D, b"2.25.50\0"), (0x0020, 0x000E, b"2.25.51\0"),
    )  # fmt: skip
    padded = [(*tag, value + b"\0" * (len(value) % 2)) for *tag, value in elements]
    head = b"".join(struct.pack("<HHL", group, number, len(value)) + value for group, number, value in padded)
    begin = struct.pack("<HHLHHL", 0x0040, 0xA730, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    inner = begin * depth + end * depth if undefined else b""
    while not undefined and depth:
        inner = struct.pack("<HHLHHL", 0x0040, 0xA730, len(inner) + 8, 0xFFFE, 0xE000, len(inner)) + inner
        depth -= 1
    return head + inner


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined lengths", "lengths"])
def test_a_bottomless_sequence_harms_nobody(node: Node, wait_for: Factory, undefined: bool) -> None:
    before = footprint(node)
    data = nested(5_000, undefined)
    elements = (
        (0x0002, CTImageStorage.encode() + b"\0"), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0700, b"\0\0"),
        (0x0800, b"\1\0"), (0x1000, b"2.25.5%d" % undefined + b"\0"),
    )  # fmt: skip
    command = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements)
    with associate(node, CTImageStorage) as peer:
        for control, fragment in ((0x03, command), (0x02, data)):
            peer.sendall(struct.pack(">BxLLBB", 0x04, len(fragment) + 6, len(fragment) + 2, 1, control) + fragment)
        answer = peer.recv(4096)
    (status,) = struct.unpack_from("<H", answer, answer.index(b"\0\0\0\x09\2\0\0\0") + 8)
    print(f"5,000 levels: status {status:04X}")
    assert status in (0x0000, 0xA700, 0xC000)
    wait_for(
        lambda: not {"RECEIVING", "SETTLED", "INDEXING"} & set(node.get("/status")["series_by_state"]),
        120,
        "it is judged",
    )
    assert node.get("/health")["worker"]["state"] == "RUNNING"
    echo_s(node)
    until_as_before(node, before, wait_for)


def test_idle_and_trickling_connections_keep_nobody_out(node: Node, wait_for: Factory) -> None:
    """Trickling: a byte a second, some before they have asked, some in the middle of a C-STORE."""
    before = footprint(node)
    with contextlib.ExitStack() as all_of_them:
        idle = [all_of_them.enter_context(connect(node)) for _ in range(IDLE)]
        asking = [all_of_them.enter_context(connect(node)) for _ in range(TRICKLING // 2)]
        storing = [all_of_them.enter_context(associate(node, CTImageStorage)) for _ in range(TRICKLING // 2)]
        for peer in storing:
            peer.sendall(struct.pack(">BxLLBB", 0x04, 4096, 4092, 1, 0x03))
        during, echoes = footprint(node), []
        for at in range(4):
            with contextlib.suppress(OSError):  # on a slow machine their time is up
                for peer in asking:
                    peer.sendall(request()[at : at + 1])
                for peer in storing:
                    peer.sendall(b"\0")
            echoes.append(echo_s(node))
            time.sleep(0.5)
        grown = during[0] - before[0]
        print(
            f"{IDLE} idle, {TRICKLING} trickling: {grown / MIB:.1f} MiB and {during[1] - before[1]} threads more; "
            f"C-ECHO of a known peer took {min(echoes) * 1000:.0f} to {max(echoes) * 1000:.0f} ms"
        )
        assert during[1] - before[1] <= 2 * len(storing)
        assert grown < 20 * MIB
        wait_for(lambda: all(map(is_closed, idle + asking + storing)), 120, "the idle and the slow are closed")
    until_as_before(node, before, wait_for)


def test_of_too_many_connections_the_oldest_go(node: Node, wait_for: Factory) -> None:
    before = footprint(node)
    with contextlib.ExitStack() as all_of_them:
        waiting = [all_of_them.enter_context(connect(node)) for _ in range(450)]
        wait_for(lambda: sum(map(is_closed, waiting)) >= 50, 60, "the oldest are closed")
        echo_s(node)
    until_as_before(node, before, wait_for)


def test_one_host_has_not_all_associations(node: Node, wait_for: Factory) -> None:
    before = footprint(node)
    with contextlib.ExitStack() as all_of_them:
        for _ in range(32):
            all_of_them.enter_context(associate(node))
        with connect(node) as one_more:
            one_more.sendall(request())
            assert pdu_from(one_more) == REJECTED
    until_as_before(node, before, wait_for)


def test_associations_leave_nothing_behind(node: Node, wait_for: Factory) -> None:
    """Released, aborted, and left without a word, in turn."""

    def some(count: int) -> None:
        for number in range(count):
            with associate(node) as peer:
                if number % 3 == 0:
                    peer.sendall(RELEASE)
                    assert pdu_from(peer) == RELEASED
                elif number % 3 == 1:
                    peer.sendall(struct.pack(">BxLxxxx", ABORTED, 4))

    some(200)  # the allocator's arenas, and the collections of garbage in between, reach their usual size
    before = footprint(node)
    began = time.monotonic()
    some(ASSOCIATIONS)
    rate = ASSOCIATIONS / (time.monotonic() - began)
    until_as_before(node, before, wait_for)
    grown = footprint(node)[0] - before[0]
    print(f"{ASSOCIATIONS} associations, {rate:.0f} a second: {grown / MIB:.1f} MiB more")
    assert grown < 5 * MIB
