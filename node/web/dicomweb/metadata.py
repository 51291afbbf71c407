"""Stored data sets in the DICOM JSON Model (PS3.18 annex F), whatever they hold."""

import json
import logging
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag

from dicom_scp.parsing import quiet
from indexer.attributes import JsonObject
from indexer.errors import NotFound

log = logging.getLogger(__name__)

_BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_INLINE_BYTES = 1024
"""Longer binary values are retrieved by themselves."""
_MOST_DEPTH = 32


def json_of(dataset: Dataset, bulk_url: str) -> JsonObject:
    """Describe a data set; an element whose value its VR does not allow is left out, and logged.

    Parameters
    ----------
    bulk_url : str
        Below it lie the values that are not in the answer (`bulk_value`).
    """
    with quiet():
        found = _data_set(dataset, bulk_url, 0)
    found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return dict(sorted(found.items()))


def bulk_value(dataset: Dataset, path: str) -> bytes:
    """The binary value that a path below `bulk_url` names: a tag, or tag/item number/tag.

    Raises
    ------
    NotFound
        There is none.
    """
    *sequences, last = path.split("/")
    try:
        with quiet():
            for tag, item in zip(sequences[::2], sequences[1::2], strict=True):
                dataset = dataset[_tag(tag)].value[int(item)]
            value = dataset[_tag(last)].value
    except Exception:  # a hostile path or value raises anything at all
        raise NotFound("no such value in the instance") from None
    if not isinstance(value, bytes):
        raise NotFound("no binary value of that name in the instance")
    return value


def _tag(text: str) -> BaseTag:
    return BaseTag(int(text, 16))


def _data_set(dataset: Dataset, url: str, depth: int) -> JsonObject:
    found: JsonObject = {}
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or tag.group == 0x0002:
            continue
        try:
            described = _element(dataset[tag], f"{url}/{tag:08X}", depth)
            json.dumps(described, allow_nan=False).encode("utf-8")
            found[f"{tag:08X}"] = described
        except Exception as error:  # a hostile value raises anything at all
            log.warning("(%04X,%04X) is left out of JSON: %s", tag.group, tag.element, type(error).__name__)
    return found


def _element(element: DataElement, url: str, depth: int) -> dict[str, Any]:
    if element.VR == "SQ":
        if depth >= _MOST_DEPTH:
            raise ValueError("sequences nested too deep")
        items = [_data_set(item, f"{url}/{number}", depth + 1) for number, item in enumerate(element.value)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    value = element.value
    if element.VR in _BINARY_VRS and isinstance(value, bytes) and len(value) > _INLINE_BYTES:
        return {"vr": element.VR, "BulkDataURI": url}
    described: dict[str, Any] = element.to_json_dict(None, 0)
    return described
