"""What a query to the similarity view asks about: its seed, in the order in which one is looked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.tag import BaseTag, Tag

from dicom_scp import private_dictionary as block
from dicom_scp.errors import Mismatched
from dicom_scp.identifier import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, Identifier, Key
from dicom_scp.patience import seed_series
from dicom_scp.private_dictionary import PrivateElement
from indexer.answer import BoxLpsMm, Seed
from indexer.catalog import Lookup
from indexer.errors import Refused
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

_ACCESSION_NUMBER = Tag(0x0008, 0x0050)
_UID = re.compile(r"[0-9.]{1,64}")
_NO_SEED = "no seed: give a Study Instance UID or send a study to this AE"


@dataclass(frozen=True)
class Wanted:
    """A study, or one of its series, that is asked about; by its UIDs or its Accession Number."""

    study_instance_uid: StudyInstanceUID | None = None
    series_instance_uid: SeriesInstanceUID | None = None
    accession_number: str = ""


class UnknownSeed(Refused):
    """The seed is not known here.

    Parameters
    ----------
    wanted : Wanted, optional
        What another archive could be asked for; None where that takes more than is known.
    """

    def __init__(self, wanted: Wanted | None) -> None:
        super().__init__("the seed is not known here: send it first")
        self.wanted = wanted


@dataclass(frozen=True)
class Question:
    """A seed, and what else the identifier says of the answer.

    Attributes
    ----------
    limit : int
        At most so many studies.
    filters : tuple of Key
        Matching keys that found series have to satisfy; the seed's own keys are not among them.
    """

    seed: Seed
    limit: int
    filters: tuple[Key, ...]


def read_question(
    identifier: Identifier,
    lookup: Lookup,
    *,
    seed_from_standard_keys: bool,
    last_sent: StudyInstanceUID | None,
    max_results: int,
) -> Question:
    """Find the seed: the private block, else a standard key, else what the asker last sent.

    Parameters
    ----------
    seed_from_standard_keys : bool
        Whether a single UID or Accession Number is a seed; otherwise all standard keys filter.
    last_sent : StudyInstanceUID, optional
        The study that the asker last sent.

    Raises
    ------
    Mismatched
        No seed, or a value of the private block that cannot be meant.
    Refused
        The seed is not known here, or ambiguous.
    """
    values = identifier.block or {}
    if values.get(block.QUERY_TEXT):
        raise Refused("query text (0077,xx05) is not supported by this version")
    limit = _limit(values, max_results)
    used: frozenset[BaseTag] = frozenset()
    seed = _seed_of_block(values)
    if seed is None and seed_from_standard_keys:
        seed, used = _seed_of_keys(identifier, lookup)
    if seed is None and last_sent is not None:
        seed = Seed(study_instance_uid=last_sent)
    if seed is None:
        raise Mismatched(_NO_SEED)
    keys = identifier.keys.values()
    return Question(seed, limit, tuple(key for key in keys if key.tag not in used and not key.is_universal))


def demand_known(lookup: Lookup, seed: Seed) -> None:
    """Raise `UnknownSeed` unless something of the seed is in the catalog."""
    if not seed_series(lookup, seed):
        raise UnknownSeed(_wanted(seed.study_instance_uid, seed.series_instance_uid))


def _wanted(study_instance_uid: str | None, series_instance_uid: str | None) -> Wanted | None:
    """What to ask another archive for: it needs the study's UID, also for a series (PS3.4 C.4.2.2.1)."""
    if not study_instance_uid:
        return None
    series = SeriesInstanceUID(series_instance_uid) if series_instance_uid else None
    return Wanted(StudyInstanceUID(study_instance_uid), series)


def _limit(values: Mapping[PrivateElement, tuple[str, ...]], otherwise: int) -> int:
    given = values.get(block.MAXIMUM_RESULTS)
    if not given:
        return otherwise
    if len(given) != 1 or not given[0].isdecimal() or int(given[0]) == 0:
        raise Mismatched("(0077,xx06): expected one number from 1")
    return int(given[0])


def _seed_of_block(values: Mapping[PrivateElement, tuple[str, ...]]) -> Seed | None:
    study, series = (_one_uid(values, element) for element in (block.SEED_STUDY, block.SEED_SERIES))
    instances = values.get(block.SEED_INSTANCES, ())
    region = _region(values.get(block.SEED_REGION, ()))
    if not all(_UID.fullmatch(uid) for uid in instances):
        raise Mismatched("(0077,xx03): expected UIDs of 1 to 64 digits and dots")
    if not (study or series or instances):
        if region is not None:
            raise Mismatched("(0077,xx04): a seed region needs a seed study, series or instance")
        return None
    return Seed(
        study_instance_uid=StudyInstanceUID(study) if study else None,
        series_instance_uid=SeriesInstanceUID(series) if series else None,
        sop_instance_uids=tuple(SOPInstanceUID(uid) for uid in instances),
        region_lps_mm=region,
    )


def _one_uid(values: Mapping[PrivateElement, tuple[str, ...]], element: PrivateElement) -> str:
    given = values.get(element, ())
    if len(given) > 1 or not all(_UID.fullmatch(uid) for uid in given):
        raise Mismatched(f"(0077,xx{element.offset:02X}): expected one UID of 1 to 64 digits and dots")
    return given[0] if given else ""


def _region(given: tuple[str, ...]) -> BoxLpsMm | None:
    if not given:
        return None
    try:
        x0, y0, z0, x1, y1, z1 = (float(text) for text in given)
    except ValueError:
        raise Mismatched("(0077,xx04): expected six numbers x0 y0 z0 x1 y1 z1") from None
    if not (x0 <= x1 and y0 <= y1 and z0 <= z1):
        raise Mismatched("(0077,xx04): expected x0 <= x1, y0 <= y1, z0 <= z1")
    return (x0, y0, z0, x1, y1, z1)


def _seed_of_keys(identifier: Identifier, lookup: Lookup) -> tuple[Seed | None, frozenset[BaseTag]]:
    """The narrowest entity that the standard keys name, and the keys that named it or what it is part of."""
    single = {
        tag: key.values[0]
        for tag in (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, _ACCESSION_NUMBER)
        if (key := identifier.keys.get(tag)) and len(key.values) == 1 and not set("*?") & set(key.values[0])
    }
    if uid := single.get(SOP_INSTANCE_UID):
        seed = Seed(sop_instance_uids=(SOPInstanceUID(uid),))
        known = bool(lookup.series_of_instances(seed.sop_instance_uids))
    elif uid := single.get(SERIES_INSTANCE_UID):
        seed = Seed(series_instance_uid=SeriesInstanceUID(uid))
        known = lookup.series_by_uid(uid) is not None
    elif uid := single.get(STUDY_INSTANCE_UID):
        seed = Seed(study_instance_uid=StudyInstanceUID(uid))
        known = bool(lookup.series_of_study(uid))
    elif number := single.get(_ACCESSION_NUMBER):
        return Seed(study_instance_uid=_study_of(lookup, number)), frozenset({_ACCESSION_NUMBER})
    else:
        return None, frozenset()
    if not known:
        raise UnknownSeed(_wanted(single.get(STUDY_INSTANCE_UID), single.get(SERIES_INSTANCE_UID)))
    return seed, frozenset(single)


def _study_of(lookup: Lookup, accession_number: str) -> StudyInstanceUID:
    studies = lookup.studies_by_accession(accession_number)
    if not studies:
        raise UnknownSeed(Wanted(accession_number=accession_number))
    if len(studies) > 1:
        raise Refused(f"the Accession Number names {len(studies)} studies: give a UID")
    return studies[0]
