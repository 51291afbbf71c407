"""The evidence report: an answer as a Comprehensive 3D SR (PS3.3 A.35.13) in the query's study.

Instances of the query are referenced as images, and as Current Requested Procedure Evidence (PS3.3 C.17.2.3). What
was found belongs, as a rule, to other patients: a document about one patient must not offer their images as its
evidence, nor be filed in their studies, as a Key Object Selection that references them would have to be (PS3.3
C.17.6.2.1). It is named by its UIDs, in UIDREF content items, and by nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any

import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DateTimeContentItem,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    NumContentItem,
    ObserverContext,
    RelationshipTypeValues,
    Scoord3DContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicom_scp import evidence_codes as named
from indexer.answer import Answer, ChunkMatch, Seed, SeriesHit, StudyHit
from indexer.attributes import OWN_MANUFACTURER
from indexer.uids import SeriesInstanceUID, SliceRef, SOPInstanceUID, StudyInstanceUID

MANUFACTURER = OWN_MANUFACTURER
SERIES_NUMBER = 7700
"""Above what modalities number their series with."""
SERIES_DESCRIPTION = "Similar studies (not for diagnosis)"
NOTICE = (
    "Not for diagnosis. These studies look like the query to an image encoder. Likeness of images is not likeness "
    "of disease. Study, Series and SOP Instance UIDs name what was found; it may belong to other patients."
)
SHOWN_SERIES = 3
"""Series of one similar study that the report lists, best first."""
SHOWN_MATCHES = 2
"""Matching parts of one series that it lists, best first."""

_Concept = Any
"""A code: `Code`, or `CodedConcept` of a library without types."""
_CONTAINS = RelationshipTypeValues.CONTAINS


@dataclass(frozen=True)
class Device:
    """Who observed (PS3.16 TID 1004).

    Attributes
    ----------
    uid : str
        Of this node's archive, the same after every start.
    version : str
        Of the software.
    """

    uid: str
    ae_title: str
    version: str


@dataclass(frozen=True)
class ReferenceDatabase:
    """What was searched, and when."""

    studies: int
    series: int
    embeddings: int
    at: datetime


@dataclass(frozen=True)
class QueryImage:
    """An image of the query's study."""

    sop_class_uid: str
    sop_instance_uid: SOPInstanceUID
    series_instance_uid: SeriesInstanceUID


@dataclass(frozen=True)
class Query:
    """What was asked about.

    Attributes
    ----------
    series : tuple of SeriesInstanceUID
        The series of the study that were compared.
    images : mapping of SOPInstanceUID to QueryImage
        Every image of the query that the answer names, and at least one.
    frame_of_reference_uid : str
        That `seed.region_lps_mm` lies in; empty where it is not known.
    """

    study_instance_uid: StudyInstanceUID
    seed: Seed
    series: tuple[SeriesInstanceUID, ...]
    images: Mapping[SOPInstanceUID, QueryImage]
    frame_of_reference_uid: str = ""


@dataclass(frozen=True)
class DocumentIdentity:
    """The report's place in its study."""

    series_instance_uid: SeriesInstanceUID
    sop_instance_uid: SOPInstanceUID
    instance_number: int


def named_query_images(answer: Answer, seed: Seed) -> list[SOPInstanceUID]:
    """Which images of the query the report of an answer references; each once."""
    matches = (m for hit in answer.hits for one in hit.series[:SHOWN_SERIES] for m in one.matches[:SHOWN_MATCHES])
    shown = [ref.sop_instance_uid for match in matches for ref in _ends(match.query_slices)]
    return list(dict.fromkeys([*seed.sop_instance_uids, *shown]))


def evidence_report(
    patient_and_study: Dataset,
    query: Query,
    answer: Answer,
    database: ReferenceDatabase,
    device: Device,
    identity: DocumentIdentity,
) -> Dataset:
    """Write an answer as a document of the query's study.

    Parameters
    ----------
    patient_and_study : Dataset
        Attributes of the Patient and Study modules of the query's study, as an instance of it has them; see
        `dicom_scp.inheritance`.

    Returns
    -------
    Dataset
        A Comprehensive 3D SR with File Meta Information, Explicit VR Little Endian, text as UTF-8.
    """
    report: Dataset = Comprehensive3DSR(
        evidence=[_evidence(query, image) for image in query.images.values()],
        content=_content(query, answer, database, device),
        series_instance_uid=identity.series_instance_uid,
        series_number=SERIES_NUMBER,
        series_description=SERIES_DESCRIPTION,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=identity.instance_number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=device.version,
        device_serial_number=device.uid,
        is_complete=True,
        coding_schemes=[_scheme()],
        specific_character_set="ISO_IR 192",
    )
    for element in patient_and_study:
        report[element.tag] = element
    return report


def _evidence(query: Query, image: QueryImage) -> Dataset:
    """Name an image to the library; whose it is comes later, since the library logs names that it finds odd."""
    evidence = Dataset()
    evidence.StudyInstanceUID = query.study_instance_uid
    evidence.SeriesInstanceUID = image.series_instance_uid
    evidence.SOPClassUID = image.sop_class_uid
    evidence.SOPInstanceUID = image.sop_instance_uid
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(evidence, keyword, None)
    for keyword in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        setattr(evidence, keyword, None)
    return evidence


def _scheme() -> CodingSchemeIdentificationItem:
    scheme = CodingSchemeIdentificationItem(
        designator=named.SCHEME, name=named.SCHEME_NAME, responsible_organization=MANUFACTURER
    )
    scheme.CodingSchemeUID = named.SCHEME_UID
    return scheme


def _content(query: Query, answer: Answer, database: ReferenceDatabase, device: Device) -> Dataset:
    root: Dataset = ContainerContentItem(name=named.TITLE, is_content_continuous=False)
    root.ContentSequence = ContentSequence(
        [
            *LanguageOfContentItemAndDescendants(named.ENGLISH),
            *_observer(device),
            _text(named.NOTICE, NOTICE),
            _container(named.SYSTEM, _system(answer, device)),
            _container(named.QUERY, _query(query)),
            _container(named.REFERENCE_DATABASE, _database(database)),
            _number(named.RESULTS, len(answer.hits)),
            *(_container(named.RESULT, _result(hit, query.images)) for hit in answer.hits),
        ]
    )
    return root


def _observer(device: Device) -> Sequence[ContentItem]:
    """Observation context (PS3.16 TID 1001): a device."""
    attributes = DeviceObserverIdentifyingAttributes(
        uid=device.uid,
        name=device.ae_title,
        manufacturer_name=MANUFACTURER,
        model_name=MANUFACTURER,
    )
    observer: Sequence[ContentItem] = ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=attributes
    )
    return observer


def _system(answer: Answer, device: Device) -> list[ContentItem]:
    """PS3.16 TID 4019: the system and its version; the encoder, whose id says the digest of all it consists of."""
    return [
        _text(named.ALGORITHM_NAME, MANUFACTURER),
        _text(named.ALGORITHM_VERSION, device.version),
        _text(named.ENCODER, answer.encoder_id),
    ]


def _query(query: Query) -> list[ContentItem]:
    items = [_uid(named.STUDY_UID, query.study_instance_uid)]
    items += [_uid(named.SERIES_UID, uid) for uid in query.series]
    for uid in query.seed.sop_instance_uids:
        if uid in query.images:
            items.append(_image(named.QUERY_IMAGE, query.images[uid], None))
    if query.seed.region_lps_mm is not None:
        items += _region(query)
    return items


def _region(query: Query) -> list[ContentItem]:
    """The box asked about: its eight corners where the frame of reference is known, and as text for people."""
    box = query.seed.region_lps_mm or ()
    items = [_text(named.QUERY_REGION_TEXT, " ".join(f"{value:.1f}" for value in box))]
    if query.frame_of_reference_uid:
        corners = np.array(list(product(*zip(box[:3], box[3:], strict=True))), dtype=np.float64)
        items.append(
            Scoord3DContentItem(
                name=named.QUERY_REGION,
                graphic_type="MULTIPOINT",
                graphic_data=corners,
                frame_of_reference_uid=query.frame_of_reference_uid,
                relationship_type=_CONTAINS,
            )
        )
    return items


def _database(database: ReferenceDatabase) -> list[ContentItem]:
    # Local time like Content Time, without an offset: DCMTK 3.6 takes "+0000" for a broken value.
    at = database.at.astimezone().strftime("%Y%m%d%H%M%S")
    return [
        DateTimeContentItem(name=named.AS_OF, value=at, relationship_type=_CONTAINS),
        _number(named.STUDIES, database.studies),
        _number(named.SERIES, database.series),
        _number(named.EMBEDDINGS, database.embeddings),
    ]


def _result(hit: StudyHit, images: Mapping[SOPInstanceUID, QueryImage]) -> list[ContentItem]:
    shown = hit.series[:SHOWN_SERIES]
    return [
        _number(named.RANK, hit.rank),
        _number(named.SIMILARITY, round(hit.similarity, 6)),
        _code(named.RELATION, named.RELATIONS[hit.relation]),
        _code(named.COMPLETENESS, named.COMPLETENESSES[hit.completeness]),
        _uid(named.STUDY_UID, hit.study_instance_uid),
        *(_container(named.RESULT_SERIES, _result_series(one, images)) for one in shown),
    ]


def _result_series(hit: SeriesHit, images: Mapping[SOPInstanceUID, QueryImage]) -> list[ContentItem]:
    return [
        _uid(named.SERIES_UID, hit.series_instance_uid),
        _number(named.SIMILARITY, round(hit.similarity, 6)),
        *(_container(named.MATCH, _match(match, images)) for match in hit.matches[:SHOWN_MATCHES]),
    ]


def _match(match: ChunkMatch, images: Mapping[SOPInstanceUID, QueryImage]) -> list[ContentItem]:
    items = [_number(named.SIMILARITY, round(match.similarity, 6))]
    for concepts, extent in ((named.QUERY_Z, match.query_z_mm), (named.FOUND_Z, match.found_z_mm)):
        items += [
            _number(concept, round(z, 3), named.MILLIMETRE) for concept, z in zip(concepts, extent, strict=True)
        ]
    levels = ((named.QUERY_LEVEL, match.query_level), (named.FOUND_LEVEL, match.found_level))
    items += [_text(concept, level) for concept, level in levels if level]
    for concept, ref in zip(named.QUERY_SLICES, _ends(match.query_slices), strict=False):
        if ref.sop_instance_uid in images:
            items.append(_image(concept, images[ref.sop_instance_uid], ref.frame_number))
    ends = zip(named.FOUND_SLICES, named.FOUND_FRAMES, _ends(match.found_slices), strict=False)
    for concept, frame_concept, ref in ends:
        items.append(_uid(concept, ref.sop_instance_uid))
        if ref.frame_number is not None:
            items.append(_number(frame_concept, ref.frame_number))
    return items


def _ends(slices: Sequence[SliceRef]) -> list[SliceRef]:
    """First, middle and last of some slices: a chunk has up to a hundred, and they are contiguous."""
    return [slices[0], slices[len(slices) // 2], slices[-1]] if slices else []


def _container(name: _Concept, items: Sequence[ContentItem]) -> ContentItem:
    container = ContainerContentItem(name=name, is_content_continuous=False, relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def _text(name: _Concept, value: str) -> ContentItem:
    return TextContentItem(name=name, value=value, relationship_type=_CONTAINS)


def _number(name: _Concept, value: float, unit: Code = named.NO_UNITS) -> ContentItem:
    return NumContentItem(name=name, value=value, unit=unit, relationship_type=_CONTAINS)


def _code(name: _Concept, value: _Concept) -> ContentItem:
    return CodeContentItem(name=name, value=value, relationship_type=_CONTAINS)


def _uid(name: _Concept, value: str) -> ContentItem:
    return UIDRefContentItem(name=name, value=value, relationship_type=_CONTAINS)


def _image(name: _Concept, image: QueryImage, frame_number: int | None) -> ContentItem:
    return ImageContentItem(
        name=name,
        referenced_sop_class_uid=image.sop_class_uid,
        referenced_sop_instance_uid=image.sop_instance_uid,
        referenced_frame_numbers=frame_number,
        relationship_type=_CONTAINS,
    )
