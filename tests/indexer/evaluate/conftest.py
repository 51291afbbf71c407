"""Items without images, a folder of small synthetic series, and label tables."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from indexer.evaluate.items import Group, Item


@pytest.fixture
def an_item() -> Callable[..., Item]:
    """An item of a patient with labels as text ("thorax/lung")."""

    def build(patient: str, *labels: str, study: str = "", relevance: float = 1.0, modality: str = "CT") -> Item:
        return Item(
            patient=patient,
            study_instance_uid=study or f"2.25.{int.from_bytes(patient.encode(), 'big')}",
            series_instance_uids=("2.25.1",),
            modalities=(modality,),
            span_mm=None,
            labels=frozenset(tuple(label.split("/")) for label in labels),
            relevance=relevance,
            group=Group(modality, "unknown", "unknown", "unknown", "unknown"),
        )

    return build


@pytest.fixture
def a_table(tmp_path: Path) -> Callable[..., Path]:
    """A label table of rows of cells."""

    def write(*rows: Sequence[object], name: str = "labels.tsv") -> Path:
        separator = "," if name.endswith(".csv") else "\t"
        path = tmp_path / name
        path.write_text("\n".join(separator.join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def a_folder(tmp_path: Path, scan: Callable[..., list[Dataset]]) -> Callable[..., Path]:
    """A folder of CT series by name: patient, and what is added to the phantom's Hounsfield units.

    Slices at 6 mm over 132 mm; the phantom is an ellipsoid near the origin.
    """

    def write(series: dict[str, tuple[str, int]]) -> Path:
        root = tmp_path / "series"
        for number, (name, (patient, contrast)) in enumerate(series.items(), start=1):
            folder = root / name
            folder.mkdir(parents=True)
            heights = np.arange(-60.0, 72.0, 6.0)
            slices = scan([(-30.0, -45.0, z) for z in heights], PatientID=patient, Manufacturer="Maker A")
            for one, dataset in enumerate(slices, start=1):
                dataset.SeriesInstanceUID, dataset.StudyInstanceUID = f"2.25.10{number}", f"2.25.20{number}"
                dataset.InstanceNumber = one
                pixels = np.frombuffer(dataset.PixelData, np.int16).copy()
                pixels[pixels > -200] += np.int16(contrast)
                dataset.PixelData = pixels.tobytes()
                dataset.save_as(folder / f"{one:03}.dcm", enforce_file_format=True)
        return root

    return write
