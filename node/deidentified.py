"""De-identified copies of stored studies, as a folder of DICOM files."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from dicom_scp.parsing import quiet
from dicom_scp.spool import Spool
from indexer.catalog import Catalog
from indexer.catalog.holdings import HeldInstance
from indexer.catalog.lookup import Level
from indexer.deidentification.instance import deidentified, patient_key
from indexer.deidentification.profile import Options
from indexer.deidentification.pseudonyms import Pseudonyms
from indexer.errors import NotFound, Parked, Refused, Transient
from indexer.headers import read_dataset

Track = Callable[[str, Sequence[HeldInstance]], Iterable[HeldInstance]]
"""Shows progress over a sequence: a description and the items, which come back."""

_MOST_INSTANCES = 10_000_000


@dataclass
class Outcome:
    """What became of the instances.

    Attributes
    ----------
    left_out : Counter of str
        Reason to number of instances.
    """

    patients: set[str] = field(default_factory=set)
    instances: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def export(
    catalog: Catalog,
    spool: Spool,
    studies: Sequence[str],
    target: Path,
    pseudonyms: Pseudonyms,
    options: Options,
    track: Track,
) -> Outcome:
    """Write de-identified copies; what cannot be given away is left out, with the reason.

    Parameters
    ----------
    studies : sequence of str
        Study Instance UIDs.
    target : Path
        Made if it is missing; it must be empty.

    Raises
    ------
    NotFound
        A study is not held.
    Refused
        The folder is not empty.
    Transient
        It cannot be written.
    """
    held = list(_held(catalog, studies))
    outcome = Outcome()
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise Refused(f"expected an empty folder for the export, got one with files: {target}")
        for one in track("de-identifying instances", held):
            try:
                _write(_read(spool, one), target, pseudonyms, options, outcome)
            except (Refused, Parked, NotFound) as error:
                outcome.left_out[str(error)] += 1
    except OSError as error:
        raise Transient(f"the export cannot be written: {error.strerror}") from error
    return outcome


def _held(catalog: Catalog, studies: Sequence[str]) -> Iterator[HeldInstance]:
    for uid in dict.fromkeys(studies):
        found = catalog.holdings.instances({Level.STUDY: [uid]}, _MOST_INSTANCES)
        if not found:
            raise NotFound(f"no study {uid} in the catalog")
        yield from found


def _read(spool: Spool, one: HeldInstance) -> Dataset:
    if not one.is_here or not spool.holds(one.path):
        raise NotFound("its file is not here")
    return read_dataset(spool.file(one.path), with_pixels=True)


def _write(instance: Dataset, target: Path, pseudonyms: Pseudonyms, options: Options, outcome: Outcome) -> None:
    """Write one; the names of folders and files are pseudonyms as well."""
    patient = pseudonyms.patient(patient_key(instance))
    made = deidentified(instance, pseudonyms, options)
    folder = target / patient / made.StudyInstanceUID / made.SeriesInstanceUID
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with quiet():
        made.save_as(folder / f"{made.SOPInstanceUID}.dcm", enforce_file_format=True)
    outcome.instances += 1
    outcome.patients.add(patient)
