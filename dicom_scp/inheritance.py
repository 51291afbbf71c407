"""What a new instance takes over from the study that it is filed in (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2).

From an instance of that study rather than from the catalog: an archive files by these values, and they must be
the ones it knows.
"""

from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.valuerep import PersonName

from dicom_scp.parsing import parse, quiet
from indexer.attributes import JsonObject

_ALWAYS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Type 1 and 2 of the Patient and General Study modules."""
_IF_THERE = (
    "IssuerOfPatientID", "TypeOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson",
    "ResponsiblePersonRole", "ResponsibleOrganization", "StudyDescription", "IssuerOfAccessionNumberSequence",
    "PatientAge", "PatientSize", "PatientWeight", "PatientSexNeutered",
)  # fmt: skip

_SPECIFIC_CHARACTER_SET = 0x00080005
_TAGS = tuple(tag for keyword in (*_ALWAYS, *_IF_THERE) if (tag := tag_for_keyword(keyword)) is not None)


def inherited(dataset: bytes, transfer_syntax_uid: str) -> Dataset:
    """Patient and study of an encoded instance, decoded to Unicode; values that break their VR stay as they are.

    Parameters
    ----------
    dataset : bytes
        Without File Meta Information.

    Raises
    ------
    indexer.errors.Refused
        The bytes are no data set in this transfer syntax.
    """
    with quiet():
        source = parse(dataset, transfer_syntax_uid, [_SPECIFIC_CHARACTER_SET, *_TAGS])
        source.decode()
        return _taken_over(source)


def _element(source: Dataset, keyword: str) -> DataElement | None:
    try:
        value: Any = source.get(keyword)
        if isinstance(value, PersonName):
            value = PersonName(str(value))
    except Exception:  # a hostile value raises anything at all
        value = None
    if value in (None, "") and keyword not in _ALWAYS:
        return None
    return DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)


def inherited_from_catalog(attributes: JsonObject) -> Dataset:
    """The same from what the catalog keeps, where the node no longer has a file of the study."""
    keys = {f"{tag:08X}" for tag in _TAGS}
    with quiet():
        return _taken_over(Dataset.from_json({key: value for key, value in attributes.items() if key in keys}))


def _taken_over(source: Dataset) -> Dataset:
    found = Dataset()
    for keyword in (*_ALWAYS, *_IF_THERE):
        element = _element(source, keyword)
        if element is not None:
            found.add(element)
    return found
