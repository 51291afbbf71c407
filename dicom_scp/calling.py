"""Associations that the node opens itself, and the messages on them and on those of its askers."""

import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_GET_RQ, C_MOVE_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_GET, C_MOVE, C_STORE
from pynetdicom.presentation import PresentationContext

from config.access import Peer
from config.model import DicomSettings
from dicom_scp.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_scp.tls import client_context, is_who_was_called
from dicom_scp.transport import BoundedSocket
from indexer.errors import Transient

logger = logging.getLogger(__name__)

Association = Any
"""`pynetdicom.association.Association`, which has no types."""

MAX_CONTEXTS = 128
"""Presentation contexts in one association: odd ids from 1 to 255 (PS3.8 7.1.1.13)."""
_CONNECT_S = 10.0
_NEGOTIATE_S = 30.0
_POLL_S = 0.05
_MAX_WAITING_PDUS = 64
_REQUESTS = {C_STORE: C_STORE_RQ, C_MOVE: C_MOVE_RQ, C_GET: C_GET_RQ}


class RequestorDimse(DIMSEServiceProvider):  # type: ignore[misc]
    """The messages of an association that the node opened.

    The library's own thread, told to halt while a response is awaited, may look for a message once more, and drops
    what it finds. A quick peer's response was lost so once in some thousand requests.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self._looking = threading.Lock()

    def send_msg(self, primitive: Any, context_id: int) -> None:  # noqa: ANN401 - the library has no types
        """Send a request, once nobody looks who has not heard of the halt."""
        self.await_last_look()
        super().send_msg(primitive, context_id)

    def get_msg(self, block: bool = False) -> Any:  # noqa: ANN401 - the library has no types
        """The next message; none for the library's thread, which does not block, while it is halted."""
        if block:
            return super().get_msg(block)
        with self._looking:
            halted = not self.assoc._reactor_checkpoint.is_set()
            return (None, None) if halted else super().get_msg(block)

    def await_last_look(self) -> None:
        """Return once the library's thread, halted before, takes no message any more."""
        with self._looking:
            pass


@contextmanager
def associated(
    dicom: DicomSettings,
    peer: Peer,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, Any]] = (),
) -> Iterator[Association]:
    """An association with a peer; released at the end, aborted after an error.

    Only the caller takes messages off it: the library's own thread is halted meanwhile.

    Parameters
    ----------
    roles : sequence of SCP_SCU_RoleSelectionNegotiation
        For contexts in which the peer is to be the SCU (PS3.7 D.3.3.4).
    handlers : sequence of (event, callable)
        What to do with requests of the peer.

    Raises
    ------
    Transient
        The peer cannot be reached or does not accept.
    """
    entity = _Entity(ae_title=dicom.aet)
    entity.network_timeout = entity.dimse_timeout = dicom.network_timeout_s
    entity.acse_timeout = min(dicom.network_timeout_s, _NEGOTIATE_S)
    entity.connection_timeout = min(dicom.network_timeout_s, _CONNECT_S)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = dicom.max_pdu_bytes
    association = entity.associate(
        peer.host,
        peer.port,
        contexts=list(contexts),
        ae_title=peer.aet,
        max_pdu=dicom.max_pdu_bytes,
        ext_neg=list(roles),
        evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once), *handlers],
        tls_args=client_context(dicom.tls, peer),
    )
    if not association.is_established:
        _close(association)
        raise Transient(f"no association with {peer.aet}: {_why_not(association)}")
    if not is_who_was_called(association.dul.socket.socket, peer):
        association.abort()
        _close(association)
        raise Transient(f"{peer.aet} shows another certificate than the settings say")
    association.dimse = RequestorDimse(association)
    _halt(association)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    finally:
        if not is_lost(association):
            association.release()
        elif association.is_established:
            association.abort()
        association._reactor_checkpoint.set()
        _close(association)


def is_lost(association: Association) -> bool:
    """Whether the peer or the connection of an association is gone, or it was ended."""
    return (
        not association.is_established
        or association._sent_abort
        or not association.dul.is_alive()
        or association.acse.is_aborted()
    )


def send_request(association: Association, request: Any, context_id: int) -> None:  # noqa: ANN401 - no types
    """Send a C-STORE, C-MOVE or C-GET request, in fragments that wait here rather than pile up in memory.

    Raises
    ------
    Transient
        The association is lost.
    """
    message = _REQUESTS[type(request)]()
    message.primitive_to_message(request)
    waiting = association.dul.to_provider_queue
    for fragment in message.encode_msg(context_id, association.dimse.maximum_pdu_size):
        association.dul.send_pdu(fragment)
        deadline = time.monotonic() + association.network_timeout
        while waiting.qsize() > _MAX_WAITING_PDUS:
            if is_lost(association) or time.monotonic() > deadline:
                raise Transient("the association was lost while sending")
            time.sleep(0.001)


def next_message(association: Association, wait_s: float) -> tuple[int, Any] | None:
    """The context id and the next message that came in, or None if none came in so long.

    Raises
    ------
    Transient
        The association is lost.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with suppress(queue.Empty):
            context_id, message = association.dimse.msg_queue.get(timeout=min(_POLL_S, wait_s))
            if message is not None:
                return context_id, message
        if is_lost(association):
            raise Transient("the association was lost")
        if time.monotonic() >= deadline:
            return None


def _halt(association: Association) -> None:
    """Let the library's thread take no messages; it would answer or drop them."""
    association._reactor_checkpoint.clear()
    while not association._is_paused and association.is_alive():
        time.sleep(0.0001)
    association.dimse.await_last_look()


class _Entity(AE):  # type: ignore[misc]
    """Bounds what a peer that is called can make the node read or wait for, as for those that call."""

    def _create_socket(self, association: Association, *positional: Any) -> Any:  # noqa: ANN401 - no types
        made = super()._create_socket(association, *positional)
        bounded = BoundedSocket(made, self.maximum_pdu_size, self.network_timeout)
        bounded.wait_for_events()
        return bounded


def _send_at_once(event: Any) -> None:  # noqa: ANN401 - `pynetdicom.events.Event`, which has no types
    connected = event.assoc.dul.socket.socket
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.settimeout(event.assoc.network_timeout)


def _why_not(association: Association) -> str:
    return "it rejected it" if association.is_rejected else "it does not answer or accepts nothing of it"


def _close(association: Association) -> None:
    """Close the socket where the library forgets to."""
    held = association.dul.socket
    if held is not None and held.socket is not None:
        with suppress(OSError):
            held.socket.close()
