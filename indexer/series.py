"""When a series settles: pure decisions, the clock and the associations passed in."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from indexer.uids import SeriesInstanceUID


@dataclass(frozen=True)
class ReceivingSeries:
    """A series whose instances are coming in; times in seconds since the epoch."""

    series_instance_uid: SeriesInstanceUID
    last_instance_at: float


def settled(
    receiving: Iterable[ReceivingSeries],
    now: float,
    quiet_time_s: float,
    being_sent: Collection[SeriesInstanceUID] = (),
) -> list[SeriesInstanceUID]:
    """The series that have settled.

    Parameters
    ----------
    receiving : iterable of ReceivingSeries
        Every series in state RECEIVING.
    now : float
        Seconds since the epoch.
    quiet_time_s : float
        A series settles so long after its last instance.
    being_sent : collection of SeriesInstanceUID
        Series to which an open association is sending: they wait, however slow the sender.
    """
    return [
        series.series_instance_uid
        for series in receiving
        if series.series_instance_uid not in being_sent and now - series.last_instance_at >= quiet_time_s
    ]
