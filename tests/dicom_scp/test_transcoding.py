"""Transcoding in a process of its own: what it makes, and what it survives."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_scp.equivalence import same_content
from dicom_scp.parsing import parse
from dicom_scp.transcoding import COMPRESSED_TARGETS, Transcoder, transcoded
from indexer.errors import Refused


def image() -> Dataset:
    dataset = Dataset()
    dataset.SOPInstanceUID = "2.25.5"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller^Jürgen"
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    item = Dataset()
    item.LUTDescriptor = [2, 0, 16]
    item.add_new(0x00283006, "OW", b"\1\2\3\4")
    item.ReferencedSOPInstanceUID = "2.25.6"
    dataset.add_new(0x00283010, "SQ", [item])
    dataset.add_new(0x00091001, "UN", b"\1\2\3\4")
    dataset.PixelData = np.arange(4096, dtype="<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def encoded(dataset: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(buffer, dataset)
    content: bytes = buffer.parent.getvalue()  # type: ignore[union-attr]
    return content


@pytest.fixture
def transcoder() -> Iterator[Transcoder]:
    with Transcoder(4096, timeout_s=20.0) as running:
        yield running


@pytest.mark.parametrize("target", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("source", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_uncompressed_to_uncompressed(source: str, target: str) -> None:
    was = encoded(image(), source)
    assert same_content(was, source, transcoded(was, source, target), target)


def test_big_endian_words_are_turned_round_in_sequences_too() -> None:
    dataset = image()
    dataset.PixelData = np.arange(4096, dtype=">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset[0x00283010].value[0][0x00283006].value = b"\2\1\4\3"
    made = transcoded(encoded(dataset, ExplicitVRBigEndian), ExplicitVRBigEndian, ExplicitVRLittleEndian)
    assert same_content(
        made, ExplicitVRLittleEndian, encoded(image(), ExplicitVRLittleEndian), ExplicitVRLittleEndian
    )


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_to_uncompressed(transcoder: Transcoder, syntax: str) -> None:
    dataset = image()
    dataset.compress(syntax, generate_instance_uid=False)
    was = encoded(dataset, syntax)
    for target in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        made = parse(transcoder.transcoded(was, syntax, target), target)
        assert made.PixelData == image().PixelData
        assert made.SOPInstanceUID == "2.25.5"
        assert made.PatientName == "Müller^Jürgen"


@pytest.mark.parametrize("target", COMPRESSED_TARGETS)
@pytest.mark.parametrize("source", [ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless])
def test_to_compressed_and_back(transcoder: Transcoder, source: str, target: str) -> None:
    dataset = image()
    if source == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif source == ExplicitVRBigEndian:
        dataset.PixelData = np.arange(4096, dtype=">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    made = transcoder.transcoded(encoded(dataset, source), source, target)
    assert parse(made, target).PixelData.startswith(b"\xfe\xff\x00\xe0")
    assert parse(made, target).SOPInstanceUID == "2.25.5"
    back = parse(transcoder.transcoded(made, target, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert back.PixelData == image().PixelData


def test_what_has_no_pixels_is_not_compressed() -> None:
    dataset = image()
    del dataset.PixelData
    was = encoded(dataset, ImplicitVRLittleEndian)
    made = transcoded(was, ImplicitVRLittleEndian, JPEGLSLossless)
    assert same_content(was, ImplicitVRLittleEndian, made, ExplicitVRLittleEndian)


def test_what_cannot_be_decoded_is_refused_and_the_next_is_not(transcoder: Transcoder) -> None:
    dataset = image()
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.PixelData = encapsulate([b"\1" * 100])
    torn = encoded(dataset, RLELossless)
    with pytest.raises(Refused, match="transcoded"):
        transcoder.transcoded(torn, RLELossless, ExplicitVRLittleEndian)
    with pytest.raises(Refused):
        transcoder.transcoded(b"\1\2\3", ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    good = encoded(image(), ExplicitVRLittleEndian)
    assert transcoder.transcoded(good, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def test_a_process_that_is_killed_is_started_again(transcoder: Transcoder) -> None:
    good = encoded(image(), ExplicitVRLittleEndian)
    transcoder.transcoded(good, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert transcoder._process is not None
    os.kill(transcoder._process.pid, signal.SIGKILL)
    with pytest.raises(Refused, match="ended"):
        transcoder.transcoded(good, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert transcoder.transcoded(good, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def test_one_that_takes_too_long_is_ended(transcoder: Transcoder) -> None:
    good = encoded(image(), ExplicitVRLittleEndian)
    transcoder.transcoded(good, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert transcoder._process is not None
    os.kill(transcoder._process.pid, signal.SIGSTOP)
    transcoder._timeout_s = 0.5
    with pytest.raises(Refused, match="too long"):
        transcoder.transcoded(good, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert transcoder._process is None


def test_memory_is_limited() -> None:
    dataset = image()
    dataset.PixelData = bytes(200 << 20)
    dataset["PixelData"].VR = "OW"
    with Transcoder(256, timeout_s=60.0) as small, pytest.raises(Refused):
        small.transcoded(encoded(dataset, ExplicitVRLittleEndian), ExplicitVRLittleEndian, ImplicitVRLittleEndian)
