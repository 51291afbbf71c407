"""Forgetting: rows removed in one transaction that also says what is still to be erased outside the database.

What stays of a forgotten study, series or instance is a tombstone: a hash of its UID under a salt that only this
catalog knows, its level, when and why. What lies outside the transaction - files, index snapshots, the database's
own pages - is entered as an erasure in the same transaction and struck off once it is done: a process killed at any
moment leaves either everything, or a list that the next one works off.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, insert, or_, select, update

from indexer.catalog.engine import BUSY_TIMEOUT_S, JOURNAL_LOCK, blocks, lock, reading, writing
from indexer.catalog.journal import get_meta, set_meta
from indexer.catalog.lookup import Level
from indexer.catalog.removal import Doomed, find_doomed, remove
from indexer.catalog.schema import chunk, erasure, instance, patient, quarantine, series, study, tombstone
from indexer.errors import Forgotten, Refused
from indexer.uids import EncoderId

_SALT = "tombstone_salt"
_SALT_BYTES = 32
_PURGE = "purge:"
_FILES = "forgotten_files"
_TOKEN_BYTES = 16
_PATIENCE_MS = 1000
_UNIQUE = {
    Level.STUDY: study.c.study_instance_uid,
    Level.SERIES: series.c.series_instance_uid,
    Level.IMAGE: instance.c.sop_instance_uid,
}
_SCRUBBED = ("patient", "study", "series", "instance", "quarantine", "conflict", "chunk", "embedding", "commitment")
REQUEST = "REQUEST"
"""Reason of what somebody asked for; the others are code values of CID 7011 (PS3.16)."""


class ErasureKind(StrEnum):
    """What is still to be erased."""

    FILE = "FILE"
    """A file of the spool; the name is its path there."""
    INDEX = "INDEX"
    """The vector index and its snapshot of an encoder; the name is the encoder's id."""
    PAGES = "PAGES"
    """Pages of the database that still hold deleted values."""


@dataclass(frozen=True)
class Target:
    """What to forget: a study, a series or an instance (`Level.IMAGE`)."""

    level: Level
    uid: str


@dataclass(frozen=True)
class Removal:
    """How much was, or would be, removed."""

    studies: int
    series: int
    instances: int
    quarantined: int

    @property
    def is_nothing(self) -> bool:
        """Whether there was nothing to remove."""
        return not (self.instances or self.quarantined)


@dataclass(frozen=True)
class Erasure:
    """One thing still to be erased."""

    pk: int
    kind: ErasureKind
    name: str
    at: float


class Tombstones:
    """The forgetting side of the catalog."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def studies_of_patient(self, patient_id: str, issuer: str | None = None) -> list[Target]:
        """The studies of a patient.

        Parameters
        ----------
        issuer : str, optional
            Issuer of Patient ID (0010,0021); needed where several issuers gave the same Patient ID.

        Raises
        ------
        Refused
            The Patient ID is of several patients.
        """
        columns = (patient.c.id, patient.c.key, study.c.study_instance_uid)
        chosen = select(*columns).join(study).where(patient.c.patient_id == patient_id).order_by(study.c.id)
        with reading(self._engine) as connection:
            rows = connection.execute(chosen).all()
        if issuer is not None:
            rows = [row for row in rows if row.key == f"id:{patient_id}\n{issuer}"]
        patients = {row.id for row in rows}
        if len(patients) > 1:
            raise Refused(f"the Patient ID is that of {len(patients)} patients: give the issuer as well")
        return [Target(Level.STUDY, row.study_instance_uid) for row in rows]

    def would_remove(self, targets: Collection[Target]) -> Removal:
        """How much forgetting these would remove."""
        with reading(self._engine) as connection:
            return _removal(find_doomed(connection, _uids_by_level(targets)))

    def forget(self, targets: Collection[Target], reason: str, *, refuse: bool) -> Removal:
        """Remove what these are from the catalog, leave tombstones, and note what is still to be erased.

        A series of which only a part goes loses all its embeddings at once, and is embedded again from the rest
        under a new key: a worker that is embedding it with what has gone cannot enter the result.

        Parameters
        ----------
        reason : str
            `REQUEST` or a code value of CID 7011 (PS3.16).
        refuse : bool
            Whether later arrivals are refused. Otherwise the tombstone goes when one of them is accepted.

        Raises
        ------
        Transient
            The transaction could not be committed; nothing was removed.
        """
        with writing(self._engine) as connection:
            removed = _removed(connection, targets)
            _bury(connection, targets, reason, refuse=refuse, at=time.time())
        return removed

    def remove_again(self, targets: Collection[Target]) -> Removal:
        """Remove what is there although it was forgotten; the tombstones stay as they are."""
        with writing(self._engine) as connection:
            return _removed(connection, targets)

    def lift(self, uid: str) -> bool:
        """Let a study, series or instance be stored again; whether it was forgotten."""
        with writing(self._engine) as connection:
            chosen = _is(connection, [Target(level, uid) for level in _UNIQUE])
            return bool(connection.execute(delete(tombstone).where(chosen)).rowcount)

    def count(self) -> int:
        """How many tombstones there are."""
        with reading(self._engine) as connection:
            return int(connection.execute(select(func.count()).select_from(tombstone)).scalar_one())

    def erasures(self, kind: ErasureKind | None = None) -> list[Erasure]:
        """What is still to be erased, oldest first."""
        query = select(erasure).order_by(erasure.c.id)
        if kind is not None:
            query = query.where(erasure.c.kind == kind)
        with reading(self._engine) as connection:
            return [Erasure(row.id, ErasureKind(row.kind), row.name, row.at) for row in connection.execute(query)]

    def purge_token(self, encoder_id: EncoderId) -> str | None:
        """Another one whenever embeddings of an encoder were forgotten; None if that never was.

        Of several nodes each has an index of its own to make anew: an erasure is struck off by the first.
        """
        with reading(self._engine) as connection:
            return get_meta(connection, _purge_key(encoder_id))

    def files_token(self) -> str | None:
        """Another one whenever files were forgotten, for nodes that hold copies; None if that never was."""
        with reading(self._engine) as connection:
            return get_meta(connection, _FILES)

    def erased(self, done: Collection[Erasure]) -> None:
        """Strike off what is erased."""
        if not done:
            return
        with writing(self._engine) as connection:
            for block in blocks(one.pk for one in done):
                connection.execute(delete(erasure).where(erasure.c.id.in_(block)))

    def quarantined(self) -> list[tuple[str, str]]:
        """SOP Instance UID and path of every instance in quarantine."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(quarantine.c.sop_instance_uid, quarantine.c.path))
            return [(row.sop_instance_uid, row.path) for row in rows]

    def scrub(self) -> bool:
        """Rewrite the database without what was deleted; whether nothing of it is left.

        SQLite: VACUUM, then the write-ahead log is emptied, which a reader may delay. PostgreSQL: VACUUM makes
        the space free for reuse, and does not overwrite it.
        """
        if self._engine.dialect.name == "postgresql":
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"VACUUM {', '.join(_SCRUBBED)}")
            return True
        return _vacuum_sqlite(self._engine)

    def remains(self) -> Iterator[Target]:
        """What is in the catalog although a tombstone says that it was forgotten."""
        with reading(self._engine) as connection:
            salt = get_meta(connection, _SALT)
            if salt is None:
                return
            rows = connection.execute(select(tombstone.c.level, tombstone.c.digest))
            buried = {(row.level, row.digest) for row in rows}
            for level, uid in _everything(connection):
                if (level.name, _digest(salt, uid)) in buried:
                    yield Target(level, uid)


def admit(connection: Connection, study_uid: str, series_uid: str, sop_instance_uid: str) -> None:
    """Let an instance in that may have been forgotten; its tombstones go.

    Parameters
    ----------
    study_uid, series_uid : str
        Empty for an instance that belongs to no series.

    Raises
    ------
    Forgotten
        It was forgotten for good.
    """
    found = zip((Level.STUDY, Level.SERIES, Level.IMAGE), (study_uid, series_uid, sop_instance_uid), strict=True)
    chosen = _is(connection, [Target(level, uid) for level, uid in found if uid])
    refusing = connection.execute(select(tombstone.c.refuses).where(chosen)).scalars().all()
    if any(refusing):
        raise Forgotten("it was forgotten here, and is not taken again")
    if refusing:
        connection.execute(delete(tombstone).where(chosen))


def is_forgotten(connection: Connection, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
    """Whether there is a tombstone of an instance, its series or its study."""
    found = zip((Level.STUDY, Level.SERIES, Level.IMAGE), (study_uid, series_uid, sop_instance_uid), strict=True)
    chosen = _is(connection, [Target(level, uid) for level, uid in found])
    return connection.execute(select(tombstone.c.id).where(chosen)).first() is not None


def _removed(connection: Connection, targets: Collection[Target]) -> Removal:
    """Remove targets, and note what is to be erased outside the tables."""
    lock(connection, JOURNAL_LOCK)
    doomed = find_doomed(connection, _uids_by_level(targets))
    removed = _removal(doomed)
    if removed.is_nothing:
        return removed
    encoders = remove(connection, doomed)
    wanted = [(ErasureKind.FILE, path) for path in doomed.paths]
    set_meta(connection, _FILES, secrets.token_hex(_TOKEN_BYTES))
    wanted += [(ErasureKind.INDEX, encoder) for encoder in sorted(encoders)]
    for encoder in sorted(encoders):
        set_meta(connection, _purge_key(encoder), secrets.token_hex(_TOKEN_BYTES))
    _enter_erasures(connection, [*wanted, (ErasureKind.PAGES, "")], time.time())
    return removed


def _is(connection: Connection, targets: Sequence[Target]) -> Any:  # noqa: ANN401 - any SQL condition
    salt = get_meta(connection, _SALT) or ""
    return or_(
        *(and_(tombstone.c.level == t.level.name, tombstone.c.digest == _digest(salt, t.uid)) for t in targets)
    )


def _bury(connection: Connection, targets: Collection[Target], reason: str, *, refuse: bool, at: float) -> None:
    salt = get_meta(connection, _SALT)
    if salt is None:
        salt = secrets.token_hex(_SALT_BYTES)
        set_meta(connection, _SALT, salt)
    rows = {(target.level.name, _digest(salt, target.uid)) for target in targets}
    for level, digest in sorted(rows):
        mine = (tombstone.c.level == level) & (tombstone.c.digest == digest)
        values = {"reason": reason, "at": at, "refuses": refuse}
        if connection.execute(update(tombstone).where(mine).values(**values)).rowcount == 0:
            connection.execute(insert(tombstone).values(level=level, digest=digest, **values))


def _enter_erasures(connection: Connection, wanted: Sequence[tuple[ErasureKind, str]], at: float) -> None:
    for kind, name in wanted:
        mine = (erasure.c.kind == kind) & (erasure.c.name == name)
        connection.execute(
            delete(erasure).where(mine)
        )  # a new row: whoever works off the old one does not strike it
        connection.execute(insert(erasure).values(kind=kind, name=name, at=at))


def _purge_key(encoder_id: str) -> str:
    return _PURGE + hashlib.sha256(encoder_id.encode()).hexdigest()[:48]


def _digest(salt: str, uid: str) -> str:
    return hmac.new(salt.encode(), uid.encode(), hashlib.sha256).hexdigest()


def _uids_by_level(targets: Collection[Target]) -> dict[Level, list[str]]:
    found: dict[Level, list[str]] = {}
    for target in targets:
        if target.level not in _UNIQUE:
            raise ValueError(f"expected a study, series or instance, got {target.level.name}")
        found.setdefault(target.level, []).append(target.uid)
    return found


def _removal(doomed: Doomed) -> Removal:
    return Removal(
        studies=len(doomed.study_pks),
        series=len(doomed.series_pks),
        instances=len(doomed.instances),
        quarantined=len(doomed.quarantined),
    )


def _everything(connection: Connection) -> Iterator[tuple[Level, str]]:
    """Level and UID of all that the catalog holds, the slices of embeddings and quarantine included."""
    for level, column in _UNIQUE.items():
        for uid in connection.execute(select(column)).scalars():
            yield level, uid
    for uid in connection.execute(select(quarantine.c.sop_instance_uid)).scalars():
        yield Level.IMAGE, uid
    held = set(connection.execute(select(instance.c.sop_instance_uid)).scalars())
    embedded = {ref[0] for slices in connection.execute(select(chunk.c.slices)).scalars() for ref in slices}
    for uid in sorted(embedded - held):
        yield Level.IMAGE, uid


def _vacuum_sqlite(engine: Engine) -> bool:
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("VACUUM")
        cursor.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        busy, _, _ = cursor.fetchone() or (1, 0, 0)
        cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        cursor.close()
    finally:
        raw.close()
    return not busy
