"""What is ranked: items with their labels, their patient, and the groups that figures are broken down by."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from indexer.evaluate.labels import Label, LabelRow

UNKNOWN = "unknown"
SpanMm = tuple[float, float]
"""Lower and upper end along the patient's z axis, mm from the inferior end of the imaged volume."""

_AGE_GROUPS = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79"), (200, "80 and older"))
_THICKNESS_MM = ((1.5, "up to 1.5 mm"), (3.0, "1.5 to 3 mm"), (5.0, "3 to 5 mm"), (100.0, "above 5 mm"))
_DAYS_A_YEAR = 365.25
_YEARS_A_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 7 / _DAYS_A_YEAR, "D": 1 / _DAYS_A_YEAR}


@dataclass(frozen=True)
class Group:
    """What figures are broken down by; "unknown" where the header is silent (PS3.3 C.7.1.1, C.7.2.2, C.7.5.1)."""

    modality: str
    manufacturer: str
    sex: str
    age: str
    slice_thickness: str


@dataclass(frozen=True)
class Subject:
    """Who a series is.

    Attributes
    ----------
    patient : str
        Key of the patient, to compare with and never to show; of the study where the patient is unknown.
    name : str
        Folder name; "" where there is none.
    """

    patient: str
    study_instance_uid: str
    series_instance_uid: str
    name: str
    group: Group


@dataclass(frozen=True)
class Item:
    """One labelled study, series or slab: a query, and part of other patients' galleries.

    Attributes
    ----------
    patient : str
        As in `Subject`.
    series_instance_uids : tuple of str
        Its series; one unless a study is labelled.
    modalities : tuple of str
        Of those series, in order.
    span_mm : SpanMm or None
        Of a labelled slab.
    relevance : float
        Gain that finding it brings.
    """

    patient: str
    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    modalities: tuple[str, ...]
    span_mm: SpanMm | None
    labels: frozenset[Label]
    relevance: float
    group: Group


@dataclass(frozen=True)
class Wanted:
    """A row of the table with the series it is about."""

    row: LabelRow
    subjects: tuple[int, ...]


def subject_of(value: Callable[[str], str], name: str = "", patient: str = "") -> Subject:
    """Gather who a series is from its attributes.

    Parameters
    ----------
    value : callable
        Keyword to the first value of the attribute as text, "" where it is absent or empty.
    patient : str
        Key of the patient where it is known already.
    """
    study, series = value("StudyInstanceUID"), value("SeriesInstanceUID")
    patient_id = value("PatientID").strip()
    if not patient:
        issuer = value("IssuerOfPatientID").strip()
        patient = f"id:{patient_id}\n{issuer}" if patient_id else f"study:{study or series or name}"
    sex = value("PatientSex").strip().upper()
    group = Group(
        modality=value("Modality").strip().upper() or UNKNOWN,
        manufacturer=_manufacturer(value("Manufacturer")),
        sex=sex if sex in {"M", "F", "O"} else UNKNOWN,
        age=_age_group(value("PatientAge"), value("PatientBirthDate"), value("StudyDate")),
        slice_thickness=_thickness(value("SliceThickness")),
    )
    return Subject(patient, study, series, name, group)


def match(rows: Sequence[LabelRow], subjects: Sequence[Subject]) -> tuple[list[Wanted], int]:
    """Join rows with series by folder name, Series or Study Instance UID; also how many rows found nothing."""
    by_series: dict[str, list[int]] = {}
    by_study: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        for key in {subject.name, subject.series_instance_uid} - {""}:
            by_series.setdefault(key, []).append(index)
        by_study.setdefault(subject.study_instance_uid, []).append(index)
    found = [
        Wanted(row, tuple(by_series.get(row.series, ()) if row.series else by_study.get(row.study, ())))
        for row in rows
    ]
    return [one for one in found if one.subjects], sum(not one.subjects for one in found)


def span_of(row: LabelRow, slab_mm: float) -> SpanMm | None:
    """The slab that a row labels; None if it labels all."""
    return None if row.centre_mm is None else (row.centre_mm - slab_mm / 2, row.centre_mm + slab_mm / 2)


def item_of(row: LabelRow, subjects: Sequence[Subject], slab_mm: float) -> Item:
    """Make an item of a row and the series that could be embedded."""
    first = subjects[0]
    return Item(
        patient=first.patient,
        study_instance_uid=first.study_instance_uid,
        series_instance_uids=tuple(one.series_instance_uid for one in subjects),
        modalities=tuple(one.group.modality for one in subjects),
        span_mm=span_of(row, slab_mm),
        labels=row.labels,
        relevance=row.relevance,
        group=first.group,
    )


def _manufacturer(value: str) -> str:
    """First word in capitals: the same maker writes itself in many ways."""
    words = re.split(r"[^A-Z]+", value.strip().upper())
    return words[0] or UNKNOWN


def _age_group(age: str, birth: str, study: str) -> str:
    years = _age_years(age.strip(), birth.strip(), study.strip())
    if years is None or years < 0:
        return UNKNOWN
    return next((name for limit, name in _AGE_GROUPS if years < limit), UNKNOWN)


def _age_years(age: str, birth: str, study: str) -> float | None:
    """From Patient's Age (VR AS, PS3.5 section 6.2), else from the dates of birth and study."""
    if re.fullmatch(r"\d{3}[DWMY]", age):
        return int(age[:3]) * _YEARS_A_UNIT[age[3]]
    try:
        born, seen = (date(int(one[:4]), int(one[4:6]), int(one[6:8])) for one in (birth, study))
    except ValueError:
        return None
    return (seen - born).days / _DAYS_A_YEAR


def _thickness(value: str) -> str:
    try:
        thickness_mm = float(value)
    except ValueError:
        return UNKNOWN
    if not thickness_mm > 0:
        return UNKNOWN
    return next((name for limit, name in _THICKNESS_MM if thickness_mm <= limit + 1e-3), UNKNOWN)
