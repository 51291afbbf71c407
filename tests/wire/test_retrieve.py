"""C-MOVE and C-GET over real associations: levels, transfer syntaxes, DCMTK's tools."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelGet as PatientGet
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelMove as PatientMove
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyGet
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyMove

from dicom_scp.part10 import split_file
from dicom_scp.reception import Receiver

Factory = Callable[..., Any]
Node = Any
"""`Node` of the conftest."""
COUNTS = (
    "NumberOfRemainingSuboperations",
    "NumberOfCompletedSuboperations",
    "NumberOfFailedSuboperations",
    "NumberOfWarningSuboperations",
)


def run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def node(moving_node: Node) -> Node:
    return moving_node


def counts(status: Dataset) -> tuple[int | None, ...]:
    return tuple(status.get(keyword) for keyword in COUNTS)


def bytes_of(file: Path) -> tuple[str, bytes]:
    return split_file(file.read_bytes())


def stored(node: Node, uid: str) -> tuple[str, bytes]:
    return bytes_of(node.spool.path(node.catalog.lookup.instance_path(uid)))


def received(folder: Path) -> dict[str, Path]:
    return {
        str(dcmread(file, stop_before_pixels=True, force=True).SOPInstanceUID): file for file in folder.iterdir()
    }


@pytest.mark.parametrize("called", ["PACSIMILE", "SIMILAR"])
def test_movescu_moves_a_study_byte_for_byte(
    fill: Factory, node: Node, peer: Factory, dcmtk: Factory, storescp: Factory, called: str
) -> None:
    own = fill(node)
    folder = storescp()
    command = [dcmtk("movescu"), "-v", "-S", "-aec", called, "-aem", "DEST", "127.0.0.1", str(node.port)]
    code, text = run([*command, "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=2.25.1"])
    assert code == 0, text
    assert text.count("(Pending)") == len(own)
    files = received(folder)
    assert set(files) == {one.SOPInstanceUID for one in own}
    assert all(bytes_of(file) == stored(node, uid) for uid, file in files.items())


def keep_real(node: Node, real_series: list[list[Path]]) -> dict[str, Path]:
    """The first file of each transfer syntax among the real series, taken in; by SOP Instance UID."""
    receiver = Receiver(node.catalog, node.spool, "keep-first")
    by_syntax: dict[str, Path] = {}
    for files in real_series:
        by_syntax.setdefault(bytes_of(files[0])[0], files[0])
    return {str(receiver.take_file(file).sop_instance_uid): file for file in by_syntax.values()}


def test_compressed_instances_are_sent_as_they_came(
    node: Node, peer: Factory, storescp: Factory, query: Factory, real_series: list[list[Path]]
) -> None:
    taken = keep_real(node, real_series)
    folder = storescp("+xa")
    for file in taken.values():
        study = dcmread(file, stop_before_pixels=True).StudyInstanceUID
        assert peer(node).move(query(StudyInstanceUID=study))[-1][0].Status == 0
    files = received(folder)
    assert len({bytes_of(file)[0] for file in taken.values()}) >= 3
    assert {uid: bytes_of(file) for uid, file in files.items()} == {
        uid: bytes_of(file) for uid, file in taken.items()
    }


def test_what_a_peer_does_not_accept_is_sent_uncompressed(
    node: Node, peer: Factory, storescp: Factory, query: Factory, real_series: list[list[Path]]
) -> None:
    taken = keep_real(node, real_series)
    folder = storescp("+xi")
    for file in taken.values():
        study = dcmread(file, stop_before_pixels=True).StudyInstanceUID
        assert peer(node).move(query(StudyInstanceUID=study))[-1][0].Status == 0
    files = received(folder)
    assert set(files) == set(taken)
    for uid, file in files.items():
        came, was = dcmread(file), dcmread(taken[uid])
        assert came.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert (came.pixel_array == was.pixel_array).all()
        assert {e.tag for e in came} - {e.tag for e in was} == set()
        assert came.PatientName == was.PatientName
        assert came.get("LossyImageCompression") == was.get("LossyImageCompression")


def test_big_endian_words_are_turned_round(
    node: Node, peer: Factory, instance: Factory, storescp: Factory, query: Factory
) -> None:
    little = instance()
    big = instance(SOPInstanceUID=little.SOPInstanceUID)
    big.PixelData = little.pixel_array.astype(">u2").tobytes()
    big["PixelData"].VR = "OW"
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big.set_original_encoding(False, False)
    assert peer(node).send(big)[0].Status == 0
    folder = storescp("+xi")
    assert peer(node).move(query(StudyInstanceUID="2.25.1"))[-1][0].Status == 0
    (file,) = received(folder).values()
    came = dcmread(file)
    assert came.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert (came.pixel_array == little.pixel_array).all()
    assert came.Rows == 8


@pytest.mark.parametrize(
    ("option", "agreed"),
    [
        ("+x=", ExplicitVRLittleEndian),
        ("+xb", ExplicitVRLittleEndian),
        ("+xs", ExplicitVRLittleEndian),
        ("+xt", JPEGLSLossless),
        ("+xv", JPEG2000Lossless),
        ("+xr", RLELossless),
    ],
)
@pytest.mark.parametrize("held", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_getscu(
    node: Node,
    peer: Factory,
    instance: Factory,
    dcmtk: Factory,
    tmp_path: Path,
    held: str,
    option: str,
    agreed: str,
) -> None:
    """It proposes what it prefers and the uncompressed transfer syntaxes in one context."""
    pixels = np.random.default_rng(1).integers(0, 4096, (64, 64), dtype=np.uint16)
    dataset = instance(Rows=64, Columns=64, PixelData=pixels.tobytes())
    if held == JPEGLSLossless:
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    assert peer(node).send(dataset)[0].Status == 0
    folder = tmp_path / "got"
    folder.mkdir()
    command = [dcmtk("getscu"), "-v", "-S", option, "+B", "-od", str(folder), "-aec", "SIMILAR"]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=2.25.1"]
    code, text = run([*command, "127.0.0.1", str(node.port), *keys])
    assert code == 0, text
    assert "Number of Completed Suboperations : 1" in text
    ((uid, file),) = received(folder).items()
    assert uid == dataset.SOPInstanceUID
    assert bytes_of(file)[0] == agreed
    if held == agreed:
        assert bytes_of(file) == stored(node, uid)
    else:
        assert (dcmread(file).pixel_array == pixels).all()


@pytest.mark.parametrize("syntax", [JPEGLSLossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_get_in_the_syntax_that_was_agreed_upon(
    node: Node, peer: Factory, query: Factory, real_series: list[list[Path]], syntax: str
) -> None:
    files = next(
        files for files in real_series if bytes_of(files[0])[0] == JPEGLSLossless and "CT" in _modality(files)
    )
    file = files[0]
    study = Receiver(node.catalog, node.spool, "keep-first").take_file(file).study_instance_uid
    encoded: list[bytes] = []

    def respond(event: Any, _number: int) -> int:  # noqa: ANN401 - the library has no types
        encoded.append(event.request.DataSet.getvalue())
        return 0

    answers, (came,) = peer(node).get(query(StudyInstanceUID=study), StudyGet, syntax, respond)
    assert answers[-1][0].Status == 0
    if syntax == JPEGLSLossless:
        assert encoded == [bytes_of(file)[1]]
    else:
        assert came.PixelData == dcmread(file).pixel_array.tobytes()


def _modality(files: list[Path]) -> str:
    return str(dcmread(files[0], stop_before_pixels=True).Modality)


LEVELS = [
    ("PATIENT", {"PatientID": "P1"}, 5),
    ("STUDY", {"PatientID": "P1", "StudyInstanceUID": "2.25.1"}, 5),
    ("STUDY", {"StudyInstanceUID": ["2.25.1", "2.25.2"]}, 6),
    ("STUDY", {"PatientID": "P2", "StudyInstanceUID": ["2.25.1", "2.25.2"]}, 1),
    ("SERIES", {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.12"}, 2),
    ("SERIES", {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": ["2.25.11", "2.25.12", "2.25.21"]}, 5),
    (
        "IMAGE",
        {
            "StudyInstanceUID": "2.25.1",
            "SeriesInstanceUID": "2.25.11",
            "SOPInstanceUID": ["2.25.110", "2.25.112", "2.25.111"],
        },
        2,
    ),
    ("STUDY", {"StudyInstanceUID": "2.25.404"}, 0),
    ("STUDY", {"StudyInstanceUID": "2.25.1", "AccessionNumber": "", "SeriesInstanceUID": ""}, 5),
]


@pytest.mark.parametrize(("level", "keys", "number"), LEVELS)
def test_levels_and_lists(
    fill: Factory,
    node: Node,
    peer: Factory,
    query: Factory,
    destination: Factory,
    level: str,
    keys: dict[str, Any],
    number: int,
) -> None:
    fill(node)
    patient_root = "PatientID" in keys
    with destination(lambda _event, _number: 0) as events:
        answers = peer(node).move(query(level, **keys), model=PatientMove if patient_root else StudyMove)
    assert len(events) == number
    assert answers[-1][0].Status == 0
    assert counts(answers[-1][0]) == (None, number, 0, 0)
    assert [counts(status) for status, _ in answers[:-1]] == [(number - n, n, 0, 0) for n in range(1, number + 1)]
    got, came = peer(node).get(query(level, **keys), PatientGet if patient_root else StudyGet)
    assert len(came) == number
    assert counts(got[-1][0]) == (None, number, 0, 0)


def test_a_patient_in_the_study_root_model(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory
) -> None:
    own = fill(node)
    asked = query("PATIENT", PatientID="P1")
    with destination(lambda _event, _number: 0) as events:
        assert peer(node).move(asked, model=StudyMove)[-1][0].Status == 0
    wanted = {one.SOPInstanceUID for one in own}
    assert {event.request.AffectedSOPInstanceUID for event in events} == wanted
    answers, came = peer(node).get(asked, StudyGet)
    assert answers[-1][0].Status == 0
    assert {one.SOPInstanceUID for one in came} == wanted


def test_the_destination_reads_who_asked_and_how_urgently(
    fill: Factory, node: Node, peer: Factory, query: Factory, destination: Factory
) -> None:
    fill(node, 2)
    with (
        destination(lambda _event, _number: 0) as events,
        peer(node, "READER").associated([(StudyMove, [ExplicitVRLittleEndian])]) as association,
    ):
        identifier = query(StudyInstanceUID="2.25.1")
        assert (
            list(association.send_c_move(identifier, "DEST", StudyMove, msg_id=77, priority=1))[-1][0].Status == 0
        )
    assert len(events) == 2
    for event in events:
        assert event.request.MoveOriginatorApplicationEntityTitle == "READER"
        assert event.request.MoveOriginatorMessageID == 77
        assert event.request.Priority == 1
        assert event.assoc.requestor.ae_title == "PACSIMILE"
    assert len({event.request.MessageID for event in events}) == 2
