"""The status codes that this node answers with, each with the section that defines it."""

from dataclasses import dataclass

from pydicom import Dataset

COMMENT_LENGTH = 64
"""Longest Error Comment (0000,0902): VR LO (PS3.7 annex C, PS3.5 table 6.2-1)."""


@dataclass(frozen=True, slots=True)
class Status:
    """One value of Status (0000,0900)."""

    code: int
    meaning: str
    section: str


SUCCESS = Status(0x0000, "Success", "PS3.7 annex C")
DUPLICATE_SOP_INSTANCE = Status(0x0111, "Failure: Duplicate SOP Instance", "PS3.7 annex C")
PROCESSING_FAILURE = Status(0x0110, "Failure: Processing Failure", "PS3.7 annex C")
NOT_AUTHORIZED = Status(0x0124, "Refused: Not Authorized", "PS3.7 annex C")

# C-STORE: PS3.4 table B.2-1
STORE_NOT_AUTHORIZED = Status(0x0124, "Refused: Not Authorized", "PS3.7 9.1.1.1.9")
STORE_OUT_OF_RESOURCES = Status(0xA700, "Refused: Out of Resources", "PS3.4 B.2.3")
STORE_MISMATCH = Status(0xA900, "Error: Data Set Does Not Match SOP Class", "PS3.4 B.2.3")
STORE_CANNOT_UNDERSTAND = Status(0xC000, "Error: Cannot Understand", "PS3.4 B.2.3")
STORE_MISMATCH_WARNING = Status(0xB007, "Warning: Data Set Does Not Match SOP Class", "PS3.4 B.2.3")

# C-FIND: PS3.4 table C.4-1
FIND_PENDING = Status(0xFF00, "Pending", "PS3.4 C.4.1.1.4")
FIND_PENDING_WARNING = Status(0xFF01, "Pending: optional keys were not supported", "PS3.4 C.4.1.1.4")
FIND_OUT_OF_RESOURCES = Status(0xA700, "Refused: Out of Resources", "PS3.4 C.4.1.1.4")
FIND_MISMATCH = Status(0xA900, "Error: Identifier Does Not Match SOP Class", "PS3.4 C.4.1.1.4")
FIND_UNABLE = Status(0xC001, "Failed: Unable to Process", "PS3.4 C.4.1.1.4")
FIND_CANCEL = Status(0xFE00, "Matching terminated due to Cancel request", "PS3.4 C.4.1.1.4")

# C-MOVE and C-GET: PS3.4 tables C.4-2 and C.4-3
RETRIEVE_PENDING = Status(0xFF00, "Pending: Sub-operations are continuing", "PS3.4 C.4.2.1.5, C.4.3.1.4")
RETRIEVE_INCOMPLETE = Status(
    0xB000, "Sub-operations Complete - One or more Failures or Warnings", "PS3.4 C.4.2.1.5, C.4.3.1.4"
)
RETRIEVE_TOO_MANY = Status(
    0xA701, "Refused: Out of Resources - Unable to calculate number of matches", "PS3.4 C.4.2.1.5, C.4.3.1.4"
)
RETRIEVE_UNABLE_TO_PERFORM = Status(
    0xA702, "Refused: Out of Resources - Unable to perform sub-operations", "PS3.4 C.4.2.1.5, C.4.3.1.4"
)
MOVE_DESTINATION_UNKNOWN = Status(0xA801, "Refused: Move Destination unknown", "PS3.4 C.4.2.1.5")
RETRIEVE_MISMATCH = Status(0xA900, "Error: Identifier Does Not Match SOP Class", "PS3.4 C.4.2.1.5, C.4.3.1.4")
RETRIEVE_UNABLE = Status(0xC001, "Failed: Unable to Process", "PS3.4 C.4.2.1.5, C.4.3.1.4")
RETRIEVE_CANCEL = Status(0xFE00, "Sub-operations terminated due to Cancel indication", "PS3.4 C.4.2.1.5, C.4.3.1.4")

# N-ACTION: PS3.7 10.1.4.1.10
ACTION_NO_SUCH_SOP_INSTANCE = Status(0x0112, "Failure: No Such SOP Instance", "PS3.7 10.1.4.1.10")
ACTION_INVALID_ARGUMENT = Status(0x0115, "Failure: Invalid Argument Value", "PS3.7 10.1.4.1.10")
ACTION_NO_SUCH_SOP_CLASS = Status(0x0118, "Failure: No Such SOP Class", "PS3.7 10.1.4.1.10")
ACTION_NO_SUCH_ACTION = Status(0x0123, "Failure: No Such Action", "PS3.7 10.1.4.1.10")
ACTION_RESOURCE_LIMITATION = Status(0x0213, "Failure: Resource Limitation", "PS3.7 10.1.4.1.10")

# Failure Reason (0008,1197) of storage commitment: PS3.3 C.14.1.1
COMMIT_PROCESSING_FAILURE = Status(0x0110, "Processing failure", "PS3.3 C.14.1.1")
COMMIT_NO_SUCH_OBJECT_INSTANCE = Status(0x0112, "No such object instance", "PS3.3 C.14.1.1")
COMMIT_CLASS_INSTANCE_CONFLICT = Status(0x0119, "Class / Instance conflict", "PS3.3 C.14.1.1")
COMMIT_SOP_CLASS_NOT_SUPPORTED = Status(0x0122, "Referenced SOP Class not supported", "PS3.3 C.14.1.1")


def answer(status: Status, comment: str = "") -> Dataset:
    """The status elements of a response.

    Parameters
    ----------
    comment : str
        Why, for a person; cut to what Error Comment (0000,0902) can hold. Never patient data.
    """
    elements = Dataset()
    elements.Status = status.code
    if comment:
        elements.ErrorComment = error_comment(comment)
    return elements


def error_comment(text: str) -> str:
    r"""`text` as a value of Error Comment: default repertoire, no backslash, at most 64 characters."""
    plain = "".join(c if 32 <= ord(c) < 127 and c != "\\" else "?" for c in " ".join(text.split()))
    return plain if len(plain) <= COMMENT_LENGTH else plain[: COMMENT_LENGTH - 3].rstrip() + "..."
