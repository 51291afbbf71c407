"""The parameters of a search transaction (PS3.18 8.3.4, 10.6) as the keys of C-FIND."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fastapi import Request
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.tag import BaseTag, Tag

from dicom_scp.identifier import Key
from dicom_scp.responses import LEVEL_OF, is_supported
from indexer.catalog.lookup import Level
from node.web.problems import ProblemError

MOST_RESULTS = 5000
_MOST_OFFSET = 2**31 - 1
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_SEPARATOR = re.compile(r"\\")
_SEPARATOR_OR_COMMA = re.compile(r"[,\\]")
_WITHOUT_COMMA = frozenset({"CS", "UI"})
"""VRs whose values hold no comma (PS3.5 6.2): viewers separate several of them with one."""
_RESERVED = frozenset(
    {"limit", "offset", "fuzzymatching", "emptyvaluematching", "includefield", "accept", "charset"}
)

_STUDY_FIELDS = (
    "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName",
    "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription",
    "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
_SERIES_FIELDS = (
    "Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence",
    "BodyPartExamined",
)  # fmt: skip
_INSTANCE_FIELDS = (
    "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
)  # fmt: skip
_FIELDS = {Level.STUDY: _STUDY_FIELDS, Level.SERIES: _SERIES_FIELDS, Level.IMAGE: _INSTANCE_FIELDS}
"""Attributes that are always in a result (PS3.18 tables 10.6.3-3 to 10.6.3-5)."""


@dataclass(frozen=True)
class WebQuery:
    """A search, read and checked.

    Attributes
    ----------
    keys : tuple of Key
        Attributes that have to match.
    fields : frozenset of BaseTag
        Attributes to return.
    warnings : tuple of str
        What was asked for and is not done (PS3.18 8.3.4.6).
    """

    level: Level
    keys: tuple[Key, ...]
    fields: frozenset[BaseTag]
    limit: int
    offset: int
    warnings: tuple[str, ...] = field(default=())


def read_query(request: Request, level: Level, parents: Mapping[str, str], whole: Level | None = None) -> WebQuery:
    """Read the parameters of a request.

    Parameters
    ----------
    parents : mapping of str to str
        Keywords and UIDs that the path names.
    whole : Level, optional
        Highest level whose attributes are always returned; by default that of the search.

    Raises
    ------
    ProblemError
        400 for a parameter that is none, or a value that cannot be meant.
    """
    keys = [Key(_tag(keyword), "UI", (uid,)) for keyword, uid in parents.items()]
    asked, warnings = _asked(request, level)
    fields = {_tag(keyword) for one in range(whole or level, level + 1) for keyword in _FIELDS[Level(one)]}
    fields |= {_tag(keyword) for keyword in parents} | {key.tag for key in asked}
    included = _included(request.query_params.getlist("includefield"), level)
    if request.query_params.get("fuzzymatching", "false").lower() == "true":
        warnings.append("The fuzzymatching parameter is not supported. Only literal matching has been performed.")
    return WebQuery(
        level,
        (*keys, *asked),
        frozenset(fields | included),
        min(_number(request, "limit", MOST_RESULTS, least=1), MOST_RESULTS),
        _number(request, "offset", 0, least=0),
        tuple(warnings),
    )


def _asked(request: Request, level: Level) -> tuple[list[Key], list[str]]:
    """Keys among the parameters, and what to say of those that are not matched."""
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name.lower() not in _RESERVED:
            given.setdefault(name, []).append(value)
    keys, left_out = [], []
    for name, values in given.items():
        key = _key(name, values)
        if is_supported(key, level):
            keys.append(key)
        else:
            left_out.append(keyword_for_tag(key.tag) or f"{key.tag:08X}")
    problem = f"Matching of these attributes is not supported at this level: {', '.join(left_out)}."
    return keys, [problem] if left_out else []


def _key(name: str, values: Iterable[str]) -> Key:
    """The key of a parameter; a path of sequences becomes keys within keys (PS3.18 8.3.4.1)."""
    first, _, rest = name.partition(".")
    tag = _tag(first)
    vr = _vr(tag)
    if rest:
        if vr != "SQ":
            raise ProblemError(400, "bad-attribute", "expected a sequence before the dot of an attribute")
        return Key(tag, "SQ", items=((_key(rest, values),),))
    separator = _SEPARATOR_OR_COMMA if vr in _WITHOUT_COMMA else _SEPARATOR
    texts = [text.strip() for value in values for text in separator.split(value)]
    return Key(tag, vr, tuple(texts) if any(texts) else ())


def _included(values: Iterable[str], level: Level) -> set[BaseTag]:
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    found: set[BaseTag] = set()
    for name in names:
        if name.lower() == "all":
            found |= {tag for tag, owner in LEVEL_OF.items() if owner <= level}
        else:
            found.add(_tag(name.partition(".")[0]))
    return found


def _tag(name: str) -> BaseTag:
    if _TAG.fullmatch(name):
        return Tag(int(name, 16))
    tag = tag_for_keyword(name)
    if tag is None:
        raise ProblemError(400, "bad-attribute", "expected keywords or tags of attributes, got another parameter")
    return Tag(tag)


def _vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def _number(request: Request, name: str, otherwise: int, least: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdecimal()) or not least <= int(text[:12]) <= _MOST_OFFSET:
        raise ProblemError(400, "bad-number", f"{name}: expected a number from {least}")
    return int(text)
