"""Which rules of the settings a study meets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydicom import dcmread

from config.model import Rule
from dicom_scp.parsing import quiet
from dicom_scp.spool import Spool
from indexer.attributes import first_value
from indexer.catalog import Lookup
from indexer.catalog.lookup import Entity, Level, Prefilter
from indexer.catalog.outbox import NewDelivery
from indexer.uids import StudyInstanceUID


@dataclass(frozen=True)
class StudyTraits:
    """What rules match of a study; each of all its series.

    Attributes
    ----------
    source_aets : frozenset of str
        Who sent it, as far as that is known: not where it was taken in from disk, or its files are no longer here.
    """

    modalities: frozenset[str]
    body_parts: frozenset[str]
    source_aets: frozenset[str]
    description: str


def traits_of(study_instance_uid: StudyInstanceUID, lookup: Lookup, spool: Spool) -> StudyTraits:
    """Look up what rules match of a study; one instance of each series stands for who sent it."""
    series = list(lookup.entities(Level.SERIES, Prefilter(study_instance_uid=[study_instance_uid])))
    return StudyTraits(
        modalities=frozenset(first_value(one.attributes, "Modality") for one in series),
        body_parts=frozenset(first_value(one.attributes, "BodyPartExamined") for one in series),
        source_aets=frozenset(_senders(series, lookup, spool)),
        description=first_value(series[0].attributes, "StudyDescription") if series else "",
    )


def wanted(rules: Sequence[Rule], traits: StudyTraits) -> list[NewDelivery]:
    """What the rules ask for about a study: one delivery for each peer or web hook."""
    return [
        NewDelivery(rule.name, rule.do, target)
        for rule in rules
        if matches(rule, traits)
        for target in dict.fromkeys(rule.peers or ("",))
    ]


def matches(rule: Rule, traits: StudyTraits) -> bool:
    """Whether a study meets every key that the rule gives."""
    return (
        _meets(rule.modality, traits.modalities)
        and _meets(rule.body_part, traits.body_parts)
        and _meets(rule.source_aet, traits.source_aets)
        and fnmatchcase(traits.description.casefold(), (rule.study_description or "*").casefold())
    )


def _meets(allowed: Sequence[str], present: frozenset[str]) -> bool:
    return not allowed or not present.isdisjoint(allowed)


def _senders(series: Sequence[Entity], lookup: Lookup, spool: Spool) -> Iterator[str]:
    """Source Application Entity Title (0002,0016) of the first file of each series."""
    for one in series:
        uid = first_value(one.attributes, "SeriesInstanceUID")
        first = next(iter(lookup.entities(Level.IMAGE, Prefilter(series_instance_uid=[uid]))), None)
        path = first and lookup.instance_path(first_value(first.attributes, "SOPInstanceUID"))
        if path:
            try:
                with quiet(), spool.file(path).open("rb") as file:
                    known = dcmread(file, stop_before_pixels=True, specific_tags=[])
                source = known.file_meta.get("SourceApplicationEntityTitle")
            except Exception:  # noqa: S112 - its file is no longer here
                continue
            if source:
                yield str(source).strip()
