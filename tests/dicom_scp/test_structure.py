from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from dicom_scp.part10 import split_file
from dicom_scp.structure import is_torn

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"


def encoded(*, implicit: bool, little: bool) -> bytes:
    inner = Dataset()
    inner.CodeValue = "A"
    dataset = Dataset()
    dataset.StudyDate, dataset.PatientName = "20200101", "Doe"
    dataset.ProcedureCodeSequence = [inner, inner]
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    for item in dataset.ProcedureCodeSequence:
        item.is_undefined_length_sequence_item = True
    dataset.RequestAttributesSequence = [inner]
    dataset.PatientComments = "end"
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, dataset)
    assert isinstance(buffer.parent, BytesIO)
    return buffer.parent.getvalue()


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_only_cuts_between_elements_go_unseen(implicit: bool, little: bool) -> None:
    data = encoded(implicit=implicit, little=little)
    assert not is_torn(data, implicit=implicit, little=little)
    unseen = [end for end in range(1, len(data)) if not is_torn(data[:end], implicit=implicit, little=little)]
    assert len(unseen) == 4  # five elements, four boundaries


def test_trailing_zeros_are_padding() -> None:
    assert not is_torn(encoded(implicit=True, little=True) + b"\0" * 100, implicit=True, little=True)


def test_real_instances_are_whole_and_halves_of_them_are_not() -> None:
    if not REAL.is_dir():
        pytest.skip(f"real CT and MR series are not there: {REAL}")
    for folder in sorted(REAL.iterdir()):
        syntax, data = split_file(sorted(folder.glob("*.dcm"))[0].read_bytes())
        encoding = {"implicit": UID(syntax).is_implicit_VR, "little": UID(syntax).is_little_endian}
        assert not is_torn(data, **encoding)
        assert is_torn(data[: len(data) // 2], **encoding)
