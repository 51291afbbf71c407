"""Errors of the way from a stored instance to an answer; `config.errors` draws the whole tree.

Messages say what was expected and what came, and never hold patient data: no names, no identifiers other than
UIDs, no attribute values beyond numbers and coded strings.
"""

from config.errors import PacsimileError


class Refused(PacsimileError):
    """The input is not accepted: its sender keeps it and is told why."""


class Forgotten(Refused):
    """It was forgotten here for good, and is not taken again."""


class Parked(PacsimileError):
    """A series cannot be turned into embeddings; the message is the reason an administrator reads.

    Not tried again until an instance arrives or somebody asks for it.
    """


class Transient(PacsimileError):
    """Trying again later may succeed (a lock, a full disk, a peer that is away)."""


class NotDurable(Transient):
    """It was written, but a power cut may take it back."""


class Damaged(PacsimileError):
    """A file of ours is not what was written: checksum, encoder, dimension or count differ."""


class NotFound(PacsimileError):
    """Nothing is known by that name."""
