import re
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.datadict import private_dictionary_VM, private_dictionary_VR
from pydicom.dataelem import DataElement

from dicom_scp.private_dictionary import BLOCK, CREATOR, GROUP, MAXIMUM_RESULTS, SEED_STUDY, values_of, write_block

DOCUMENT = Path(__file__).parents[2] / "docs" / "private-dictionary.md"


def test_the_document_and_the_table_agree() -> None:
    rows = re.findall(r"^\| xx([0-9A-F]{2}) \| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    written = [(int(offset, 16), *rest.split(" | ")) for offset, rest in rows]
    assert written == [(e.offset, e.vr, e.vm, e.keyword, str(e.direction), e.meaning) for e in BLOCK]


def test_pydicom_knows_every_element() -> None:
    for element in BLOCK:
        tag = element.tag(0x42)
        assert private_dictionary_VR(tag, CREATOR) == element.vr
        assert private_dictionary_VM(tag, CREATOR) == element.vm


def test_no_offset_or_keyword_twice() -> None:
    assert len({element.offset for element in BLOCK}) == len({element.keyword for element in BLOCK}) == len(BLOCK)


def test_a_block_of_another_creator_is_not_ours() -> None:
    dataset = Dataset()
    dataset.add(DataElement((GROUP, 0x10), "LO", "SOMEBODY"))
    dataset.add(DataElement((GROUP, 0x1001), "UI", "1.2"))
    assert values_of(dataset) is None
    dataset.add(DataElement((GROUP, 0x11), "LO", CREATOR))
    dataset.add(DataElement((GROUP, 0x1101), "UI", "1.3"))
    assert values_of(dataset) == {SEED_STUDY: ("1.3",)}


def test_bytes_that_are_no_value_are_an_error() -> None:
    dataset = Dataset()
    dataset.add(DataElement((GROUP, 0x10), "UN", CREATOR.encode() + b" "))
    dataset.add(DataElement((GROUP, 0x1006), "UN", b"\x05\x00"))
    assert values_of(dataset) == {MAXIMUM_RESULTS: ("5",)}
    dataset[GROUP, 0x1006].value = b"\x05"
    with pytest.raises(ValueError, match="multiple of 2 bytes"):
        values_of(dataset)


def test_written_elements_are_typed() -> None:
    dataset = Dataset()
    write_block(dataset, {SEED_STUDY: "1.2", MAXIMUM_RESULTS: 3})
    assert [(element.tag.element, element.VR) for element in dataset] == [
        (0x0010, "LO"),
        (0x1001, "UI"),
        (0x1006, "US"),
    ]
