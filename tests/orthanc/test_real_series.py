"""Real series in an Orthanc: sync, both sides killed meanwhile, a new study, its report, its analogues."""

import json
import signal
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_scp.spool import Spool

Factory = Callable[..., Any]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPython.so")
SCRIPT = Path(__file__).parents[2] / "docker" / "orthanc" / "pacsimile.py"
NEW = "ct-phantom-head-stereotaxis"
OLD = ("mr-brain-vol-adc", "mr-brain-vol-flair", "mr-brain-rad1", "ct-phantom-head-5mm", "ct-abdomen-no-series-uid")
WAIT_S = 500.0


def upload(orthanc: Any, folders: list[Path]) -> set[str]:  # noqa: ANN401 - the fixture's class
    """Give it what it takes; their SOP Instance UIDs, those that name a series."""
    taken = set()
    for file in (file for folder in folders for file in sorted(folder.glob("*.dcm"))):
        header = dcmread(file, stop_before_pixels=True)
        is_taken = orthanc.request("POST", "/instances", data=file.read_bytes()).ok
        if is_taken and header.get("SeriesInstanceUID"):
            taken.add(str(header.SOPInstanceUID))
    return taken


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_orthanc_with_real_series(
    start_orthanc: Factory,
    start_node: Factory,
    start_command: Factory,
    pacsimile: Factory,
    shared_dicom: Path,
    wait_for: Factory,
    tmp_path: Path,
) -> None:
    if not PLUGIN.exists():
        pytest.skip("Orthanc's Python plugin (Debian: orthanc-python) is not installed")
    orthanc = start_orthanc(StableAge=1, Plugins=[str(PLUGIN)], PythonScript=str(SCRIPT))
    taken = upload(orthanc, [shared_dicom / name for name in OLD])
    settings = tmp_path / "node.toml"
    settings.write_text(
        f"""
        delivery = {{study_quiet_s = 0.5}}
        orthanc = {{url = "http://127.0.0.1:{orthanc.port}", poll_s = 0.2, first_retry_s = 0.2}}
        rules = [{{name = "file it", do = "report", peers = ["ORTHANC"]}}]
        """
    )
    data_dir = tmp_path / "data"
    spool = Spool(data_dir / "spool")

    def files() -> int:
        return len(list(spool.folder.glob("*/*/*.dcm")))

    options = ("--config", settings, "--data-dir", data_dir, "--bundle", "tiny")
    killed = start_command("orthanc", "sync", *options)
    wait_for(lambda: files() > len(taken) // 4, WAIT_S, "a part is there")
    killed.kill()
    killed.communicate()
    node = start_node(wait=False, PACSIMILE_CONFIG=str(settings))  # it goes on with what sync had begun
    wait_for(lambda: files() > len(taken) // 2, WAIT_S, "half is there")
    node.stop(signal.SIGKILL)
    done = pacsimile("orthanc", "sync", *options, "--json")
    assert done.status == 0, done.err
    known = done.json["status"]
    assert known["instances"] == len(taken)
    assert not set(known["series_by_state"]) - {"INDEXED", "PARKED"}

    node = start_node(PACSIMILE_CONFIG=str(settings))
    orthanc.stop()
    known_to_orthanc = json.loads((orthanc.folder / "orthanc.json").read_text())
    section = {"Url": f"http://127.0.0.1:{node.ports['http']}", "Token": "${NONE}"}
    (orthanc.folder / "orthanc.json").write_text(json.dumps(known_to_orthanc | {"Pacsimile": section}))
    orthanc.start()
    new = upload(orthanc, [shared_dicom / NEW])
    taken |= new
    study = dcmread(next((shared_dicom / NEW).glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
    (study_id,) = orthanc.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": str(study)}})
    path = f"/studies/{study_id}/similar"
    wait_for(lambda: orthanc.request("GET", path).ok, WAIT_S, f"it is found through Orthanc\n{node.log[-2000:]}")
    best = orthanc.get(path)["hits"][0]
    assert orthanc.get(f"/studies/{best['orthanc_id']}")["MainDicomTags"]["StudyInstanceUID"]
    query = {"Modality": "SR", "StudyInstanceUID": str(study)}
    find = {"Level": "Instance", "Query": query}
    (report_id,) = wait_for(lambda: orthanc.post("/tools/find", find), WAIT_S, "the report is in Orthanc")
    report = dcmread(BytesIO(orthanc.request("GET", f"/instances/{report_id}/file").content))
    assert best["study_instance_uid"] in str(report)
    assert node.stop() == 0
    verified = pacsimile("verify", "--data-dir", data_dir, "--json")
    assert [one for one in verified.json["findings"] if "belongs to no instance" not in one["what"]] == []
