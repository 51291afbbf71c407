"""Requests for storage commitment and what became of them (PS3.4 annex J), safely among several processes."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite

from config.access import Cohort
from indexer.catalog.cohort import visible_series
from indexer.catalog.engine import blocks, reading, writing
from indexer.catalog.schema import commitment, fetched, instance, series, study
from indexer.uids import SOPInstanceUID


class CommitmentState(StrEnum):
    """Where a request stands."""

    REQUESTED = "REQUESTED"
    """Acknowledged; the instances are not checked yet."""
    CHECKED = "CHECKED"
    """Every instance was checked; the requester does not know yet."""
    REPORTED = "REPORTED"
    """The requester acknowledged the report."""
    ABANDONED = "ABANDONED"
    """The report could not be delivered in the time allowed."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance that a request names (Table J.3-1)."""

    sop_class_uid: str
    sop_instance_uid: SOPInstanceUID


@dataclass(frozen=True)
class Commitment:
    """One request that a thread may work on.

    Attributes
    ----------
    requester, called : str
        AE titles of the association that brought the request.
    requested_at : float
        Seconds since the epoch.
    attempts : int
        How often delivering the report has failed.
    references : tuple of Reference
    reasons : tuple of int
        One a reference once checked: 0 for committed, else the Failure Reason (0008,1197).
    """

    pk: int
    transaction_uid: str
    requester: str
    called: str
    requested_at: float
    attempts: int
    references: tuple[Reference, ...]
    reasons: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """What the catalog says of a stored instance; `path` is relative to the spool folder."""

    sop_class_uid: str
    path: str
    sha256: str


class Commitments:
    """The committing side of the catalog.

    A row is taken by moving the time when it is due: whoever dies with it leaves it to be taken again then.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def request(self, transaction_uid: str, requester: str, called: str, references: Sequence[Reference]) -> bool:
        """Record a request durably; False if its Transaction UID (0008,1195) was used before."""
        now = time.time()
        values = {
            "transaction_uid": transaction_uid,
            "requester": requester,
            "called": called,
            "requested_at": now,
            "referenced": [[one.sop_class_uid, one.sop_instance_uid] for one in references],
            "state": CommitmentState.REQUESTED,
            "due_at": now,
        }
        with writing(self._engine) as connection:
            make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            statement = make(commitment).values(**values).on_conflict_do_nothing().returning(commitment.c.id)
            return connection.execute(statement).first() is not None

    def take(self, state: CommitmentState, lease_s: float) -> Commitment | None:
        """Take the request in a state that has been due longest; nobody else takes it for `lease_s`."""
        now = time.time()
        due = select(commitment).where(commitment.c.state == state, commitment.c.due_at <= now)
        oldest = due.order_by(commitment.c.due_at, commitment.c.id).limit(1)
        with reading(self._engine) as connection:  # asked often: look before queueing to write
            if connection.execute(oldest.with_only_columns(commitment.c.id)).first() is None:
                return None
        with writing(self._engine) as connection:
            row = connection.execute(oldest.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            chosen = commitment.c.id == row.id
            connection.execute(update(commitment).where(chosen).values(due_at=now + lease_s))
        return Commitment(
            row.id,
            row.transaction_uid,
            row.requester,
            row.called,
            row.requested_at,
            row.attempts,
            tuple(Reference(sop_class, SOPInstanceUID(uid)) for sop_class, uid in row.referenced),
            tuple(row.reasons or ()),
        )

    def keep(self, taken: Commitment, lease_s: float) -> None:
        """Go on working on a taken request: nobody else takes it for another `lease_s`; 0 gives it back."""
        self._set(taken, due_at=time.time() + lease_s)

    def checked(self, taken: Commitment, reasons: Sequence[int], report_at: float) -> None:
        """Record what the check of each reference found; the report is due at `report_at`, in epoch seconds.

        References that were taken out of the request meanwhile, as they were forgotten, are left out.
        """
        found = dict(zip(taken.references, reasons, strict=True))
        mine = commitment.c.id == taken.pk
        with writing(self._engine) as connection:
            referenced = connection.execute(select(commitment.c.referenced).where(mine).with_for_update()).scalar()
            left = [found[Reference(sop_class, SOPInstanceUID(uid))] for sop_class, uid in referenced or ()]
            values = {"state": CommitmentState.CHECKED, "reasons": left, "due_at": report_at}
            connection.execute(update(commitment).where(mine).values(**values))

    def reported(self, taken: Commitment) -> None:
        """The requester acknowledged the report."""
        self._set(taken, state=CommitmentState.REPORTED, finished_at=time.time(), note="")

    def postpone(self, taken: Commitment, until: float, note: str) -> None:
        """Delivering failed, for the reason noted; try again at `until`, seconds since the epoch."""
        self._set(taken, attempts=taken.attempts + 1, due_at=until, note=note)

    def abandon(self, taken: Commitment, note: str) -> None:
        """Give up delivering, for the reason noted."""
        self._set(taken, state=CommitmentState.ABANDONED, finished_at=time.time(), note=note)

    def state_of(self, transaction_uid: str) -> CommitmentState | None:
        """Where a request stands; None if there is none."""
        chosen = select(commitment.c.state).where(commitment.c.transaction_uid == transaction_uid)
        with reading(self._engine) as connection:
            found = connection.execute(chosen).scalar_one_or_none()
        return None if found is None else CommitmentState(found)

    def held(
        self, sop_instance_uids: Collection[SOPInstanceUID], cohort: Cohort | None = None
    ) -> Mapping[str, HeldInstance]:
        """Which of some instances are stored to stay: SOP Instance UID to what is known.

        Neither quarantine counts nor a study that was fetched and may be forgotten, nor one outside of the cohort.
        """
        wanted = (instance.c.sop_instance_uid, instance.c.sop_class_uid, instance.c.path, instance.c.sha256)
        passing = series.join(fetched, fetched.c.study_pk == series.c.study_pk)
        staying = instance.c.series_pk.not_in(select(series.c.id).select_from(passing))
        of_study = (
            select(*wanted).select_from(instance.join(series).join(study)).where(staying, *visible_series(cohort))
        )
        found: dict[str, HeldInstance] = {}
        with reading(self._engine) as connection:
            for block in blocks(sop_instance_uids):
                chosen = of_study.where(instance.c.sop_instance_uid.in_(block))
                for row in connection.execute(chosen):
                    found[row[0]] = HeldInstance(row[1], row[2], row[3])
        return found

    def _set(self, taken: Commitment, **values: object) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(commitment).where(commitment.c.id == taken.pk).values(**values))
