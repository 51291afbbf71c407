"""The DICOM Conformance Statement (PS3.2 annex N): prose from `conformance.md`, tables from the code.

``python -m dicom_scp.conformance > docs/conformance.md`` writes it anew.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources

from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pynetdicom import sop_class
from pynetdicom.presentation import PresentationContext

from config.load import defaults_text
from dicom_scp import statuses
from dicom_scp.commitment import MAX_REFERENCES
from dicom_scp.contexts import (
    QUERY_TRANSFER_SYNTAXES,
    STORAGE_TRANSFER_SYNTAXES,
    commitment_context,
    storage_sop_classes,
    supported_contexts,
)
from dicom_scp.identifier import MAX_IDENTIFIER_BYTES, UNIQUE_KEYS
from dicom_scp.matching import MATCHED_VRS, WILD_CARD_VRS
from dicom_scp.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_scp.private_dictionary import BLOCK, CREATOR, FIRST_BLOCK, GROUP
from dicom_scp.responses import COMPUTED, LEVEL_OF, MATCHED_COMPUTED
from dicom_scp.statuses import Status
from indexer.attributes import EMBEDDABLE_SOP_CLASSES
from indexer.catalog.lookup import Level

WHEN: Mapping[str, str] = {
    "SUCCESS": "The operation is done; in C-STORE and N-ACTION, what was asked is durable",
    "DUPLICATE_SOP_INSTANCE": "C-STORE: other content is stored under this SOP Instance UID, and stays",
    "PROCESSING_FAILURE": "An unexpected failure; the node's log says more",
    "NOT_AUTHORIZED": "The peer may not use this service (setting `peers`)",
    "STORE_NOT_AUTHORIZED": "The peer may not store (setting `peers`), or the instance was removed and is not to "
    "come again (setting `forgetting.refuse_again`)",
    "STORE_OUT_OF_RESOURCES": "Disk or database cannot take it now, or it is larger than the limit",
    "STORE_MISMATCH": "SOP Class or Instance UID of the data set differ from those of the command",
    "STORE_CANNOT_UNDERSTAND": "The data set cannot be parsed, ends too early, or names no SOP class and instance",
    "STORE_MISMATCH_WARNING": "Kept in quarantine: Study or Series Instance UID is missing or belongs elsewhere",
    "FIND_PENDING": "One match; all keys are supported",
    "FIND_PENDING_WARNING": "One match; some optional keys are not supported and were left out of matching",
    "FIND_OUT_OF_RESOURCES": "The database is out of reach: ask later",
    "FIND_MISMATCH": "Query/Retrieve Level, a unique key or a value is not legal; SIMILAR: there is no seed",
    "FIND_UNABLE": "The identifier cannot be parsed; SIMILAR: the seed is unknown, on its way or not comparable",
    "FIND_CANCEL": "C-CANCEL came",
    "RETRIEVE_PENDING": "A sub-operation ended; the counts say how many remain",
    "RETRIEVE_INCOMPLETE": "Some sub-operations failed or ended with a warning; failed instances are listed",
    "RETRIEVE_TOO_MANY": "More instances than the counts can tell (VR US): ask for fewer at once",
    "RETRIEVE_UNABLE_TO_PERFORM": "No sub-operation succeeded, or the destination or the archive cannot be reached",
    "MOVE_DESTINATION_UNKNOWN": "The Move Destination is none of the configured peers",
    "RETRIEVE_MISMATCH": "A unique key is missing, wild or a list where it may not be, or there is another key",
    "RETRIEVE_UNABLE": "The identifier cannot be parsed, or an unexpected failure",
    "RETRIEVE_CANCEL": "C-CANCEL came",
    "ACTION_NO_SUCH_SOP_INSTANCE": "Requested SOP Instance UID is not the well-known one of the Push Model",
    "ACTION_INVALID_ARGUMENT": "Action Information is missing, cannot be parsed or is incomplete; "
    "or its Transaction UID was used before",
    "ACTION_NO_SUCH_SOP_CLASS": "Requested SOP Class UID is not the Storage Commitment Push Model",
    "ACTION_NO_SUCH_ACTION": "Action Type ID is not 1",
    "ACTION_RESOURCE_LIMITATION": "Too many instances at once, or the request cannot be recorded now",
    "COMMIT_PROCESSING_FAILURE": "The stored file is not what was received (checksum); send the instance again",
    "COMMIT_NO_SUCH_OBJECT_INSTANCE": "The instance is not stored, is in quarantine, or is held only for a while",
    "COMMIT_CLASS_INSTANCE_CONFLICT": "The instance is stored with another SOP Class UID",
    "COMMIT_SOP_CLASS_NOT_SUPPORTED": "The SOP class is not one that the node stores",
}
"""When the node answers with each status of `dicom_scp.statuses`."""

_SHARED = ("SUCCESS", "PROCESSING_FAILURE")
_GROUPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "store": ((*_SHARED, "DUPLICATE_SOP_INSTANCE"), ("STORE_",)),
    "find": (("SUCCESS", "NOT_AUTHORIZED"), ("FIND_",)),
    "retrieve": (("SUCCESS", "NOT_AUTHORIZED"), ("RETRIEVE_", "MOVE_", "GET_")),
    "action": ((*_SHARED, "NOT_AUTHORIZED"), ("ACTION_",)),
    "failure_reasons": ((), ("COMMIT_",)),
}
"""Table of status codes to the names of what it lists: some shared ones, and all that begin so."""
_SETTING = re.compile(r"(?P<key>\w+) = (?P<value>.*?)\s+# (?P<meaning>.*)|(?P<bare>\w+) = (?P<plain>[^#]*)")
_SECTIONS = ("", "dicom", "dicom.tls", "storage", "fetch", "commitment", "forgetting")
_REQUIRED = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        "PatientName", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "Modality", "SeriesNumber",
        "InstanceNumber",
    )
)  # fmt: skip
"""Key type R in PS3.4 tables C.6-1 to C.6-5."""
_LEFT_OUT = frozenset({"data_dir", "bundle", "rules", "peers", "cohorts"})
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def statement() -> str:
    """The whole document, in Markdown."""
    return _PLACEHOLDER.sub(lambda found: _PARTS[found[1]](), _prose())


def _prose() -> str:
    return resources.files("dicom_scp").joinpath("conformance.md").read_text(encoding="utf-8")


def _contents() -> str:
    """Headings of the two highest levels, as a list."""
    headings = re.findall(r"^##(#?) (.+)$", _prose(), re.MULTILINE)
    return "\n".join(f"{'  ' if deeper else ''}- {title}" for deeper, title in headings)


def status_names() -> list[str]:
    """Names of every status in `dicom_scp.statuses`, in order."""
    return [name for name, value in vars(statuses).items() if isinstance(value, Status)]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _name(uid: str) -> str:
    """Name in PS3.6 annex A; where pydicom is older than the SOP class, the network library's keyword in words."""
    name = UID(uid).name
    if name != uid:
        return name
    keyword = next((key for key, value in vars(sop_class).items() if value == uid and key[0].isupper()), uid)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword)


def _role(context: PresentationContext) -> str:
    """What the node is; in contexts where both roles can be selected, SCU serves the sub-operations of C-GET."""
    return "SCP, SCU" if context.scu_role and context.scp_role else "SCP"


def _services() -> str:
    stored = set(storage_sop_classes())
    contexts = [one for one in [*supported_contexts(), commitment_context()] if one.abstract_syntax not in stored]
    rows = [(_name(one.abstract_syntax), f"`{one.abstract_syntax}`", _role(one)) for one in contexts]
    return _table(("SOP class", "UID", "role"), rows)


def _storage() -> str:
    stored = set(storage_sop_classes())
    contexts = {one.abstract_syntax: one for one in supported_contexts() if one.abstract_syntax in stored}
    rows = [
        (_name(uid), f"`{uid}`", _role(context), "yes" if uid in EMBEDDABLE_SOP_CLASSES else "")
        for uid, context in sorted(contexts.items(), key=lambda one: _name(one[0]))
    ]
    return _table(("SOP class", "UID", "role", "compared"), rows)


def _syntaxes(uids: Iterable[str]) -> str:
    return _table(("transfer syntax", "UID"), [(_name(uid), f"`{uid}`") for uid in uids])


def _statuses(group: str) -> str:
    shared, beginnings = _GROUPS[group]
    names = [*shared, *(name for name in status_names() if name.startswith(beginnings))]
    found: list[tuple[str, Status]] = [(name, getattr(statuses, name)) for name in names]
    rows = [(f"{one.code:04X}", one.meaning, WHEN.get(name, ""), one.section) for name, one in found]
    return _table(("code", "meaning", "when", "defined in"), rows)


def _matching(tag: BaseTag, vr: str) -> str:
    """The kinds of matching of a key besides universal (PS3.4 C.2.2.2)."""
    if (tag in COMPUTED and tag not in MATCHED_COMPUTED) or vr not in MATCHED_VRS:
        return "returned only"
    if vr == "UI":
        return "single value, list of UID"
    if vr in ("DA", "TM", "DT"):
        return "single value, range"
    if vr in WILD_CARD_VRS:
        return "single value, wild card" + (", case-insensitive" if vr == "PN" else "")
    return "sequence" if vr == "SQ" else "single value"


def _keys(level: Level) -> str:
    tags = sorted(tag for tag, owner in LEVEL_OF.items() if owner is level)
    rows = []
    for tag in tags:
        kind = "U" if tag == UNIQUE_KEYS[level] else "R" if tag in _REQUIRED else "O"
        vr = dictionary_VR(tag)
        rows.append(
            (f"({tag.group:04X},{tag.element:04X})", dictionary_description(tag), vr, kind, _matching(tag, vr))
        )
    return _table(("tag", "attribute", "VR", "key", "matching"), rows)


def _private() -> str:
    rows = [
        (f"({GROUP:04X},xx{one.offset:02X})", one.keyword, one.vr, one.vm, one.direction.value, one.meaning)
        for one in BLOCK
    ]
    return _table(("tag", "name", "VR", "VM", "written in the", "meaning"), rows)


def _settings() -> str:
    section, rows = "", []
    for line in defaults_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section in _SECTIONS and (found := _SETTING.match(line)):
            key, value = found["key"] or found["bare"], found["value"] or found["plain"]
            if section or key not in _LEFT_OUT:
                dotted = f"{section}.{key}" if section else key
                rows.append((f"`{dotted}`", f"`{value.strip()}`", found["meaning"] or ""))
    return _table(("setting", "default", "meaning"), rows)


def _default(dotted: str) -> str:
    section, key = dotted.split(".")
    within = defaults_text().split(f"\n[{section}]\n", 1)[1].split("\n[", 1)[0]
    found = re.search(rf"^{key} = ([^#\n]*)", within, re.MULTILINE)
    return found[1].strip().strip('"') if found else ""


_PARTS: Mapping[str, Callable[[], str]] = {
    "contents": _contents,
    "services": _services,
    "storage": _storage,
    "storage_syntaxes": lambda: _syntaxes(STORAGE_TRANSFER_SYNTAXES),
    "query_syntaxes": lambda: _syntaxes(QUERY_TRANSFER_SYNTAXES),
    "store_statuses": lambda: _statuses("store"),
    "find_statuses": lambda: _statuses("find"),
    "retrieve_statuses": lambda: _statuses("retrieve"),
    "action_statuses": lambda: _statuses("action"),
    "failure_reasons": lambda: _statuses("failure_reasons"),
    "patient_keys": lambda: _keys(Level.PATIENT),
    "study_keys": lambda: _keys(Level.STUDY),
    "series_keys": lambda: _keys(Level.SERIES),
    "image_keys": lambda: _keys(Level.IMAGE),
    "private_block": _private,
    "private_creator": lambda: CREATOR,
    "private_group": lambda: f"{GROUP:04X}",
    "private_first": lambda: f"{FIRST_BLOCK:02X}",
    "settings": _settings,
    "aet": lambda: _default("dicom.aet"),
    "similar_aet": lambda: _default("dicom.similar_aet"),
    "port": lambda: _default("dicom.port"),
    "max_pdu": lambda: _default("dicom.max_pdu_bytes"),
    "max_associations": lambda: _default("dicom.max_associations"),
    "max_object": lambda: _default("dicom.max_object_mib"),
    "network_timeout": lambda: _default("dicom.network_timeout_s"),
    "same_association": lambda: _default("commitment.same_association_after_s"),
    "first_retry": lambda: _default("commitment.first_retry_s"),
    "longest_retry": lambda: _default("commitment.longest_retry_s"),
    "give_up": lambda: _default("commitment.give_up_after_hours"),
    "max_references": lambda: str(MAX_REFERENCES),
    "max_identifier": lambda: str(MAX_IDENTIFIER_BYTES),
    "implementation_class_uid": lambda: str(IMPLEMENTATION_CLASS_UID),
    "implementation_version_name": lambda: IMPLEMENTATION_VERSION_NAME,
}
"""What stands for each placeholder of the prose."""


if __name__ == "__main__":
    sys.stdout.write(statement())
