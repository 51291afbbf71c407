"""Which studies, of which patients, an audit message is about, and who at the command line did it."""

import getpass
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from config.model import Settings
from indexer.attributes import JsonObject, first_value
from indexer.catalog import Catalog, Lookup
from indexer.catalog.lookup import Entity, Level, Prefilter
from indexer.catalog.tombstones import Target
from node import audit_messages as messages
from node.audit import AuditTrail
from node.audit_messages import About, Event, Outcome, Participant

_BLOCK = 500
_PREFILTERS: Mapping[Level, Callable[[Sequence[str]], Prefilter]] = {
    Level.STUDY: lambda uids: Prefilter(study_instance_uid=uids),
    Level.SERIES: lambda uids: Prefilter(series_instance_uid=uids),
    Level.IMAGE: lambda uids: Prefilter(sop_instance_uid=uids),
}


def of_study(lookup: Lookup, study_uid: str) -> list[About]:
    """A study and its patient; nothing where it is not held."""
    for entity in lookup.entities(Level.STUDY, Prefilter(study_instance_uid=[study_uid])):
        return [messages.study(study_uid, {}), _patient(entity.attributes)]
    return []


def of_instances(lookup: Lookup, sop_classes: Mapping[str, str]) -> list[list[About]]:
    """For each study that some instances are in, the study and whose it is; quarantine belongs to none.

    Parameters
    ----------
    sop_classes : mapping of str to str
        SOP Instance UID to SOP Class UID.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    patients: dict[str, About] = {}
    for entity in _entities(lookup, Level.IMAGE, list(sop_classes)):
        uid = first_value(entity.attributes, "StudyInstanceUID")
        counts[uid][sop_classes[first_value(entity.attributes, "SOPInstanceUID")]] += 1
        patients[uid] = _patient(entity.attributes)
    return [[messages.study(uid, dict(of_class)), patients[uid]] for uid, of_class in counts.items()]


def of_targets(lookup: Lookup, targets: Collection[Target]) -> list[list[About]]:
    """For each study that something to be forgotten is in, the study and whose it is."""
    found: dict[str, list[About]] = {}
    for level in sorted(_PREFILTERS):
        for entity in _entities(lookup, level, [one.uid for one in targets if one.level is level]):
            uid = first_value(entity.attributes, "StudyInstanceUID")
            found.setdefault(uid, [messages.study(uid, {}), _patient(entity.attributes)])
    return list(found.values())


@contextmanager
def deletion(
    trail: AuditTrail, lookup: Lookup, participants: Sequence[Participant], targets: Collection[Target]
) -> Iterator[None]:
    """Take down a deletion before it is done, and once more if it fails.

    Raises
    ------
    Transient
        It cannot be taken down; nothing is to be deleted.
    """
    is_whole = all(one.level is Level.STUDY for one in targets)
    what = messages.STUDY_DELETED if is_whole else messages.INSTANCES_ACCESSED
    subjects = of_targets(lookup, targets) if trail.is_on else []
    for about in subjects:
        trail.demand(Event(what, "D", participants, about))
    try:
        yield
    except BaseException:
        for about in subjects:
            trail.add(Event(what, "D", participants, about, outcome=Outcome.SERIOUS_FAILURE))
        raise


def demand_export(settings: Settings, catalog: Catalog, to: Path, study_uids: Collection[str]) -> None:
    """Take down that patient data are about to be written to files outside of the node.

    Parameters
    ----------
    study_uids : collection of str
        Which studies; none: all that there is.

    Raises
    ------
    Transient
        It cannot be taken down; nothing is to be written.
    """
    trail = AuditTrail(settings.audit, settings.data_dir, settings.dicom.aet)
    if not trail.is_on:
        return
    who, uids = at_the_command_line(), sorted(study_uids)
    for start in range(0, max(len(uids), 1), _BLOCK):
        about = [one for uid in uids[start : start + _BLOCK] for one in of_study(catalog.lookup, uid)]
        trail.demand(messages.exported(who, str(to), about))


def at_the_command_line() -> Participant:
    """Who runs this command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in the system's table
        user = "unknown"
    return Participant(user, [messages.SOURCE], is_requestor=True)


def _entities(lookup: Lookup, level: Level, uids: Sequence[str]) -> Iterator[Entity]:
    for start in range(0, len(uids), _BLOCK):
        yield from lookup.entities(level, _PREFILTERS[level](uids[start : start + _BLOCK]))


def _patient(attributes: JsonObject) -> About:
    return messages.patient(first_value(attributes, "PatientID"), first_value(attributes, "PatientName"))
