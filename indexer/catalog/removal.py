"""Taking instances out of the catalog with all that rests on them, within the caller's transaction."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, null, select, update

from indexer.catalog.engine import blocks
from indexer.catalog.lookup import Level
from indexer.catalog.outbox import REQUESTED
from indexer.catalog.schema import (
    chunk,
    commitment,
    conflict,
    delivery,
    embedding,
    instance,
    journal,
    patient,
    quarantine,
    released,
    series,
    study,
)
from indexer.catalog.states import SeriesState

_UNIQUE = {
    Level.STUDY: study.c.study_instance_uid,
    Level.SERIES: series.c.series_instance_uid,
    Level.IMAGE: instance.c.sop_instance_uid,
}
_TREE = study.join(series).join(instance)


@dataclass(frozen=True)
class DoomedInstance:
    """An instance that is to go."""

    pk: int
    series_pk: int
    sop_instance_uid: str
    path: str
    embeddable: bool


@dataclass(frozen=True)
class Doomed:
    """What is to go.

    Attributes
    ----------
    series_pks, study_pks : frozenset of int
        Of which nothing is left.
    partial_pks : frozenset of int
        Series of which something is left, and an embeddable instance goes.
    quarantined : tuple of (int, str)
        Key and path.
    sop_instance_uids : frozenset of str
        Of all instances that go or were named.
    """

    instances: tuple[DoomedInstance, ...]
    series_pks: frozenset[int]
    partial_pks: frozenset[int]
    study_pks: frozenset[int]
    quarantined: tuple[tuple[int, str], ...]
    sop_instance_uids: frozenset[str]

    @property
    def paths(self) -> list[str]:
        """Of the files, relative to the spool folder."""
        return list(dict.fromkeys([one.path for one in self.instances] + [path for _, path in self.quarantined]))


def find_doomed(connection: Connection, uids: Mapping[Level, Sequence[str]]) -> Doomed:
    """Find what goes with some studies, series and instances."""
    instances: dict[int, DoomedInstance] = {}
    columns = (instance.c.id, series.c.id, instance.c.sop_instance_uid, instance.c.path, instance.c.embeddable)
    for level, wanted in uids.items():
        for block in blocks(wanted):
            query = select(*columns).select_from(_TREE).where(_UNIQUE[level].in_(block)).order_by(instance.c.id)
            instances |= {row[0]: DoomedInstance(*row) for row in connection.execute(query)}
    named = frozenset(one.sop_instance_uid for one in instances.values()) | set(uids.get(Level.IMAGE, ()))
    emptied = _emptied(connection, instance, "series_pk", Counter(one.series_pk for one in instances.values()))
    partial = {one.series_pk for one in instances.values() if one.embeddable} - emptied
    parents = _column(connection, series.c.study_pk, series.c.id, emptied)
    return Doomed(
        instances=tuple(instances.values()),
        series_pks=frozenset(emptied),
        partial_pks=frozenset(partial),
        study_pks=frozenset(_emptied(connection, series, "study_pk", Counter(parents))),
        quarantined=tuple(_quarantined(connection, named)),
        sop_instance_uids=named,
    )


def remove(connection: Connection, doomed: Doomed) -> set[str]:
    """Delete it, journal the embeddings that go, and let what is left of a series be embedded again.

    Returns
    -------
    set of str
        The encoders whose indexes hold something of it.
    """
    encoders = _remove_embeddings(connection, doomed.series_pks | doomed.partial_pks)
    for block in blocks(sorted(doomed.sop_instance_uids)):
        connection.execute(delete(conflict).where(conflict.c.sop_instance_uid.in_(block)))
    _withdraw_commitments(connection, doomed.sop_instance_uids)
    _unknow_deliveries(connection, doomed)
    _delete(connection, quarantine, (pk for pk, _ in doomed.quarantined))
    _delete(connection, instance, (one.pk for one in doomed.instances))
    for pk in sorted(doomed.partial_pks):
        _renew_series(connection, pk)
    patients = set(_column(connection, study.c.patient_pk, study.c.id, doomed.study_pks))
    _delete(connection, series, doomed.series_pks)
    _delete(connection, study, doomed.study_pks)
    for block in blocks(sorted(patients)):
        is_childless = ~exists().where(study.c.patient_pk == patient.c.id)
        connection.execute(delete(patient).where(patient.c.id.in_(block), is_childless))
    return encoders


def _remove_embeddings(connection: Connection, series_pks: Collection[int]) -> set[str]:
    """Journal that the embeddings of some series go; the journal forgets that they came."""
    encoders: set[str] = set()
    for block in blocks(sorted(series_pks)):
        columns = (embedding.c.id, embedding.c.encoder_id, embedding.c.kind)
        rows = connection.execute(select(*columns).join(chunk).where(chunk.c.series_pk.in_(block))).all()
        encoders |= {row.encoder_id for row in rows}
        for part in blocks(rows):
            ids = [row.id for row in part]
            connection.execute(delete(journal).where(journal.c.embedding_id.in_(ids)))
            connection.execute(
                insert(journal),
                [
                    {"encoder_id": row.encoder_id, "embedding_id": row.id, "kind": row.kind, "added": False}
                    for row in part
                ],
            )
    return encoders


def _renew_series(connection: Connection, series_pk: int) -> None:
    """Put a series under a new key: what rested on the old one goes, and nothing can be entered for it any more."""
    row = dict(connection.execute(select(series).where(series.c.id == series_pk)).mappings().one())
    left = (instance.c.series_pk == series_pk) & instance.c.embeddable
    has_images = connection.execute(select(instance.c.id).where(left).limit(1)).first() is not None
    aside = update(series).where(series.c.id == series_pk).values(series_instance_uid=f"renewed:{series_pk}")
    connection.execute(aside)
    del row["id"]
    row |= {
        "state": SeriesState.RECEIVING if has_images else SeriesState.STORED,
        "reason": "",
        "revision": row["revision"] + 1,
        "last_instance_at": time.time(),
        "attempts": 0,
        "lease_owner": None,
        "lease_until": None,
    }
    fresh = connection.execute(insert(series).values(**row).returning(series.c.id)).scalar_one()
    connection.execute(update(instance).where(instance.c.series_pk == series_pk).values(series_pk=fresh))
    connection.execute(update(released).where(released.c.series_pk == series_pk).values(series_pk=fresh))
    connection.execute(delete(series).where(series.c.id == series_pk))


def _withdraw_commitments(connection: Connection, sop_instance_uids: Collection[str]) -> None:
    """Take instances out of requests for storage commitment: no report will name them, so none is promised."""
    if not sop_instance_uids:
        return
    for row in connection.execute(select(commitment.c.id, commitment.c.referenced, commitment.c.reasons)).all():
        kept = [place for place, pair in enumerate(row.referenced) if pair[1] not in sop_instance_uids]
        if len(kept) == len(row.referenced):
            continue
        mine = commitment.c.id == row.id
        if not kept:
            connection.execute(delete(commitment).where(mine))
            continue
        values = {"referenced": [row.referenced[place] for place in kept]}
        if row.reasons:
            values["reasons"] = [row.reasons[place] for place in kept]
        connection.execute(update(commitment).where(mine).values(**values))


def _unknow_deliveries(connection: Connection, doomed: Doomed) -> None:
    """Empty what is told of other studies where it names what goes: what a rule asks for is found out again.

    What a person asked to be sent is withdrawn: it is what goes.
    """
    named = set(doomed.sop_instance_uids)
    named |= set(_column(connection, study.c.study_instance_uid, study.c.id, doomed.study_pks))
    named |= set(_column(connection, series.c.series_instance_uid, series.c.id, doomed.series_pks))
    if not named:
        return
    for row in connection.execute(select(delivery.c.id, delivery.c.rule, delivery.c.payload)).all():
        if row.payload is not None and not named.isdisjoint(_texts(row.payload)):
            mine = delivery.c.id == row.id
            withdrawn = delete(delivery).where(mine)
            emptied = update(delivery).where(mine).values(payload=null())
            connection.execute(withdrawn if row.rule == REQUESTED else emptied)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _quarantined(connection: Connection, sop_instance_uids: Collection[str]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for block in blocks(sorted(sop_instance_uids)):
        chosen = quarantine.c.sop_instance_uid.in_(block)
        rows = connection.execute(select(quarantine.c.id, quarantine.c.path).where(chosen))
        found += [(row.id, row.path) for row in rows]
    return found


def _emptied(connection: Connection, table: Any, parent: str, going: Counter[int]) -> set[int]:  # noqa: ANN401
    """Parents of which as many rows go as there are."""
    found: set[int] = set()
    for block in blocks(sorted(going)):
        column = table.c[parent]
        rows = connection.execute(select(column, func.count()).where(column.in_(block)).group_by(column))
        found |= {pk for pk, number in rows if going[pk] == number}
    return found


def _column(connection: Connection, wanted: Any, key: Any, pks: Collection[int]) -> list[Any]:  # noqa: ANN401
    values: list[Any] = []
    for block in blocks(sorted(pks)):
        values += connection.execute(select(wanted).where(key.in_(block))).scalars()
    return values


def _delete(connection: Connection, table: Any, pks: Iterable[int]) -> None:  # noqa: ANN401
    for block in blocks(pks):
        connection.execute(delete(table).where(table.c.id.in_(block)))
