import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

from indexer.catalog import Lookup
from indexer.catalog.lookup import Entity

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
pytestmark = pytest.mark.usefixtures("_unchecked_keys")


@pytest.fixture
def archive(node: Node, peer: Factory, instance: Factory) -> Node:
    """Three patients, four studies, five series."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "RPID24", "RADLEX", "CT Chest"
    peer(node).send(
        instance(ProcedureCodeSequence=[code]),
        instance(InstanceNumber=2),
        instance(SeriesInstanceUID="2.25.12", Modality="SR", SeriesNumber=2,
                 SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"),
        instance(StudyInstanceUID="2.25.2", SeriesInstanceUID="2.25.21", StudyDate="20210101", StudyTime="0930",
                 AccessionNumber="A2", StudyDescription="Thorax"),
        instance(StudyInstanceUID="2.25.3", SeriesInstanceUID="2.25.31", PatientID="P2", PatientName="Müller^Jörg",
                 PatientSex="M", StudyDate="20191231", AccessionNumber="A3", SpecificCharacterSet="ISO_IR 100"),
        instance(StudyInstanceUID="2.25.4", SeriesInstanceUID="2.25.41", PatientID="P3", StudyDate="",
                 PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", AccessionNumber="A4",
                 SpecificCharacterSet=["", "ISO 2022 IR 87"]),
    )  # fmt: skip
    return node


def _studies(answers: tuple[list[tuple[int, Dataset]], Dataset]) -> list[str]:
    pending, last = answers
    assert last.Status == 0
    return [found.StudyInstanceUID for _, found in pending]


def test_a_sequence_matches_by_its_item(archive: Node, peer: Factory, query: Factory) -> None:
    for value, expected in (("RPID24", ["2.25.1"]), ("RPID*", ["2.25.1"]), ("X", [])):
        item = Dataset()
        item.CodeValue, item.CodeMeaning = value, ""
        answers = peer(archive).find(query(StudyInstanceUID="", ProcedureCodeSequence=[item]))
        assert _studies(answers) == expected
        for _, found in answers[0]:
            (returned,) = found.ProcedureCodeSequence
            assert {element.keyword for element in returned} == {"CodeValue", "CodeMeaning"}
            assert returned.CodeMeaning == "CT Chest"


def test_computed_attributes_are_those_of_the_study(archive: Node, peer: Factory, query: Factory) -> None:
    pending, _ = peer(archive).find(
        query(
            StudyInstanceUID="2.25.1",
            ModalitiesInStudy="",
            SOPClassesInStudy="",
            NumberOfStudyRelatedSeries=None,
            NumberOfStudyRelatedInstances=None,
            NumberOfPatientRelatedStudies=None,
            NumberOfPatientRelatedSeries=None,
            NumberOfPatientRelatedInstances=None,
            InstanceAvailability="",
        )
    )
    ((status, found),) = pending
    assert status == 0xFF00
    assert list(found.ModalitiesInStudy) == ["CT", "SR"]
    assert list(found.SOPClassesInStudy) == ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"]
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (2, 3)
    assert (found.NumberOfPatientRelatedStudies, found.NumberOfPatientRelatedSeries) == (2, 3)
    assert found.NumberOfPatientRelatedInstances == 4
    assert (found.InstanceAvailability, found.RetrieveAETitle, found.QueryRetrieveLevel) == (
        "ONLINE",
        "PACSIMILE",
        "STUDY",
    )


def test_series_and_image_levels(archive: Node, peer: Factory, query: Factory) -> None:
    keys = query(
        "SERIES",
        StudyInstanceUID="2.25.1",
        SeriesInstanceUID="",
        Modality="CT",
        NumberOfSeriesRelatedInstances=None,
    )
    ((_, series),), _ = peer(archive).find(keys)
    assert (series.SeriesInstanceUID, series.NumberOfSeriesRelatedInstances) == ("2.25.11", 2)
    image = query(
        "IMAGE",
        StudyInstanceUID="2.25.1",
        SeriesInstanceUID="2.25.11",
        SOPInstanceUID="",
        InstanceNumber="2",
        Rows=None,
    )
    ((_, found),), _ = peer(archive).find(image)
    assert (found.InstanceNumber, found.Rows) == (2, 8)


def test_the_patient_root_model(archive: Node, peer: Factory, query: Factory, patient_root: str) -> None:
    ask = peer(archive).find
    pending, _ = ask(
        query("PATIENT", PatientID="", PatientName="", NumberOfPatientRelatedStudies=None), model=patient_root
    )
    assert [(f.PatientID, f.NumberOfPatientRelatedStudies) for _, f in pending] == [("P1", 2), ("P2", 1), ("P3", 1)]
    assert _studies(ask(query(PatientID="P1", StudyInstanceUID=""), model=patient_root)) == ["2.25.1", "2.25.2"]


def test_unsupported_keys_are_warned_of_and_not_returned(archive: Node, peer: Factory, query: Factory) -> None:
    pending, last = peer(archive).find(query(StudyInstanceUID="2.25.1", ReasonForStudy="", Modality="CT"))
    ((status, found),) = pending
    assert status == 0xFF01
    assert last.Status == 0
    assert "ReasonForStudy" not in found
    assert "Modality" not in found


def test_supported_keys_without_value_are_returned_empty(archive: Node, peer: Factory, query: Factory) -> None:
    ((status, found),), _ = peer(archive).find(
        query(StudyInstanceUID="2.25.1", StudyDescription="", PatientSize=None)
    )
    assert status == 0xFF00
    assert found["StudyDescription"].is_empty
    assert found["PatientSize"].is_empty
    assert "PatientName" not in found


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_offered_transfer_syntax(archive: Node, peer: Factory, query: Factory, syntax: str) -> None:
    identifier = query(StudyInstanceUID="", PatientName="müller*", SpecificCharacterSet="ISO_IR 100")
    ((_, found),), _ = peer(archive).find(identifier, syntax=syntax)
    assert found.PatientName == "Müller^Jörg"


@pytest.mark.parametrize(
    ("asked", "name", "answered", "count"),
    [
        ("ISO_IR 100", "MÜLLER*", "ISO_IR 100", 1),
        ("ISO_IR 192", "Müller*", "ISO_IR 192", 1),
        (None, "M*", "ISO_IR 192", 1),
        ("ISO_IR 192", "*=山田*", "ISO_IR 192", 1),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"], 1),
        ("ISO_IR 100", "Yamada*", "ISO_IR 192", 1),
        ("ISO_IR 192", "山田*", "ISO_IR 192", 1),
        ("ISO_IR 100", "Doe*", None, 2),
    ],
)
def test_character_sets(
    archive: Node,
    peer: Factory,
    query: Factory,
    asked: str | list[str] | None,
    name: str,
    answered: str | list[str] | None,
    count: int,
) -> None:
    identifier = query(StudyInstanceUID="", PatientName=name)
    if asked:
        identifier.SpecificCharacterSet = asked
    pending, _ = peer(archive).find(identifier)
    assert len(pending) == count
    for _, found in pending:
        assert found.get("SpecificCharacterSet") == answered
        assert str(found.PatientName) in ("Müller^Jörg", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Doe^Jane")


def test_cancel_stops_the_answer(node: Node, peer: Factory, instance: Factory, query: Factory) -> None:
    total = 3000
    peer(node).send(instance())
    entities = list(node.catalog.lookup.entities(1))
    # One study, answered very often: what matters is a long answer, not how it came to be.
    many = replace(node.catalog.within(None), lookup=_Repeated(node.catalog.lookup, entities[0], total))
    node.server._handlers._access = SimpleNamespace(view=lambda _association: many)
    with peer(node).associated([(StudyRoot, [ImplicitVRLittleEndian])]) as association:
        received = 0
        last = None
        for status, found in association.send_c_find(query(StudyInstanceUID=""), StudyRoot, msg_id=7):
            received += found is not None
            last = status
            if received == 1 and found is not None:
                association.send_c_cancel(7, association.accepted_contexts[0].context_id)
    assert last is not None
    assert last.Status == 0xFE00
    assert 1 <= received < total


class _Repeated:
    def __init__(self, lookup: Lookup, entity: Entity, times: int) -> None:
        self._lookup, self._entity, self._times = lookup, entity, times

    def entities(self, *_: object) -> Iterator[Any]:
        return iter([self._entity] * self._times)


def _element(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    """An element in Explicit VR Little Endian."""
    value += b" " * (len(value) % 2)
    long_form = vr in (b"SQ", b"OB", b"UN")
    length = struct.pack("<HL" if long_form else "<H", *((0, len(value)) if long_form else (len(value),)))
    return struct.pack("<HH", *tag) + vr + length + value


_LEVEL = _element((0x0008, 0x0052), b"CS", b"STUDY")


def _nested(depth: int, *, delimited: bool = False) -> bytes:
    body = _element((0x0008, 0x0100), b"SH", b"X")
    for _ in range(depth):
        if delimited:
            begin = b"\x08\x00\x32\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
            body = begin + body + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            body = _element((0x0008, 0x1032), b"SQ", b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)) + body)
    return _LEVEL + body


def _items(count: int) -> bytes:
    item = _element((0x0008, 0x0100), b"SH", b"X")
    return _element((0x0008, 0x1032), b"SQ", (b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item) * count)


HOSTILE = {
    "nothing": (b"\0" * 8, 0xA900),
    "noise": (b"\xde\xad\xbe\xef" * 40, 0xA900),
    "torn": (_LEVEL + b"\x10\x00\x10\x00PN\xff\x00Doe", 0xC001),
    "nested 30": (_nested(30), 0xC001),
    "nested 3000": (_nested(3000), 0xC001),
    "nested 3000, delimited": (_nested(3000, delimited=True), 0xC001),
    "5000 elements": (_LEVEL + b"".join(_element((0x0011, 0x1000 + n), b"LO", b"x") for n in range(5000)), 0xC001),
    "2 MiB": (_LEVEL + _element((0x0011, 0x1000), b"OB", b"x" * (2 << 20)), 0xC001),
    "wrong VR": (_element((0x0008, 0x0020), b"OB", b"\xff\xfe") + _LEVEL, 0xA900),
    "no number": (_LEVEL + _element((0x0010, 0x1030), b"DS", b"heavy"), 0xA900),
    "two items": (_LEVEL + _items(2), 0xA900),
    "stars": (_LEVEL + _element((0x0010, 0x0010), b"PN", b"*a" * 5000 + b"b"), 0x0000),
    "unknown repertoire": (_element((0x0008, 0x0005), b"CS", b"KLINGON") + _LEVEL, 0xFF00),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_identifiers_are_answered(archive: Node, peer: Factory, query: Factory, name: str) -> None:
    encoded, expected = HOSTILE[name]
    request = C_FIND()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = StudyRoot
    request.Identifier = BytesIO(encoded)
    with peer(archive).associated([(StudyRoot, [ExplicitVRLittleEndian])]) as association:
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, response = association.dimse.get_msg(block=True)
        assert response.Status == expected
        while response.Status == 0xFF00:
            _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        again = list(association.send_c_find(query(StudyInstanceUID="2.25.1"), StudyRoot))
        assert [status.Status for status, _ in again] == [0xFF00, 0x0000]


def test_plain_queries_know_nothing_of_the_private_block(archive: Node, peer: Factory, query: Factory) -> None:
    identifier = query(StudyInstanceUID="2.25.1")
    identifier.private_block(0x0077, "PACSIMILE", create=True).add_new(0x06, "US", 1)
    ((status, found),), _ = peer(archive).find(identifier)
    assert status == 0xFF01
    assert not [element for element in found if element.tag.is_private]


def test_the_log_holds_no_patient_data(
    archive: Node, peer: Factory, query: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    peer(archive).find(query(PatientName="Doe^Jane", StudyDate="", StudyInstanceUID=""))
    peer(archive).find(query(PatientName="Doe^Jane", StudyDate="Doe^Jane", StudyInstanceUID=""))
    ours = [record.getMessage() for record in caplog.records if str(record.threadName).startswith("AcceptorThread")]
    assert any("A900" in message for message in ours)
    assert [message for message in ours if "Jane" in message] == []
