"""The root of every error this project raises, and the errors of its settings.

The type of an error decides what happens next::

    PacsimileError
    ├── ConfigError            the node does not start; every problem is named at once
    └── indexer.errors
        ├── Refused            the input is not accepted; its sender keeps it and is told why
        │   └── Forgotten      it was forgotten here for good, and is not taken again
        ├── Parked             a series cannot be indexed; it waits, with the reason, for a person or instances
        ├── Transient          trying again later may succeed
        │   └── NotDurable     it was written, but a power cut may take it back
        ├── Damaged            a file of ours is not what was written; it is rebuilt from the catalog
        └── NotFound           nothing known by that name
"""


class PacsimileError(Exception):
    """Any error of this project."""


class ConfigError(PacsimileError):
    """The settings are not usable.

    Parameters
    ----------
    problems : list of str
        One sentence a problem; all of them, so that one run shows everything.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
