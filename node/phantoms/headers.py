"""Classic single-frame instances of an exam: CT Image (PS3.3 A.3) and MR Image (PS3.3 A.4)."""

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from node.phantoms.body import ARRAY_AXES, Grid
from node.phantoms.exam import Exam
from node.phantoms.scanner import Acquired, acquire
from node.phantoms.tissue import Sequence

_WINDOWS = {"HEAD": (40, 90), "CHEST": (40, 400)}
"""Window Center and Window Width in HU; (50, 400) elsewhere."""
_MR_TIMES_MS = {
    Sequence.T1: (520.0, 11.0, None),
    Sequence.T2: (4200.0, 98.0, None),
    Sequence.FLAIR: (9000.0, 118.0, 2500.0),
}
"""Repetition Time, Echo Time and Inversion Time."""


def datasets(exam: Exam) -> Iterator[Dataset]:
    """Make the instances of one series.

    Yields
    ------
    Dataset
        With file meta information, in the order of Instance Number; the same in every run.
    """
    acquired = acquire(exam)
    slices = len(acquired.stored)
    order = range(slices)[::-1] if exam.vendor.descending else range(slices)
    for number, index in enumerate(order, start=1):
        yield _instance(exam, acquired, index, number)


def _instance(exam: Exam, acquired: Acquired, index: int, number: int) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    _identify(dataset, exam, index, number)
    _describe_patient(dataset, exam)
    _describe_study(dataset, exam)
    _describe_series(dataset, exam)
    _place(dataset, exam, exam.grid(), index)
    if exam.modality == "CT":
        _describe_ct(dataset, exam)
    else:
        _describe_mr(dataset, exam, acquired)
    _store_pixels(dataset, exam, acquired, index)
    return dataset


def _identify(dataset: Dataset, exam: Exam, index: int, number: int) -> None:
    sop_class = CTImageStorage if exam.modality == "CT" else MRImageStorage
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, exam.instance_uid(index)
    dataset.InstanceNumber, dataset.AcquisitionNumber = number, 1
    dataset.ContentDate = dataset.AcquisitionDate = exam.study_date
    dataset.ContentTime = dataset.AcquisitionTime = "093000"
    dataset.PatientOrientation = None
    dataset.ImageComments = "Procedural phantom, not a person"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = exam.vendor.transfer_syntax
    dataset.file_meta = meta


def _describe_patient(dataset: Dataset, exam: Exam) -> None:
    patient = exam.patient
    dataset.PatientName, dataset.PatientID = patient.name, patient.patient_id
    dataset.PatientBirthDate = f"{int(exam.study_date[:4]) - patient.age_years}0101"
    dataset.PatientSex, dataset.PatientAge = patient.sex, f"{patient.age_years:03d}Y"


def _describe_study(dataset: Dataset, exam: Exam) -> None:
    dataset.StudyInstanceUID, dataset.StudyID = exam.study_uid, str(exam.study_number)
    dataset.StudyDate, dataset.StudyTime = exam.study_date, "091500"
    dataset.AccessionNumber = f"D{exam.patient.number:03d}{exam.study_number:02d}"
    dataset.ReferringPhysicianName = None
    dataset.StudyDescription = f"{exam.modality} {exam.region.name.replace('_', ' ').title()}"


def _describe_series(dataset: Dataset, exam: Exam) -> None:
    vendor = exam.vendor
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = (
        exam.modality,
        exam.series_uid,
        exam.series_number,
    )
    dataset.SeriesDate, dataset.SeriesTime = exam.study_date, "092000"
    weighting = ("sharp" if exam.sharp else "soft") if exam.modality == "CT" else exam.sequence.value
    dataset.SeriesDescription = f"{exam.orientation} {weighting} {exam.spacing_mm:g} mm"
    dataset.ProtocolName = dataset.StudyDescription
    dataset.BodyPartExamined = exam.region.value
    dataset.PatientPosition = "FFS" if vendor.feet_first else "HFS"
    dataset.Manufacturer, dataset.ManufacturerModelName = vendor.name, vendor.model
    dataset.InstitutionName, dataset.SoftwareVersions = "Demonstration Hospital", "1.0"


def _place(dataset: Dataset, exam: Exam, grid: Grid, index: int) -> None:
    """Write Frame of Reference and Image Plane (PS3.3 C.7.4.1, C.7.6.2)."""
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = exam.frame_of_reference_uid, None
    _, row_growth, column_growth = ARRAY_AXES[grid.orientation]
    cosines = np.zeros((2, 3))
    for line, (axis, sense) in zip(cosines, (column_growth, row_growth), strict=True):
        line[axis] = sense
    dataset.ImageOrientationPatient = [int(value) for value in cosines.ravel()]
    corner = np.add(grid.point((index, 0, 0)), exam.frame_offset_lps_mm)
    dataset.ImagePositionPatient = [round(float(value), 3) for value in corner]
    dataset.PixelSpacing = [round(value, 3) for value in grid.spacing_mm[1:]]
    dataset.SliceThickness = round(exam.spacing_mm * exam.vendor.thickness_ratio, 3)
    dataset.SliceLocation = dataset.ImagePositionPatient[ARRAY_AXES[grid.orientation][0][0]]


def _describe_ct(dataset: Dataset, exam: Exam) -> None:
    """Write the CT Image module (PS3.3 C.8.2.1) and VOI LUT."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.KVP, dataset.XRayTubeCurrent, dataset.ExposureTime = 120, 220, 500
    dataset.ReconstructionDiameter = round(exam.matrix * exam.grid().spacing_mm[1], 3)
    dataset.ConvolutionKernel = "SHARP" if exam.sharp else "SOFT"
    dataset.GantryDetectorTilt = 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = exam.vendor.ct_intercept, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = _WINDOWS.get(exam.region.value, (50, 400))
    if exam.contrast:
        dataset.ContrastBolusAgent, dataset.ContrastBolusRoute = "CONTRAST", "IV"


def _describe_mr(dataset: Dataset, exam: Exam, acquired: Acquired) -> None:
    """Write the MR Image module (PS3.3 C.8.3.1) and VOI LUT."""
    repetition, echo, inversion = _MR_TIMES_MS[exam.sequence]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence = "SE" if inversion is None else ["SE", "IR"]
    dataset.SequenceVariant, dataset.ScanOptions, dataset.MRAcquisitionType = "SK", None, "2D"
    dataset.RepetitionTime, dataset.EchoTime = repetition, echo
    if inversion is not None:
        dataset.InversionTime = inversion
    dataset.EchoTrainLength = 1 if exam.sequence is Sequence.T1 else 16
    dataset.MagneticFieldStrength, dataset.FlipAngle, dataset.ImagedNucleus = 1.5, 90, "1H"
    dataset.SpacingBetweenSlices = exam.spacing_mm
    bright = max(int(np.percentile(acquired.stored, 99)), 2)
    dataset.WindowCenter, dataset.WindowWidth = bright // 2, bright


def _store_pixels(dataset: Dataset, exam: Exam, acquired: Acquired, index: int) -> None:
    """Write the Image Pixel module (PS3.3 C.7.6.3), compressed where that is the vendor's habit."""
    pixels = acquired.stored[index]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, acquired.bits, acquired.bits - 1
    signed = pixels.dtype.kind == "i"
    dataset.PixelRepresentation = int(signed)
    if acquired.padding is not None:
        dataset.add_new("PixelPaddingValue", "SS" if signed else "US", acquired.padding)
    dataset.add_new("PixelData", "OW", pixels.astype(pixels.dtype.newbyteorder("<")).tobytes())
    if exam.vendor.transfer_syntax.is_compressed:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(exam.vendor.transfer_syntax, generate_instance_uid=False)
