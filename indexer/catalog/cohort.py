"""Cohorts as conditions of the database: the studies that somebody may see."""

import re
from collections.abc import Collection
from typing import Any

from pydicom.datadict import tag_for_keyword
from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from config.access import Cohort
from indexer.attributes import OWN_MANUFACTURER
from indexer.catalog.schema import patient, series, study

# Aliases: a query that a condition becomes part of may name the same tables.
_whose, _part = patient.alias("cohort_patient"), series.alias("cohort_series")


def visible(cohort: Cohort | None) -> tuple[ColumnElement[bool], ...]:
    """Conditions on `study` that only the studies of a cohort meet; none where there is no cohort.

    For the `where` of any query that reads from the table `study`.
    """
    if cohort is None:
        return ()
    own = [
        _is_any(study.c.study_instance_uid, cohort.study_instance_uid),
        _is_any(study.c.accession_number, cohort.accession_number),
        _is_any(_value(study.c, "StudyDescription"), cohort.study_description),
        _is_any(_value(study.c, "ClinicalTrialProtocolID"), cohort.clinical_trial_protocol_id),
    ]
    of_patient = [
        _is_any(_whose.c.patient_id, cohort.patient_id),
        _is_any(_value(_whose.c, "IssuerOfPatientID"), cohort.issuer_of_patient_id),
    ]
    of_series = [_is_any(_value(_part.c, "InstitutionName"), cohort.institution_name)]
    its_patient = select(_whose.c.id).where(_whose.c.id == study.c.patient_pk)
    its_series = select(_part.c.id).where(_part.c.study_pk == study.c.id)
    return (*_given(own), *_exists(its_patient, of_patient), *_exists(its_series, of_series))


def visible_series(cohort: Cohort | None) -> tuple[ColumnElement[bool], ...]:
    """Conditions on `study` and `series` that only what a cohort's studies show meets; none without a cohort.

    Evidence reports of a node stay unseen: they name similar studies, whoever may see these.
    """
    if cohort is None:
        return ()
    manufacturer = func.coalesce(_value(series.c, "Manufacturer"), "")
    return (*visible(cohort), or_(series.c.modality != "SR", manufacturer != OWN_MANUFACTURER))


def _exists(related: Select[Any], conditions: Collection[ColumnElement[bool] | None]) -> list[ColumnElement[bool]]:
    given = _given(conditions)
    return [related.where(and_(*given)).correlate(study).exists()] if given else []


def _given(conditions: Collection[ColumnElement[bool] | None]) -> list[ColumnElement[bool]]:
    return [one for one in conditions if one is not None]


def _value(columns: Any, keyword: str) -> ColumnElement[str]:  # noqa: ANN401 - columns of a table or an alias
    """First value of an attribute; NULL, which meets no condition, where there is none."""
    tag = f"{tag_for_keyword(keyword):08X}"
    found: ColumnElement[str] = columns.attributes[tag, "Value", 0].as_string()
    return found


def _is_any(column: ColumnElement[str], patterns: Collection[str]) -> ColumnElement[bool] | None:
    """Whether a column's value matches any of some patterns; None if there are none."""
    if not patterns:
        return None
    literal = [one for one in patterns if not set(one) & set("*?")]
    wild = [one for one in patterns if one not in literal]
    # LIKE does not tell upper from lower case in SQLite; an empty value is no value.
    matched = [and_(column != "", column.regexp_match(_expression(one))) for one in wild]
    return or_(column.in_(literal), *matched) if literal else or_(*matched)


def _expression(pattern: str) -> str:
    """A regular expression, in the words of both Python (for SQLite) and PostgreSQL."""
    collapsed = re.sub(r"\*+", "*", pattern)
    parts = {"*": ".*", "?": "."}
    plain = "".join(parts.get(c) or (c if c.isalnum() or ord(c) > 127 else re.escape(c)) for c in collapsed)
    return f"(?s)^{plain}\\Z"
