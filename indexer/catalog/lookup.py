"""Reading the hierarchy: who is who among the keys, and the entities that a query may match."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import reduce
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, func, select

from config.access import Cohort
from indexer.attributes import JsonObject
from indexer.catalog.cohort import visible, visible_series
from indexer.catalog.engine import BLOCK, blocks, one_of, reading
from indexer.catalog.schema import instance, patient, quarantine, series, study
from indexer.catalog.states import SeriesState
from indexer.uids import SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID

_BLOCK = 500


class Level(IntEnum):
    """Query/Retrieve Level (0008,0052), PS3.4 C.6."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


_TABLES = (patient, study, series, instance)


@dataclass(frozen=True)
class Prefilter:
    """What the database can narrow a query by; each field lists what it allows, None (or very many) allows all.

    A superset is found: the exact rules of matching (PS3.4 C.2.2.2) are the asker's to apply.
    """

    patient_id: Collection[str] | None = None
    study_instance_uid: Collection[str] | None = None
    accession_number: Collection[str] | None = None
    series_instance_uid: Collection[str] | None = None
    modality: Collection[str] | None = None
    sop_instance_uid: Collection[str] | None = None
    study_date_from: str | None = None
    study_date_to: str | None = None


@dataclass(frozen=True)
class Entity:
    """A patient, study, series or instance with the keys of everything above it (0 below its level).

    Attributes
    ----------
    attributes : JsonObject
        Its own and its parents' attributes in the DICOM JSON Model.
    """

    level: Level
    patient_pk: int
    study_pk: int
    series_pk: int
    instance_pk: int
    attributes: JsonObject


@dataclass(frozen=True)
class SeriesInfo:
    """Who a series is."""

    series_pk: int
    study_pk: int
    patient_pk: int
    series_instance_uid: SeriesInstanceUID
    study_instance_uid: StudyInstanceUID
    modality: str
    state: SeriesState
    reason: str


@dataclass(frozen=True)
class Summary:
    """What lies below a patient or study: the values of the computed query attributes (PS3.4 C.3.4)."""

    studies: int
    series: int
    instances: int
    modalities: tuple[str, ...] = field(default=())
    sop_classes: tuple[str, ...] = field(default=())


class Lookup:
    """The asking side of the catalog.

    Parameters
    ----------
    cohort : Cohort, optional
        Other studies, and patients that have none of these, are as if they were not there.
    """

    def __init__(self, engine: Engine, cohort: Cohort | None = None) -> None:
        self._engine = engine
        self._visible, self._visible_series = visible(cohort), visible_series(cohort)

    def entities(self, level: Level, prefilter: Prefilter = Prefilter()) -> Iterator[Entity]:
        """Every entity of a level that the prefilter lets through, newest entry last, read in blocks.

        The rows of one block are one consistent view; entities that arrive meanwhile may appear.
        """
        key = _TABLES[level].c.id
        query = _joined(level).where(*self._seen_at(level), *_conditions(level, prefilter))
        query = query.order_by(key).limit(_BLOCK)
        after = 0
        while True:
            with reading(self._engine) as connection:
                rows = connection.execute(query.where(key > after)).all()
            for row in rows:
                yield _entity(level, tuple(row))
            if len(rows) < _BLOCK:
                return
            after = rows[-1][level]

    def summaries(self, level: Level, pks: Sequence[int]) -> dict[int, Summary]:
        """What lies below some patients, studies or series: key to summary, for those that exist."""
        found: dict[int, Summary] = {}
        with reading(self._engine) as connection:
            for block in blocks(pks):
                found |= _summaries(connection, level, block, self._visible_series)
        return found

    def names_file(self, path: str) -> bool:
        """Whether a catalog entry, quarantine and every cohort included, names this file of the spool folder."""
        with reading(self._engine) as connection:
            return any(
                connection.execute(select(table.c.id).where(table.c.path == path)).first() is not None
                for table in (instance, quarantine)
            )

    def named_files(self, paths: Collection[str]) -> set[str]:
        """Those of some files that a catalog entry names, quarantine and every cohort included."""
        found: set[str] = set()
        with reading(self._engine) as connection:
            for block in blocks(paths):
                for table in (instance, quarantine):
                    found |= set(connection.execute(select(table.c.path).where(table.c.path.in_(block))).scalars())
        return found

    def series_info(self, series_pks: Sequence[int]) -> dict[int, SeriesInfo]:
        """Series key to who it is, for those that exist."""
        found: dict[int, SeriesInfo] = {}
        with reading(self._engine) as connection:
            for block in blocks(series_pks):
                seen = _series_info().where(series.c.id.in_(one_of()), *self._visible_series)
                for row in connection.execute(seen, {"keys": block}).all():
                    found[row[0]] = SeriesInfo(*row)
        return found

    def series_of_study(self, study_instance_uid: str) -> Sequence[SeriesInfo]:
        """The series of a study, in order of arrival; empty if it is unknown."""
        return self._series_where(study.c.study_instance_uid == study_instance_uid)

    def series_by_uid(self, series_instance_uid: str) -> SeriesInfo | None:
        """One series, or None."""
        found = self._series_where(series.c.series_instance_uid == series_instance_uid)
        return found[0] if found else None

    def series_of_instances(self, sop_instance_uids: Collection[SOPInstanceUID]) -> Sequence[SeriesInfo]:
        """The series that hold any of some instances, in order of arrival."""
        found: set[int] = set()
        with reading(self._engine) as connection:
            for block in blocks(sop_instance_uids):
                holding = select(instance.c.series_pk).where(instance.c.sop_instance_uid.in_(block)).distinct()
                found |= set(connection.execute(holding).scalars())
        infos = self.series_info(sorted(found))
        return [infos[pk] for pk in sorted(infos)]

    def series_of_patient(self, patient_pk: int) -> Sequence[SeriesInfo]:
        """Every series of a patient, in order of arrival."""
        return self._series_where(study.c.patient_pk == patient_pk)

    def studies_by_accession(self, accession_number: str) -> Sequence[StudyInstanceUID]:
        """Studies with exactly this Accession Number, in order of arrival."""
        chosen = study.c.accession_number == accession_number
        with reading(self._engine) as connection:
            found = select(study.c.study_instance_uid).where(chosen, *self._visible)
            rows = connection.execute(found.order_by(study.c.id))
            return [StudyInstanceUID(uid) for uid in rows.scalars()]

    def instance_path(self, sop_instance_uid: str) -> str | None:
        """Path of an instance's file, relative to the spool folder, or None."""
        chosen = instance.c.sop_instance_uid == sop_instance_uid
        of_study = select(instance.c.path).select_from(instance.join(series).join(study))
        with reading(self._engine) as connection:
            return connection.execute(of_study.where(chosen, *self._visible_series)).scalar_one_or_none()

    def _series_where(self, condition: Any) -> Sequence[SeriesInfo]:  # noqa: ANN401 - any SQL condition
        with reading(self._engine) as connection:
            rows = connection.execute(_series_info().where(condition, *self._visible_series).order_by(series.c.id))
            return [SeriesInfo(*row) for row in rows]

    def _seen_at(self, level: Level) -> tuple[ColumnElement[bool], ...]:
        """The conditions of what may be seen, for a query that begins with the patient and ends at a level."""
        if level > Level.STUDY:
            return self._visible_series
        if level == Level.STUDY or not self._visible:
            return self._visible
        any_study = select(study.c.id).where(study.c.patient_pk == patient.c.id, *self._visible)
        return (any_study.correlate(patient).exists(),)


def _summaries(
    connection: Connection, level: Level, pks: list[int], seen: tuple[ColumnElement[bool], ...]
) -> dict[int, Summary]:
    key = _TABLES[level].c.id
    chosen = (key.in_(pks), *seen)
    tree = patient.join(study).join(series).join(instance)
    counts = (
        func.count(study.c.id.distinct()),
        func.count(series.c.id.distinct()),
        func.count(instance.c.id),
    )
    counted = select(key, *counts).select_from(tree).where(*chosen).group_by(key)
    kinds = select(key, series.c.modality, instance.c.sop_class_uid).select_from(tree).where(*chosen).distinct()
    modalities: dict[int, set[str]] = {pk: set() for pk in pks}
    classes: dict[int, set[str]] = {pk: set() for pk in pks}
    for pk, modality, sop_class_uid in connection.execute(kinds):
        modalities[pk] |= {modality} - {""}
        classes[pk].add(sop_class_uid)
    return {
        row[0]: Summary(row[1], row[2], row[3], tuple(sorted(modalities[row[0]])), tuple(sorted(classes[row[0]])))
        for row in connection.execute(counted)
    }


def _series_info() -> Select[Any]:
    return select(
        series.c.id,
        series.c.study_pk,
        study.c.patient_pk,
        series.c.series_instance_uid,
        study.c.study_instance_uid,
        series.c.modality,
        series.c.state,
        series.c.reason,
    ).join(study, study.c.id == series.c.study_pk)


def _joined(level: Level) -> Select[Any]:
    """Keys of the level and those above it, then their attributes, highest level first."""
    tables = _TABLES[: level + 1]
    tree = reduce(lambda left, right: left.join(right), tables[1:], tables[0])  # type: ignore[arg-type, return-value]
    return select(*(table.c.id for table in tables), *(table.c.attributes for table in tables)).select_from(tree)


_COLUMNS = {
    "patient_id": (Level.PATIENT, patient.c.patient_id),
    "study_instance_uid": (Level.STUDY, study.c.study_instance_uid),
    "accession_number": (Level.STUDY, study.c.accession_number),
    "series_instance_uid": (Level.SERIES, series.c.series_instance_uid),
    "modality": (Level.SERIES, series.c.modality),
    "sop_instance_uid": (Level.IMAGE, instance.c.sop_instance_uid),
}


def _conditions(level: Level, prefilter: Prefilter) -> list[Any]:
    found: list[Any] = []
    for one in fields(prefilter):
        allowed = getattr(prefilter, one.name)
        if one.name in _COLUMNS and allowed is not None:
            column_level, column = _COLUMNS[one.name]
            if column_level <= level and len(allowed) <= BLOCK:
                found.append(column.in_(list(allowed)))
    if level >= Level.STUDY:
        if prefilter.study_date_from is not None:
            found.append(study.c.study_date >= prefilter.study_date_from)
        if prefilter.study_date_to is not None:
            found.append(and_(study.c.study_date != "", study.c.study_date <= prefilter.study_date_to))
    return found


def _entity(level: Level, row: Sequence[Any]) -> Entity:
    depth = level + 1
    keys = [*row[:depth], *[0] * (len(_TABLES) - depth)]
    merged: JsonObject = {}
    for attributes in row[depth:]:
        merged |= attributes
    return Entity(level, keys[0], keys[1], keys[2], keys[3], merged)
