"""Leading each series from RECEIVING to INDEXED or PARKED, safely among several workers."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Select, exists, func, or_, select, true, update

from indexer.catalog.engine import reading, writing
from indexer.catalog.schema import conflict, indexing, instance, quarantine, released, series, study
from indexer.catalog.states import SeriesState
from indexer.errors import NotFound
from indexer.series import ReceivingSeries, settled
from indexer.uids import EncoderId, SeriesInstanceUID, StudyInstanceUID

_FILES_ARE_HERE = ~exists().where(released.c.series_pk == series.c.id)
_FREE: Mapping[str, Any] = {"lease_owner": None, "lease_until": None}
_AS_NEW: Mapping[str, Any] = {"state": SeriesState.SETTLED, "attempts": 0, "reason": "", **_FREE}


@dataclass(frozen=True)
class LeasedSeries:
    """A series that one worker may work on.

    Attributes
    ----------
    revision : int
        Grows with every instance; embeddings say which revision they were made of.
    paths : tuple of Path
        The embeddable instances' files, relative to the spool folder.
    """

    series_pk: int
    series_instance_uid: SeriesInstanceUID
    modality: str
    revision: int
    attempts: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class ParkedSeries:
    """A series that waits for a person."""

    study_instance_uid: StudyInstanceUID
    series_instance_uid: SeriesInstanceUID
    modality: str
    instances: int
    reason: str


@dataclass(frozen=True)
class Counts:
    """How much the catalog holds."""

    studies: int
    instances: int
    quarantined: int
    conflicts: int
    series_by_state: dict[SeriesState, int]


class Progress:
    """The working side of the catalog."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def settle(
        self,
        quiet_time_s: float,
        being_sent: Collection[SeriesInstanceUID] = (),
        only: Collection[int] | None = None,
    ) -> int:
        """Move the series that have settled from RECEIVING to SETTLED; returns how many.

        See `indexer.series.settled`.

        Parameters
        ----------
        only : collection of int, optional
            Keys of the series that may be moved; None allows all.
        """
        now = time.time()
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series.c.series_instance_uid, series.c.last_instance_at).where(
                    series.c.state == SeriesState.RECEIVING, true() if only is None else series.c.id.in_(only)
                )
            ).all()
        quiet = settled([ReceivingSeries(*row) for row in rows], now, quiet_time_s, being_sent)
        if not quiet:
            return 0
        with writing(self._engine) as connection:
            return sum(
                connection.execute(
                    update(series)
                    .where(
                        series.c.series_instance_uid == uid,
                        series.c.state == SeriesState.RECEIVING,
                        series.c.last_instance_at <= now - quiet_time_s,
                    )
                    .values(state=SeriesState.SETTLED)
                ).rowcount
                for uid in quiet
            )

    def keep_unsettled(self, being_sent: Collection[SeriesInstanceUID], quiet_time_s: float) -> None:
        """Have other nodes see that some series are still being sent: they settle what has been quiet too long."""
        now = time.time()
        with reading(self._engine) as connection:
            quiet = (series.c.state == SeriesState.RECEIVING) & (series.c.last_instance_at < now - quiet_time_s / 2)
            uids = set(connection.execute(select(series.c.series_instance_uid).where(quiet)).scalars())
        if mine := sorted(uids.intersection(being_sent)):
            with writing(self._engine) as connection:
                chosen = series.c.series_instance_uid.in_(mine) & (series.c.state == SeriesState.RECEIVING)
                connection.execute(update(series).where(chosen).values(last_instance_at=now))

    def hurry(self, series_pks: Collection[int]) -> None:
        """Have series that somebody waits for taken before others."""
        waited_for = series.c.id.in_(series_pks) & series.c.asked_at.is_(None)
        with writing(self._engine) as connection:
            connection.execute(update(series).where(waited_for).values(asked_at=time.time()))

    def lease(self, owner: str, lease_s: float, *, untried: bool = False) -> LeasedSeries | None:
        """Take the series that has waited longest, or one whose worker's lease ran out; None if there is none.

        One that somebody waits for goes before.

        Parameters
        ----------
        untried : bool
            Only one that was never tried since it settled.
        """
        now = time.time()
        free = or_(
            (series.c.state == SeriesState.SETTLED) & func.coalesce(series.c.lease_until < now, true()),
            (series.c.state == SeriesState.INDEXING) & (series.c.lease_until < now),
        )
        if untried:
            free &= series.c.attempts == 0
        order = (series.c.asked_at.is_(None), series.c.last_instance_at, series.c.id)
        oldest = select(series).where(free).order_by(*order).limit(1)
        with reading(self._engine) as connection:  # an idle worker asks often: look before queueing to write
            if connection.execute(oldest).first() is None:
                return None
        with writing(self._engine) as connection:
            row = connection.execute(oldest.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            connection.execute(
                update(series)
                .where(series.c.id == row.id)
                .values(
                    state=SeriesState.INDEXING,
                    lease_owner=owner,
                    lease_until=now + lease_s,
                    attempts=row.attempts + 1,
                )
            )
            return _leased(connection, row, row.attempts + 1)

    def lease_again(self, owner: str, lease_s: float, encoder_id: EncoderId) -> LeasedSeries | None:
        """Take an indexed series that an encoder has not embedded yet and nobody else holds; it stays INDEXED.

        None if there is none, be it that all are embedded or that others are at work on the last.
        """
        now = time.time()
        waiting = waiting_for(encoder_id).where(func.coalesce(series.c.lease_until < now, true())).limit(1)
        with reading(self._engine) as connection:
            if connection.execute(waiting).first() is None:
                return None
        with writing(self._engine) as connection:
            row = connection.execute(waiting.with_for_update(skip_locked=True, of=series)).one_or_none()
            if row is None:
                return None
            lease = {"lease_owner": owner, "lease_until": now + lease_s}
            connection.execute(update(series).where(series.c.id == row.id).values(**lease))
            return _leased(connection, row, row.attempts)

    def let_go(self, leased: LeasedSeries, owner: str) -> None:
        """End a lease of `lease_again`, if it is still held."""
        held = (series.c.id == leased.series_pk) & (series.c.lease_owner == owner)
        with writing(self._engine) as connection:
            connection.execute(update(series).where(held, series.c.state == SeriesState.INDEXED).values(**_FREE))

    def park(self, leased: LeasedSeries, owner: str, reason: str) -> None:
        """Give up on a leased series for a reason that an administrator reads; its embeddings stay."""
        with writing(self._engine) as connection:
            end_lease(connection, leased, owner, {"state": SeriesState.PARKED, "reason": reason})

    def give_back(
        self, leased: LeasedSeries, owner: str, reason: str, *, blame: bool = True, pause_s: float = 0.0
    ) -> None:
        """Let somebody try a leased series again.

        Parameters
        ----------
        blame : bool
            Whether the attempt counts: the series may be the cause.
        pause_s : float
            Nobody takes it before.
        """
        values = {
            "state": SeriesState.SETTLED,
            "reason": reason,
            "attempts": series.c.attempts if blame else series.c.attempts - 1,
            "lease_until": time.time() + pause_s if pause_s else None,
        }
        with writing(self._engine) as connection:
            end_lease(connection, leased, owner, values)

    def release(self, owner_prefix: str, max_attempts: int, *, blame: bool) -> int:
        """Free the series of workers that are gone; returns how many.

        Parameters
        ----------
        owner_prefix : str
            Every owner whose name begins so.
        max_attempts : int
            A series blamed so often is parked.
        blame : bool
            Whether the series may be the cause (its worker died alone), or the whole node stopped.
        """
        theirs = series.c.lease_owner.startswith(owner_prefix, autoescape=True)
        held, again = (theirs & (series.c.state == state) for state in (SeriesState.INDEXING, SeriesState.INDEXED))
        reason = f"the worker process ended while indexing it, {max_attempts} times"
        with writing(self._engine) as connection:
            connection.execute(update(series).where(again).values(**_FREE))
            parked = 0
            if blame:
                parked = connection.execute(
                    update(series)
                    .where(held, series.c.attempts >= max_attempts)
                    .values(state=SeriesState.PARKED, reason=reason, **_FREE)
                ).rowcount
            attempts = series.c.attempts if blame else series.c.attempts - 1
            values = {"state": SeriesState.SETTLED, "attempts": attempts, **_FREE}
            return parked + connection.execute(update(series).where(held).values(**values)).rowcount

    def settle_again(self, study_instance_uid: StudyInstanceUID | None = None, *, parked_only: bool = False) -> int:
        """Send series that were INDEXED or PARKED through indexing again; returns how many.

        Not those whose files were given up (`Holdings`).

        Raises
        ------
        NotFound
            The study is not in the catalog.
        """
        states = [SeriesState.PARKED] if parked_only else [SeriesState.PARKED, SeriesState.INDEXED]
        chosen = series.c.state.in_(states) & _FILES_ARE_HERE
        with writing(self._engine) as connection:
            if study_instance_uid is not None:
                study_pk = connection.execute(
                    select(study.c.id).where(study.c.study_instance_uid == study_instance_uid)
                ).scalar_one_or_none()
                if study_pk is None:
                    raise NotFound(f"no study {study_instance_uid} in the catalog")
                chosen &= series.c.study_pk == study_pk
            return connection.execute(update(series).where(chosen).values(**_AS_NEW)).rowcount

    def retry(self, series_instance_uid: str) -> bool:
        """Send one PARKED series through indexing again; whether there was one, with its files."""
        chosen = (series.c.series_instance_uid == series_instance_uid) & (series.c.state == SeriesState.PARKED)
        with writing(self._engine) as connection:
            retried = update(series).where(chosen, _FILES_ARE_HERE).values(**_AS_NEW)
            return connection.execute(retried).rowcount > 0

    def outstanding(self) -> int:
        """How many series are on their way: RECEIVING, SETTLED or INDEXING."""
        on_the_way = [SeriesState.RECEIVING, SeriesState.SETTLED, SeriesState.INDEXING]
        with reading(self._engine) as connection:
            count = select(func.count()).select_from(series).where(series.c.state.in_(on_the_way))
            return int(connection.execute(count).scalar_one())

    def counts(self) -> Counts:
        """How much the catalog holds, in one consistent view."""
        with reading(self._engine) as connection:

            def count(table: object) -> int:
                return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]

            by_state = connection.execute(select(series.c.state, func.count()).group_by(series.c.state)).all()
            return Counts(
                studies=count(study),
                instances=count(instance),
                quarantined=count(quarantine),
                conflicts=count(conflict),
                series_by_state={SeriesState(state): number for state, number in by_state},
            )

    def parked(self) -> Sequence[ParkedSeries]:
        """Every parked series with its reason."""
        instances = select(func.count()).where(instance.c.series_pk == series.c.id).scalar_subquery()
        columns = (
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            series.c.modality,
            instances,
            series.c.reason,
        )
        chosen = series.c.state == SeriesState.PARKED
        with reading(self._engine) as connection:
            rows = connection.execute(select(*columns).join(study).where(chosen).order_by(series.c.id))
            return [ParkedSeries(*row) for row in rows]

    def quarantined(self) -> Sequence[tuple[str, int]]:
        """Reason and number of the instances that belong to no series."""
        grouped = select(quarantine.c.reason, func.count()).group_by(quarantine.c.reason)
        with reading(self._engine) as connection:
            return [
                (reason, number) for reason, number in connection.execute(grouped.order_by(quarantine.c.reason))
            ]

    def not_yet_by(self, encoder_id: EncoderId, limit: int) -> Sequence[LeasedSeries]:
        """Find indexed series that an encoder has not embedded at their present revision; nothing is leased."""
        with reading(self._engine) as connection:
            rows = connection.execute(waiting_for(encoder_id).limit(limit)).all()
            return [_leased(connection, row, row.attempts) for row in rows]


def waiting_for(encoder_id: EncoderId) -> Select[Any]:
    """Select the indexed series that an encoder has not embedded at their present revision, oldest first."""
    done = select(indexing.c.series_pk).where(
        indexing.c.encoder_id == encoder_id,
        indexing.c.series_pk == series.c.id,
        indexing.c.revision == series.c.revision,
    )
    return select(series).where(series.c.state == SeriesState.INDEXED, ~done.exists()).order_by(series.c.id)


def _leased(connection: Connection, row: Any, attempts: int) -> LeasedSeries:  # noqa: ANN401 - a row of `series`
    return LeasedSeries(
        series_pk=row.id,
        series_instance_uid=SeriesInstanceUID(row.series_instance_uid),
        modality=row.modality,
        revision=row.revision,
        attempts=attempts,
        paths=_embeddable_paths(connection, row.id),
    )


def end_lease(connection: Connection, leased: LeasedSeries, owner: str, values: Mapping[str, Any]) -> None:
    """Move a series on if `owner` still holds it; an image that came meanwhile has ended the lease already."""
    held = (
        (series.c.id == leased.series_pk)
        & (series.c.state == SeriesState.INDEXING)
        & (series.c.lease_owner == owner)
        & (series.c.revision == leased.revision)
    )
    connection.execute(update(series).where(held).values(**{**_FREE, **values}))


def _embeddable_paths(connection: Connection, series_pk: int) -> tuple[Path, ...]:
    chosen = (instance.c.series_pk == series_pk) & instance.c.embeddable
    rows = connection.execute(select(instance.c.path).where(chosen).order_by(instance.c.id))
    return tuple(Path(row.path) for row in rows)
