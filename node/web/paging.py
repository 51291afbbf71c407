"""Which part of an answer is wanted."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

MOST_RESULTS = 1000
_MOST_OFFSET = 10_000


@dataclass(frozen=True)
class Paging:
    """Which part of the answer is wanted, and whether the matches are told."""

    limit: int
    offset: int
    explain: bool

    @property
    def asked(self) -> int:
        """So many hits of either kind have to be looked for; one more than shown tells whether more follow."""
        return self.offset + self.limit + 1


def read_paging(
    limit: Annotated[
        int,
        Query(ge=1, le=MOST_RESULTS, description="At most so many other patients' studies, and as many of the own"),
    ] = 20,
    offset: Annotated[int, Query(ge=0, le=_MOST_OFFSET, description="So many of either are left out")] = 0,
    explain: Annotated[bool, Query(description="Tell the matching chunks of either side")] = True,
) -> Paging:
    """Read the paging of a request."""
    return Paging(limit, offset, explain)


PagingQuery = Annotated[Paging, Depends(read_paging)]
