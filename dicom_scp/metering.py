"""Who wants to know what the DICOM face does: for figures, not for decisions."""

from typing import Protocol


class Observer(Protocol):
    """Told of what happened, from any thread; must be quick and must not raise."""

    def associated(self, *, accepted: bool) -> None:
        """An association was accepted or rejected."""
        ...

    def stored(self, status: int, size_bytes: int) -> None:
        """A C-STORE was answered with a status code; its data set had so many bytes."""
        ...

    def found(self, seconds: float, *, is_similarity_view: bool) -> None:
        """A C-FIND was answered to its end, in so many seconds."""
        ...


class NoObserver:
    """Wants to know nothing."""

    def associated(self, *, accepted: bool) -> None:
        """See `Observer`."""

    def stored(self, status: int, size_bytes: int) -> None:
        """See `Observer`."""

    def found(self, seconds: float, *, is_similarity_view: bool) -> None:
        """See `Observer`."""
