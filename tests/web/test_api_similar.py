"""Questions for similar studies over HTTP: by what the node holds, and by what is sent along."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from node.phantoms import Region

Factory = Callable[..., Any]
JOB_S = 240.0


@dataclass
class Archive:
    """A running node that holds four patients' series: three chests and an abdomen."""

    node: Any
    folders: list[Path]
    series: list[list[Dataset]]
    wait_for: Factory

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.node.ports['http']}"

    def get(self, path: str, status: int = 200) -> Any:  # noqa: ANN401 - any JSON
        answer = requests.get(self.address + path, timeout=120)
        assert answer.status_code == status, answer.text
        kind = "application/json" if status == 200 else "application/problem+json"
        assert answer.headers["Content-Type"] == kind
        return answer.json()

    def study(self, number: int) -> str:
        return str(self.series[number][0].StudyInstanceUID)

    def ask(self, query: str = "", **content: Any) -> Any:  # noqa: ANN401 - any JSON
        """Send files along, and wait for the job's end."""
        answer = requests.post(f"{self.address}/similar{query}", timeout=120, **content)
        assert answer.status_code == 202, answer.text
        assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"

        def ended() -> Any:  # noqa: ANN401 - any JSON
            job = self.get(answer.headers["Location"])
            return job if job["state"] in {"DONE", "FAILED"} else None

        return self.wait_for(ended, JOB_S, "the job ends")


@pytest.fixture(scope="module")
def archive(start_shared_node: Factory, pacsimile: Factory, make_series: Factory, wait_for: Factory) -> Archive:
    node = start_shared_node("similar")
    folders = [make_series(1), make_series(2), make_series(3), make_series(4, Region.ABDOMEN)]
    done = pacsimile("ingest", *folders, "--data-dir", node.data_dir, "--bundle", "tiny", "--json")
    assert done.status == 0, done.err
    node.wait_until_indexed()
    series = [[dcmread(file) for file in sorted(folder.rglob("*.dcm"))] for folder in folders]
    for one in series:
        one.sort(key=lambda instance: float(instance.ImagePositionPatient[2]))
    return Archive(node, folders, series, wait_for)


def found(answer: dict[str, Any]) -> list[str]:
    return [hit["study_instance_uid"] for hit in answer["hits"]]


def test_a_study_and_its_only_series_are_one_question(archive: Archive) -> None:
    by_study = archive.get(f"/studies/{archive.study(0)}/similar")
    by_series = archive.get(f"/series/{archive.series[0][0].SeriesInstanceUID}/similar")
    assert by_study["hits"]
    assert by_series == by_study
    assert archive.study(0) not in found(by_study)


def test_an_instance_and_a_region_ask_with_their_chunks_only(archive: Archive) -> None:
    top = archive.series[0][-1]
    z = float(top.ImagePositionPatient[2])
    whole = archive.get(f"/studies/{archive.study(0)}/similar")["hits"][0]["series"][0]["matches"]
    for path in (
        f"/instances/{top.SOPInstanceUID}/similar",
        f"/studies/{archive.study(0)}/similar?region=-1000,-1000,{z - 1},1000,1000,{z + 1}",
    ):
        part = archive.get(path)["hits"][0]["series"][0]["matches"]
        assert 0 < len(part) < len(whole)
        for match in part:
            assert top.SOPInstanceUID in {one["sop_instance_uid"] for one in match["query_slices"]}
            low, high = match["query_z_mm"]
            assert low <= z <= high


def test_matches_name_the_slices_of_both_sides_unless_nobody_asks(archive: Archive) -> None:
    own = {str(one.SOPInstanceUID) for one in archive.series[0]}
    for hit in archive.get(f"/studies/{archive.study(0)}/similar?explain=true")["hits"]:
        (series,) = hit["series"]
        number = [archive.study(n) for n in range(4)].index(hit["study_instance_uid"])
        there = {str(one.SOPInstanceUID) for one in archive.series[number]}
        assert series["matches"]
        for match in series["matches"]:
            assert {one["sop_instance_uid"] for one in match["query_slices"]} <= own
            assert {one["sop_instance_uid"] for one in match["found_slices"]} <= there
    short = archive.get(f"/studies/{archive.study(0)}/similar?explain=false")
    assert all(series["matches"] == [] for hit in short["hits"] for series in hit["series"])


def test_filters_match_as_c_find_does(archive: Archive) -> None:
    path = f"/studies/{archive.study(0)}/similar"
    everything = set(found(archive.get(path)))

    def expected(matches: Callable[[Dataset], bool]) -> set[str]:
        return {str(one[0].StudyInstanceUID) for one in archive.series if matches(one[0])} & everything

    sex = archive.series[1][0].PatientSex
    day = archive.series[2][0].StudyDate
    body = archive.series[3][0].BodyPartExamined
    description = str(archive.series[3][0].StudyDescription)
    for query, matches in (
        (f"patient_sex={sex}", lambda one: one.PatientSex == sex),
        (f"study_date={day}", lambda one: one.StudyDate == day),
        (f"study_date=-{day}", lambda one: one.StudyDate <= day),
        (f"body_part={body}", lambda one: one.BodyPartExamined == body),
        (
            f"study_description={description[:5]}*",
            lambda one: str(one.StudyDescription).startswith(description[:5]),
        ),
        ("modality=CT", lambda one: one.Modality == "CT"),
        ("modality=MR", lambda one: False),
        ("modality=MR&modality=CT", lambda one: True),
    ):
        assert set(found(archive.get(f"{path}?{query}"))) == expected(matches), query


def test_pages_add_up_to_the_whole(archive: Archive) -> None:
    path = f"/studies/{archive.study(0)}/similar"
    whole = archive.get(path)
    assert whole["next"] is None
    pages, following = [], f"{path}?limit=1"
    while following:
        page = archive.get(following)
        assert page["hits"]
        pages += page["hits"]
        following = page["next"]
    assert sorted(one["study_instance_uid"] for one in pages) == sorted(found(whole))


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/studies/1.2.404/similar", 404, "not-found"),
        ("/series/1.2.404/similar", 404, "not-found"),
        ("/instances/1.2.404/similar", 404, "not-found"),
        ("/studies/x/similar", 422, "invalid-request"),
        ("/studies/{study}/similar?limit=0", 422, "invalid-request"),
        ("/studies/{study}/similar?region=1,2,3", 400, "bad-region"),
        ("/studies/{study}/similar?region=1,1,1,0,0,nan", 400, "bad-region"),
        ("/studies/{study}/similar?region=9000,9000,9000,9001,9001,9001", 422, "cannot-be-compared"),
        ("/studies/{study}/similar?study_date=yesterday", 400, "bad-request"),
        ("/nowhere", 404, "not-found"),
        ("/similar", 405, "method-not-allowed"),
        ("/jobs/0123456789abcdef0123456789abcdef", 404, "not-found"),
    ],
)
def test_errors_are_problem_details(archive: Archive, path: str, status: int, code: str) -> None:
    problem = archive.get(path.format(study=archive.study(0)), status)
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, "about:blank")
    assert problem["title"]
    assert problem["detail"]
    if code == "invalid-request":
        assert problem["errors"][0]["where"]


def test_dicom_files_sent_along_find_what_they_are(archive: Archive, make_series: Factory) -> None:
    before = archive.get("/status")
    files = [("files", path.open("rb")) for path in sorted(archive.folders[1].rglob("*.dcm"))]
    job = archive.ask("?limit=3", files=files)
    for _, file in files:
        file.close()
    assert job["state"] == "DONE", job
    best = job["answer"]["hits"]
    itself = next(hit for hit in best if hit["study_instance_uid"] == archive.study(1))
    assert itself["relation"] == "DUPLICATE"
    assert itself["similarity"] > 0.99
    (series,) = itself["series"]
    own = {str(one.SOPInstanceUID) for one in archive.series[1]}
    for match in series["matches"]:
        assert {one["sop_instance_uid"] for one in match["query_slices"]} <= own
        assert match["query_slices"] == match["found_slices"]
    assert archive.get("/status") == before
    archive.wait_for(lambda: not list((archive.node.data_dir / "uploads").iterdir()), 60, "its files are removed")


def nifti(series: list[Dataset], path: Path) -> Path:
    """Write a series as NIfTI: SimpleITK turns LPS to the file's RAS."""
    values = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in series]
    image = sitk.GetImageFromArray(np.stack(values).astype(np.float32))
    places = [np.array(one.ImagePositionPatient, float) for one in series[:2]]
    row, column = np.array(series[0].ImageOrientationPatient, float).reshape(2, 3)
    step = places[1] - places[0]
    distance = float(np.linalg.norm(step))
    image.SetOrigin([float(value) for value in places[0]])
    image.SetSpacing([float(series[0].PixelSpacing[1]), float(series[0].PixelSpacing[0]), distance])
    image.SetDirection(np.column_stack([row, column, step / distance]).ravel().tolist())
    sitk.WriteImage(sitk.DICOMOrient(image, "RSA"), str(path))  # other axes than DICOM files have
    return path


def test_a_nifti_file_sent_along_is_the_volume_of_the_dicom_files(archive: Archive, tmp_path: Path) -> None:
    content = nifti(archive.series[2], tmp_path / "one.nii.gz").read_bytes()
    job = archive.ask(data=content, headers={"Content-Type": "application/octet-stream"})
    assert job["state"] == "DONE", job
    itself = next(hit for hit in job["answer"]["hits"] if hit["study_instance_uid"] == archive.study(2))
    assert itself["relation"] == "DUPLICATE"
    assert itself["similarity"] > 0.99
    match = itself["series"][0]["matches"][0]
    np.testing.assert_allclose(match["query_z_mm"], match["found_z_mm"], atol=0.5)
    numbers = [one["frame_number"] for one in match["query_slices"]]
    uids = [one["sop_instance_uid"] for one in match["found_slices"]]
    order = [str(one.SOPInstanceUID) for one in archive.series[2]]
    assert [order[number - 1] for number in numbers] == uids


def test_what_cannot_be_embedded_says_why(archive: Archive) -> None:
    octets = {"Content-Type": "application/octet-stream"}
    job = archive.ask(data=b"\x1f\x8b no volume", headers=octets)
    assert (job["state"], job["answer"]) == ("FAILED", None)
    assert "NIfTI" in job["problem"]
    one = archive.series[0][0]
    file = next(path for path in archive.folders[0].rglob("*.dcm") if one.SOPInstanceUID in path.name)
    job = archive.ask(data=file.read_bytes(), headers={"Content-Type": "application/dicom"})
    assert job["state"] == "FAILED"
    assert str(one.PatientName) not in job["problem"]
    for content in (b"", b"what is this?"):
        answer = requests.post(f"{archive.address}/similar", data=content, headers=octets, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-file")
    torn = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{archive.address}/similar", data=b"no form", headers=torn, timeout=60)
    assert answer.status_code in {400, 422}
    archive.wait_for(lambda: not list((archive.node.data_dir / "uploads").iterdir()), 60, "its files are removed")


def test_a_job_that_is_dropped_is_gone(archive: Archive) -> None:
    with sorted(archive.folders[1].rglob("*.dcm"))[0].open("rb") as file:
        answer = requests.post(f"{archive.address}/similar", files=[("files", file)], timeout=60)
    path = answer.headers["Location"]
    assert requests.delete(archive.address + path, timeout=60).status_code == 204
    archive.get(path, 404)
    assert requests.delete(archive.address + path, timeout=60).status_code == 404
    archive.wait_for(lambda: not list((archive.node.data_dir / "uploads").iterdir()), 60, "its files are removed")


def test_the_main_process_has_loaded_no_network_library(archive: Archive) -> None:
    loaded = {Path(one.path).name for one in psutil.Process(archive.node.process.pid).memory_maps()}
    assert not {name for name in loaded if name.startswith("libtorch")}
