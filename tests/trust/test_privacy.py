"""Planted names and numbers of a person do not turn up where the node speaks of itself."""

import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

Factory = Callable[..., Any]
PLANTED = {
    "PatientName": "Zzquixote^Dulcinea",
    "PatientID": "ZZ-4711-PID",
    "PatientBirthDate": "19010203",
    "AccessionNumber": "ZZACC0815",
    "ReferringPhysicianName": "Zzpanza^Sancho",
    "StudyDescription": "Zzwindmill injury",
    "SeriesDescription": "Zzlance axial",
    "InstitutionName": "Zzhospital de la Mancha",
    "PatientComments": "Zzcomment on the person",
    "StudyID": "ZZSTUDYID",
}
PIECES = {piece for value in PLANTED.values() for piece in (value, *value.split("^"))}


def planted(source: Path, target: Path, **more: object) -> Path:
    """A copy of a series with a person planted in it."""
    for file in source.rglob("*.dcm"):
        dataset = dcmread(file)
        for keyword, value in {**PLANTED, **more}.items():
            setattr(dataset, keyword, value)
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        dataset.save_as(target / file.parent.name / file.name)
    return target


def damaged(source: Path, target: Path, damage: Callable[[bytes], bytes]) -> Path:
    shutil.copytree(source, target)
    for file in target.rglob("*.dcm"):
        file.write_bytes(damage(file.read_bytes()))
    return target


def answers(node: Any, *paths: str) -> str:  # noqa: ANN401 - a running node
    """What the node answers to requests, errors included."""
    said = ""
    for path in paths:
        for method in ("GET", "POST", "DELETE"):
            request = urllib.request.Request(f"http://127.0.0.1:{node.ports['http']}{path}", method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    said += "" if "/studies" in path else answer.read().decode(errors="replace")
            except urllib.error.HTTPError as error:
                said += error.read().decode(errors="replace") + str(error.headers)
    return said


def store(node: Any, files: list[Path]) -> str:  # noqa: ANN401 - a running node
    """What the node answers when files are sent as they are, whatever is wrong with them."""
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", node.dicom_port, ae_title="PACSIMILE")
    assert association.is_established
    said = "\n".join(str(association.send_c_store(file)) for file in files)
    association.release()
    return said


@pytest.mark.slow
def test_nothing_of_a_person_in_what_the_node_says(
    start_node: Factory, send: Factory, make_series: Factory, tool: Factory, tmp_path: Path
) -> None:
    good = planted(make_series(1), tmp_path / "good")
    other = planted(make_series(2), tmp_path / "other", PatientID="ZZ-4711-PID-2")
    unusable = planted(make_series(3), tmp_path / "unusable", ImageOrientationPatient=[1, 1, 1, 1, 1, 1])
    changed = planted(make_series(1), tmp_path / "changed", PatientComments="Zzcomment, another one")
    name = PLANTED["PatientName"].encode()
    broken = [
        damaged(good, tmp_path / "torn", lambda content: content[: content.index(name) + 8]),
        damaged(good, tmp_path / "wrong", lambda content: content.replace(b"PN", b"FD", 1)),
        damaged(good, tmp_path / "long", lambda content: content.replace(name, name[:-1] + b"\xff")),
    ]
    node = start_node(PACSIMILE_FORGETTING_REFUSE_AGAIN="REQUEST")
    send(node.dicom_port, good, other, unusable)
    said = store(node, [next(folder.rglob("*.dcm")) for folder in (changed, *broken)])
    node.wait_until_indexed()
    with node.catalog() as catalog:
        study = catalog.lookup.series_by_uid(next(good.iterdir()).name).study_instance_uid
    for called, keys in (
        ("PACSIMILE", [f"PatientName={PLANTED['PatientName']}", "StudyInstanceUID"]),
        ("SIMILAR", [f"PatientName={PLANTED['PatientName']}", f"StudyInstanceUID={study}"]),
        ("SIMILAR", [f"AccessionNumber={PLANTED['AccessionNumber']}-none", "PatientID"]),
        ("PACSIMILE", [f"StudyDate={PLANTED['StudyDescription']}", "PatientID"]),
        ("PACSIMILE", [f"StudyInstanceUID={PLANTED['PatientID']}", "PatientID"]),
    ):
        options = [word for key in ("QueryRetrieveLevel=STUDY", *keys) for word in ("-k", key)]
        command = [tool("findscu"), "-S", "-aec", called, *options, "127.0.0.1", str(node.dicom_port)]
        subprocess.run(command, capture_output=True, timeout=120, check=False)
    pid = PLANTED["PatientID"]
    said += answers(node, "/health", "/status", "/metrics", f"/studies/{study}/similar", f"/studies/{pid}/similar",
                    f"/studies/{study}/report", "/openapi.json", f"/nowhere/{pid}"[:8])  # fmt: skip
    said += answers(node, f"/studies/{study}")
    said += store(node, sorted(good.rglob("*.dcm"))[:2])
    assert node.stop() == 0
    texts = {"log": node.log, "answers and errors": said}
    assert len(node.log) > 500
    assert "PARKED" in node.log
    assert "Error Comment" in said
    assert re.search("WARNING .* answered", node.log)
    for where, text in texts.items():
        for piece in PIECES:
            assert piece.lower() not in text.lower(), f"{piece} in the {where}"
