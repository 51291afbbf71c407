"""Sending one small document of the node to a peer: C-STORE as SCU (PS3.4 B.2.2)."""

from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.dimse_primitives import C_STORE

from config.access import Peer
from config.model import DicomSettings
from dicom_scp.calling import Association, associated, next_message, send_request
from dicom_scp.parsing import parse, quiet
from indexer.errors import Refused, Transient
from indexer.uids import SOPInstanceUID

_PROPOSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def file_at_peer(
    dicom: DicomSettings,
    peer: Peer,
    sop_class_uid: str,
    sop_instance_uid: SOPInstanceUID,
    dataset: bytes,
) -> None:
    """Send an instance to a peer; when this returns, the peer has said that it stored it.

    Parameters
    ----------
    dataset : bytes
        Explicit VR Little Endian, as stored; Implicit where the peer accepts only that.

    Raises
    ------
    Transient
        The peer cannot be reached, or cannot store it for now.
    Refused
        The peer does not take such an instance, or not this one.
    """
    contexts = [build_context(sop_class_uid, [syntax]) for syntax in _PROPOSED]
    with associated(dicom, peer, contexts) as association:
        accepted = {str(one.transfer_syntax[0]): one.context_id for one in association.accepted_contexts}
        syntax = next((one for one in _PROPOSED if one in accepted), None)
        if syntax is None:
            raise Refused(f"{peer.aet} does not accept {UID(sop_class_uid).name}")
        encoded = dataset if syntax == ExplicitVRLittleEndian else _implicit(dataset)
        status = _stored(association, accepted[syntax], sop_class_uid, sop_instance_uid, encoded)
    _judge(peer, status)


def _stored(
    association: Association, context_id: int, sop_class_uid: str, sop_instance_uid: str, dataset: bytes
) -> int:
    """Send the request and wait for its status."""
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 0
    request.AffectedSOPClassUID = UID(sop_class_uid)
    request.AffectedSOPInstanceUID = UID(sop_instance_uid)
    request.DataSet = BytesIO(dataset)
    send_request(association, request, context_id)
    _, response = next_message(association, association.dimse_timeout) or (0, None)
    if not isinstance(response, C_STORE) or not response.is_valid_response:
        raise Transient("expected a C-STORE response, got none or something else")
    return int(response.Status)


def _judge(peer: Peer, status: int) -> None:
    """Success and warnings are arrival (PS3.4 table B.2-1); out of resources and a busy peer pass."""
    if status in (0x0000, 0x0001, 0x0107, 0x0116) or status >> 12 == 0xB:
        return
    if status >> 8 == 0xA7 or status in (0x0110, 0x0213):
        raise Transient(f"{peer.aet} answered {status:04X}: not now")
    raise Refused(f"{peer.aet} answered {status:04X}")


def _implicit(dataset: bytes) -> bytes:
    """The same data set in Implicit VR Little Endian."""
    with quiet():
        parsed: Dataset = parse(dataset, ExplicitVRLittleEndian)
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = True, True
        write_dataset(buffer, parsed)
    encoded: bytes = buffer.parent.getvalue()  # type: ignore[union-attr]
    return encoded
