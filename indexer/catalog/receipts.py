"""Entering received instances: committed when it is done, those of the same moment in one transaction."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Executable, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from indexer.attributes import InstanceHeader, JsonObject, first_value
from indexer.catalog.common_case import FIND, IS_INSTANCE, TOUCH, Arrival, Shortcut
from indexer.catalog.engine import can_flush, flush, reading, writing
from indexer.catalog.groups import GroupCommit, Work
from indexer.catalog.schema import conflict, instance, patient, quarantine, series, study
from indexer.catalog.states import SeriesState
from indexer.catalog.tombstones import admit, is_forgotten
from indexer.uids import SOPInstanceUID

OnConflict = Literal["keep-first", "replace"]


@dataclass(frozen=True)
class StoredFile:
    """A file of the spool, complete and durable.

    Attributes
    ----------
    path : str
        Relative to the spool folder, derived by the node.
    sha256 : str
        Of the transfer syntax and the data set's bytes as received, in hexadecimal.
    """

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class KnownInstance:
    """What the catalog already holds under a SOP Instance UID."""

    path: str
    sha256: str


class Receipt(Enum):
    """What became of an instance."""

    STORED = "stored"
    KNOWN = "known"  # identical content was here already
    KEPT_FIRST = "kept-first"  # other content under the same UID: recorded, not taken
    REPLACED = "replaced"  # other content under the same UID: recorded, taken
    QUARANTINED = "quarantined"  # kept and listed, but it belongs to no series
    HELD = "held"  # something is held under the same UID, and nothing was done


class Receipts:
    """The receiving side of the catalog."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        if engine.dialect.name == "sqlite":
            self._commits = GroupCommit(engine, partial(_commit_common_case, Shortcut(engine)))
        else:
            self._commits = GroupCommit(engine)

    def known(self, sop_instance_uid: SOPInstanceUID) -> KnownInstance | None:
        """What is held under a SOP Instance UID, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(_KNOWN, {"sop_instance_uid": sop_instance_uid}).one_or_none()
        return KnownInstance(*row) if row else None

    def enter(
        self,
        header: InstanceHeader,
        file: StoredFile,
        on_conflict: OnConflict | None,
        *,
        is_recoverable: bool = False,
    ) -> Receipt:
        """Enter one instance; with those that other threads enter at the same moment, in one transaction.

        Idempotent: the same content again is `Receipt.KNOWN`. A series UID that is already part of another study
        is not mixed into it: the instance is quarantined.

        Parameters
        ----------
        on_conflict : {"keep-first", "replace"}, optional
            None: an instance under a UID that is held already is not entered, be it the same or not.
        is_recoverable : bool
            Whether a power cut may take the row back until the next `flush`: it can be made anew from the file.

        Raises
        ------
        Transient
            The transaction could not be committed; nothing was entered.
        Refused
            The database cannot hold a value of the instance, or it was forgotten for good; nothing was entered.
        """
        return self._commits.run(_Entry(header, file, on_conflict, is_recoverable))

    def enter_lost(self, header: InstanceHeader, file: StoredFile) -> bool:
        """Enter an instance again whose row a power cut took; unless it is held, or was forgotten since.

        Raises
        ------
        Transient
            The catalog cannot be written now.
        """
        uids = header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
        with writing(self._engine) as connection:
            return not is_forgotten(connection, *uids) and (
                _enter(connection, header, file, None) is not Receipt.HELD
            )

    @property
    def can_flush(self) -> bool:
        """Whether rows can be entered that become durable with a later `flush`."""
        return can_flush(self._engine)

    def flush(self) -> None:
        """Make every row durable that was entered until now.

        Raises
        ------
        NotDurable
            The disk fails.
        """
        flush(self._engine)

    def quarantine(self, sop_instance_uid: str, file: StoredFile, reason: str) -> Receipt:
        """Keep an instance that cannot belong to any series, listed with the reason.

        Raises
        ------
        Transient
            The transaction could not be committed.
        Forgotten
            It was forgotten for good.
        """

        def write(connection: Connection) -> Receipt:
            admit(connection, "", "", sop_instance_uid)
            return _quarantine(connection, sop_instance_uid, file, reason)

        return self._commits.run(Work("", write))

    def files(self) -> Sequence[tuple[str, str, int]]:
        """Path, SHA-256 and size in bytes of every file that the catalog knows, quarantine included."""
        with reading(self._engine) as connection:
            return [
                (row.path, row.sha256, row.size_bytes)
                for table in (instance, quarantine)
                for row in connection.execute(select(table.c.path, table.c.sha256, table.c.size_bytes))
            ]


class _Entry(Work[Receipt]):
    """An instance to be entered."""

    def __init__(
        self,
        header: InstanceHeader,
        file: StoredFile,
        on_conflict: OnConflict | None,
        is_recoverable: bool,
    ) -> None:
        super().__init__(header.series_instance_uid, self._enter)
        self._header = header
        self._file = file
        self._on_conflict = on_conflict
        self.is_recoverable = is_recoverable

    @property
    def arrival(self) -> Arrival:
        return Arrival(_uids(self._header), _columns(self._header, self._file))

    def _enter(self, connection: Connection) -> Receipt:
        return _enter(connection, self._header, self._file, self._on_conflict)


def _commit_common_case(shortcut: Shortcut, group: Sequence[Work[Any]]) -> bool:
    entries = [work for work in group if isinstance(work, _Entry)]
    if len(entries) < len(group):
        return False
    is_durable = not all(entry.is_recoverable for entry in entries)
    if not shortcut.enter([entry.arrival for entry in entries], is_durable=is_durable):
        return False
    for entry in entries:
        entry.result = Receipt.STORED
    return True


_KNOWN = select(instance.c.path, instance.c.sha256).where(IS_INSTANCE)


def _enter(
    connection: Connection, header: InstanceHeader, file: StoredFile, on_conflict: OnConflict | None
) -> Receipt:
    found = connection.execute(FIND, _uids(header)).one()
    if found.held and on_conflict is None:
        return Receipt.HELD
    if found.held:
        return _again(connection, header, file, on_conflict)
    if found.any_forgotten:
        admit(connection, header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
    series_pk = found.series_pk or _series_pk(connection, header)
    if series_pk is None:
        reason = "its Series Instance UID belongs to another study"
        return _quarantine(connection, header.sop_instance_uid, file, reason)
    values = {"series_pk": series_pk, **_columns(header, file)}
    if _inserted(connection, instance, "sop_instance_uid", values) is None:
        return _again(connection, header, file, on_conflict)
    if header.embeddable:
        _touch_series(connection, series_pk)
    return Receipt.STORED


def _uids(header: InstanceHeader) -> dict[str, str]:
    return {
        "sop_instance_uid": header.sop_instance_uid,
        "series_instance_uid": header.series_instance_uid,
        "study_instance_uid": header.study_instance_uid,
    }


def _columns(header: InstanceHeader, file: StoredFile) -> dict[str, Any]:
    return {
        "sop_instance_uid": header.sop_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "path": file.path,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "received_at": time.time(),
        "embeddable": header.embeddable,
        "attributes": header.instance,
    }


def _again(
    connection: Connection, header: InstanceHeader, file: StoredFile, on_conflict: OnConflict | None
) -> Receipt:
    if on_conflict is None:
        return Receipt.HELD
    held = connection.execute(select(instance).where(instance.c.sop_instance_uid == header.sop_instance_uid)).one()
    if held.sha256 == file.sha256:
        return Receipt.KNOWN
    series_uid = connection.execute(
        select(series.c.series_instance_uid).where(series.c.id == held.series_pk)
    ).scalar_one()
    replace = on_conflict == "replace" and series_uid == header.series_instance_uid
    outcome = Receipt.REPLACED if replace else Receipt.KEPT_FIRST
    kept, other = (file.sha256, held.sha256) if replace else (held.sha256, file.sha256)
    seen = select(conflict.c.id).where(
        conflict.c.sop_instance_uid == held.sop_instance_uid,
        conflict.c.kept_sha256 == kept,
        conflict.c.other_sha256 == other,
    )
    if connection.execute(seen).first() is None:
        connection.execute(
            insert(conflict).values(
                sop_instance_uid=held.sop_instance_uid,
                at=time.time(),
                outcome=outcome.value,
                kept_sha256=kept,
                other_sha256=other,
            )
        )
    if replace:
        connection.execute(update(instance).where(instance.c.id == held.id).values(**_columns(header, file)))
        if held.embeddable or header.embeddable:
            _touch_series(connection, held.series_pk)
    return outcome


def _quarantine(connection: Connection, sop_instance_uid: str, file: StoredFile, reason: str) -> Receipt:
    values = {
        "sop_instance_uid": _text(sop_instance_uid)[:64],
        "path": file.path,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "received_at": time.time(),
        "reason": reason,
    }
    _inserted(connection, quarantine, "sha256", values)
    return Receipt.QUARANTINED


def _text(value: str) -> str:
    """What both databases can hold: no NUL, no half of a surrogate pair."""
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _patient_key(attributes: JsonObject, study_instance_uid: str) -> str:
    patient_id = first_value(attributes, "PatientID").strip()
    if not patient_id:
        return f"study:{study_instance_uid}"
    return f"id:{patient_id}\n{first_value(attributes, 'IssuerOfPatientID').strip()}"


def _patient_pk(connection: Connection, header: InstanceHeader) -> int:
    values = {
        "key": _text(_patient_key(header.patient, header.study_instance_uid)),
        "patient_id": _text(first_value(header.patient, "PatientID")),
        "attributes": header.patient,
    }
    return _key_of(connection, patient, "key", values)


def _study_pk(connection: Connection, header: InstanceHeader) -> int:
    uid = header.study_instance_uid
    found = connection.execute(select(study.c.id).where(study.c.study_instance_uid == uid)).scalar_one_or_none()
    if found is not None:
        return int(found)
    values = {
        "patient_pk": _patient_pk(connection, header),
        "study_instance_uid": uid,
        "study_date": _text(first_value(header.study, "StudyDate"))[:8],
        "accession_number": _text(first_value(header.study, "AccessionNumber")),
        "attributes": header.study,
    }
    return _key_of(connection, study, "study_instance_uid", values)


def _series_pk(connection: Connection, header: InstanceHeader) -> int | None:
    """Key of the instance's series, made if new; None if that series belongs to another study."""
    of_uid = (
        select(series.c.id, study.c.study_instance_uid)
        .join(study, study.c.id == series.c.study_pk)
        .where(series.c.series_instance_uid == header.series_instance_uid)
    )
    row = connection.execute(of_uid).one_or_none()
    if row is None:
        values = {
            "study_pk": _study_pk(connection, header),
            "series_instance_uid": header.series_instance_uid,
            "modality": _text(first_value(header.series, "Modality"))[:16],
            "attributes": header.series,
            "state": SeriesState.STORED,
            "last_instance_at": time.time(),
        }
        _inserted(connection, series, "series_instance_uid", values)
        row = connection.execute(of_uid).one()
    return int(row.id) if row.study_instance_uid == header.study_instance_uid else None


def _touch_series(connection: Connection, series_pk: int) -> None:
    """Note that the images of a series changed: it is on its way again, and a lease on it has ended."""
    connection.execute(TOUCH, {"pk": series_pk, "now": time.time(), "changes": 1})


def _key_of(connection: Connection, table: Table, unique: str, values: dict[str, Any]) -> int:
    """Key of the row with this value of a unique column, inserted if there is none."""
    of_value = select(table.c.id).where(table.c[unique] == values[unique])
    found = connection.execute(of_value).scalar_one_or_none()
    if found is None:
        found = _inserted(connection, table, unique, values)
    return int(found if found is not None else connection.execute(of_value).scalar_one())


def _inserted(connection: Connection, table: Table, unique: str, values: dict[str, Any]) -> int | None:
    """Insert a row; returns its key, or None where another transaction entered its unique value first.

    On PostgreSQL that transaction is waited for, so that the row can be read afterwards.
    """
    statement = _insert_if_new(connection.dialect.name, table, unique)
    return connection.execute(statement, values).scalar_one_or_none()


@cache
def _insert_if_new(dialect: str, table: Table, unique: str) -> Executable:
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return make(table).on_conflict_do_nothing(index_elements=[unique]).returning(table.c.id)
