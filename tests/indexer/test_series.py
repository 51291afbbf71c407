"""When a series settles."""

from hypothesis import given
from hypothesis import strategies as st

from indexer.series import ReceivingSeries, settled
from indexer.uids import SeriesInstanceUID

ONE, OTHER = SeriesInstanceUID("2.25.1"), SeriesInstanceUID("2.25.2")


def test_after_the_quiet_time_and_not_before() -> None:
    receiving = [ReceivingSeries(ONE, 100.0), ReceivingSeries(OTHER, 105.0)]
    assert settled(receiving, 109.9, 10.0) == []
    assert settled(receiving, 110.0, 10.0) == [ONE]
    assert settled(receiving, 115.0, 10.0) == [ONE, OTHER]
    assert settled([], 115.0, 10.0) == []


def test_never_while_an_association_is_sending_to_it() -> None:
    receiving = [ReceivingSeries(ONE, 100.0), ReceivingSeries(OTHER, 100.0)]
    assert settled(receiving, 1000.0, 10.0, {ONE}) == [OTHER]


def test_a_clock_that_was_set_back_only_delays() -> None:
    assert settled([ReceivingSeries(ONE, 100.0)], 50.0, 10.0) == []


@given(st.lists(st.floats(0, 1e6)), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_longer_quiet_time_settles_no_more(times: list[float], now: float, quiet_s: float, more_s: float) -> None:
    receiving = [ReceivingSeries(SeriesInstanceUID(f"2.25.{n}"), at) for n, at in enumerate(times)]
    assert set(settled(receiving, now, quiet_s + more_s)) <= set(settled(receiving, now, quiet_s))
