"""The buffer between a connection and those who read PDUs from it."""


class ReadAhead:
    """What was read from a connection and not used yet."""

    def __init__(self, capacity: int) -> None:
        self._view = memoryview(bytearray(capacity))
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def capacity(self) -> int:
        """Longest PDU that it can hold."""
        return len(self._view)

    def room(self) -> memoryview:
        """Where to read on; never empty unless the buffer is full."""
        if self._begin:
            rest = self._end - self._begin
            self._view[:rest] = self._view[self._begin : self._end]
            self._begin, self._end = 0, rest
        return self._view[self._end :]

    def came(self, count: int) -> None:
        """So many bytes were read to where `room` said."""
        self._end += count

    def pending(self) -> memoryview:
        """All that is there."""
        return self._view[self._begin : self._end]

    def use(self, count: int) -> None:
        """Forget the first bytes."""
        self._begin += count
        if self._begin == self._end:
            self._begin = self._end = 0

    def take(self, count: int) -> bytes:
        """The first bytes, or as many as there are."""
        taken = bytes(self.pending()[:count])
        self.use(len(taken))
        return taken
