"""What happens to which attribute: Table E.1-1 of PS3.15, and for whatever it does not name a rule by its VR.

The table is the one of the package `dicom-anonymizer`. It is applied as strictly as its options allow, and no free
text is kept that is not named here, whether the table names it or not: descriptors are cleaned by removing them.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import chain

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.tag import BaseTag

TABLE_EDITION = "2026c"

CODE_SCHEMES = frozenset(
    {"DCM", "SCT", "SRT", "SNM3", "UCUM", "LN", "FMA", "RADLEX", "ISO3166_1", "ISO639_1", "MDC"}
)
"""Coding Scheme Designators whose meanings are public (PS3.16 section 8); other codes are an institution's own."""


class Action(Enum):
    """What becomes of an attribute; the letters are those of Table E.1-1."""

    REMOVE = "X"
    EMPTY = "Z"
    PSEUDONYM = "D"
    REPLACE_UID = "U"
    SHIFT = "C"
    DUMMY = "D*"
    KEEP = "K"
    RECURSE = "K*"


@dataclass(frozen=True)
class Options:
    """Options of the profile.

    Attributes
    ----------
    keep_patient_characteristics : bool
        Retain Patient Characteristics: sex, age, size, weight, smoking and pregnancy status.
    """

    keep_patient_characteristics: bool = False


def _tags(*keywords: str) -> frozenset[BaseTag]:
    found = [tag_for_keyword(keyword) for keyword in keywords]
    return frozenset(BaseTag(tag) for tag in found if tag is not None)


_PSEUDONYMS = _tags("PatientName", "PatientID")
_DUMMIES = _tags("DeviceSerialNumber", "StackID")
"""Type 1 in enhanced images (PS3.3 C.7.5.2, C.7.6.16.2.2)."""
_EMPTY = _tags(
    "PatientBirthDate", "PatientSex", "StudyTime", "SeriesTime", "ContentTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "PositionReferenceIndicator", "ReceiveCoilManufacturerName",
    "TransmitCoilManufacturerName", "ContrastBolusAgent", "FillerOrderNumberImagingServiceRequest",
    "PlacerOrderNumberImagingServiceRequest",
)  # fmt: skip
"""Type 2 in images of CT, MR and PET: they stay, without a value."""
_DATES = _tags(
    "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime", "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
)  # fmt: skip
"""Retain Longitudinal Temporal Information with Modified Dates (PS3.15 E.3.6)."""
_CHARACTERISTICS = _tags(
    "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "SmokingStatus", "PregnancyStatus"
)
_TECHNICAL_TEXT = _tags(
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel", "FilterType", "SequenceName",
    "PulseSequenceName", "ReceiveCoilName", "TransmitCoilName", "ImagedNucleus", "ResonantNucleus", "RescaleType",
    "ModalityLUTType", "CodeValue", "CodeMeaning", "CodingSchemeDesignator", "CodingSchemeVersion", "LongCodeValue",
    "RealWorldValueLUTLabel", "Units", "ReconstructionMethod",
)  # fmt: skip
"""Text that says how an image was made; nobody types it at the examination."""
_BINARY = _tags(
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "LUTData", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData", "VectorGridData",
)  # fmt: skip
_REFERENCES = _tags("ReferencedImageSequence", "SourceImageSequence", "ReferencedStudySequence")
"""The table lets them stay where UIDs are replaced (X/Z/U*)."""
_NEVER = _tags("IconImageSequence", "EncapsulatedDocument", "TimezoneOffsetFromUTC", "RequestAttributesSequence")
_FIRST_GROUP = 0x0008
"""Of a data set; those below belong to commands, files and directories."""
_NUMBERS = frozenset({"US", "SS", "US or SS", "UL", "SL", "SV", "UV", "FL", "FD", "AT", "DS", "IS", "CS"})
_REMOVING = ("X_TAGS", "X_Z_TAGS", "X_D_TAGS", "X_Z_D_TAGS", "D_TAGS", "Z_TAGS", "Z_D_TAGS")


def action_of(tag: BaseTag, vr: str, options: Options) -> Action:
    """What becomes of an attribute, wherever it stands."""
    group = tag.group
    is_repeating = 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF  # curves, overlays
    if group < _FIRST_GROUP or tag.is_private or is_repeating or not dictionary_has_tag(tag):
        return Action.REMOVE
    for tags, action in _NAMED:
        if tag in tags:
            kept = options.keep_patient_characteristics and tag in _CHARACTERISTICS
            return Action.KEEP if kept else action
    if options.keep_patient_characteristics and tag in _CHARACTERISTICS:
        return Action.KEEP
    if vr == "UI":
        return Action.REPLACE_UID
    if tag in _removed():
        return Action.REMOVE
    if vr == "SQ":
        return Action.RECURSE
    return Action.KEEP if vr in _NUMBERS else Action.REMOVE


_NAMED = (
    (_NEVER, Action.REMOVE),
    (_PSEUDONYMS, Action.PSEUDONYM),
    (_DUMMIES, Action.DUMMY),
    (_EMPTY, Action.EMPTY),
    (_DATES, Action.SHIFT),
    (_REFERENCES, Action.RECURSE),
    (_TECHNICAL_TEXT | _BINARY, Action.KEEP),
)


@cache
def _removed() -> frozenset[int]:
    """Tags that the table removes, empties or replaces and that nothing above says more about."""
    table = dicom_anonymization_database_selector(f"dicomfields_{TABLE_EDITION}")
    pairs = chain.from_iterable(table[name] for name in _REMOVING)
    return frozenset(pair[0] << 16 | pair[1] for pair in pairs if len(pair) == 2)  # else a repeating group


CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
"""De-identification Method Code Sequence (PS3.16 CID 7050)."""
CHARACTERISTICS_CODE = ("113108", "Retain Patient Characteristics Option")
