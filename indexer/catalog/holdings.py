"""Which instances are here, which only their archive still has, and which studies are here for a while only."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, exists, func, insert, select, update

from config.access import Cohort
from indexer.catalog.cohort import visible_series
from indexer.catalog.engine import JOURNAL_LOCK, blocks, lock, reading, writing
from indexer.catalog.lookup import Level
from indexer.catalog.removal import find_doomed, remove
from indexer.catalog.schema import fetched, indexing, instance, patient, released, series, study
from indexer.catalog.states import SeriesState
from indexer.uids import EncoderId, SOPInstanceUID, StudyInstanceUID

_UNIQUE_KEYS: Mapping[Level, Any] = {
    Level.PATIENT: patient.c.patient_id,
    Level.STUDY: study.c.study_instance_uid,
    Level.SERIES: series.c.series_instance_uid,
    Level.IMAGE: instance.c.sop_instance_uid,
}
_TREE = patient.join(study).join(series).join(instance)
_IS_RELEASED = exists().where(released.c.series_pk == series.c.id, instance.c.received_at <= released.c.at)


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """An instance that the catalog knows, and its file.

    Attributes
    ----------
    path : str
        Relative to the spool folder.
    is_here : bool
        Whether the file is kept; otherwise only the archive has it.
    """

    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    is_here: bool


class Holdings:
    """The keeping side of the catalog.

    Parameters
    ----------
    cohort : Cohort, optional
        `instances` and `is_released` know of these studies only.
    """

    def __init__(self, engine: Engine, cohort: Cohort | None = None) -> None:
        self._engine = engine
        self._visible = visible_series(cohort)

    def instances(self, unique_keys: Mapping[Level, Sequence[str]], limit: int) -> list[HeldInstance]:
        """The instances below some entities, in order of arrival.

        Parameters
        ----------
        unique_keys : mapping of Level to sequence of str
            Values of Patient ID, Study, Series and SOP Instance UID; an instance has one of each (PS3.4 C.4.2.2.1).
        limit : int
            At most so many.
        """
        lowest = max(unique_keys)
        others = [_UNIQUE_KEYS[level].in_(values) for level, values in unique_keys.items() if level != lowest]
        found: list[HeldInstance] = []
        with reading(self._engine) as connection:
            for block in blocks(dict.fromkeys(unique_keys[lowest])):
                chosen = [*self._visible, *others, _UNIQUE_KEYS[lowest].in_(block)]
                query = _held().where(*chosen).order_by(instance.c.id).limit(limit - len(found))
                found += [HeldInstance(*row) for row in connection.execute(query)]
        return found

    def is_released(self, sop_instance_uid: str) -> bool:
        """Whether an instance is known here but only the archive has its file."""
        query = select(instance.c.id).select_from(_TREE)
        query = query.where(instance.c.sop_instance_uid == sop_instance_uid, _IS_RELEASED, *self._visible)
        with reading(self._engine) as connection:
            return connection.execute(query).first() is not None

    def released_paths(self) -> set[str]:
        """Paths of the files that were given up."""
        with reading(self._engine) as connection:
            return set(connection.execute(select(instance.c.path).select_from(_TREE).where(_IS_RELEASED)).scalars())

    def released_instances(self, series_pk: int) -> int:
        """How many instances of a series only the archive has."""
        query = select(func.count()).select_from(_TREE).where(series.c.id == series_pk, _IS_RELEASED)
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def released_series(self) -> int:
        """How many series there are whose files were given up: they cannot be embedded again."""
        with reading(self._engine) as connection:
            return int(connection.execute(select(func.count()).select_from(released)).scalar_one())

    def release(self, encoder_id: EncoderId, idle_s: float, limit: int) -> int:
        """Give up the files of series that are indexed; returns of how many.

        Parameters
        ----------
        encoder_id : EncoderId
            Must have embedded the series at its present revision.
        idle_s : float
            Nothing of the series came in for so long.
        """
        now = time.time()
        done = exists().where(
            indexing.c.series_pk == series.c.id,
            indexing.c.encoder_id == encoder_id,
            indexing.c.revision == series.c.revision,
        )
        ready = select(series.c.id).where(
            series.c.state == SeriesState.INDEXED,
            series.c.last_instance_at <= now - idle_s,
            done,
            ~exists().where(released.c.series_pk == series.c.id),
        )
        with reading(self._engine) as connection:  # there is seldom anything to do: look before queueing to write
            if connection.execute(ready.limit(1)).first() is None:
                return 0
        with writing(self._engine) as connection:
            pks = connection.execute(ready.order_by(series.c.id).limit(limit).with_for_update()).scalars().all()
            rows = [{"series_pk": pk, "at": now, "swept": False} for pk in pks]
            if rows:
                connection.execute(insert(released), rows)
        return len(rows)

    def unswept(self, limit: int) -> dict[int, list[tuple[SOPInstanceUID, str]]]:
        """Series whose files were given up and may still be there: series key to SOP Instance UIDs and paths."""
        with reading(self._engine) as connection:
            pending = select(released.c.series_pk).where(~released.c.swept).limit(limit)
            pks = connection.execute(pending).scalars().all()
            files: dict[int, list[tuple[SOPInstanceUID, str]]] = {pk: [] for pk in pks}
            query = select(series.c.id, instance.c.sop_instance_uid, instance.c.path).select_from(_TREE)
            for pk, uid, path in connection.execute(query.where(series.c.id.in_(pks), _IS_RELEASED)):
                files[pk].append((uid, path))
        return files

    def swept(self, series_pks: Sequence[int]) -> None:
        """Note that the files of these series are gone."""
        with writing(self._engine) as connection:
            connection.execute(update(released).where(released.c.series_pk.in_(series_pks)).values(swept=True))

    def asked_about_fetched(self, study_instance_uid: StudyInstanceUID, *, is_new: bool) -> None:
        """Note a question about a study that is here for a while only.

        Parameters
        ----------
        is_new : bool
            Whether it was fetched just now; otherwise only one that was fetched before is noted again.
        """
        of_uid = select(study.c.id).where(study.c.study_instance_uid == study_instance_uid)
        now = time.time()
        with writing(self._engine) as connection:
            pk = connection.execute(of_uid).scalar_one_or_none()
            again = update(fetched).where(fetched.c.study_pk == pk).values(asked_at=now)
            if pk is not None and connection.execute(again).rowcount == 0 and is_new:
                connection.execute(insert(fetched).values(study_pk=pk, asked_at=now))

    def keep_fetched(self, study_instance_uid: StudyInstanceUID) -> None:
        """Let a fetched study stay: somebody sent it of their own accord."""
        of_uid = select(study.c.id).where(study.c.study_instance_uid == study_instance_uid).scalar_subquery()
        with writing(self._engine) as connection:
            connection.execute(delete(fetched).where(fetched.c.study_pk == of_uid))

    def fetched_studies(self, idle_s: float = 0.0) -> list[StudyInstanceUID]:
        """The studies that are here for a while only and were not asked about for so long."""
        query = select(study.c.study_instance_uid).join(fetched).where(fetched.c.asked_at <= time.time() - idle_s)
        with reading(self._engine) as connection:
            return [StudyInstanceUID(uid) for uid in connection.execute(query).scalars()]

    def drop(self, study_instance_uid: StudyInstanceUID) -> list[tuple[SOPInstanceUID, str]]:
        """Take a study that was here for a while out of the catalog; one that was never fetched stays.

        Its embeddings leave the index by the journal; it may come again.

        Returns
        -------
        list of (SOPInstanceUID, str)
            Its instances and the paths of their files, which are to be deleted.
        """
        chosen = select(study.c.id).join(fetched).where(study.c.study_instance_uid == study_instance_uid)
        with writing(self._engine) as connection:
            lock(connection, JOURNAL_LOCK)
            if connection.execute(chosen).first() is None:
                return []
            doomed = find_doomed(connection, {Level.STUDY: [study_instance_uid]})
            remove(connection, doomed)
        return [(SOPInstanceUID(one.sop_instance_uid), one.path) for one in doomed.instances]


def _held() -> Any:  # noqa: ANN401 - a Select of the columns of HeldInstance
    columns = (
        instance.c.sop_instance_uid,
        instance.c.sop_class_uid,
        instance.c.transfer_syntax_uid,
        instance.c.path,
    )
    return select(*columns, ~_IS_RELEASED).select_from(_TREE)
