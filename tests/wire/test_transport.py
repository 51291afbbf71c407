"""The socket of an accepted association, by itself."""

import socket
from collections.abc import Iterator

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from dicom_scp.read_ahead import ReadAhead
from dicom_scp.transport import Bell, BoundedSocket


class ClosedMeanwhile:
    """A lane that another thread closes while the upper layer's thread asks whether it is open."""

    def __init__(self, bounded: BoundedSocket) -> None:
        self.ahead = ReadAhead(1 << 16)
        self._bounded = bounded

    @property
    def is_open(self) -> bool:
        self._bounded.close_fast_lane()
        return False

    def run(self, connection: socket.socket, bell: Bell) -> bool:
        raise AssertionError("it is not open")

    def close(self) -> None:
        """Nothing is to be given up."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        own, _ = server.accept()
    with own, peer:
        yield own, peer


def test_a_fast_lane_that_is_closed_meanwhile_leaves_the_association_alone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    own, peer = ends
    association = Association(AE(), "acceptor")
    bounded = BoundedSocket(AssociationSocket(association, client_socket=own), 16382, 10.0)
    bounded.wait_for_events()
    bounded.open_fast_lane(ClosedMeanwhile(bounded))
    peer.sendall(b"\x01")

    assert bounded.ready
    assert bounded.recv(1) == b"\x01"
