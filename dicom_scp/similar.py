"""The similarity view: C-FIND whose answer is the studies that look like a seed, best first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from dicom_scp import private_dictionary as block
from dicom_scp.find import matching_entities, with_computed
from dicom_scp.identifier import Identifier, Key
from dicom_scp.matching import matcher
from dicom_scp.private_dictionary import Direction, PrivateElement
from dicom_scp.responses import LEVEL_OF, is_supported, response
from dicom_scp.seeds import Question
from indexer.answer import Answer, ChunkMatch, Finder, SeriesHit, StudyHit
from indexer.catalog import Lookup
from indexer.catalog.lookup import Entity, Level, Prefilter
from indexer.errors import NotFound, Parked, Refused, Transient
from indexer.uids import EncoderId, SOPInstanceUID

_MAX_LISTED = 500
"""UIDs in one value: UI has a 16-bit length in Explicit VR (PS3.5 7.1.2)."""


@dataclass(frozen=True)
class _Row:
    """One response to be: an entity, and why it is there."""

    entity: Entity
    similarity: float
    series: tuple[SeriesHit, ...]
    matches: tuple[ChunkMatch, ...]
    instances: tuple[SOPInstanceUID, ...]


def similar(
    lookup: Lookup,
    finder: Finder,
    identifier: Identifier,
    question: Question,
    retrieve_ae_title: str,
    cancelled: Callable[[], bool],
) -> Iterator[Dataset]:
    """The identifiers of the responses, at the level of the query, in the order of the answer.

    Every attribute is that of the found entity; the private block is added if the query has it.

    Raises
    ------
    Refused
        The seed is unknown, not indexed yet, or cannot be compared; the message says which.
    """
    elements = _elements_asked(identifier)
    explained = bool(elements) or identifier.level > Level.STUDY
    answer = _ask(lookup, finder, question, cancelled, explained=explained)
    seen: set[int] = set()
    studies = _studies(lookup, answer.hits) if identifier.level <= Level.STUDY else {}
    for hit in answer.hits:
        for row in _rows(lookup, identifier.level, hit, question.filters, studies):
            if identifier.level is Level.PATIENT and row.entity.patient_pk in seen:
                continue
            seen.add(row.entity.patient_pk)
            entity = with_computed(lookup, row.entity, identifier.keys.values())
            found = response(identifier, entity.attributes, retrieve_ae_title)
            if elements:
                values = _block_values(answer.encoder_id, hit, row)
                block.write_block(found, {element: values[element] for element in elements})
            yield found


def _ask(
    lookup: Lookup, finder: Finder, question: Question, cancelled: Callable[[], bool], *, explained: bool
) -> Answer:
    allowed = allowed_series(lookup, question.filters)
    try:
        return finder.similar(
            question.seed,
            limit=question.limit,
            allowed_series=allowed,
            cancelled=cancelled,
            explained=explained,
        )
    except (NotFound, Parked, Transient) as error:
        raise Refused(str(error)) from error


def allowed_series(lookup: Lookup, filters: Sequence[Key]) -> frozenset[int] | None:
    """Keys of the series that matching keys let be found; None where no key says anything.

    Raises
    ------
    Mismatched
        A value cannot be meant.
    """
    usable = [key for key in filters if is_supported(key, Level.SERIES)]
    if not usable:
        return None
    return frozenset(entity.series_pk for entity in matching_entities(lookup, Level.SERIES, usable))


def _studies(lookup: Lookup, hits: Sequence[StudyHit]) -> dict[int, Entity]:
    """The studies of an answer by their keys; those that are gone since are not among them."""
    uids = tuple(hit.study_instance_uid for hit in hits)
    return {one.study_pk: one for one in lookup.entities(Level.STUDY, Prefilter(study_instance_uid=uids))}


def _rows(
    lookup: Lookup, level: Level, hit: StudyHit, filters: Sequence[Key], studies: Mapping[int, Entity]
) -> Iterator[_Row]:
    """The rows of one hit; `studies` are needed at the levels of patient and study only."""
    if level <= Level.STUDY:
        if (entity := studies.get(hit.study_pk)) is not None:
            matches = tuple(match for series in hit.series for match in series.matches)
            whose = _patient_only(entity) if level is Level.PATIENT else entity
            yield _Row(whose, hit.similarity, hit.series, matches, _found_instances(matches))
        return
    for series in hit.series:
        if level is Level.SERIES:
            prefilter = Prefilter(series_instance_uid=(series.series_instance_uid,))
            for entity in lookup.entities(Level.SERIES, prefilter):
                instances = _found_instances(series.matches)
                yield _Row(entity, series.similarity, (series,), series.matches, instances)
        else:
            yield from _image_rows(lookup, series, filters)


def _image_rows(lookup: Lookup, series: SeriesHit, filters: Sequence[Key]) -> Iterator[_Row]:
    """One row a matching instance, in the order of the matches; keys of the instance level filter here."""
    of_instances = [k for k in filters if is_supported(k, Level.IMAGE) and LEVEL_OF.get(k.tag) is Level.IMAGE]
    wanted = matcher(of_instances)
    uids = _found_instances(series.matches)
    entities: dict[str, Entity] = {}
    for start in range(0, len(uids), _MAX_LISTED):
        prefilter = Prefilter(sop_instance_uid=uids[start : start + _MAX_LISTED])
        for entity in lookup.entities(Level.IMAGE, prefilter):
            entities[entity.attributes["00080018"]["Value"][0]] = entity
    for uid in uids:
        if uid in entities and wanted(entities[uid].attributes):
            matches = tuple(m for m in series.matches if any(s.sop_instance_uid == uid for s in m.found_slices))
            yield _Row(entities[uid], max(m.similarity for m in matches), (series,), matches, (uid,))


def _patient_only(entity: Entity) -> Entity:
    """The patient of a study, without the study's attributes."""
    kept = {f"{tag:08X}" for tag, level in LEVEL_OF.items() if level is Level.PATIENT}
    attributes = {tag: value for tag, value in entity.attributes.items() if tag in kept}
    return Entity(Level.PATIENT, entity.patient_pk, 0, 0, 0, attributes)


def _found_instances(matches: Sequence[ChunkMatch]) -> tuple[SOPInstanceUID, ...]:
    return tuple(dict.fromkeys(ref.sop_instance_uid for match in matches for ref in match.found_slices))


def _elements_asked(identifier: Identifier) -> list[PrivateElement]:
    """Elements of the answer that the block asks for; all of them if it names none."""
    if identifier.block is None:
        return []
    of_answers = [element for element in block.BLOCK if element.direction is Direction.RESPONSE]
    return [element for element in of_answers if element in identifier.block] or of_answers


def _block_values(encoder_id: EncoderId, hit: StudyHit, row: _Row) -> Mapping[PrivateElement, object]:
    query = dict.fromkeys(ref.sop_instance_uid for match in row.matches for ref in match.query_slices)
    return {
        block.SIMILARITY: row.similarity,
        block.RANK: hit.rank,
        block.MATCHED_SERIES: [one.series_instance_uid for one in row.series][:_MAX_LISTED],
        block.MATCHED_INSTANCES: list(row.instances)[:_MAX_LISTED],
        block.QUERY_INSTANCES: list(query)[:_MAX_LISTED],
        block.ENCODER: encoder_id,
        block.COMPLETENESS: hit.completeness.value,
        block.RELATION: hit.relation.value,
    }
