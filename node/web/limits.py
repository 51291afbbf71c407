"""How much one asker may ask: a bucket of tokens for each, filled all the time."""

import threading
import time
from collections import OrderedDict

_MOST_KEYS = 10_000


class RateLimit:
    """Counts what each of many askers does; the ones that were quiet for longest are forgotten first.

    Parameters
    ----------
    per_minute : int
        As many at once, and so many a minute in the long run.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._per_s = per_minute / 60
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Count one; returns in how many seconds it would be allowed, 0 if it is now."""
        with self._lock:
            left = self._left_of(key)
            is_allowed = left >= 1
            self._left[key] = (left - 1 if is_allowed else left, time.monotonic())
            self._left.move_to_end(key)
            if len(self._left) > _MOST_KEYS:
                self._left.popitem(last=False)
        return 0.0 if is_allowed else (1 - left) / self._per_s

    def wait_s(self, key: str) -> float:
        """In how many seconds one would be allowed, without counting one."""
        with self._lock:
            return max(1 - self._left_of(key), 0.0) / self._per_s

    def _left_of(self, key: str) -> float:
        left, at = self._left.get(key, (self._most, 0.0))
        return min(left + (time.monotonic() - at) * self._per_s, self._most)
