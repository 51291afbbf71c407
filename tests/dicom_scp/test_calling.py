"""Messages of associations that the node opened: a response is for who waits for it."""

import threading
from types import SimpleNamespace

import pytest

from dicom_scp.calling import RequestorDimse

ITEM = (1, "a response")


@pytest.fixture
def dimse() -> RequestorDimse:
    made = RequestorDimse(SimpleNamespace(_reactor_checkpoint=threading.Event(), dimse_timeout=5.0))
    made.assoc._reactor_checkpoint.set()
    return made


def test_the_library_takes_messages_while_it_runs(dimse: RequestorDimse) -> None:
    dimse.msg_queue.put(ITEM)
    assert dimse.get_msg() == ITEM
    assert dimse.get_msg() == (None, None)


def test_the_library_takes_none_while_it_is_halted(dimse: RequestorDimse) -> None:
    dimse.assoc._reactor_checkpoint.clear()
    dimse.msg_queue.put(ITEM)
    assert dimse.get_msg() == (None, None)
    assert dimse.get_msg(block=True) == ITEM


def test_a_request_waits_for_the_end_of_a_look_that_began_before(dimse: RequestorDimse) -> None:
    with dimse._looking:
        waiting = threading.Thread(target=dimse.await_last_look)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
