from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

from indexer.answer import Seed
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
SIMILAR = "SIMILAR"


def fill(node: Node, peer: Factory, instance: Factory) -> None:
    """Four patients with a study each, a prior of the first, and a report."""
    peer(node).send(
        instance(SOPInstanceUID="2.25.111", InstanceNumber=1),
        instance(SOPInstanceUID="2.25.112", InstanceNumber=2),
        instance(StudyInstanceUID="2.25.2", SeriesInstanceUID="2.25.21", SOPInstanceUID="2.25.211", PatientID="P2",
                 PatientName="Roe^Richard", PatientSex="M", pixel_level=120, StudyDate="20180101",
                 AccessionNumber="A2", BodyPartExamined="CHEST"),
        instance(StudyInstanceUID="2.25.2", SeriesInstanceUID="2.25.22", SOPInstanceUID="2.25.221", PatientID="P2",
                 PatientSex="M", pixel_level=800, StudyDate="20180101", Modality="MR", BodyPartExamined="CHEST"),
        instance(StudyInstanceUID="2.25.3", SeriesInstanceUID="2.25.31", PatientID="P3", pixel_level=300,
                 PatientName="Poe^Edna", StudyDate="20190101", AccessionNumber="A3", StudyDescription="Skull"),
        instance(StudyInstanceUID="2.25.4", SeriesInstanceUID="2.25.41", PatientID="P4", pixel_level=900,
                 StudyDate="20200101", AccessionNumber="A4", PatientName="Loe^Max"),
        instance(StudyInstanceUID="2.25.5", SeriesInstanceUID="2.25.51", pixel_level=101, StudyDate="20150101",
                 AccessionNumber="A5"),
        instance(StudyInstanceUID="2.25.6", SeriesInstanceUID="2.25.61", PatientID="P6", Modality="SR",
                 SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", AccessionNumber="A6", PixelData=None),
    )  # fmt: skip
    node.finder.index()


@pytest.fixture
def archive(node: Node, peer: Factory, instance: Factory) -> Node:
    fill(node, peer, instance)
    return node


def _with_block(identifier: Dataset, block: int = 0x10, **values: tuple[str, Any]) -> Dataset:
    """Add the private block by hand: xx01 is given as e01, with its value and VR."""
    identifier.add(DataElement((0x0077, block), "LO", "PACSIMILE"))
    for name, (vr, value) in values.items():
        identifier.add(DataElement((0x0077, (block << 8) | int(name[1:], 16)), vr, value))
    return identifier


def _found(answers: tuple[list[tuple[int, Dataset]], Dataset]) -> list[str]:
    assert answers[1].Status == 0
    return [found.StudyInstanceUID for _, found in answers[0]]


def test_a_known_study_is_the_seed(archive: Node, peer: Factory, query: Factory) -> None:
    answers = peer(archive).find(query(StudyInstanceUID="2.25.1", PatientName="", PatientID=""), SIMILAR)
    assert _found(answers)[-1] == "2.25.5"  # the patient's own come last
    assert set(_found(answers)) == {"2.25.2", "2.25.3", "2.25.4", "2.25.5"}
    assert {status for status, _ in answers[0]} == {0xFF00}
    by_study = {found.StudyInstanceUID: found for _, found in answers[0]}
    assert (by_study["2.25.2"].PatientID, by_study["2.25.2"].PatientName) == ("P2", "Roe^Richard")
    assert by_study["2.25.3"].RetrieveAETitle == "PACSIMILE"
    assert not [element for _, found in answers[0] for element in found if element.tag.is_private]
    assert archive.finder.asked[-1] == (Seed(study_instance_uid=StudyInstanceUID("2.25.1")), None)


@pytest.mark.parametrize(
    ("level", "keys", "seed"),
    [
        ("STUDY", {"SeriesInstanceUID": "2.25.11"}, Seed(series_instance_uid=SeriesInstanceUID("2.25.11"))),
        (
            "STUDY",
            {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.11"},
            Seed(series_instance_uid=SeriesInstanceUID("2.25.11")),
        ),
        (
            "STUDY",
            {"AccessionNumber": "A2", "StudyInstanceUID": ""},
            Seed(study_instance_uid=StudyInstanceUID("2.25.2")),
        ),
        (
            "SERIES",
            {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": ""},
            Seed(study_instance_uid=StudyInstanceUID("2.25.1")),
        ),
        (
            "IMAGE",
            {"SOPInstanceUID": "2.25.112", "StudyInstanceUID": "2.25.1"},
            Seed(sop_instance_uids=(SOPInstanceUID("2.25.112"),)),
        ),
    ],
)
def test_seeds_of_standard_keys(
    archive: Node, peer: Factory, query: Factory, level: str, keys: dict[str, str], seed: Seed
) -> None:
    pending, last = peer(archive).find(query(level, **keys), SIMILAR)
    assert pending
    assert last.Status == 0
    assert archive.finder.asked == [(seed, None)]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("block", [0x10, 0x42, 0xFF])
def test_the_private_block_names_the_seed_wherever_it_is_reserved(
    archive: Node, peer: Factory, query: Factory, syntax: str, block: int
) -> None:
    identifier = _with_block(
        query(StudyInstanceUID=""),
        block,
        e01=("UI", "2.25.1"),
        e04=("DS", ["-10", "-10.5", "0", "10", "10.5", "30"]),
        e06=("US", 2),
    )
    pending, last = peer(archive).find(identifier, SIMILAR, syntax=syntax)
    assert last.Status == 0
    seed, _ = archive.finder.asked[-1]
    assert seed == Seed(
        study_instance_uid=StudyInstanceUID("2.25.1"), region_lps_mm=(-10.0, -10.5, 0.0, 10.0, 10.5, 30.0)
    )
    assert len(pending) == 3  # two analogues, one prior


def test_elements_of_vr_un_are_understood(archive: Node, peer: Factory, query: Factory) -> None:
    identifier = _with_block(query(StudyInstanceUID=""), e03=("UN", b"2.25.111\\2.25.112"), e06=("UN", b"\x01\x00"))
    pending, _ = peer(archive).find(identifier, SIMILAR)
    assert archive.finder.asked[-1][0] == Seed(
        sop_instance_uids=(SOPInstanceUID("2.25.111"), SOPInstanceUID("2.25.112"))
    )
    assert len(pending) == 2


def test_the_answer_says_why(archive: Node, peer: Factory, query: Factory) -> None:
    pending, _ = peer(archive).find(_with_block(query(StudyInstanceUID="2.25.1")), SIMILAR)
    blocks = [found.private_block(0x0077, "PACSIMILE") for _, found in pending]
    assert [block[0x11].value for block in blocks] == [1, 2, 3, 4]
    assert [block[0x17].value for block in blocks] == ["ANALOGUE"] * 3 + ["PRIOR"]
    similarities = [block[0x10].value for block in blocks[:3]]
    assert similarities == sorted(similarities, reverse=True)
    assert 0 <= similarities[-1] < similarities[0] <= 1
    first = dict(zip([f.StudyInstanceUID for _, f in pending], blocks, strict=True))["2.25.2"]
    assert first[0x12].value == ["2.25.21", "2.25.22"]
    assert first[0x13].value == ["2.25.211", "2.25.221"]
    assert first[0x14].value == ["2.25.111", "2.25.112"]
    assert (first[0x15].value, first[0x16].value) == ("histogram-16", "COMPLETE")
    vrs = [element.VR for element in pending[0][1] if element.tag.is_private]
    assert vrs == ["LO", "FD", "US", "UI", "UI", "UI", "LO", "CS", "CS"]


def test_the_patients_own_come_newest_first(
    archive: Node, peer: Factory, instance: Factory, query: Factory
) -> None:
    dates = {"2.25.91": ("20190301", 102), "2.25.92": ("20220301", 700), "2.25.93": ("", 103)}
    peer(archive).send(
        *(
            instance(StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}1", StudyDate=date, pixel_level=level)
            for uid, (date, level) in dates.items()
        )
    )
    archive.finder.index()
    pending, _ = peer(archive).find(_with_block(query(StudyInstanceUID="2.25.1")), SIMILAR)
    own = [found for _, found in pending if found.private_block(0x0077, "PACSIMILE")[0x17].value == "PRIOR"]
    assert [found.StudyInstanceUID for found in own] == ["2.25.92", "2.25.91", "2.25.5", "2.25.93"]
    assert [found.private_block(0x0077, "PACSIMILE")[0x11].value for found in own] == [4, 5, 6, 7]
    similarities = [found.private_block(0x0077, "PACSIMILE")[0x10].value for found in own]
    assert similarities[0] == min(similarities)  # the date decides, not the likeness


def test_only_the_elements_asked_for_are_answered(archive: Node, peer: Factory, query: Factory) -> None:
    pending, _ = peer(archive).find(_with_block(query(StudyInstanceUID="2.25.1"), e10=("FD", None)), SIMILAR)
    private = [element.tag for element in pending[0][1] if element.tag.is_private]
    assert private == [(0x0077, 0x0010), (0x0077, 0x1010)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"Modality": "MR"}, ["2"]),
        ({"ModalitiesInStudy": "MR"}, ["2"]),
        ({"StudyDate": "20180101-20190101"}, ["2", "3"]),
        ({"PatientSex": "M"}, ["2"]),
        ({"BodyPartExamined": "CHEST"}, ["2"]),
        ({"StudyDescription": "Sk*"}, ["3"]),
        ({"PatientName": "poe*"}, ["3"]),
        ({"PatientID": "P1"}, ["5"]),
        ({"PatientID": "NOBODY"}, []),
    ],
)
def test_other_keys_filter(
    archive: Node,
    peer: Factory,
    query: Factory,
    keys: dict[str, str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pydicom import config

    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    answers = peer(archive).find(query(StudyInstanceUID="2.25.1", **keys), SIMILAR)
    assert sorted(_found(answers)) == [f"2.25.{n}" for n in expected]


def test_with_a_seed_in_the_block_standard_uids_filter(archive: Node, peer: Factory, query: Factory) -> None:
    identifier = _with_block(query(StudyInstanceUID=["2.25.3", "2.25.4"]), e01=("UI", "2.25.1"))
    assert set(_found(peer(archive).find(identifier, SIMILAR))) == {"2.25.3", "2.25.4"}


def test_series_image_and_patient_levels(archive: Node, peer: Factory, query: Factory, patient_root: str) -> None:
    ask = peer(archive).find
    series, _ = ask(query("SERIES", StudyInstanceUID="2.25.1", SeriesInstanceUID="", Modality=""), SIMILAR)
    assert {(f.StudyInstanceUID, f.SeriesInstanceUID, f.Modality) for _, f in series} >= {
        ("2.25.2", "2.25.21", "CT"),
        ("2.25.2", "2.25.22", "MR"),
    }
    images, _ = ask(
        _with_block(query("IMAGE", StudyInstanceUID="2.25.3", SOPInstanceUID=""), e13=("UI", "")), SIMILAR
    )
    own = [f for _, f in images if f.StudyInstanceUID == "2.25.1"]
    assert {f.SOPInstanceUID for f in own} == {"2.25.111", "2.25.112"}
    assert all(f.private_block(0x0077, "PACSIMILE")[0x13].value == f.SOPInstanceUID for f in own)
    second, _ = ask(query("IMAGE", StudyInstanceUID="2.25.3", SOPInstanceUID="", InstanceNumber="2"), SIMILAR)
    assert [f.SOPInstanceUID for _, f in second] == ["2.25.112"]
    patients, _ = ask(query("PATIENT", PatientID="", StudyInstanceUID="2.25.1"), SIMILAR, model=patient_root)
    assert sorted(f.PatientID for _, f in patients) == ["P1", "P2", "P3", "P4"]


def test_computed_attributes_are_those_of_the_found_study(archive: Node, peer: Factory, query: Factory) -> None:
    pending, _ = peer(archive).find(
        query(StudyInstanceUID="2.25.1", ModalitiesInStudy="", NumberOfStudyRelatedInstances=None), SIMILAR
    )
    found = {f.StudyInstanceUID: f for _, f in pending}["2.25.2"]
    assert list(found.ModalitiesInStudy) == ["CT", "MR"]
    assert found.NumberOfStudyRelatedInstances == 2


def test_send_a_study_then_list(archive: Node, peer: Factory, instance: Factory, query: Factory) -> None:
    workstation, other = peer(archive, "READER"), peer(archive, "OTHER")
    sent = instance(StudyInstanceUID="2.25.7", SeriesInstanceUID="2.25.71", PatientID="P7", pixel_level=310)
    assert workstation.send(sent, called=SIMILAR)[0].Status == 0
    _, last = workstation.find(query(StudyInstanceUID=""), SIMILAR)
    assert (last.Status, last.ErrorComment) == (0xC001, "the seed is not indexed yet")
    archive.finder.index()
    assert _found(workstation.find(query(StudyInstanceUID=""), SIMILAR))[0] == "2.25.3"
    _, last = other.find(query(StudyInstanceUID=""), SIMILAR)
    assert last.Status == 0xA900
    plain = workstation.find(query(StudyInstanceUID="2.25.7"))
    assert _found(plain) == ["2.25.7"]


def test_a_study_sent_long_ago_is_no_seed(
    running_node: Callable[..., AbstractContextManager[Any]], peer: Factory, instance: Factory, query: Factory
) -> None:
    with running_node({"dicom.seed_by_sending_minutes": 1e-6}) as node:
        peer(node).send(instance(), called=SIMILAR)
        _, last = peer(node).find(query(StudyInstanceUID=""), SIMILAR)
    assert (last.Status, last.ErrorComment) == (
        0xA900,
        "no seed: give a Study Instance UID or send a study to this AE",
    )


def test_standard_keys_filter_where_they_may_not_be_seeds(
    running_node: Callable[..., AbstractContextManager[Any]], peer: Factory, instance: Factory, query: Factory
) -> None:
    with running_node({"dicom.seed_from_standard_keys": False}) as node:
        fill(node, peer, instance)
        _, last = peer(node).find(query(StudyInstanceUID="2.25.1"), SIMILAR)
        assert last.Status == 0xA900
        identifier = _with_block(query(StudyInstanceUID="2.25.3"), e02=("UI", "2.25.11"))
        assert _found(peer(node).find(identifier, SIMILAR)) == ["2.25.3"]


@pytest.mark.parametrize(
    ("keys", "block", "status", "comment"),
    [
        ({"StudyInstanceUID": "2.25.99"}, {}, 0xC001, "the seed is not known here: send it first"),
        ({}, {"e01": ("UI", "2.25.99")}, 0xC001, "the seed is not in the catalog"),
        ({"AccessionNumber": "A6"}, {}, 0xC001, "the seed has no CT or MR image"),
        ({"AccessionNumber": "A?"}, {}, 0xA900,
         "no seed: give a Study Instance UID or send a study to this AE"),
        ({"StudyInstanceUID": "2.25.1"}, {"e05": ("LT", "nodule")}, 0xC001,
         "query text (0077,xx05) is not supported by this version"),
        ({}, {"e01": ("UI", ["2.25.1", "2.25.2"])}, 0xA900,
         "(0077,xx01): expected one UID of 1 to 64 digits and dots"),
        ({}, {"e01": ("UN", b"../etc")}, 0xA900, "(0077,xx01): expected one UID of 1 to 64 digits and dots"),
        ({}, {"e01": ("UI", "2.25.1"), "e06": ("US", 0)}, 0xA900, "(0077,xx06): expected one number from 1"),
        ({}, {"e01": ("UI", "2.25.1"), "e06": ("UN", b"\x01\x00\x00")}, 0xA900,
         "a value of the private block does not fit its VR"),
        ({}, {"e01": ("UI", "2.25.1"), "e04": ("DS", ["1", "2"])}, 0xA900,
         "(0077,xx04): expected six numbers x0 y0 z0 x1 y1 z1"),
        ({}, {"e04": ("DS", ["0"] * 6)}, 0xA900,
         "(0077,xx04): a seed region needs a seed study, series or instanc"),
    ],
)  # fmt: skip
def test_questions_without_an_answer_say_why(
    archive: Node,
    peer: Factory,
    query: Factory,
    keys: dict[str, Any],
    block: dict[str, Any],
    status: int,
    comment: str,
) -> None:
    identifier = query(**{"StudyInstanceUID": "", **keys})
    if block:
        _with_block(identifier, **block)
    pending, last = peer(archive).find(identifier, SIMILAR)
    assert not pending
    assert last.Status == status
    assert last.ErrorComment.rstrip(".").startswith(comment[:61])


def test_an_accession_number_of_two_studies_is_no_seed(
    archive: Node, peer: Factory, instance: Factory, query: Factory
) -> None:
    peer(archive).send(instance(StudyInstanceUID="2.25.8", SeriesInstanceUID="2.25.81", AccessionNumber="A2"))
    _, last = peer(archive).find(query(AccessionNumber="A2"), SIMILAR)
    assert (last.Status, last.ErrorComment) == (0xC001, "the Accession Number names 2 studies: give a UID")


def test_no_seed_identity_on_the_wire_of_other_patients(archive: Node, peer: Factory, query: Factory) -> None:
    """What the node sends of an analogue holds nothing of the seed's patient."""
    received: list[bytes] = []
    asked = peer(archive)
    with asked.associated([(StudyRoot, [ImplicitVRLittleEndian])], SIMILAR) as association:
        association.bind(evt.EVT_DATA_RECV, lambda event: received.append(event.data))
        keys = query(StudyInstanceUID="2.25.1", PatientID="", PatientName="", AccessionNumber="")
        _with_block(keys)
        list(association.send_c_find(keys, StudyRoot))
    rows = [data for data in received if b"ANALOGUE" in data]
    assert len(rows) == 3
    patient_id = bytes.fromhex("10002000 02000000") + b"P1"  # the element: two letters alone occur in numbers, too
    assert not [data for data in rows if patient_id in data or b"Doe" in data]
