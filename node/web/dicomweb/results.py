"""What DICOMweb answers with: DICOM JSON (PS3.18 annex F), URLs, headers, OpenAPI's words for them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import Request, Response
from pydicom.datadict import dictionary_VR

from dicom_scp.identifier import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from dicom_scp.responses import COMPUTED
from indexer.attributes import JsonObject
from indexer.catalog.lookup import Entity, Level
from node.web.dicomweb.query import WebQuery
from node.web.problems import ProblemError

DICOM_JSON = "application/dicom+json"
_JSON_TYPES = frozenset({"", "*/*", "application/*", "application/json", DICOM_JSON})
_TAG_PATTERN = "^[0-9A-F]{8}$"
_DATA_SET = {
    "type": "object",
    "description": "A data set in the DICOM JSON Model (PS3.18 annex F)",
    "propertyNames": {"pattern": _TAG_PATTERN},
    "additionalProperties": {
        "type": "object",
        "properties": {
            "vr": {"type": "string"},
            "Value": {"type": "array"},
            "InlineBinary": {"type": "string"},
            "BulkDataURI": {"type": "string"},
        },
        "required": ["vr"],
        "additionalProperties": False,
    },
}
JSON_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Data sets; a Warning header tells what was left out",
        "content": {
            DICOM_JSON: {
                "schema": {"type": "array", "items": _DATA_SET},
                "example": [{"0020000D": {"vr": "UI", "Value": ["1.2.826.0.1.3680043.8.498.1"]}}],
            }
        },
    }
}
_UID_TAGS = {"studies": STUDY_INSTANCE_UID, "series": SERIES_INSTANCE_UID, "instances": SOP_INSTANCE_UID}


def demand_json(request: Request) -> None:
    """Refuse a request that does not take DICOM JSON.

    Raises
    ------
    ProblemError
        406.
    """
    accept = request.headers.get("accept", "*/*")
    if not any(part.split(";")[0].strip().lower() in _JSON_TYPES for part in accept.split(",")):
        raise ProblemError(406, "not-acceptable", f"expected Accept to allow {DICOM_JSON}")


def json_response(found: Iterable[JsonObject], warnings: Iterable[str]) -> Response:
    """Answer with data sets."""
    headers = {"Warning": ", ".join(f'299 pacsimile "{one}"' for one in warnings)}
    content = b"[" + b",".join(encoded(one) for one in found) + b"]"
    return Response(content, media_type=DICOM_JSON, headers=headers if headers["Warning"] else None)


def encoded(data_set: JsonObject) -> bytes:
    """Write one data set; what is no Unicode text is replaced."""
    return json.dumps(data_set, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )


def array(found: Iterable[JsonObject]) -> Iterator[bytes]:
    """Write data sets one by one."""
    separator = b"["
    for one in found:
        yield separator + encoded(one)
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


def root_url(request: Request) -> str:
    """Where the DICOMweb service is, as the asker reaches it."""
    return f"{str(request.base_url).rstrip('/')}/dicomweb"


def result(entity: Entity, query: WebQuery, root: str) -> JsonObject:
    """One result of a search: the fields asked for, without value where they are unknown; where to retrieve it."""
    attributes = entity.attributes
    found: JsonObject = {}
    for tag in query.fields:
        name = f"{tag:08X}"
        known = attributes.get(name)
        if known is not None:
            found[name] = known
        elif tag in COMPUTED or not tag.is_private:
            found[name] = {"vr": _vr(tag)}
    found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    found["00080056"] = {"vr": "CS", "Value": ["ONLINE"]}
    found["00081190"] = {"vr": "UR", "Value": [url_of(root, attributes, entity.level)]}
    return dict(sorted(found.items()))


def url_of(root: str, attributes: JsonObject, level: Level) -> str:
    """Retrieve URL (0008,1190) of an entity."""
    names = list(_UID_TAGS)[: level - Level.PATIENT]
    parts = [f"{name}/{attributes[f'{_UID_TAGS[name]:08X}']['Value'][0]}" for name in names]
    return "/".join([root, *parts])


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"
