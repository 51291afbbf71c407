"""What nodes mind that share one catalog."""

import time
from collections.abc import Callable
from typing import Self

from config.access import Cohort
from indexer.answer import Answer, Seed
from indexer.catalog import Catalog
from indexer.errors import Refused, Transient

MILVUS_KEEPER = "milvus keeper"
"""Of the nodes that ask a Milvus collection one writes it (`Catalog.hold`)."""
_MOST_DIFFERENCE_S = 5.0
"""Settling and leases are reckoned by the clocks of the nodes: half of the shortest time that has a default."""


class Elsewhere:
    """Answers for a node that has not the role `query` (`indexer.answer.Finder`)."""

    def within(self, _cohort: Cohort | None) -> Self:
        """See `Finder`."""
        return self

    def similar(
        self,
        seed: Seed,
        *,
        limit: int,
        allowed_series: frozenset[int] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        explained: bool = True,
    ) -> Answer:
        """Refuse."""
        raise Refused("this node answers no questions: it has not the role `query`")


def demand_same_clock(catalog: Catalog) -> None:
    """Refuse to work beside others by a clock that is not theirs.

    Raises
    ------
    Transient
        The clock is not the database's; or that cannot be reached.
    """
    earliest = time.time()
    told = catalog.clock()
    if told is None:
        return
    difference_s = min(told - earliest, told - time.time(), key=abs)
    if abs(difference_s) <= _MOST_DIFFERENCE_S:
        return
    raise Transient(
        f"expected a clock that differs from the catalog's by at most {_MOST_DIFFERENCE_S:.0f} s, got "
        f"{-difference_s:+.0f} s: synchronise them (NTP)"
    )
