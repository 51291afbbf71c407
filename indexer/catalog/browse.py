"""Leafing through the studies, newest first, as a person does who looks for one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, exists, func, or_, select

from config.access import Cohort
from indexer.attributes import JsonObject
from indexer.catalog.cohort import visible, visible_series
from indexer.catalog.engine import reading
from indexer.catalog.schema import instance, patient, series, study
from indexer.catalog.states import SeriesState

_NAME, _BODY_PART = "00100010", "00180015"
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True)
class StudyFilter:
    """What a person knows of the studies looked for; what is empty allows all.

    Attributes
    ----------
    patient : str
        Words; each is part of the patient's name or ID.
    accession_number : str
        How it begins.
    body_part : str
        Part of Body Part Examined (0018,0015).
    study_date_from, study_date_to : str
        YYYYMMDD.
    """

    patient: str = ""
    accession_number: str = ""
    modality: str = ""
    body_part: str = ""
    study_date_from: str = ""
    study_date_to: str = ""


@dataclass(frozen=True)
class ListedSeries:
    """A series of a listed study.

    Attributes
    ----------
    attributes : JsonObject
        Its own, in the DICOM JSON Model.
    """

    series_instance_uid: str
    modality: str
    state: SeriesState
    reason: str
    instances: int
    attributes: JsonObject


@dataclass(frozen=True)
class ListedStudy:
    """A study with its patient and its series.

    Attributes
    ----------
    attributes : JsonObject
        The patient's and its own, in the DICOM JSON Model.
    series : tuple of ListedSeries
        In order of arrival.
    """

    study_pk: int
    patient_pk: int
    study_instance_uid: str
    attributes: JsonObject
    series: tuple[ListedSeries, ...] = field(default=())

    @property
    def instances(self) -> int:
        """How many instances it holds."""
        return sum(one.instances for one in self.series)

    @property
    def states(self) -> Mapping[SeriesState, int]:
        """How many of its series are in which state."""
        return Counter(one.state for one in self.series)


class Browse:
    """The leafing side of the catalog.

    Parameters
    ----------
    cohort : Cohort, optional
        Other studies are as if they were not there.
    """

    def __init__(self, engine: Engine, cohort: Cohort | None = None) -> None:
        self._engine = engine
        self._visible, self._visible_series = visible(cohort), visible_series(cohort)

    def studies(self, chosen: StudyFilter, *, first: int, limit: int) -> list[ListedStudy]:
        """Some of the studies that a filter allows, newest Study Date first, then the last to arrive.

        Parameters
        ----------
        first : int
            How many of them to leave out.
        limit : int
            At most so many.
        """
        newest = (study.c.study_date.desc(), study.c.id.desc())
        query = _listed().where(*self._visible, *_conditions(chosen))
        query = query.order_by(*newest).offset(first).limit(limit)
        return self._read(query)

    def by_uid(self, study_instance_uids: Sequence[str]) -> dict[str, ListedStudy]:
        """Study Instance UID to study, for those that exist."""
        query = _listed().where(study.c.study_instance_uid.in_(list(study_instance_uids)), *self._visible)
        return {one.study_instance_uid: one for one in self._read(query)}

    def modalities(self) -> list[str]:
        """Every modality of which there is a series."""
        query = select(series.c.modality).join(study).where(series.c.modality != "", *self._visible_series)
        query = query.distinct().order_by(series.c.modality)
        with reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def _read(self, query: Any) -> list[ListedStudy]:  # noqa: ANN401 - any Select of `_listed`
        counted = select(func.count()).where(instance.c.series_pk == series.c.id).scalar_subquery()
        columns = (series.c.series_instance_uid, series.c.modality, series.c.state, series.c.reason, counted)
        of_studies = select(series.c.study_pk, *columns, series.c.attributes).select_from(series.join(study))
        of_studies = of_studies.where(*self._visible_series).order_by(series.c.id)
        below: dict[int, list[ListedSeries]] = {}
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
            wanted = series.c.study_pk.in_([row[0] for row in rows])
            for pk, uid, modality, state, reason, instances, attributes in connection.execute(
                of_studies.where(wanted)
            ):
                one = ListedSeries(uid, modality, SeriesState(state), reason, instances, attributes)
                below.setdefault(pk, []).append(one)
        return [
            ListedStudy(pk, patient_pk, uid, of_patient | own, tuple(below.get(pk, ())))
            for pk, patient_pk, uid, of_patient, own in rows
        ]


def _listed() -> Any:  # noqa: ANN401 - a Select
    columns = (study.c.id, study.c.patient_pk, study.c.study_instance_uid)
    return select(*columns, patient.c.attributes, study.c.attributes).join(patient)


def _conditions(chosen: StudyFilter) -> list[Any]:
    found = [_is_of(word) for word in chosen.patient.replace(",", " ").replace("^", " ").split()]
    if chosen.accession_number:
        found.append(study.c.accession_number.istartswith(chosen.accession_number, autoescape=True))
    if chosen.study_date_from:
        found.append(study.c.study_date >= chosen.study_date_from)
    if chosen.study_date_to:
        found.append((study.c.study_date != "") & (study.c.study_date <= chosen.study_date_to))
    of_series = []
    if chosen.modality:
        of_series.append(series.c.modality == chosen.modality)
    if chosen.body_part:
        stored = series.c.attributes[_BODY_PART, "Value", 0].as_string()
        of_series.append(stored.icontains(chosen.body_part, autoescape=True))
    if of_series:
        found.append(exists().where(series.c.study_pk == study.c.id, *of_series))
    return found


def _is_of(word: str) -> Any:  # noqa: ANN401 - an SQL condition
    """Whether the patient's ID or a group of the name holds a word, in any case.

    SQLite knows the two cases of ASCII letters only: of others those that a name is usually written in are tried.
    """
    names = [patient.c.attributes[_NAME, "Value", 0, group].as_string() for group in _NAME_GROUPS]
    written = dict.fromkeys([word] if word.isascii() else [word, word.upper(), word.lower(), word.capitalize()])
    return or_(
        *(one.icontains(form, autoescape=True) for one in (patient.c.patient_id, *names) for form in written)
    )
