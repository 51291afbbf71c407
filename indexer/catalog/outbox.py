"""What the node has to tell others about its studies: entered once, delivered until it is known to have arrived."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, Select, delete, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from indexer.catalog.engine import reading, writing
from indexer.catalog.identity import device_uid
from indexer.catalog.journal import get_meta, set_meta
from indexer.catalog.schema import awaited, delivery, fetched, instance, meta, series, study
from indexer.catalog.states import SeriesState
from indexer.errors import NotFound
from indexer.uids import StudyInstanceUID

_SEEN = "outbox_seen_instance"
_LAG_S = 1.0
"""On PostgreSQL keys become visible out of order: instances are looked at once every older key is committed."""
_BLOCK = 10_000
_ON_THE_WAY = (SeriesState.RECEIVING, SeriesState.SETTLED, SeriesState.INDEXING)

REQUESTED = "on request"
"""Rule of a delivery that a person asked for."""


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    WAITING = "WAITING"
    DONE = "DONE"
    FAILED = "FAILED"
    """Refused, or in vain for too long; not tried again."""


@dataclass(frozen=True)
class NewDelivery:
    """What a rule asks for.

    Attributes
    ----------
    target : str
        AE title of a peer; empty for a web hook, whose address may hold a secret.
    """

    rule: str
    action: str
    target: str


@dataclass(frozen=True)
class Delivery:
    """A delivery that one thread works on.

    Attributes
    ----------
    revision : int
        Grows with every image of the study.
    payload : dict, optional
        What is told, once it was made.
    """

    pk: int
    study_pk: int
    study_instance_uid: StudyInstanceUID
    rule: str
    action: str
    target: str
    revision: int
    payload: dict[str, Any] | None
    attempts: int
    entered_at: float


@dataclass(frozen=True)
class RestingStudy:
    """A study with something new, none of whose series is on its way any more."""

    study_pk: int
    study_instance_uid: StudyInstanceUID
    revision: int


@dataclass(frozen=True)
class DeliveryProblem:
    """A delivery that failed so far, or for good."""

    study_instance_uid: StudyInstanceUID
    rule: str
    target: str
    state: DeliveryState
    attempts: int
    note: str


class Outbox:
    """The telling side of the catalog.

    Rules are about what arrives: re-indexing an archive, or adding a rule to it, tells nobody of its old studies. A
    delivery's key is rule, target, study and revision, so that each is entered once, whatever happens.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def device_uid(self) -> str:
        """UID under which this archive speaks; the same as long as its catalog lives."""
        return device_uid(self._engine)

    def watch(self) -> int:
        """Note which studies got images since the last time; returns how many images. The first time, none."""
        with reading(self._engine) as connection:
            seen = get_meta(connection, _SEEN)
            newest = connection.execute(select(func.max(instance.c.id))).scalar_one() or 0
        if seen is not None and newest <= int(seen):
            return 0
        with writing(self._engine) as connection:
            if seen is None:
                set_meta(connection, _SEEN, str(newest))
                return 0
            return self._note_new(connection)

    def _note_new(self, connection: Connection) -> int:
        seen = int(get_meta(connection, _SEEN) or 0)
        query = select(instance.c.id, instance.c.received_at, instance.c.embeddable, series.c.study_pk).join(series)
        rows = connection.execute(query.where(instance.c.id > seen).order_by(instance.c.id).limit(_BLOCK)).all()
        settled_at = time.time() - _LAG_S
        young = next((number for number, row in enumerate(rows) if row.received_at > settled_at), len(rows))
        if not young:
            return 0
        studies = {row.study_pk for row in rows[:young] if row.embeddable}
        for study_pk in sorted(studies):
            _insert_once(connection, awaited, {"study_pk": study_pk})
        set_meta(connection, _SEEN, str(rows[young - 1].id))
        return young

    def forget_watch(self) -> None:
        """Without rules there is nothing to look for; those added later start with what arrives then."""
        with writing(self._engine) as connection:
            connection.execute(delete(awaited))
            connection.execute(delete(meta).where(meta.c.key == _SEEN))

    def resting(self, quiet_s: float) -> list[RestingStudy]:
        """Awaited studies that are complete: no series on its way, and none got an image for `quiet_s`."""
        with reading(self._engine) as connection:
            query = _resting(quiet_s)
            return [RestingStudy(*row) for row in connection.execute(query)]

    def enter(self, resting: RestingStudy, wanted: Sequence[NewDelivery], quiet_s: float) -> int:
        """Enter what rules ask for about a study, and await it no more; nothing if it has moved meanwhile.

        Returns
        -------
        int
            How many deliveries are new.
        """
        with writing(self._engine) as connection:
            mine = _resting(quiet_s).where(study.c.id == resting.study_pk)
            if connection.execute(mine).one_or_none() != (
                resting.study_pk,
                resting.study_instance_uid,
                resting.revision,
            ):
                return 0
            connection.execute(delete(awaited).where(awaited.c.study_pk == resting.study_pk))
            return sum(_enter(connection, resting, one) for one in wanted)

    def request(
        self, study_instance_uid: StudyInstanceUID, action: str, target: str, payload: dict[str, Any]
    ) -> None:
        """Enter a delivery that a person asked for; its payload is made already.

        Raises
        ------
        NotFound
            The study is not in the catalog.
        """
        with writing(self._engine) as connection:
            of_uid = select(study.c.id).where(study.c.study_instance_uid == study_instance_uid)
            study_pk = connection.execute(of_uid).scalar_one_or_none()
            if study_pk is None:
                raise NotFound(f"no study {study_instance_uid} in the catalog")
            values = _values(study_pk, 0, NewDelivery(REQUESTED, action, target))
            connection.execute(insert(delivery).values({**values, "key": uuid4().hex, "payload": payload}))

    def take(self, lease_s: float) -> Delivery | None:
        """Take the delivery that has been due longest; nobody else takes it for `lease_s`."""
        now = time.time()
        due = (delivery.c.state == DeliveryState.WAITING) & (delivery.c.due_at <= now)
        oldest = select(delivery.c.id).where(due).order_by(delivery.c.due_at, delivery.c.id).limit(1)
        with reading(self._engine) as connection:  # asked often: look before queueing to write
            if connection.execute(oldest).first() is None:
                return None
        with writing(self._engine) as connection:
            key = connection.execute(oldest.with_for_update(skip_locked=True)).scalar_one_or_none()
            if key is None:
                return None
            connection.execute(update(delivery).where(delivery.c.id == key).values(due_at=now + lease_s))
            return _delivery(connection, key)

    def prepared(self, taken: Delivery, payload: dict[str, Any]) -> None:
        """Keep what is told: from now on every try tells the same, to every target of the same action."""
        same = (
            (delivery.c.study_pk == taken.study_pk)
            & (delivery.c.revision == taken.revision)
            & (delivery.c.rule == taken.rule)
            & (delivery.c.action == taken.action)
            & (delivery.c.state == DeliveryState.WAITING)
        )
        chosen = (delivery.c.id == taken.pk) if taken.rule == REQUESTED else same
        with writing(self._engine) as connection:
            connection.execute(update(delivery).where(chosen).values(payload=payload))

    def payload_of(self, taken: Delivery) -> dict[str, Any] | None:
        """What is told, if it was made since the delivery was taken."""
        with reading(self._engine) as connection:
            chosen = select(delivery.c.payload).where(delivery.c.id == taken.pk)
            payload: dict[str, Any] | None = connection.execute(chosen).scalar_one_or_none()
        return payload

    def done(self, taken: Delivery) -> None:
        """It has arrived."""
        self._set(taken, state=DeliveryState.DONE, finished_at=time.time(), note="", attempts=taken.attempts + 1)

    def postpone(self, taken: Delivery, until: float, note: str) -> None:
        """It has not arrived, for the reason noted; try again at `until`, seconds since the epoch."""
        self._set(taken, due_at=until, note=note, attempts=taken.attempts + 1)

    def give_back(self, taken: Delivery) -> None:
        """It was not tried after all: it is due at once."""
        self._set(taken, due_at=time.time())

    def fail(self, taken: Delivery, note: str) -> None:
        """Give it up, for the reason noted."""
        self._set(
            taken, state=DeliveryState.FAILED, finished_at=time.time(), note=note, attempts=taken.attempts + 1
        )

    def counts(self) -> dict[DeliveryState, int]:
        """How many deliveries are in which state."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(delivery.c.state, func.count()).group_by(delivery.c.state))
            return {DeliveryState(state): number for state, number in rows}

    def problems(self, limit: int = 100) -> list[DeliveryProblem]:
        """Deliveries that failed so far or for good, newest first."""
        wrong = (delivery.c.state != DeliveryState.DONE) & (delivery.c.attempts > 0)
        columns = (
            study.c.study_instance_uid,
            delivery.c.rule,
            delivery.c.target,
            delivery.c.state,
            delivery.c.attempts,
            delivery.c.note,
        )
        query = select(*columns).select_from(delivery.join(study)).where(wrong)
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(delivery.c.id.desc()).limit(limit))
            return [DeliveryProblem(*row) for row in rows]

    def _set(self, taken: Delivery, **values: object) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(delivery).where(delivery.c.id == taken.pk).values(**values))


def _resting(quiet_s: float) -> Select[Any]:
    of_study = series.c.study_pk == study.c.id
    return (
        select(study.c.id, study.c.study_instance_uid, func.sum(series.c.revision))
        .select_from(awaited.join(study).join(series, of_study))
        .where(
            ~exists().where(of_study, series.c.state.in_(_ON_THE_WAY)).correlate(study),
            ~exists().where(of_study, series.c.last_instance_at > time.time() - quiet_s).correlate(study),
            ~exists().where(fetched.c.study_pk == study.c.id).correlate(study),
        )
        .group_by(study.c.id, study.c.study_instance_uid)
        .order_by(study.c.id)
    )


def _enter(connection: Connection, resting: RestingStudy, wanted: NewDelivery) -> bool:
    values = _values(resting.study_pk, resting.revision, wanted)
    return _insert_once(connection, delivery, values)


def _values(study_pk: int, revision: int, wanted: NewDelivery) -> dict[str, Any]:
    now = time.time()
    return {
        "study_pk": study_pk,
        "key": f"{wanted.rule}|{wanted.action}|{wanted.target}|{study_pk}|{revision}",
        "rule": wanted.rule,
        "action": wanted.action,
        "target": wanted.target,
        "revision": revision,
        "state": DeliveryState.WAITING,
        "due_at": now,
        "entered_at": now,
    }


def _insert_once(connection: Connection, table: Any, values: dict[str, Any]) -> bool:  # noqa: ANN401 - a table
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    key = next(iter(table.primary_key.columns))
    statement = make(table).values(**values).on_conflict_do_nothing().returning(key)
    return connection.execute(statement).first() is not None


def _delivery(connection: Connection, key: int) -> Delivery:
    query = select(delivery, study.c.study_instance_uid).join(study).where(delivery.c.id == key)
    row = connection.execute(query).one()
    return Delivery(
        row.id,
        row.study_pk,
        row.study_instance_uid,
        row.rule,
        row.action,
        row.target,
        row.revision,
        row.payload,
        row.attempts,
        row.entered_at,
    )
