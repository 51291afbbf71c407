"""Audit messages by PS3.15 A.5: what happened, who took part, which studies and patients it was about."""

import base64
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from xml.etree.ElementTree import Element, SubElement, tostring


class Outcome(Enum):
    """Event Outcome Indicator (PS3.15 A.5.1)."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"


@dataclass(frozen=True)
class Code:
    """A code of DCM (PS3.16 annex D), or one of the numbers that RFC 3881 gave."""

    value: str
    meaning: str
    scheme: str = "DCM"


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
EXPORT = Code("110106", "Export")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
APPLICATION = Code("110150", "Application")
DESTINATION = Code("110152", "Destination Role ID")
SOURCE = Code("110153", "Source Role ID")
DESTINATION_MEDIA = Code("110154", "Destination Media")
STUDY_INSTANCE_UID = Code("110180", "Study Instance UID")
SOP_CLASS_UID = Code("110181", "SOP Class UID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")


@dataclass(frozen=True)
class Participant:
    """Who took part (Active Participant).

    Attributes
    ----------
    user : str
        AE title, process or person.
    address : str
        IP address; empty if there is none.
    """

    user: str
    roles: Sequence[Code]
    is_requestor: bool
    address: str = ""


@dataclass(frozen=True)
class About:
    """What it was about (Participant Object): a study, a patient, or the query itself.

    Attributes
    ----------
    type_code, role : str
        Participant Object Type Code and Role (PS3.15 A.5.1.2).
    query : bytes, optional
        Instead of a name: what was asked, as it came.
    sop_classes : dict of str to int
        SOP Class UID to number of instances.
    """

    identifier: str
    of: Code
    type_code: str
    role: str
    name: str = ""
    query: bytes | None = None
    details: dict[str, str] = field(default_factory=dict)
    sop_classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes
    ----------
    action : str
        C(reate), R(ead), U(pdate), D(elete) or E(xecute).
    """

    what: Code
    action: str
    participants: Sequence[Participant]
    about: Sequence[About] = ()
    outcome: Outcome = Outcome.SUCCESS
    type_code: Code | None = None
    description: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


def application_activity(aet: str, what: Code) -> Event:
    """The node started, or is about to stop."""
    process = Participant(str(os.getpid()), [APPLICATION], is_requestor=False)
    return Event(APPLICATION_ACTIVITY, "E", [process], type_code=what, description=f"as {aet}")


def index_changed(who: Participant, description: str) -> Event:
    """What answers questions was changed: another encoder, embeddings made again, a repair."""
    return Event(SECURITY_ALERT, "E", [who], type_code=SOFTWARE_CONFIGURATION, description=description)


def exported(who: Participant, to: str, about: Sequence[About]) -> Event:
    """Patient data were written to files outside of the node (PS3.15 A.5.3.6).

    Parameters
    ----------
    to : str
        The file or folder.
    """
    return Event(EXPORT, "R", [who, Participant(to, [DESTINATION_MEDIA], is_requestor=False)], about)


def study(uid: str, sop_classes: dict[str, int]) -> About:
    """A study, with how many instances of which SOP classes."""
    return About(uid, STUDY_INSTANCE_UID, "2", "3", name=uid, sop_classes=sop_classes)


def patient(patient_id: str, name: str) -> About:
    """Whose it is."""
    return About(patient_id or "unknown", PATIENT_NUMBER, "1", "1", name=name or "unknown")


def encode(event: Event, source: str) -> str:
    """Write an event as XML on one line.

    Parameters
    ----------
    source : str
        Audit Source ID: which node says this.
    """
    root = Element("AuditMessage")
    when = event.at.astimezone(UTC).isoformat(timespec="milliseconds")
    happened = SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=when,
        EventOutcomeIndicator=event.outcome.value,
    )
    _coded(happened, "EventID", event.what)
    if event.type_code is not None:
        _coded(happened, "EventTypeCode", event.type_code)
    if event.description:
        SubElement(happened, "EventOutcomeDescription").text = _legal(event.description)
    for one in event.participants:
        _participant(root, one)
    known = SubElement(root, "AuditSourceIdentification", AuditSourceID=_legal(f"{source}@{socket.gethostname()}"))
    SubElement(known, "AuditSourceTypeCode", {"csd-code": "4"})
    for about in event.about:
        _about(root, about)
    return tostring(root, encoding="unicode").replace("\r", " ").replace("\n", " ")


def _participant(root: Element, one: Participant) -> None:
    place = {"NetworkAccessPointID": one.address, "NetworkAccessPointTypeCode": "2"} if one.address else {}
    told = {"UserID": _legal(one.user), "UserIsRequestor": str(one.is_requestor).lower()}
    element = SubElement(root, "ActiveParticipant", told | place)
    for role in one.roles:
        _coded(element, "RoleIDCode", role)


def _about(root: Element, about: About) -> None:
    element = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_legal(about.identifier),
        ParticipantObjectTypeCode=about.type_code,
        ParticipantObjectTypeCodeRole=about.role,
    )
    _coded(element, "ParticipantObjectIDTypeCode", about.of)
    if about.query is None:
        SubElement(element, "ParticipantObjectName").text = _legal(about.name)
    else:
        SubElement(element, "ParticipantObjectQuery").text = base64.b64encode(about.query).decode()
    for kind, value in about.details.items():
        encoded = base64.b64encode(value.encode()).decode()
        SubElement(element, "ParticipantObjectDetail", type=kind, value=encoded)
    if about.sop_classes:
        described = SubElement(element, "ParticipantObjectDescription")
        for uid, number in about.sop_classes.items():
            SubElement(described, "SOPClass", UID=uid, NumberOfInstances=str(number))


def _coded(parent: Element, name: str, code: Code) -> None:
    told = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    SubElement(parent, name, told)


def _legal(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold (section 2.2)."""
    return "".join(one if one.isprintable() and not 0xFFFE <= ord(one) <= 0xFFFF else " " for one in text)
