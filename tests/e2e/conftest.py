"""What a data folder holds, seen from outside and compared with the files it was given."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from engines import catalog_url
from pydicom import Dataset, dcmread

from indexer.catalog import Catalog
from indexer.catalog.lookup import Level

Comparison = Callable[[Path, Iterable[Path]], dict[str, Any]]


def instances(files: Iterable[Path]) -> dict[str, Path]:
    """SOP Instance UID to file; fails where two files have the same."""
    found: dict[str, Path] = {}
    for file in files:
        uid = str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        assert uid not in found, f"twice: {uid}"
        found[uid] = file
    return found


def content(file: Path) -> Dataset:
    """Read the data set; group lengths and trailing padding are a writer's own affair (PS3.5 7.2, PS3.3 C.12.1)."""
    dataset = dcmread(file)
    for element in list(dataset):
        if element.tag.element == 0 or element.tag == 0xFFFCFFFC:
            del dataset[element.tag]
    return dataset


@pytest.fixture(scope="session")
def compare() -> Comparison:
    """Hold what a data folder has against files: the same instances, the same content, no more, nothing twice.

    Returns the state of every series with its reason, and the reasons of the quarantine.
    """

    def run(data_dir: Path, files: Iterable[Path]) -> dict[str, Any]:
        sent = instances(files)
        spool = data_dir / "spool"
        stored = instances(spool.rglob("*.dcm"))
        assert set(stored) == set(sent)
        with Catalog(catalog_url(data_dir)) as catalog:
            entered = [one.attributes["00080018"]["Value"][0] for one in catalog.lookup.entities(Level.IMAGE)]
            series = [one.attributes["0020000E"]["Value"][0] for one in catalog.lookup.entities(Level.SERIES)]
            known = catalog.progress.counts()
            quarantined = dict(catalog.progress.quarantined())
            states = {uid: catalog.lookup.series_by_uid(uid) for uid in series}
        assert len(entered) == len(set(entered)) == known.instances
        assert known.instances + known.quarantined == len(sent)
        for uid, file in sent.items():
            assert content(file) == content(stored[uid]), f"{file.name} is not what was sent"
        has_series = {
            uid for uid, file in sent.items() if dcmread(file, stop_before_pixels=True).get("SeriesInstanceUID")
        }
        assert set(entered) == has_series
        return {"states": states, "quarantined": quarantined}

    return run
