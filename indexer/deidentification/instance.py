"""One instance without whom it is of, or the reason why it cannot be given away."""

import re

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from indexer.deidentification.profile import (
    CHARACTERISTICS_CODE,
    CODE_SCHEMES,
    CODES,
    TABLE_EDITION,
    Action,
    Options,
    action_of,
)
from indexer.deidentification.pseudonyms import Pseudonyms
from indexer.errors import Refused
from indexer.headers import CODED_STRING, coded, quiet, text

EXPORTED = frozenset(
    {
        CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage, MRImageStorage,
        EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, PositronEmissionTomographyImageStorage,
        LegacyConvertedEnhancedPETImageStorage,
    }
)  # fmt: skip
"""SOP classes whose pixel data a scanner makes; others often have text in them, or are text."""
_PICTURES_OF_TEXT = re.compile(r"SCREEN|DOSE|REPORT|SUMMARY|PROTOCOL|CAPTURE|PAGE|CURVE|GRAPH|FUSED|OVERLAY")
_OLDEST = 89
_GROUP_LENGTH = 0x0000
_PER_FRAME = 0x52009230
_OVERLAY_BITS_ALLOCATED = 0x0100
"""Element number of it; 1 where the overlay has data of its own (PS3.3 C.9.2)."""


def demand_exportable(instance: Dataset) -> None:
    """Refuse what is likely to have a name in its pixels, or is no image of CT, MR or PET.

    Raises
    ------
    Refused
        The message says why.
    """
    with quiet():
        if text(instance, "SOPClassUID") not in EXPORTED:
            raise Refused("its SOP class is none of CT, MR and PET images")
        if "YES" in coded(instance, "BurnedInAnnotation"):
            raise Refused("Burned In Annotation (0028,0301) is YES")
        if any(_PICTURES_OF_TEXT.search(value) for value in coded(instance, "ImageType")):
            raise Refused("its Image Type (0008,0008) is that of a screen or a report")
        if text(instance, "SamplesPerPixel") not in {"1", ""} or "ConversionType" in instance:
            raise Refused("it is a picture in colour or a secondary capture")
        if any(_is_in_pixels(instance, tag) for tag in sorted(instance.keys())):
            raise Refused("it has an overlay in its pixel data")


def _is_in_pixels(instance: Dataset, tag: BaseTag) -> bool:
    """Whether an element says that an overlay lies in unused bits of the pixel data (retired; PS3.3-2004 C.9.2)."""
    is_bits_allocated = 0x6000 <= tag.group <= 0x60FF and tag.element == _OVERLAY_BITS_ALLOCATED
    return is_bits_allocated and instance[tag].value != 1


def patient_key(instance: Dataset) -> str:
    """Whose instance it is, for pseudonyms; a study without a Patient ID is somebody of its own."""
    with quiet():
        patient_id, issuer = text(instance, "PatientID"), text(instance, "IssuerOfPatientID")
        return f"{patient_id}\0{issuer}" if patient_id else f"\0\0{text(instance, 'StudyInstanceUID')}"


def deidentified(instance: Dataset, pseudonyms: Pseudonyms, options: Options) -> Dataset:
    """Make an instance that does not say whom it is of; its pixel data are uncompressed, else unchanged.

    Parameters
    ----------
    instance : Dataset
        With its File Meta Information; changed on the way.

    Raises
    ------
    Refused
        It is not to be given away, or its pixel data cannot be decoded: comments of a codec may hold anything.
    """
    demand_exportable(instance)
    key = patient_key(instance)
    with quiet():
        if UID(instance.file_meta.TransferSyntaxUID).is_encapsulated:
            try:
                instance.decompress(generate_instance_uid=False)
            except Exception as error:  # decoders raise anything
                raise Refused(f"its pixel data cannot be decoded: {type(error).__name__}") from error
        made = _Cleaner(pseudonyms, key, options).cleaned(instance)
    _say_so(made, options)
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


class _Cleaner:
    def __init__(self, pseudonyms: Pseudonyms, key: str, options: Options) -> None:
        self._pseudonyms = pseudonyms
        self._key = key
        self._options = options

    def cleaned(self, dataset: Dataset) -> Dataset:
        """What is left of a data set, or of an item of a sequence; nothing of the old one is shared."""
        made = Dataset()
        for tag in sorted(dataset.keys()):
            if tag.element == _GROUP_LENGTH:
                continue
            try:
                element = dataset[tag]
            except Exception:  # noqa: S112 - a value that cannot be understood is not given away
                continue
            left = self._element(element)
            if left is not None:
                made.add(left)
        if "CodeValue" in made and text(made, "CodingSchemeDesignator") not in CODE_SCHEMES:
            return Dataset()
        return made

    def _element(self, element: DataElement) -> DataElement | None:
        tag, vr, value = element.tag, element.VR, element.value
        match action_of(tag, vr, self._options):
            case Action.EMPTY:
                return DataElement(tag, vr, None)
            case Action.PSEUDONYM:
                return DataElement(tag, vr, self._pseudonyms.patient(self._key))
            case Action.DUMMY:
                return DataElement(tag, vr, "1" if _is_short_number(value) else "0")
            case Action.REPLACE_UID:
                return DataElement(tag, vr, self._uids(value))
            case Action.SHIFT:
                day = self._pseudonyms.shifted(self._key, str(value or ""))
                return DataElement(tag, vr, day)
            case Action.RECURSE:
                return self._sequence(element)
            case Action.KEEP:
                return _kept(element)
        return None

    def _sequence(self, element: DataElement) -> DataElement | None:
        items = [self.cleaned(item) for item in element.value]
        if element.tag != _PER_FRAME:  # there every frame has its item
            items = [item for item in items if len(item)]
        return DataElement(element.tag, "SQ", Sequence(items)) if items else None

    def _uids(self, value: object) -> list[str] | str:
        """UIDs of the standard stay, all others are replaced."""
        if isinstance(value, MultiValue | list):
            return [self._uid(str(one)) for one in value]
        return self._uid(str(value)) if value else ""

    def _uid(self, uid: str) -> str:
        return uid if UID(uid).name != uid else self._pseudonyms.uid(uid)  # it has a name in the standard


def _kept(element: DataElement) -> DataElement | None:
    """A value that may stay, if it is what its VR says: numbers and coded strings hide no text."""
    tag, vr, value = element.tag, element.VR, element.value
    if vr == "CS" and not all(CODED_STRING.fullmatch(str(one).strip()) for one in _values(value)):
        return None
    if vr == "AS":
        age = re.fullmatch(r"(\d{3})([DWMY])", str(value))
        if age is None:
            return None
        value = "090Y" if age[2] == "Y" and int(age[1]) > _OLDEST else value
    return DataElement(tag, vr, value)


def _values(value: object) -> list[object]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _is_short_number(value: object) -> bool:
    return re.fullmatch(r"\d{1,4}", str(value)) is not None


def _say_so(made: Dataset, options: Options) -> None:
    """Say what was done (PS3.15 E.1.1 and E.3, PS3.3 C.7.1.1 and C.12.1)."""
    made.PatientIdentityRemoved = "YES"
    made.LongitudinalTemporalInformationModified = "MODIFIED"
    made.DeidentificationMethod = [f"DICOM PS3.15 {TABLE_EDITION} Annex E", "Pacsimile"]
    codes = [*CODES, *([CHARACTERISTICS_CODE] if options.keep_patient_characteristics else [])]
    items = []
    for value, meaning in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    made.DeidentificationMethodCodeSequence = Sequence(items)
