"""Label tables: what an expert says of a study, a series, or a place along the patient's z axis."""

import csv
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from config.errors import ConfigError

Label = tuple[str, ...]
"""A label and the branches above it, top branch first: ``thorax/lung`` is ``("thorax", "lung")``."""

_SERIES, _STUDY, _CENTRE, _RELEVANCE = "series", "study", "centre_mm_from_inferior_end", "relevance"
_RESERVED = (_SERIES, _STUDY, _CENTRE, _RELEVANCE)


@dataclass(frozen=True)
class LabelRow:
    """What one place is labelled with.

    Attributes
    ----------
    series : str
        Series Instance UID or folder name; "" where a whole study is labelled.
    study : str
        Study Instance UID; "" where a series is labelled.
    centre_mm : float or None
        Of the labelled slab, from the inferior end of the imaged volume along the patient's z axis; None: all.
    labels : frozenset of Label
        All that are true of it.
    relevance : float
        How good an example of its labels it is, above 0: the gain that finding it brings.
    """

    series: str
    study: str
    centre_mm: float | None
    labels: frozenset[Label]
    relevance: float


@dataclass(frozen=True)
class LabelTable:
    """A table of labels as it was read.

    Attributes
    ----------
    column : str
        Where the labels come from.
    unlabelled : int
        Rows without a label: unknown, not negative, and therefore neither queries nor in any gallery.
    """

    rows: tuple[LabelRow, ...]
    column: str
    unlabelled: int


def label_text(label: Label) -> str:
    """Write a label as the table does."""
    return "/".join(label)


def read_labels(path: Path, column: str | None = None, depth: int | None = None) -> LabelTable:
    """Read a table of labels (CSV or TSV, UTF-8, with a header line).

    Rows about the same place are one: their labels are joined.

    Parameters
    ----------
    column : str, optional
        Which column holds the labels; the last one by default. Several joined by ``/`` make a hierarchy
        (``body_part/modality``).
    depth : int, optional
        Cut every label to so many branches, so that what agrees down to there is relevant.

    Raises
    ------
    ConfigError
        With every problem of the table.
    """
    header, records = _records(path)
    if not {_SERIES, _STUDY} & set(header):
        raise ConfigError([f"labels {path.name}: expected a column `series` or `study`, got {', '.join(header)}"])
    columns = _label_columns(path, header, column)
    problems: list[str] = []
    rows: dict[tuple[str, str, float | None], LabelRow] = {}
    unlabelled = 0
    for number, record in enumerate(records, start=2):
        try:
            row = _row(record, columns, depth)
        except ValueError as error:
            problems.append(f"labels {path.name}, line {number}: {error}")
            continue
        unlabelled += not row.labels
        if row.labels:
            place = (row.series, row.study, row.centre_mm)
            rows[place] = _joined(rows[place], row) if place in rows else row
    if problems:
        raise ConfigError(problems)
    if not rows:
        raise ConfigError([f"labels {path.name}: expected labelled rows, got none"])
    return LabelTable(tuple(rows.values()), "/".join(columns), unlabelled)


def _records(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"labels {path.name}: cannot be read: {error}"]) from error
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter, restval="")
    records = [{key: value.strip() for key, value in record.items() if key is not None} for record in reader]
    return list(reader.fieldnames or []), records


def _label_columns(path: Path, header: list[str], column: str | None) -> list[str]:
    column = header[-1] if column is None else column
    columns = [column] if column in header else column.split("/")
    missing = [one for one in columns if one not in header or one in _RESERVED]
    if missing:
        raise ConfigError(
            [f"labels {path.name}: no label column {', '.join(missing)}; the columns are {', '.join(header)}"]
        )
    return columns


def _row(record: dict[str, str], columns: list[str], depth: int | None) -> LabelRow:
    series, study = record.get(_SERIES, ""), record.get(_STUDY, "")
    if not series and not study:
        raise ValueError("expected a series or a study, got neither")
    centre = _number(record, _CENTRE)
    if centre is not None and not series:
        raise ValueError(f"`{_CENTRE}` needs a series")
    relevance = _number(record, _RELEVANCE)
    if relevance is not None and relevance <= 0:
        raise ValueError(f"expected a relevance above 0, got {relevance:g}")
    labels = _labels([record[column] for column in columns], depth)
    return LabelRow(series, "" if series else study, centre, labels, 1.0 if relevance is None else relevance)


def _labels(cells: list[str], depth: int | None) -> frozenset[Label]:
    """Labels of a row: every choice of one value a column; none if a column is empty."""
    values = [[one.strip() for one in cell.split(";") if one.strip()] for cell in cells]
    paths = ("/".join(choice) for choice in itertools.product(*values))
    found = (tuple(part.strip() for part in path.split("/") if part.strip()) for path in paths)
    return frozenset(label[:depth] for label in found if label)


def _number(record: dict[str, str], column: str) -> float | None:
    cell = record.get(column, "")
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"`{column}`: expected a number")
    return value


def _joined(first: LabelRow, second: LabelRow) -> LabelRow:
    relevance = max(first.relevance, second.relevance)
    return LabelRow(first.series, first.study, first.centre_mm, first.labels | second.labels, relevance)
