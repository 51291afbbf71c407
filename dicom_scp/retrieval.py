"""What a C-MOVE or C-GET request asks for: unique keys only (PS3.4 C.4.2.1.4, C.4.2.2.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom import Dataset

from dicom_scp.errors import Mismatched
from dicom_scp.identifier import UNIQUE_KEYS, Identifier, Key, Root, check_hierarchy
from indexer.catalog.lookup import Level

_WILD = frozenset("*?")


@dataclass(frozen=True)
class Retrieval:
    """Entities whose instances are to be sent.

    Attributes
    ----------
    unique_keys : mapping of Level to tuple of str
        Values of Patient ID or of UIDs: one above the level of the retrieval; there perhaps several.
    """

    level: Level
    unique_keys: Mapping[Level, tuple[str, ...]]

    @property
    def root(self) -> Root:
        """The information model that it can be passed on in."""
        return Root.PATIENT if self.level is Level.PATIENT else Root.STUDY

    def identifier(self) -> Dataset:
        """The identifier of a request for the same."""
        dataset = Dataset()
        dataset.QueryRetrieveLevel = self.level.name
        for level, values in self.unique_keys.items():
            if level >= self.root.value:
                dataset.add_new(UNIQUE_KEYS[level], "LO" if level is Level.PATIENT else "UI", list(values))
        return dataset


def read_retrieval(identifier: Identifier) -> Retrieval:
    """Check the keys of an identifier.

    A Patient ID above the level counts in the Study Root model as well: nothing of another patient is sent.

    Raises
    ------
    Mismatched
        A unique key is missing, wild, or a list where it may not be; or there is another key with a value, which
        would ask for less than the unique keys do.
    """
    check_hierarchy(identifier)
    allowed = {UNIQUE_KEYS[Level(level)]: Level(level) for level in range(Level.PATIENT, identifier.level + 1)}
    unique_keys: dict[Level, tuple[str, ...]] = {}
    for tag, key in identifier.keys.items():
        if tag in allowed and key.values:
            unique_keys[allowed[tag]] = key.values
        elif not key.is_universal:
            raise Mismatched(f"{_named(key)} is no unique key at {identifier.level.name} level")
    own = unique_keys.get(identifier.level, ())
    if not own or any(_WILD & set(value) for value in own):
        raise Mismatched(f"{identifier.level.name} level needs values of its unique key, without wild cards")
    if len(unique_keys.get(Level.PATIENT, ())) > 1:
        raise Mismatched("expected a single Patient ID (0010,0020), got several")
    return Retrieval(identifier.level, dict(sorted(unique_keys.items())))


def _named(key: Key) -> str:
    return f"({key.tag.group:04X},{key.tag.element:04X})"
