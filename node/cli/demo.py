"""`pacsimile demo`: the whole way, from phantoms over a real association to the answer of a C-FIND."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
)

from config.model import Settings
from dicom_scp.calling import RequestorDimse
from dicom_scp.private_dictionary import (
    RANK,
    RELATION,
    SEED_STUDY,
    SIMILARITY,
    PrivateElement,
    values_of,
    write_block,
)
from indexer.catalog import Catalog
from indexer.errors import Transient
from node import logs
from node.cli.output import console, errors, print_json, print_table, progress_bar
from node.phantoms import Exam, archive, datasets
from node.service import Node
from node.supervisor import WorkerState

_QUIET_TIME_S = 1.0
_INDEXING_S = 1800.0
_PENDING = {0xFF00, 0xFF01}


def run(settings: Settings, keep: Path | None, patients: int, *, as_json: bool) -> None:
    """Make phantoms, send them to a node of their own, ask about the first of them, print what comes back."""
    logs.configure_for_command(settings.log)
    exams = archive(patients)
    with (
        tempfile.TemporaryDirectory(prefix="pacsimile-demo-") as temporary,
        _node(settings, keep, temporary) as node,
    ):
        _send_all(node, exams)
        _wait_until_indexed(node)
        start = time.perf_counter()
        rows = _ask(node, exams[0])
        took_ms = 1000 * (time.perf_counter() - start)
    if as_json:
        print_json({"query": _title(exams[0]), "milliseconds": round(took_ms), "answer": rows})
        return
    console.print(f"Asked at SIMILAR for studies like: {_title(exams[0])}")
    columns = ("rank", "similarity", "relation", "patient", "date", "modality", "description")
    print_table("Answer of the C-FIND, best first", columns, [[row[column] for column in columns] for row in rows])
    console.print(f"{took_ms:.0f} ms, association included. All of it procedural: no person was scanned.")
    if keep:
        console.print(f"Look around: pacsimile serve --data-dir {keep}")


@contextmanager
def _node(settings: Settings, keep: Path | None, temporary: str) -> Iterator[Node]:
    update = {
        "data_dir": keep or Path(temporary),
        "dicom": settings.dicom.model_copy(update={"host": "127.0.0.1", "port": 0}),
        "http": settings.http.model_copy(update={"host": "127.0.0.1", "port": 0}),
        "log": settings.log.model_copy(
            update={"level": "WARNING"}
        ),  # the worker's records would tear the progress bar
        "indexing": settings.indexing.model_copy(update={"quiet_time_s": _QUIET_TIME_S}),
    }
    node = Node(settings.model_copy(update=update))
    node.start()
    try:
        yield node
    finally:
        node.stop()


def _send_all(node: Node, exams: Sequence[Exam]) -> None:
    with progress_bar() as bar:
        for exam in bar.track(exams, description="sending phantoms"):
            _send(node, list(datasets(exam)))


def _send(node: Node, instances: Sequence[Dataset]) -> None:
    entity = AE("DEMO")
    for sop_class in (CTImageStorage, MRImageStorage):
        entity.add_requested_context(sop_class, instances[0].file_meta.TransferSyntaxUID)
    association = _associate(node, entity, node.settings.dicom.aet)
    try:
        for instance in instances:
            status = association.send_c_store(instance)
            if not status or status.Status != 0:
                raise Transient(f"C-STORE answered {status.get('Status', 'nothing')}")
    finally:
        association.release()


def _associate(node: Node, entity: AE, called: str) -> Any:  # noqa: ANN401 - the library has no types
    association = entity.associate("127.0.0.1", node.dicom_port, ae_title=called)
    if not association.is_established:
        raise Transient(f"no association with {called} on port {node.dicom_port}")
    association.dimse = RequestorDimse(association)
    return association


def _wait_until_indexed(node: Node) -> None:
    deadline = time.monotonic() + _INDEXING_S
    with Catalog(node.settings.catalog_url) as catalog, progress_bar() as bar:
        total = sum(catalog.progress.counts().series_by_state.values())
        task = bar.add_task("indexing series", total=total)
        while left := catalog.progress.outstanding():
            bar.update(task, completed=total - left)
            if node.worker.state is WorkerState.FAILED:
                raise Transient(node.worker.problem)
            if time.monotonic() > deadline:
                raise Transient(f"{left} series are still not indexed; see the log")
            time.sleep(0.25)
        bar.update(task, completed=total)
        for series in catalog.progress.parked():
            errors.print(f"parked: {series.reason}")
    time.sleep(2 * _QUIET_TIME_S)  # the index follows the catalog within a tick


def _ask(node: Node, exam: Exam) -> list[dict[str, Any]]:
    """Ask by C-FIND, as a viewer would."""
    entity = AE("DEMO")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = _associate(node, entity, node.settings.dicom.similar_aet)
    try:
        answers = association.send_c_find(_question(exam), StudyRootQueryRetrieveInformationModelFind)
        return [_row(found) for status, found in answers if status and status.Status in _PENDING]
    finally:
        association.release()


def _question(exam: Exam) -> Dataset:
    """Ask for studies like the exam's, with the keys that the table shows."""
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.PatientID = question.StudyDate = question.ModalitiesInStudy = question.StudyDescription = ""
    write_block(question, {SEED_STUDY: exam.study_uid})
    return question


def _row(found: Dataset) -> dict[str, Any]:
    reasons = values_of(found) or {}

    def reason(element: PrivateElement) -> str:
        return (reasons.get(element) or ("",))[0]

    modalities = found.get("ModalitiesInStudy") or ""
    return {
        "rank": int(reason(RANK)),
        "similarity": round(float(reason(SIMILARITY)), 3),
        "relation": reason(RELATION),
        "patient": str(found.get("PatientID", "")),
        "date": str(found.get("StudyDate", "")),
        "modality": modalities if isinstance(modalities, str) else ", ".join(modalities),
        "description": str(found.get("StudyDescription", "")),
    }


def _title(exam: Exam) -> str:
    return f"{exam.modality} {exam.region.lower()} of {exam.patient.patient_id}, {exam.study_date}"
