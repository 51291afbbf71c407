"""P-DATA-TF PDUs (PS3.8 9.3.5), the C-STORE messages in them (PS3.7 9.3.1) and responses of C-FIND, as bytes.

Only what every peer sends is understood here: everything else is for the network library to judge.
"""

import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

from pydicom import Dataset

P_DATA_TF = 0x04
HEADER_BYTES = 6
COMMAND, DATA, LAST_DATA = 0b11, 0b00, 0b10
"""Message control headers (PS3.8 E.2): a whole command set, a fragment of a data set, its last one."""

_C_STORE_RQ, _C_STORE_RSP, _C_FIND_RSP = 0x0001, 0x8001, 0x8020
_DATA_SET, _NO_DATA_SET = 0x0001, 0x0101
_GROUP_LENGTH, _SOP_CLASS_UID, _COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
_PRIORITY, _DATA_SET_TYPE, _STATUS, _ERROR_COMMENT, _SOP_INSTANCE_UID = 0x0700, 0x0800, 0x0900, 0x0902, 0x1000
_MOVE_ORIGINATOR, _MOVE_MESSAGE_ID = 0x1030, 0x1031
"""Element numbers in group 0000 (PS3.7 E.1)."""
_REQUIRED = frozenset({_SOP_CLASS_UID, _COMMAND_FIELD, _MESSAGE_ID, _PRIORITY, _DATA_SET_TYPE, _SOP_INSTANCE_UID})
_ALLOWED = _REQUIRED | {_GROUP_LENGTH, _MOVE_ORIGINATOR, _MOVE_MESSAGE_ID}
_PRIORITIES = (0, 1, 2)
_VALID_UID = re.compile(rb"((?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*)\0?")
_LONGEST_UID = 64

pdu_header = struct.Struct(">BxL").unpack_from
_item_header = struct.Struct(">LBB").unpack_from
_element_header = struct.Struct("<HHL").unpack_from
_us = struct.Struct("<H")


class Fragment(NamedTuple):
    """One presentation data value."""

    context_id: int
    control: int
    data: memoryview


def fragments(pdu: memoryview) -> list[Fragment] | None:
    """The presentation data values of a whole P-DATA-TF PDU; None if their lengths do not add up."""
    found = []
    at, end = HEADER_BYTES, len(pdu)
    while at < end:
        if end - at < HEADER_BYTES:
            return None
        length, context_id, control = _item_header(pdu, at)
        after = at + 4 + length
        if length < 2 or after > end:
            return None
        found.append(Fragment(context_id, control, pdu[at + 6 : after]))
        at = after
    return found


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """What the command set of a C-STORE request says (PS3.7 9.3.1.1)."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


def store_command(encoded: bytes) -> StoreCommand | None:
    """Read the command set of a C-STORE request with a data set; None if it is any other, or not flawless."""
    values: dict[int, bytes] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < 8:
            return None
        group, number, length = _element_header(encoded, at)
        if group != 0 or number in values or number not in _ALLOWED:
            return None
        values[number] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    if at != end or not values.keys() >= _REQUIRED:
        return None
    numbers = [_number(values[one]) for one in (_COMMAND_FIELD, _DATA_SET_TYPE, _PRIORITY, _MESSAGE_ID)]
    field, data_set_type, priority, message_id = numbers
    uids = [_uid(values[one]) for one in (_SOP_CLASS_UID, _SOP_INSTANCE_UID)]
    if field != _C_STORE_RQ or data_set_type in (_NO_DATA_SET, -1) or priority not in _PRIORITIES or message_id < 0:
        return None
    return StoreCommand(message_id, *uids) if all(uids) else None


def _number(value: bytes) -> int:
    return int(_us.unpack(value)[0]) if len(value) == 2 else -1


def _uid(value: bytes) -> str:
    """A valid UID (PS3.5 9.1), or nothing."""
    matched = _VALID_UID.fullmatch(value)
    return matched[1].decode("ascii") if matched and len(matched[1]) <= _LONGEST_UID else ""


def store_response(context_id: int, command: StoreCommand, status: Dataset) -> bytes:
    """The P-DATA-TF PDU of a C-STORE response (PS3.7 9.3.1.2).

    Parameters
    ----------
    status : Dataset
        Status (0000,0900) and, if there is one, Error Comment (0000,0902).
    """
    comment = status.get("ErrorComment", "")
    encoded = _command_set(
        _element(_SOP_CLASS_UID, _padded(command.sop_class_uid, b"\0")),
        _element(_COMMAND_FIELD, _us.pack(_C_STORE_RSP)),
        _element(_RESPONDED_TO, _us.pack(command.message_id)),
        _element(_DATA_SET_TYPE, _us.pack(_NO_DATA_SET)),
        _element(_STATUS, _us.pack(status.Status)),
        _element(_ERROR_COMMENT, _padded(comment, b" ")) if comment else b"",
        _element(_SOP_INSTANCE_UID, _padded(command.sop_instance_uid, b"\0")),
    )
    item = struct.pack(">LBB", len(encoded) + 2, context_id, COMMAND) + encoded
    return struct.pack(">BxL", P_DATA_TF, len(item)) + item


def find_response(sop_class_uid: str, message_id: int, status: int, *, has_identifier: bool) -> bytes:
    """The command set of a C-FIND response (PS3.7 9.3.2.2) to a message, without any comment."""
    return _command_set(
        _element(_SOP_CLASS_UID, _padded(sop_class_uid, b"\0")),
        _element(_COMMAND_FIELD, _us.pack(_C_FIND_RSP)),
        _element(_RESPONDED_TO, _us.pack(message_id)),
        _element(_DATA_SET_TYPE, _us.pack(_DATA_SET if has_identifier else _NO_DATA_SET)),
        _element(_STATUS, _us.pack(status)),
    )


def _command_set(*elements: bytes) -> bytes:
    """Encoded elements in their order, with the group's length before them."""
    encoded = b"".join(elements)
    return _element(_GROUP_LENGTH, struct.pack("<L", len(encoded))) + encoded


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0x0000, number, len(value)) + value


def _padded(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    return value + padding if len(value) % 2 else value
