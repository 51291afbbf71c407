"""Rejection notes over a real association: who may reject, what goes, what stays, what comes again."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage, generate_uid

Factory = Callable[..., Any]
RunNode = Callable[..., AbstractContextManager[Any]]
ACTING = {"forgetting.rejection_aets": ["WORKSTATION"]}
REFUSED = 0x0124


def note(title: str, *uids: str, study: str = "2.25.1", series: str = "2.25.11", scheme: str = "DCM") -> Dataset:
    """A Key Object Selection that rejects instances of one series."""
    document = Dataset()
    document.SOPClassUID, document.SOPInstanceUID = KeyObjectSelectionDocumentStorage, generate_uid()
    document.StudyInstanceUID, document.SeriesInstanceUID = study, generate_uid()
    document.PatientID, document.PatientName, document.Modality = "P1", "Doe^Jane", "KO"
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = title, scheme, "Rejected"
    document.ConceptNameCodeSequence = Sequence([name])
    of_study, of_series, references = Dataset(), Dataset(), []
    for uid in uids:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, uid
        references.append(reference)
    of_series.SeriesInstanceUID, of_series.ReferencedSOPSequence = series, Sequence(references)
    of_study.StudyInstanceUID, of_study.ReferencedSeriesSequence = study, Sequence([of_series])
    document.CurrentRequestedProcedureEvidenceSequence = Sequence([of_study])
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return document


def statuses(answers: list[Dataset]) -> list[int]:
    return [answer.Status for answer in answers]


@pytest.fixture
def images(instance: Factory) -> list[Dataset]:
    return [instance(SOPInstanceUID=f"2.25.11{n}", InstanceNumber=n, pixel_level=100 + n) for n in (1, 2)]


def held(node: Any) -> set[str]:  # noqa: ANN401 - `Node` of the conftest
    return {str(uid) for uid in ("2.25.111", "2.25.112") if node.catalog.lookup.instance_path(uid)}


def test_a_rejected_instance_goes_and_the_note_stays(
    running_node: RunNode, peer: Factory, images: list[Dataset]
) -> None:
    with running_node(ACTING) as node:
        peer(node).send(*images)
        before = set(node.files())
        document = note("113037", "2.25.111")
        assert statuses(peer(node).send(document)) == [0]
        assert held(node) == {"2.25.112"}
        assert node.catalog.lookup.instance_path(document.SOPInstanceUID)
        assert len(before - set(node.files())) == 1
        (answer,) = peer(node).send(images[0])
        assert (answer.Status, answer.ErrorComment) == (REFUSED, "it was forgotten here, and is not taken again")
        assert statuses(peer(node).send(document, images[1])) == [0, 0]  # sent again, it changes nothing
        assert len(node.files()) == 2


@pytest.mark.parametrize(
    ("settings", "sender", "document"),
    [
        ({}, "WORKSTATION", note("113037", "2.25.111")),
        (ACTING, "OTHER", note("113037", "2.25.111")),
        (ACTING, "WORKSTATION", note("113001", "2.25.111")),
        (ACTING, "WORKSTATION", note("113000", "2.25.111")),
        (ACTING, "WORKSTATION", note("113037", "2.25.111", scheme="99LOCAL")),
        (ACTING, "WORKSTATION", note("113037", "2.25.111", study="2.25.9")),
        (ACTING, "WORKSTATION", note("113037", "2.25.111", series="2.25.99")),
    ],
    ids=["nobody may", "not this sender", "not this title", "of interest", "scheme", "study", "series"],
)  # fmt: skip
def test_what_does_not_reject(
    running_node: RunNode, peer: Factory, images: list[Dataset], settings: dict, sender: str, document: Dataset
) -> None:
    with running_node(settings) as node:
        peer(node).send(*images)
        assert statuses(peer(node, sender).send(document)) == [0]
        assert held(node) == {"2.25.111", "2.25.112"}
        assert node.catalog.lookup.instance_path(document.SOPInstanceUID)


def test_a_title_that_is_not_refused_again(running_node: RunNode, peer: Factory, images: list[Dataset]) -> None:
    settings = {**ACTING, "forgetting.rejection_titles": ["113001"]}
    with running_node(settings) as node:
        peer(node).send(*images)
        assert statuses(peer(node).send(note("113001", "2.25.111", "2.25.112"))) == [0]
        assert held(node) == set()
        assert node.catalog.tombstones.count() == 2
        assert statuses(peer(node).send(*images)) == [0, 0]
        assert held(node) == {"2.25.111", "2.25.112"}
        assert node.catalog.tombstones.count() == 0


def test_rejected_before_it_is_sent(running_node: RunNode, peer: Factory, images: list[Dataset]) -> None:
    with running_node(ACTING) as node:
        assert statuses(peer(node).send(note("113039", "2.25.111"))) == [0]
        assert statuses(peer(node).send(*images)) == [REFUSED, 0]
        assert len(node.files()) == 2


def test_a_note_that_names_nothing_is_only_stored(
    running_node: RunNode, peer: Factory, images: list[Dataset]
) -> None:
    document = note("113037", "2.25.111")
    del document.CurrentRequestedProcedureEvidenceSequence
    with running_node(ACTING) as node:
        assert statuses(peer(node).send(*images, document)) == [0, 0, 0]
        assert held(node) == {"2.25.111", "2.25.112"}
        assert node.catalog.lookup.instance_path(document.SOPInstanceUID)
