"""Questions of DCMTK's findscu at SIMILAR, answered by the trained encoder from real series."""

import csv
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from dicom_scp.private_dictionary import RANK, RELATION, SIMILARITY, values_of

pytestmark = [pytest.mark.pretrained, pytest.mark.slow]

Factory = Callable[..., Any]
Ask = Callable[..., list[Dataset]]
KEYS = ("PatientID", "StudyDate", "ModalitiesInStudy", "StudyDescription")
RETURNED = (0x10, 0x11, 0x17)


WHOLE_CHESTS = ("ct-chest-lidc0314", "ct-chest-rad1", "ct-chest-rad2", "ct-chest-rider0109")
OTHERS = (
    "ct-chest-rider0117",
    "ct-chest-acrin013",
    "ct-abdomen-kits072",
    "ct-abdomen-cptac189",
    "ct-head-gantrytilt",
    "ct-phantom-head-5mm",
    "ct-phantom-head-stereotaxis",
)
"""Parts of chests and abdomens, and heads; small ones, so that the trained encoder is soon done."""


@pytest.fixture(scope="module")
def node(start_shared_node: Factory, pacsimile: Factory, shared_dicom: Path, pretrained: str) -> Any:  # noqa: ANN401
    """A node with some real series, embedded by the trained encoder."""
    running = start_shared_node("answers", bundle=pretrained, PACSIMILE_INDEXING_THREADS="2")
    done = pacsimile(
        "ingest",
        *(shared_dicom / one for one in WHOLE_CHESTS + OTHERS),
        "--no-index",
        "--data-dir",
        running.data_dir,
        "--bundle",
        pretrained,
    )
    assert done.status == 0, done.err
    running.wait_until_worker_runs()
    running.wait_until_indexed(seconds=550)
    return running


@pytest.fixture(scope="module")
def body_parts(shared_dicom: Path) -> dict[str, str]:
    """Patient ID to the body part of the series, as the table beside the data says."""
    with (shared_dicom.parent / "series.tsv").open(encoding="utf-8") as file:
        return {row["patient_id"]: row["body_part"] for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """DCMTK's dictionary and ours, as the documentation writes it."""
    shipped = sorted(Path("/usr/share").glob("*dcmtk*/dicom.dic"))
    if not shipped:
        pytest.skip("DCMTK's dictionary is not installed")
    text = (Path(__file__).parents[2] / "docs" / "private-dictionary.md").read_text(encoding="utf-8")
    file = tmp_path_factory.mktemp("dictionary") / "pacsimile.dic"
    file.write_text("".join(f"{line}\n" for line in text.splitlines() if line.startswith('(0077,"PACSIMILE"')))
    return f"{shipped[0]}:{file}"


@pytest.fixture
def ask(node: Any, tool: Factory, dictionary: str, tmp_path: Path) -> Ask:  # noqa: ANN401
    """Ask with findscu; the answers in the order they came."""

    def run(*keys: str, study_key: str = "StudyInstanceUID") -> list[Dataset]:
        wanted = ["QueryRetrieveLevel=STUDY", study_key, *KEYS, *keys]
        options = [word for key in wanted for word in ("-k", key)]
        folder = tmp_path / f"answers{time.monotonic_ns()}"
        folder.mkdir()
        command = [tool("findscu"), "-S", "-aec", "SIMILAR", "-X", "-od", str(folder), *options]
        subprocess.run(
            [*command, "127.0.0.1", str(node.dicom_port)], check=True, capture_output=True, timeout=60,
            env={"TCP_NODELAY": "1", "DCMDICTPATH": dictionary},
        )  # fmt: skip
        return [dcmread(file, force=True) for file in sorted(folder.iterdir())]

    return run


def study_of(folder: Path) -> str:
    return str(dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID)


def private(uid: str) -> list[str]:
    return ["0077,0010=PACSIMILE", f"0077,1001={uid}", *(f"0077,10{element:02x}" for element in RETURNED)]


def why(found: Dataset) -> dict[str, str]:
    values = values_of(found) or {}
    return {element.keyword: values[element][0] for element in (SIMILARITY, RANK, RELATION) if element in values}


@pytest.mark.parametrize("seed", WHOLE_CHESTS)
def test_chests_come_first_for_a_chest(ask: Ask, shared_dicom: Path, body_parts: dict[str, str], seed: str) -> None:
    uid = study_of(shared_dicom / seed)
    answers = ask(study_key=f"StudyInstanceUID={uid}")
    assert len(answers) >= 4
    assert uid not in [found.StudyInstanceUID for found in answers]
    assert [body_parts[found.PatientID] for found in answers[:3]] == ["CHEST"] * 3


def test_the_private_block_says_how_alike(ask: Ask, shared_dicom: Path) -> None:
    uid = study_of(shared_dicom / "ct-chest-rider0109")
    by_key, by_block = ask(study_key=f"StudyInstanceUID={uid}"), ask(*private(uid))
    assert [found.StudyInstanceUID for found in by_block] == [found.StudyInstanceUID for found in by_key]
    reasons = [why(found) for found in by_block]
    assert [int(one["Rank"]) for one in reasons] == list(range(1, len(reasons) + 1))
    analogues = [float(one["Similarity"]) for one in reasons if one["Relation"] == "ANALOGUE"]
    assert analogues == sorted(analogues, reverse=True)
    assert 0 <= analogues[-1] <= analogues[0] <= 1


def test_a_study_that_was_sent_is_the_question(ask: Ask, node: Any, send: Factory, shared_dicom: Path) -> None:  # noqa: ANN401
    folder = shared_dicom / "ct-abdomen-kits072"
    send(node.dicom_port, folder, called="SIMILAR", options=["-aet", "FINDSCU"])
    assert [found.StudyInstanceUID for found in ask()] == [
        found.StudyInstanceUID for found in ask(study_key=f"StudyInstanceUID={study_of(folder)}")
    ]


def test_another_reconstruction_of_the_same_head_is_no_analogue(ask: Ask, shared_dicom: Path) -> None:
    one, other = (study_of(shared_dicom / f"ct-phantom-head-{name}") for name in ("5mm", "stereotaxis"))
    for seed, expected in ((one, other), (other, one)):
        relation = {found.StudyInstanceUID: why(found)["Relation"] for found in ask(*private(seed))}
        assert relation[expected] in ("PRIOR", "DUPLICATE")


def test_filters_hold(ask: Ask, shared_dicom: Path) -> None:
    uid = study_of(shared_dicom / "ct-chest-rider0109")
    unfiltered = [one.PatientID for one in ask(study_key=f"StudyInstanceUID={uid}")]
    start = unfiltered[-1]
    found = [one.PatientID for one in ask(f"PatientID={start}*", study_key=f"StudyInstanceUID={uid}")]
    assert found == [one for one in unfiltered if one.startswith(start)]
    assert len(found) < len(unfiltered)


def test_time_of_an_answer(ask: Ask, shared_dicom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uid, times = study_of(shared_dicom / "ct-chest-rider0109"), []
    for _ in range(10):
        start = time.perf_counter()
        assert ask(study_key=f"StudyInstanceUID={uid}")
        times.append(1000 * (time.perf_counter() - start))
    with capsys.disabled():
        print(f"\nC-FIND at SIMILAR, process and association included: median {statistics.median(times):.0f} ms")
