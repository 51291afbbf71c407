"""Who counts what the DICOM face does: for figures, not for decisions."""

from typing import Protocol


class Meter(Protocol):
    """Told of what happened, from any thread; must be quick and must not raise."""

    def stored(self, status: int, size_bytes: int) -> None:
        """A C-STORE was answered with a status code; its data set had so many bytes."""
        ...

    def found(self, seconds: float, *, is_similarity_view: bool) -> None:
        """A C-FIND was answered to its end, in so many seconds."""
        ...


class NoMeter:
    """Counts nothing."""

    def stored(self, status: int, size_bytes: int) -> None:
        """See `Meter`."""

    def found(self, seconds: float, *, is_similarity_view: bool) -> None:
        """See `Meter`."""
