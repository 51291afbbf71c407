"""The node's own messages are those of the network library."""

from io import BytesIO

import pytest
from pynetdicom.dimse_messages import C_FIND_RSP, C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelFind

from dicom_scp.pdata import StoreCommand, find_response, fragments, store_command, store_response
from dicom_scp.statuses import STORE_MISMATCH, SUCCESS, Status, answer


@pytest.mark.parametrize(("status", "comment"), [(SUCCESS, ""), (STORE_MISMATCH, "odd"), (STORE_MISMATCH, "even")])
@pytest.mark.parametrize("uid", ["2.25.1", "2.25.12"])
def test_a_response(status: Status, comment: str, uid: str) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = 7
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CTImageStorage, uid
    primitive.Status = status.code
    if comment:
        primitive.ErrorComment = comment
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    (of_library,) = message.encode_msg(3, 16384)
    mine = store_response(3, StoreCommand(7, CTImageStorage, uid), answer(status, comment))
    assert mine == P_DATA_TF(of_library).encode()


@pytest.mark.parametrize("identifier", [b"", bytes(8)])
def test_a_response_of_c_find(identifier: bytes) -> None:
    primitive = C_FIND()
    primitive.MessageIDBeingRespondedTo = 7
    primitive.AffectedSOPClassUID = StudyRootQueryRetrieveInformationModelFind
    primitive.Status = 0xFF00 if identifier else 0x0000
    primitive.Identifier = BytesIO(identifier) if identifier else None
    message = C_FIND_RSP()
    message.primitive_to_message(primitive)
    mine = find_response(
        StudyRootQueryRetrieveInformationModelFind, 7, primitive.Status, has_identifier=bool(identifier)
    )
    assert mine == encode(message.command_set, True, True)


def test_a_request() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 7, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CTImageStorage, "2.25.12"
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    message.command_set.CommandDataSetType = 1
    encoded = encode(message.command_set, True, True) or b""
    assert store_command(encoded) == StoreCommand(7, CTImageStorage, "2.25.12")
    for length in range(len(encoded)):
        assert store_command(encoded[:length]) is None
    message.command_set.MoveOriginatorMessageID = 3
    assert store_command(encode(message.command_set, True, True) or b"") is not None
    message.command_set.CommandDataSetType = 0x0101
    assert store_command(encode(message.command_set, True, True) or b"") is None


def test_lengths_that_do_not_add_up() -> None:
    whole = b"\x04\x00\x00\x00\x00\x08" + b"\x00\x00\x00\x04\x01\x02ab"
    assert fragments(memoryview(whole)) == [(1, 2, b"ab")]
    assert fragments(memoryview(whole[:-1])) is None
    assert fragments(memoryview(whole + b"\0")) is None
    assert fragments(memoryview(b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x01\x01\x02")) is None
