"""Attributes by level: each where it belongs, hostile values left out, nothing else lost."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRLittleEndian

from indexer.attributes import (
    CATALOGUED_TAGS,
    INSTANCE_KEYWORDS,
    PATIENT_KEYWORDS,
    SERIES_KEYWORDS,
    STUDY_KEYWORDS,
    InstanceHeader,
    first_value,
    header_of,
)

Slice = Callable[..., Dataset]
_LEVELS = (PATIENT_KEYWORDS, STUDY_KEYWORDS, SERIES_KEYWORDS, INSTANCE_KEYWORDS)


def _header(dataset: Dataset) -> InstanceHeader:
    return header_of(dataset, ExplicitVRLittleEndian)


@pytest.fixture
def dataset(a_slice: Slice) -> Dataset:
    built = a_slice(np.zeros((4, 4), np.int16), (1.5, 2.0, 3.0), InstanceNumber=7)
    built.PatientName, built.PatientID, built.StudyDate, built.AccessionNumber = "Doe^Jane", "P1", "20240101", "A1"
    built.SpecificCharacterSet = "ISO_IR 100"
    return built


def test_every_keyword_is_of_the_dictionary_and_of_one_level() -> None:
    keywords = [keyword for level in _LEVELS for keyword in level]
    assert all(tag_for_keyword(keyword) is not None for keyword in keywords)
    assert len(keywords) == len(set(keywords)) == len(CATALOGUED_TAGS)


def test_every_attribute_at_its_level(dataset: Dataset) -> None:
    header = _header(dataset)
    assert header.sop_instance_uid == dataset.SOPInstanceUID
    assert header.embeddable
    assert header.patient["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    assert header.study["00080020"]["Value"] == ["20240101"]
    assert header.series["00080060"]["Value"] == ["CT"]
    assert header.instance["00200032"]["Value"] == [1.5, 2.0, 3.0]
    assert "7FE00010" not in {**header.patient, **header.study, **header.series, **header.instance}


def test_first_values(dataset: Dataset) -> None:
    header = _header(dataset)
    assert first_value(header.patient, "PatientName") == "Doe^Jane"
    assert first_value(header.instance, "InstanceNumber") == "7"
    assert first_value(header.instance, "ImageType") == "ORIGINAL"
    assert first_value(header.study, "StudyID") == ""
    assert first_value({"00100010": {"vr": "PN", "Value": [{"Ideographic": "山田"}]}}, "PatientName") == "山田"
    assert first_value({"00100020": {"vr": "LO", "Value": [None]}}, "PatientID") == ""
    assert first_value({"00100020": {"vr": "LO"}}, "PatientID") == ""


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("SliceThickness", "DS", "thick"),
        ("PatientSize", "DS", "nan"),
        ("PatientWeight", "DS", "inf"),
        ("InstanceNumber", "IS", "seven"),
        ("Rows", "US", "many"),
    ],
)
def test_a_value_that_its_vr_does_not_allow_loses_nothing_else(
    dataset: Dataset, keyword: str, vr: str, value: object
) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    with disable_value_validation():
        element = DataElement(tag, "LO", "x")
        element._value, element.VR = value, vr
        dataset[tag] = element
        header = _header(dataset)
    kept = {**header.patient, **header.study, **header.series, **header.instance}
    assert f"{tag:08X}" not in kept
    assert {"00100010", "00080020", "00080060", "00200032"} <= set(kept)
    json.dumps(kept, allow_nan=False)


def test_what_must_be_there(dataset: Dataset) -> None:
    del dataset.StudyInstanceUID
    with pytest.raises(AttributeError):
        _header(dataset)


def test_images_of_other_kinds_are_not_embedded(dataset: Dataset) -> None:
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    assert not _header(dataset).embeddable


def test_real_instances(real_data: Path) -> None:
    folders = [one for one in sorted(real_data.iterdir()) if one.is_dir()]
    headers = []
    for folder in folders:
        file = next(one for one in sorted(folder.rglob("*")) if one.is_file())
        dataset = dcmread(file, specific_tags=[*CATALOGUED_TAGS], stop_before_pixels=True)
        headers.append(header_of(dataset, dataset.file_meta.TransferSyntaxUID))
    assert {first_value(header.series, "Modality") for header in headers if header.embeddable} == {"CT", "MR"}
    for header in headers:
        for level in (header.patient, header.study, header.series, header.instance):
            json.dumps(level, allow_nan=False)
