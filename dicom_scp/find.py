"""Plain C-FIND: the entities of the catalog that match an identifier (PS3.4 C.4.1)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from pydicom import Dataset
from pydicom.tag import BaseTag

from dicom_scp.identifier import Identifier, Key, check_hierarchy
from dicom_scp.matching import matcher, prefilter_of
from dicom_scp.responses import COMPUTED, computed_attributes, is_supported, response
from indexer.attributes import JsonObject
from indexer.catalog import Lookup
from indexer.catalog.lookup import Entity, Level

_BATCH = 200


def find(lookup: Lookup, identifier: Identifier, retrieve_ae_title: str) -> Iterator[Dataset]:
    """The identifiers of the responses, in order of arrival.

    Raises
    ------
    Mismatched
        The identifier breaks the rules of hierarchical search, or a value cannot be meant.
    """
    check_hierarchy(identifier)
    keys = list(identifier.keys.values())
    for entity in matching_entities(lookup, identifier.level, keys):
        yield response(identifier, entity.attributes, retrieve_ae_title)


def has_unsupported_keys(identifier: Identifier, level: Level | None = None) -> bool:
    """Whether responses have to warn (FF01) of keys that were not matched or not returned."""
    at = identifier.level if level is None else level
    return identifier.unsupported or not all(is_supported(key, at) for key in identifier.keys.values())


def matching_entities(lookup: Lookup, level: Level, keys: Iterable[Key]) -> Iterator[Entity]:
    """The entities of a level that match, with the computed attributes that the keys name.

    Keys that are not supported at the level are left aside.
    """
    usable = [key for key in keys if is_supported(key, level)]
    stored = [key for key in usable if key.tag not in COMPUTED]
    computed = [key for key in usable if key.tag in COMPUTED]
    stored_match, computed_match = matcher(stored), matcher(computed)
    found = (e for e in lookup.entities(level, prefilter_of(stored)) if stored_match(e.attributes))
    while batch := list(islice(found, _BATCH)):
        for entity in _with_computed(lookup, batch, {key.tag for key in computed}):
            if computed_match(entity.attributes):
                yield entity


def with_computed(lookup: Lookup, entity: Entity, keys: Iterable[Key]) -> Entity:
    """An entity with the computed attributes that the keys name."""
    return _with_computed(lookup, [entity], {key.tag for key in keys if is_supported(key, entity.level)})[0]


def _with_computed(lookup: Lookup, entities: list[Entity], tags: set[BaseTag]) -> list[Entity]:
    levels = {COMPUTED[tag][0] for tag in tags if tag in COMPUTED}
    added: list[JsonObject] = [{} for _ in entities]
    for level in levels:
        pks = [_pk(entity, level) for entity in entities]
        summaries = lookup.summaries(level, sorted(set(pks)))
        for more, pk in zip(added, pks, strict=True):
            if pk in summaries:
                more |= computed_attributes(level, summaries[pk])
    return [
        replace(entity, attributes=entity.attributes | more) for entity, more in zip(entities, added, strict=True)
    ]


def _pk(entity: Entity, level: Level) -> int:
    return (entity.patient_pk, entity.study_pk, entity.series_pk, entity.instance_pk)[level]
