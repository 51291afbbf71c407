"""Check that everything agrees: files with the catalog, embeddings with the series, the index with them."""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np

from config.model import Settings
from dicom_scp.draft import content_digest
from dicom_scp.forgetting import Forgetter
from dicom_scp.reception import Receiver
from dicom_scp.spool import Spool
from indexer.bundle import EMBEDDING_DIM
from indexer.catalog import Catalog
from indexer.errors import Damaged, Refused, Transient
from indexer.keeper import IndexKeeper
from indexer.sealing import folder_of
from indexer.uids import EncoderId
from indexer.vectors import milvus
from indexer.vectors.factory import restore
from node.storage import open_spool

log = logging.getLogger(__name__)
T = TypeVar("T")
Track = Callable[[str, Sequence[T]], Iterable[T]]
"""Shows progress over a sequence: a description and the items, which come back."""

_UNIT_TOLERANCE = 1e-3


class Fault(StrEnum):
    """What can be wrong."""

    MISSING = "the file of an instance is missing"
    DAMAGED = "the file of an instance is not what was stored"
    ORPHAN = "a file of the spool belongs to no instance"
    NOT_EMBEDDED = "an indexed series has no embeddings of its present instances"
    EMBEDDING = "an embedding is not a vector of unit length"
    SNAPSHOT = "the snapshot of the vector index is damaged"
    INDEX = "the vector index does not hold the catalog's embeddings"
    FORGOTTEN = "something that was forgotten is still there"
    NOT_ERASED = "something that was forgotten is not erased yet"


_ADVICE = {
    Fault.MISSING: "send the instance again",
    Fault.DAMAGED: "--repair sets it aside; then send the instance again",
    Fault.NOT_ERASED: "a running node does it in a minute, else the next start",
}


@dataclass(frozen=True)
class Finding:
    """One disagreement.

    Attributes
    ----------
    where : str
        A path within the spool, a UID or an encoder.
    """

    what: Fault
    where: str
    mended: bool = False

    @property
    def advice(self) -> str:
        """What an administrator does about it."""
        return _ADVICE.get(self.what, "--repair mends it")


def check(settings: Settings, catalog: Catalog, track: Track[tuple[str, str, int]]) -> Iterator[Finding]:
    """Compare everything the node keeps; yields what disagrees.

    Every stored file is read: expect the time that the disk takes. A node may run meanwhile; what it was just doing
    is looked at twice.
    """
    spool = open_spool(settings, catalog)
    known = catalog.receipts.files()
    given_up = catalog.holdings.released_paths()
    for path, sha256, _ in track("reading instances", [file for file in known if file[0] not in given_up]):
        fault = _fault_of(spool, path, sha256)
        if fault is not None and catalog.lookup.names_file(path) and path not in catalog.holdings.released_paths():
            yield Finding(fault, path)
    to_be_erased = {one.name for one in catalog.tombstones.erasures()}
    yield from _orphans(spool, catalog, {path for path, _, _ in known} | to_be_erased)
    yield from (Finding(Fault.FORGOTTEN, one.uid) for one in catalog.tombstones.remains())
    yield from (Finding(Fault.NOT_ERASED, one.name or one.kind) for one in catalog.tombstones.erasures())
    active = catalog.embeddings.active_encoder()
    if active is None:
        return
    for series in catalog.progress.not_yet_by(active, limit=1_000_000):
        yield Finding(Fault.NOT_EMBEDDED, series.series_instance_uid)
    broken = set(_broken_embeddings(catalog, active))
    yield from (Finding(Fault.EMBEDDING, series_uid) for series_uid in sorted(broken))
    if not _snapshot_sound(settings, catalog, active) and not _snapshot_sound(settings, catalog, active):
        yield Finding(Fault.SNAPSHOT, active)
    elif not broken and not _index_agrees(settings, catalog, active):
        yield Finding(Fault.INDEX, active)


def mend(settings: Settings, catalog: Catalog, findings: Sequence[Finding]) -> list[Finding]:
    """Mend what can be mended; returns the findings, each with whether it was.

    Orphans are taken in; series whose embeddings are missing or broken go through indexing again; a bad snapshot is
    deleted, and the index rebuilt from the catalog at the next start. A missing or damaged file cannot be made up:
    a damaged one is set aside, and sending the instance again restores either.
    """
    receiver = Receiver(catalog, open_spool(settings, catalog), settings.storage.on_conflict)
    return [replace(one, mended=_mended(settings, catalog, receiver, one)) for one in findings]


def _mended(settings: Settings, catalog: Catalog, receiver: Receiver, finding: Finding) -> bool:
    match finding.what:
        case Fault.ORPHAN:
            return _take_in(settings, catalog, receiver, finding.where)
        case Fault.NOT_EMBEDDED | Fault.EMBEDDING:
            info = catalog.lookup.series_by_uid(finding.where)
            return info is not None and catalog.progress.settle_again(info.study_instance_uid) > 0
        case Fault.FORGOTTEN:
            return _forget_again(settings, catalog, finding.where)
        case Fault.SNAPSHOT | Fault.INDEX:
            shutil.rmtree(settings.snapshot_dir / finding.where, ignore_errors=True)
            return True
        case Fault.DAMAGED:
            open_spool(settings, catalog).set_aside(finding.where)
            return False
        case _:
            return False


def _take_in(settings: Settings, catalog: Catalog, receiver: Receiver, relative: str) -> bool:
    """Enter an orphan as if it had just come; one whose content is there under another name is no longer needed.

    One that is not what its name says was never acknowledged and is set aside.
    """
    spool = open_spool(settings, catalog)
    try:
        spool.read(relative)
        receiver.take_file(spool.file(relative))
    except (Damaged, Refused):
        spool.set_aside(relative)
        return True
    if not catalog.lookup.names_file(relative):
        spool.remove(relative)
    return True


def _forget_again(settings: Settings, catalog: Catalog, uid: str) -> bool:
    """Remove what a tombstone says is gone; its tombstone stays as it is."""
    found = [one for one in catalog.tombstones.remains() if one.uid == uid]
    Forgetter(settings.forgetting, catalog, open_spool(settings, catalog)).remove_again(found)
    return not any(one.uid == uid for one in catalog.tombstones.remains())


def _fault_of(spool: Spool, path: str, sha256: str) -> Fault | None:
    if not spool.holds(path):
        return Fault.MISSING
    try:
        syntax, dataset = spool.read_kept(path)
    except Damaged:
        return Fault.DAMAGED
    return None if content_digest(syntax, dataset) == sha256 else Fault.DAMAGED


def _orphans(spool: Spool, catalog: Catalog, known: set[str]) -> Iterator[Finding]:
    for relative in spool.names():
        if relative not in known and not catalog.lookup.names_file(relative):
            yield Finding(Fault.ORPHAN, relative)


def _broken_embeddings(catalog: Catalog, active: EncoderId) -> Iterator[str]:
    for row in catalog.embeddings.rows(active):
        length = float(np.linalg.norm(row.embedding)) if row.embedding.shape == (EMBEDDING_DIM,) else 0.0
        if not abs(length - 1.0) < _UNIT_TOLERANCE:
            yield row.series_uid


def _snapshot_sound(settings: Settings, catalog: Catalog, active: EncoderId) -> bool:
    """Whether the snapshot can be restored; none at all is sound: the index is then rebuilt at every start."""
    folder: Path = settings.snapshot_dir / active
    if settings.vectors.kind == milvus.KIND or not folder.exists():
        return True
    try:
        index, _ = restore(
            settings.vectors.kind, folder_of(folder, catalog.vault), dim=EMBEDDING_DIM, encoder_id=active
        )
    except Damaged:
        return False
    index.close()
    return True


def _index_agrees(settings: Settings, catalog: Catalog, active: EncoderId) -> bool:
    """Whether the index holds the catalog's embeddings; without a snapshot it is compared at the next start."""
    try:
        keeper = IndexKeeper(catalog, settings.vectors, settings.snapshot_dir, active, read_only=True)
    except Transient as error:
        if settings.vectors.kind != milvus.KIND or (settings.snapshot_dir / active).exists():
            raise
        log.warning("the index is not compared: %s", error)
        return True
    index, _ = keeper.current()
    wanted = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in catalog.embeddings.vectors(active))])
    keeper.refresh()  # what a running node added between the two
    if set(wanted.tolist()) - set(index.ids().tolist()):
        return False
    surplus = np.setdiff1d(index.ids(), catalog.embeddings.ids(active))
    keeper.refresh()  # what a running node removed between the two
    return not np.intersect1d(surplus, index.ids()).size
