"""The Conformance Statement says what the code does."""

import re
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_VR

import dicom_scp
from dicom_scp import statuses
from dicom_scp.conformance import WHEN, statement, status_names
from dicom_scp.contexts import commitment_context, supported_contexts
from dicom_scp.identifier import Key
from dicom_scp.private_dictionary import BLOCK
from dicom_scp.responses import LEVEL_OF, is_supported
from indexer.catalog.lookup import Level

ANNEX_N = [
    "1 Overview",
    "2 Table of Contents",
    "3 Introduction",
    "4 Implementation Model",
    "5 Service and Interoperability Description",
    "6 Configuration",
    "7 Network and Media Communication Details",
    "8 Security",
    "Annex A Information Object Definitions",
    "Annex B Structured Report Content Encoding",
]
"""Sections of a statement by PS3.2 annex N; further annexes have nothing to say here."""
HEADING = re.compile(r"^(#+) (\d[\d.]*) ", re.MULTILINE)
DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def rows(document: str, after: str) -> list[list[str]]:
    """Cells of the first table after some text."""
    table = re.search(r"\n\|.*?\n\n", document[document.index(after) :], re.DOTALL)
    assert table is not None
    lines = [line.strip("| ").split(" | ") for line in table[0].strip().splitlines()]
    return [[cell.strip(" `") for cell in line] for line in lines[2:]]


def test_the_document_is_what_the_code_says(document: str) -> None:
    assert document == statement(), "run `make docs`, read what has changed, and commit it"


def test_sections_are_those_of_annex_n_in_order(document: str) -> None:
    assert re.findall(r"^## (.+)$", document, re.MULTILINE) == ANNEX_N
    numbers = [tuple(map(int, found.split("."))) for found in re.findall(r"^#+ ([\d.]+) ", document, re.MULTILINE)]
    assert numbers == sorted(set(numbers))
    depths = [(len(marks) - 1, number.count(".") + 1) for marks, number in HEADING.findall(document)]
    assert all(depth == parts for depth, parts in depths)
    named = set(re.findall(r"[Ss]ections? ([\d.]+\d)", document)) - {"8"}
    assert named <= {".".join(map(str, number)) for number in numbers}


def test_every_context_is_listed_and_nothing_else(document: str) -> None:
    offered = {str(one.abstract_syntax) for one in [*supported_contexts(), commitment_context()]}
    listed = rows(document, "\n### 1.1 ") + rows(document, "\n### 1.2 ")
    assert {line[1] for line in listed} == offered
    assert len(listed) == len(offered)


def test_retired_storage_classes_stay_when_contexts_are_built_again() -> None:
    retired = "1.2.840.10008.5.1.4.1.1.5"
    for _ in range(2):
        assert retired in {str(one.abstract_syntax) for one in supported_contexts()}


def test_every_transfer_syntax_of_storage_is_listed_in_order(document: str) -> None:
    storage = next(one for one in supported_contexts() if one.abstract_syntax == "1.2.840.10008.5.1.4.1.1.2")
    assert [line[1] for line in rows(document, "For Storage contexts")] == [
        str(uid) for uid in storage.transfer_syntax
    ]


def test_every_status_is_explained_listed_and_used(document: str) -> None:
    assert set(WHEN) == set(status_names())
    package = Path(str(dicom_scp.__file__)).parent
    code = "".join(file.read_text(encoding="utf-8") for file in package.glob("*.py") if file.name != "statuses.py")
    for name in status_names():
        status = getattr(statuses, name)
        assert f"| {status.code:04X} | {status.meaning} | {WHEN[name]} | {status.section} |" in document
        assert f"statuses.{name}" in code, f"{name} is never answered"


@pytest.mark.parametrize("level", list(Level))
def test_every_attribute_is_listed_as_it_is_matched(document: str, level: Level) -> None:
    listed = {line[0]: line for line in rows(document, f"\n{level.name.capitalize()}:\n")}
    tags = {f"({tag.group:04X},{tag.element:04X})": tag for tag, owner in LEVEL_OF.items() if owner is level}
    assert set(listed) == set(tags)
    for shown, tag in tags.items():
        vr = dictionary_VR(tag)
        inner = Key(tag, "LO", ("1",))
        key = Key(tag, vr, items=((inner,),)) if vr == "SQ" else Key(tag, vr, ("1",))
        assert is_supported(key, level) == (listed[shown][4] != "returned only")
        assert listed[shown][2] == vr


def test_the_private_block_is_listed(document: str) -> None:
    listed = rows(document, "Private attributes (PS3.5 7.8)")
    assert [line[0][-3:-1] for line in listed] == [f"{element.offset:02X}" for element in BLOCK]


def test_nothing_was_left_unfilled(document: str) -> None:
    assert "{{" not in document
    assert "|  | " not in "\n".join(line for line in document.splitlines() if re.match(r"\| [0-9A-F]{4} \|", line))
