"""The states of a series on its way to an answer."""

from enum import StrEnum


class SeriesState(StrEnum):
    """Where a series stands."""

    RECEIVING = "RECEIVING"
    """Instances are still coming in."""
    SETTLED = "SETTLED"
    """Quiet for the configured time; a worker may take it."""
    INDEXING = "INDEXING"
    """A worker holds its lease."""
    INDEXED = "INDEXED"
    """All its instances are part of its embeddings."""
    PARKED = "PARKED"
    """It cannot be indexed, for the reason noted; waits for a person or for new instances."""
    STORED = "STORED"
    """Holds no CT or MR image (SR, KO, PR, SEG, RT, US …): kept and catalogued, never embedded."""
