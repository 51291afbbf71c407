"""Who the series of a folder are, by one header of each."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import Dataset

from config.errors import ConfigError
from indexer.errors import Parked
from indexer.evaluate.items import Subject, subject_of
from indexer.headers import quiet, read_dataset, text


def folder_names(folder: Path) -> dict[str, str]:
    """Folder name of each series below a folder to its Series Instance UID; those without one are left out."""
    subjects, _ = subjects_below(folder)
    return {one.name: one.series_instance_uid for one in subjects if one.series_instance_uid}


def subjects_below(folder: Path) -> tuple[list[Subject], list[list[Path]]]:
    """Read one header of each series folder: who they are, and their files."""
    subjects: list[Subject] = []
    paths: list[list[Path]] = []
    if not folder.is_dir():
        raise ConfigError([f"the folder of series is not there: {folder}"])
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in one.rglob("*") if path.is_file() and not path.name.startswith("."))
        dicom = [path for path in files if path.suffix.lower() == ".dcm"] or files
        dataset = _first_header(dicom)
        if dataset is not None:
            subjects.append(subject_of(_values_of(dataset), one.name))
            paths.append(dicom)
    return subjects, paths


def _first_header(paths: Sequence[Path]) -> Dataset | None:
    with quiet():
        for path in paths:
            try:
                return read_dataset(path, with_pixels=False)
            except Parked:
                continue
    return None


def _values_of(dataset: Dataset) -> Callable[[str], str]:
    def value(keyword: str) -> str:
        with quiet():
            return text(dataset, keyword)

    return value
