"""Which attributes the catalog keeps at each level of the information model, and how they get there.

The levels are those of the Study Root and Patient Root models (PS3.4 C.6.1, C.6.2); an attribute's level is the
entity it belongs to in PS3.3 A.1.2 (patient, study) and in the modules of series and instances.
"""

import json
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID

from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

JsonObject = dict[str, Any]
"""A data set in the DICOM JSON Model (PS3.18 annex F)."""

PATIENT_KEYWORDS = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex",
    "OtherPatientIDs", "OtherPatientNames", "EthnicGroup", "PatientComments", "PatientSpeciesDescription",
)  # fmt: skip

STUDY_KEYWORDS = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription",
    "ReferringPhysicianName", "NameOfPhysiciansReadingStudy", "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "Occupation",
    "AdditionalPatientHistory", "ReferencedStudySequence", "IssuerOfAccessionNumberSequence",
    "ClinicalTrialProtocolID",  # of the patient by PS3.3 C.7.1.3; but not all studies of a patient are of one trial
)  # fmt: skip

SERIES_KEYWORDS = (
    "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime",
    "BodyPartExamined", "ProtocolName", "Laterality", "PatientPosition", "PerformingPhysicianName",
    "OperatorsName", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    "PerformedProcedureStepID", "PerformedProcedureStepDescription", "RequestAttributesSequence",
    "Manufacturer", "ManufacturerModelName", "InstitutionName", "InstitutionalDepartmentName", "StationName",
    "SoftwareVersions", "FrameOfReferenceUID", "ConvolutionKernel", "SliceThickness", "MagneticFieldStrength",
    "SequenceName", "ScanningSequence", "ContrastBolusAgent",
)  # fmt: skip

INSTANCE_KEYWORDS = (
    "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ImageType", "ContentDate", "ContentTime",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "AcquisitionNumber", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceLocation", "InstanceCreationDate", "InstanceCreationTime",
    "ConceptNameCodeSequence", "ReferencedRequestSequence", "CompletionFlag", "VerificationFlag",
    "ContentLabel", "ContentDescription", "DocumentTitle",
)  # fmt: skip

EMBEDDABLE_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image Storage
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR Image Storage
    }
)
"""Storage SOP classes (PS3.4 B.5) whose instances are turned into volumes."""

OWN_MANUFACTURER = "Pacsimile"
"""Manufacturer (0008,0070) of the reports that a node writes."""

_INLINE_BYTES = 1 << 20
"""Longer binary values are not kept."""

CATALOGUED_TAGS = tuple(
    tag
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS, *SERIES_KEYWORDS, *INSTANCE_KEYWORDS)
    if (tag := tag_for_keyword(keyword)) is not None
)
"""Every tag that the catalog reads of an instance."""


@dataclass(frozen=True)
class InstanceHeader:
    """What the catalog needs to know of one instance.

    Attributes
    ----------
    patient, study, series, instance : JsonObject
        The level's attributes in the DICOM JSON Model.
    """

    sop_instance_uid: SOPInstanceUID
    sop_class_uid: UID
    transfer_syntax_uid: UID
    series_instance_uid: SeriesInstanceUID
    study_instance_uid: StudyInstanceUID
    patient: JsonObject
    study: JsonObject
    series: JsonObject
    instance: JsonObject

    @property
    def embeddable(self) -> bool:
        """Whether the instance is a CT or MR image that volumes are made of."""
        return self.sop_class_uid in EMBEDDABLE_SOP_CLASSES


def first_value(attributes: JsonObject, keyword: str) -> str:
    """First value of an attribute as text; empty if the attribute is absent or empty."""
    values = attributes.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
    value = values[0]
    if isinstance(value, dict):  # a person name (PS3.18 F.2.2)
        value = value.get("Alphabetic") or value.get("Ideographic") or value.get("Phonetic") or ""
    return "" if value is None else str(value)


def header_of(dataset: Dataset, transfer_syntax_uid: str) -> InstanceHeader:
    """Sort the attributes of a parsed data set into levels.

    Parameters
    ----------
    dataset : Dataset
        At least the attributes of `CATALOGUED_TAGS` that the instance has; identifying UIDs must be there.
    transfer_syntax_uid : str
        How the stored bytes are encoded.

    Raises
    ------
    KeyError, AttributeError
        An identifying UID is missing: the caller checks them first.
    """
    levels = _levels(dataset)
    return InstanceHeader(
        sop_instance_uid=SOPInstanceUID(str(dataset.SOPInstanceUID)),
        sop_class_uid=UID(dataset.SOPClassUID),
        transfer_syntax_uid=UID(transfer_syntax_uid),
        series_instance_uid=SeriesInstanceUID(str(dataset.SeriesInstanceUID)),
        study_instance_uid=StudyInstanceUID(str(dataset.StudyInstanceUID)),
        patient=levels[0],
        study=levels[1],
        series=levels[2],
        instance=levels[3],
    )


LEVEL_OF_TAG = {
    tag: level
    for level, keywords in enumerate((PATIENT_KEYWORDS, STUDY_KEYWORDS, SERIES_KEYWORDS, INSTANCE_KEYWORDS))
    for keyword in keywords
    if (tag := tag_for_keyword(keyword)) is not None
}
"""Level, from 0 (patient) to 3 (instance), of each of `CATALOGUED_TAGS`."""


def _levels(dataset: Dataset) -> tuple[JsonObject, JsonObject, JsonObject, JsonObject]:
    """Attributes by level; a value that its VR does not allow is left out, never a reason to lose the rest."""
    kept: tuple[JsonObject, JsonObject, JsonObject, JsonObject] = ({}, {}, {}, {})
    for tag in sorted(dataset.keys()):
        level = LEVEL_OF_TAG.get(tag)
        if level is None:
            continue
        if (value := attribute(dataset, tag)) is not None:
            kept[level][f"{tag:08X}"] = value
    return kept


def attribute(dataset: Dataset, tag: int) -> JsonObject | None:
    """One attribute that a data set has, in the DICOM JSON Model; None if its VR does not allow its value."""
    try:
        value = dataset[tag].to_json_dict(None, _INLINE_BYTES)
        json.dumps(value, allow_nan=False)  # JSON, and PostgreSQL, know no NaN and no infinity
    except Exception:  # a hostile value raises anything at all
        return None
    return value
