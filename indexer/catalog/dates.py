"""When studies were made: what a patient's own studies are ordered by."""

from collections.abc import Collection

from indexer.attributes import first_value
from indexer.catalog.lookup import Level, Lookup, Prefilter
from indexer.uids import StudyInstanceUID


def study_dates(lookup: Lookup, study_instance_uids: Collection[StudyInstanceUID]) -> dict[StudyInstanceUID, str]:
    """Study Date (0008,0020) of some studies; empty where it is unknown."""
    if not study_instance_uids:
        return {}
    studies = lookup.entities(Level.STUDY, Prefilter(study_instance_uid=sorted(study_instance_uids)))
    found = {
        first_value(one.attributes, "StudyInstanceUID"): first_value(one.attributes, "StudyDate") for one in studies
    }
    return {uid: found.get(uid, "") for uid in study_instance_uids}
