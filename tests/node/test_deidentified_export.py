"""`pacsimile export --de-identified`: the files of a study, without whom they are of, and what is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import settings_of
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_scp.reception import Receiver
from indexer.catalog.lookup import Level
from node.storage import open_catalog, open_spool

Factory = Callable[..., Any]


@pytest.fixture(scope="module")
def archive(make_series: Factory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A data folder with a study, one of its instances a secondary capture; and the files."""
    data_dir = tmp_path_factory.mktemp("archive") / "data"
    files = sorted(make_series(1).rglob("*.dcm"))
    capture = dcmread(files[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.save_as(files[0])
    settings = settings_of(data_dir)
    with open_catalog(settings) as catalog:
        receiver = Receiver(catalog, open_spool(settings, catalog), "keep-first")
        for file in files:
            receiver.take_file(file)
        assert len(list(catalog.lookup.entities(Level.STUDY))) == 1
    return data_dir, files


def test_a_study(archive: tuple[Path, list[Path]], pacsimile: Factory, tmp_path: Path) -> None:
    data_dir, files = archive
    headers = [dcmread(file, stop_before_pixels=True) for file in files]
    study = headers[0].StudyInstanceUID
    secret, out = tmp_path / "secret", tmp_path / "out"
    arguments = ("--data-dir", data_dir, "--secret-file", secret, "--json")
    done = pacsimile("export", study, "--de-identified", out, *arguments)
    assert done.status == 1  # something was left out
    assert done.json["instances"] == len(files) - 1
    assert done.json["left_out"] == {"its SOP class is none of CT, MR and PET images": 1}
    made = sorted(out.rglob("*.dcm"))
    content = b"".join(file.read_bytes() + str(file).encode() for file in made)
    for header in headers:
        for value in (header.PatientName, header.PatientID, header.SOPInstanceUID, study, header.PatientBirthDate):
            assert str(value).encode() not in content
    exported = [dcmread(file) for file in made]
    assert len({one.SOPInstanceUID for one in exported}) == len(files) - 1
    assert len({one.StudyInstanceUID for one in exported}) == 1
    assert sorted(one.PixelData for one in exported) == sorted(dcmread(file).PixelData for file in files[1:])
    assert secret.stat().st_mode & 0o077 == 0

    again = pacsimile("export", study, "--de-identified", tmp_path / "again", *arguments)
    assert again.json["instances"] == len(made)
    assert [file.name for file in sorted((tmp_path / "again").rglob("*.dcm"))] == [file.name for file in made]
    full = pacsimile("export", study, "--de-identified", out, *arguments)
    assert (full.status, "expected an empty folder" in full.err) == (1, True)
    assert pacsimile("export", study, "--data-dir", data_dir).status == 2
