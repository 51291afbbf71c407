"""Which exams the demonstration holds."""

from collections.abc import Callable
from dataclasses import replace

from node.phantoms.body import Orientation
from node.phantoms.exam import Exam, Region
from node.phantoms.patient import Finding, Patient
from node.phantoms.tissue import Sequence
from node.phantoms.vendors import VENDORS, Vendor


def archive(patients: int = 6, seed: int = 2024) -> list[Exam]:
    """Plan a small archive.

    The first six patients hold every case worth showing: chests, abdomens and heads of several patients, CT and
    MR, a prior without the later finding, the same exam reconstructed twice, two sequences in one study. Further
    patients repeat these cases with other bodies and scanners.

    Parameters
    ----------
    patients : int
        How many.
    seed : int
        Which; the same seed gives the same archive.

    Returns
    -------
    list of Exam
        One a series, patient by patient.
    """
    exams: list[Exam] = []
    for index in range(patients):
        finding, plan = _PLANS[index % len(_PLANS)]
        body = Patient.from_seed(1000 * seed + index, index + 1, finding)
        exams += plan(body, VENDORS[(index + index // len(_PLANS)) % len(VENDORS)])
    return exams


def _followed_chest(patient: Patient, vendor: Vendor) -> list[Exam]:
    """Chest CT, the same in another reconstruction, and last year's on another scanner."""
    now = Exam(patient, Region.CHEST, vendor=vendor, study_date="20240318", study_number=2, matrix=160)
    again = replace(now, sharp=True, spacing_mm=5.0, study_number=3)
    healthy = replace(patient, finding=Finding.NONE, age_years=patient.age_years - 1)
    other = VENDORS[(VENDORS.index(vendor) + 1) % len(VENDORS)]
    before = Exam(healthy, Region.CHEST, vendor=other, study_date="20230309", spacing_mm=7.0)
    return [before, now, again]


def _chest_and_head(patient: Patient, vendor: Vendor) -> list[Exam]:
    chest = Exam(patient, Region.CHEST, vendor=vendor, study_date="20240122", contrast=True)
    head = Exam(patient, Region.HEAD, vendor=vendor, study_date="20240124", study_number=2, spacing_mm=5.0)
    return [chest, head]


def _chest_and_abdomen(patient: Patient, vendor: Vendor) -> list[Exam]:
    chest = Exam(patient, Region.CHEST, vendor=vendor, study_date="20240205", spacing_mm=5.0, matrix=144)
    return [chest, replace(chest, region=Region.ABDOMEN, study_number=2, study_date="20240207")]


def _abdomens(patient: Patient, vendor: Vendor) -> list[Exam]:
    """Abdominal CT with contrast and coronal MR."""
    ct = Exam(patient, Region.ABDOMEN, vendor=vendor, study_date="20240219", contrast=True)
    mr = Exam(patient, Region.ABDOMEN, Sequence.T2, Orientation.CORONAL, vendor=vendor, matrix=160)
    return [ct, replace(mr, study_number=2, study_date="20240221")]


def _heads(patient: Patient, vendor: Vendor) -> list[Exam]:
    """Head CT, then MR in two sequences."""
    ct = Exam(patient, Region.HEAD, vendor=vendor, study_date="20240301", spacing_mm=5.0, matrix=160)
    return [ct, *_brain(patient, vendor, (Sequence.T2, Sequence.FLAIR))]


def _brain_and_trunk(patient: Patient, vendor: Vendor) -> list[Exam]:
    trunk = Exam(patient, Region.CHEST_ABDOMEN_PELVIS, vendor=vendor, study_date="20240311", spacing_mm=10.0)
    return [replace(trunk, contrast=True), *_brain(patient, vendor, (Sequence.T1, Sequence.FLAIR))]


def _brain(patient: Patient, vendor: Vendor, sequences: tuple[Sequence, ...]) -> list[Exam]:
    first = Exam(patient, Region.HEAD, vendor=vendor, study_date="20240312", spacing_mm=5.0, study_number=2)
    return [replace(first, sequence=sequence, series_number=number) for number, sequence in enumerate(sequences, 1)]


_PLANS: tuple[tuple[Finding, Callable[[Patient, Vendor], list[Exam]]], ...] = (
    (Finding.LUNG_NODULE, _followed_chest),
    (Finding.PLEURAL_EFFUSION, _chest_and_head),
    (Finding.NONE, _chest_and_abdomen),
    (Finding.LIVER_LESION, _abdomens),
    (Finding.HAEMORRHAGE, _heads),
    (Finding.BRAIN_TUMOUR, _brain_and_trunk),
)
