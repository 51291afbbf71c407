"""What was taken over from an Orthanc, what is still to be, and how far its changes were read.

Reading changes and entering what they are about is one transaction: a node that dies meanwhile misses nothing.
A row is taken by moving the time when it is due: whoever dies with it leaves it to be taken again then.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from indexer.catalog.engine import blocks, reading, writing
from indexer.catalog.journal import get_meta, set_meta
from indexer.catalog.schema import orthanc_study, study
from indexer.uids import StudyInstanceUID

_CURSOR = "orthanc_cursor_"
_MOST_PROBLEMS = 100


@dataclass(frozen=True)
class Cursor:
    """How far the changes of an Orthanc were read.

    Attributes
    ----------
    sequence : int
        `Seq` of the last change that was read; 0 for none.
    mark : str
        What that change said, to tell whether the database is still the same; empty if it is not known.
    """

    sequence: int
    mark: str


@dataclass(frozen=True)
class News:
    """A study of an Orthanc that is new or has changed.

    Attributes
    ----------
    due_at : float
        Look at it then, seconds since the epoch.
    last_update : str
        `LastUpdate` of the study; no news if that is what was taken over. Empty: news in any case.
    """

    public_id: str
    due_at: float
    last_update: str = ""


@dataclass(frozen=True)
class WaitingStudy:
    """A study that one thread takes over."""

    pk: int
    public_id: str
    revision: int
    attempts: int


@dataclass(frozen=True)
class PullProblem:
    """A study that could not be taken over so far, or only in part."""

    public_id: str
    attempts: int
    note: str


class OrthancStudies:
    """The taking-over side of the catalog; `server` is whatever tells one Orthanc from another, 16 characters."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def cursor(self, server: str) -> Cursor | None:
        """How far the changes were read; None if never."""
        with reading(self._engine) as connection:
            known = get_meta(connection, _CURSOR + server)
        return Cursor(*json.loads(known)) if known else None

    def enter(self, server: str, news: Sequence[News], cursor: Cursor | None) -> None:
        """Enter studies that are new or have changed, and how far the changes were read, in one transaction.

        A study that waits already is due at the earlier of both times.
        """
        latest = {one.public_id: one for one in sorted(news, key=lambda one: -one.due_at)}
        with writing(self._engine) as connection:
            for block in blocks(latest.values()):
                _enter(connection, server, block)
            if cursor is not None:
                set_meta(connection, _CURSOR + server, json.dumps([cursor.sequence, cursor.mark]))

    def take(self, server: str, lease_s: float) -> WaitingStudy | None:
        """Take the study that has been due longest; nobody else takes it for `lease_s`."""
        now, table = time.time(), orthanc_study.c
        due = (table.server == server) & table.is_waiting & (table.due_at <= now)
        oldest = select(orthanc_study).where(due).order_by(table.due_at, table.id).limit(1)
        with reading(self._engine) as connection:  # asked often: look before queueing to write
            if connection.execute(oldest.with_only_columns(table.id)).first() is None:
                return None
        with writing(self._engine) as connection:
            row = connection.execute(oldest.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            connection.execute(update(orthanc_study).where(table.id == row.id).values(due_at=now + lease_s))
        return WaitingStudy(row.id, row.public_id, row.revision, row.attempts)

    def keep(self, taken: WaitingStudy, lease_s: float) -> None:
        """Go on working on a taken study: nobody else takes it for another `lease_s`; 0 gives it back."""
        self._set(taken, due_at=time.time() + lease_s)

    def done(self, taken: WaitingStudy, uid: StudyInstanceUID | None, last_update: str, note: str = "") -> None:
        """Record that it was taken over; if there was news meanwhile, it waits again.

        Parameters
        ----------
        uid : StudyInstanceUID, optional
            Under which the catalog holds it; None if it holds nothing of it.
        note : str
            What could not be taken over, and why.
        """
        has_news = orthanc_study.c.revision != taken.revision
        held = select(study.c.id).where(study.c.study_instance_uid == uid).scalar_subquery() if uid else None
        self._set(
            taken,
            is_waiting=has_news,
            due_at=time.time(),
            study_pk=held,
            last_update=last_update,
            attempts=0,
            note=note,
        )

    def gone(self, taken: WaitingStudy) -> None:
        """Orthanc has it no more: nothing is left to take over, unless there was news meanwhile."""
        same = (orthanc_study.c.id == taken.pk) & (orthanc_study.c.revision == taken.revision)
        with writing(self._engine) as connection:
            connection.execute(delete(orthanc_study).where(same))

    def postpone(self, taken: WaitingStudy, until: float, note: str = "") -> None:
        """Try it again at `until`, seconds since the epoch; a note says what failed, without one nothing did."""
        self._set(taken, due_at=until, note=note, attempts=taken.attempts + bool(note))

    def servers(self) -> list[str]:
        """Every Orthanc of which something is known."""
        with reading(self._engine) as connection:
            return list(connection.execute(select(orthanc_study.c.server).distinct()).scalars())

    def waiting(self, server: str, entered_until: float | None = None) -> int:
        """How many studies are still to be taken over, or of those entered until a time."""
        chosen = (orthanc_study.c.server == server) & orthanc_study.c.is_waiting
        if entered_until is not None:
            chosen &= orthanc_study.c.entered_at <= entered_until
        return self._count(chosen)

    def taken_over(self, server: str) -> int:
        """How many studies were taken over."""
        return self._count((orthanc_study.c.server == server) & ~orthanc_study.c.is_waiting)

    def problems(self, server: str) -> list[PullProblem]:
        """Studies that were not taken over in full so far, newest first."""
        table = orthanc_study.c
        chosen = select(table.public_id, table.attempts, table.note).where(table.server == server, table.note != "")
        with reading(self._engine) as connection:
            rows = connection.execute(chosen.order_by(table.id.desc()).limit(_MOST_PROBLEMS))
            return [PullProblem(*row) for row in rows]

    def _count(self, chosen: ColumnElement[bool]) -> int:
        with reading(self._engine) as connection:
            query = select(func.count()).select_from(orthanc_study).where(chosen)
            return int(connection.execute(query).scalar_one())

    def _set(self, taken: WaitingStudy, **values: object) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(orthanc_study).where(orthanc_study.c.id == taken.pk).values(**values))


def _enter(connection: Connection, server: str, news: Sequence[News]) -> None:
    """Insert studies, or say of known ones that there is news."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(orthanc_study)
    table, offered = orthanc_study.c, statement.excluded
    is_news = or_(table.is_waiting, offered.last_update == "", table.last_update != offered.last_update)
    earlier = and_(table.is_waiting, table.due_at < offered.due_at)
    statement = statement.on_conflict_do_update(
        index_elements=[table.server, table.public_id],
        set_={
            "is_waiting": True,
            "revision": table.revision + 1,
            "due_at": case((earlier, table.due_at), else_=offered.due_at),
            "entered_at": offered.entered_at,
            "last_update": "",
            "attempts": 0,
        },
        where=is_news,
    )
    now = time.time()
    rows = [
        {
            "server": server,
            "public_id": one.public_id,
            "is_waiting": True,
            "revision": 1,
            "last_update": one.last_update,
            "attempts": 0,
            "due_at": one.due_at,
            "entered_at": now,
            "note": "",
        }
        for one in news
    ]
    connection.execute(statement, rows)
