"""Keeping the vector index in step with the catalog, and on disk; nothing is lost with it."""

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.model import VectorSettings
from indexer.bundle import EMBEDDING_DIM
from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL
from indexer.errors import Damaged, NotFound, Transient
from indexer.regrowth import Regrowth, demand_sound
from indexer.sealing import folder_of
from indexer.uids import EncoderId
from indexer.vectors import VectorIndex, exact, hnsw, milvus, reduction
from indexer.vectors.factory import IndexParameters, create, restore
from indexer.vectors.milvus import MilvusParameters
from indexer.vectors.snapshot import MANIFEST

log = logging.getLogger(__name__)

_BLOCK = 4096
_NEVER = -1
_MADE_AT_ONCE = 2000
"""Embeddings that a graph takes in within a second or so."""
_LOOKS = 3
"""How often a reader tries a snapshot that its owner may be replacing."""


@dataclass(eq=False)
class _Followed:
    """An index, the place in the journal up to which it has followed, and that of its snapshot on disk."""

    index: VectorIndex
    sequence: int
    written_sequence: int


class IndexKeeper:
    """Owns the index of the active encoder.

    The index is restored from its snapshot, or rebuilt from the catalog where the snapshot is missing, damaged, of
    another encoder, or of a catalog that a backup has undone; from then on `refresh` applies the catalog's journal.
    Rebuilding a large graph takes long: exact search answers meanwhile.

    Parameters
    ----------
    folder : Path
        Of the snapshots, one for each encoder.
    encoder_id : EncoderId
        Whose embeddings answer until the catalog names an active encoder.
    read_only : bool
        For use beside the node that owns the folder: nothing there is written or removed. A shared index server
        is searched as it stands; it follows the catalog by its owner's hand.

    Raises
    ------
    Transient
        The catalog or the index server cannot be reached; or read-only, the server holds no such index yet.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: VectorSettings,
        folder: Path,
        encoder_id: EncoderId,
        *,
        read_only: bool = False,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._folder = folder
        self._read_only = read_only
        server = MilvusParameters(uri=settings.milvus_uri) if settings.milvus_uri else None
        scratch = None if read_only or catalog.vault is not None else folder
        self._parameters = IndexParameters(milvus=server, scratch=scratch)
        self._lock = threading.Lock()
        self._written_at = time.monotonic()
        self._regrowth: Regrowth[_Followed] | None = None
        self._followed = self._open(catalog.embeddings.active_encoder() or encoder_id)

    def current(self) -> tuple[VectorIndex, EncoderId]:
        """Return the index that answers now, and whose embeddings it holds."""
        index = self._followed.index
        return index, index.encoder_id

    @property
    def is_read_only(self) -> bool:
        """Whether another process has the index follow the catalog."""
        return self._read_only

    def own(self) -> None:
        """Have the index follow the catalog from now on, as who did so is gone; it is held against that first.

        Raises
        ------
        Transient
            The catalog or the index server cannot be reached; nothing has changed.
        """
        with self._lock:
            self._compare(self._followed)
            self._read_only = False

    @property
    def is_regrowing(self) -> bool:
        """Whether an index is being made anew; exact search answers, or the old one where it has been outgrown."""
        return self._regrowth is not None

    def refresh(self) -> int:
        """Take over what came and went in the catalog since the last time; returns how many changes.

        Follows a change of the active encoder; the old index answers until the new one is complete.
        """
        with self._lock:
            old = self._followed
            active = self._catalog.embeddings.active_encoder() or old.index.encoder_id
            if active != old.index.encoder_id:
                self._stop_regrowing()
                self._followed = self._open(active)
                return len(self._followed.index)
            if self._regrowth is not None and self._regrowth.is_over:
                return self._take_over(self._regrowth.made)
            self._regrow_if_outgrown(old.index)
            return self._follow(old)

    def snapshot_if_due(self, *, now: bool = False) -> bool:
        """Write a snapshot if the index has changed and the last one is old enough, or `now`; whether it did.

        Raises
        ------
        Transient
            The disk is full; the previous snapshot is still good, and the next try is due an interval later.
        """
        with self._lock:
            followed = self._followed
            due = now or time.monotonic() - self._written_at >= self._settings.snapshot_interval_s
            due = due and not self._read_only and self._regrowth is None
            if not due or followed.sequence == followed.written_sequence:
                return False
            self._written_at = time.monotonic()
            folder = self._snapshot_folder(followed.index.encoder_id)
            replaced = _digest(folder)
            followed.index.snapshot(folder_of(folder, self._catalog.vault), followed.sequence)
            written = _digest(folder)
            if written is not None and written != replaced:
                self._catalog.journal.vouch(written, replaced)
            followed.written_sequence = followed.sequence
            self._catalog.journal.prune()
            self._remove_forgotten(folder)
            return True

    def purge(self) -> None:
        """Make the index anew from the catalog, in memory and on disk: nothing of removed embeddings stays in it.

        An index keeps what it was told to remove, unseen, until it is made anew. The old one answers meanwhile.
        A shared index server is told to remove, and clears its storage when it compacts.

        Raises
        ------
        Transient
            The disk is full, or the catalog or the index server cannot be reached.
        """
        with self._lock:
            old = self._followed
            if self._settings.kind == milvus.KIND:
                self._follow(old)
                return
            self._stop_regrowing()
            self._followed = self._rebuilt(old.index.encoder_id)
            shutil.rmtree(self._snapshot_folder(old.index.encoder_id), ignore_errors=True)
        self.snapshot_if_due(now=True)

    def discard(self, encoder_id: EncoderId) -> None:
        """Have the index server drop an index that does not answer any more; other kinds keep none.

        Raises
        ------
        Transient
            The index server cannot be reached.
        """
        server = self._parameters.milvus
        if server is None or self._settings.kind != milvus.KIND or self._read_only:
            return
        if encoder_id != self.current()[1]:
            milvus.drop(dim=EMBEDDING_DIM, encoder_id=encoder_id, parameters=server)

    def close(self) -> None:
        """Write a last snapshot and let go of the index."""
        try:
            self.snapshot_if_due(now=True)
        except Transient as error:
            log.warning("no last snapshot of the index: %s", error)
        with self._lock:
            self._stop_regrowing()
        self._followed.index.close()

    def _remove_forgotten(self, present: Path) -> None:
        """Remove the snapshots of encoders whose embeddings are gone from the catalog."""
        for folder in self._folder.iterdir():
            is_other = folder != present and (folder / MANIFEST).exists()
            if is_other and self._catalog.embeddings.count(EncoderId(folder.name)) == 0:
                shutil.rmtree(folder, ignore_errors=True)

    def _snapshot_folder(self, encoder_id: EncoderId) -> Path:
        return self._folder / encoder_id

    def _open(self, encoder_id: EncoderId) -> _Followed:
        restored = self._restored(encoder_id) if self._snapshot_folder(encoder_id).exists() else None
        if restored is not None:
            return restored
        if self._read_only and self._settings.kind == milvus.KIND:
            return self._attached(encoder_id)
        return self._rebuilt(encoder_id)

    def _restored(self, encoder_id: EncoderId) -> _Followed | None:
        """Open the snapshot; None where there is none to be used."""
        folder = self._snapshot_folder(encoder_id)
        for look in range(_LOOKS if self._read_only else 1):
            try:
                digest = _digest(folder)
                if digest is None or not self._catalog.journal.vouches_for(digest):
                    raise Damaged("expected a snapshot that the catalog knows of, got another")
                index, sequence = restore(
                    self._settings.kind,
                    folder_of(folder, self._catalog.vault),
                    dim=EMBEDDING_DIM,
                    encoder_id=encoder_id,
                    parameters=self._parameters,
                )
                return self._tried(_Followed(index, sequence, sequence))
            except Damaged as error:
                log.info("snapshot of the index, look %d: %s", look + 1, error)
        log.warning("the index is rebuilt from the catalog: its snapshot cannot be used")
        if not self._read_only:
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def _tried(self, restored: _Followed) -> _Followed:
        """Have what was restored follow the catalog, and hold it against that."""
        self._follow(restored)
        if self._settings.kind != milvus.KIND:
            if not np.array_equal(restored.index.ids(), self._catalog.embeddings.ids(restored.index.encoder_id)):
                self._compare(restored)
            demand_sound(restored.index, self._catalog)
        return restored

    def _attached(self, encoder_id: EncoderId) -> _Followed:
        """Open what the server holds, as it stands."""
        server = self._parameters.milvus
        try:
            if server is None:
                raise Damaged("no server is configured")
            index = milvus.attach(dim=EMBEDDING_DIM, encoder_id=encoder_id, parameters=server)
        except Damaged as error:
            raise Transient(f"the index server holds no index of this encoder yet: {error}") from error
        return _Followed(index, self._catalog.journal.last(), _NEVER)

    def _rebuilt(self, encoder_id: EncoderId) -> _Followed:
        """Make the index anew from the catalog; where that takes long, exact search answers meanwhile."""
        kind, embeddings = self._settings.kind, self._catalog.embeddings
        if kind != hnsw.KIND or embeddings.count(encoder_id) <= _MADE_AT_ONCE:
            return self._made(kind, encoder_id)
        log.warning("exact search answers while the index is made anew")
        if not self._read_only:
            self._regrowth = Regrowth(lambda is_given_up: self._grown(encoder_id, is_given_up))
        return self._made(exact.KIND, encoder_id)

    def _made(self, kind: str, encoder_id: EncoderId) -> _Followed:
        made = self._grown(encoder_id, lambda: False, kind)
        assert made is not None  # noqa: S101 - nobody gives it up
        return made

    def _grown(self, encoder_id: EncoderId, is_given_up: Callable[[], bool], kind: str = "") -> _Followed | None:
        sequence = self._catalog.journal.last()
        index = create(
            kind or self._settings.kind,
            dim=EMBEDDING_DIM,
            encoder_id=encoder_id,
            parameters=self._parameters,
            sample=self._sample(encoder_id),
        )
        for ids, vectors in self._catalog.embeddings.vectors(encoder_id):
            if is_given_up():
                return None
            index.add(ids, vectors)
        grown = _Followed(index, sequence, _NEVER)
        self._follow(grown)  # what came and went while the blocks were read
        return grown

    def _sample(self, encoder_id: EncoderId) -> NDArray[np.float32] | None:
        """Some embeddings of a large archive, drawn evenly from all of its time; None for a smaller one."""
        if self._settings.kind != hnsw.KIND or self._catalog.embeddings.count(encoder_id) < reduction.LEAST_VECTORS:
            return None
        ids = self._catalog.embeddings.ids(encoder_id)
        drawn = ids[:: max(len(ids) // reduction.SAMPLE, 1)]
        return self._catalog.embeddings.vectors_of(drawn.tolist())[1]

    def _regrow_if_outgrown(self, index: VectorIndex) -> None:
        """Make a graph anew that its archive has outgrown; it answers meanwhile."""
        is_idle = self._regrowth is None and not self._read_only
        if is_idle and isinstance(index, hnsw.HnswIndex) and index.is_outgrown:
            log.info("the archive has outgrown its index, which is made anew")
            encoder_id = index.encoder_id
            self._regrowth = Regrowth(lambda is_given_up: self._grown(encoder_id, is_given_up))

    def _take_over(self, grown: _Followed | None) -> int:
        """Let the index answer that was made anew, or begin again where that failed."""
        encoder_id = self._followed.index.encoder_id
        if grown is None:
            self._regrowth = Regrowth(lambda is_given_up: self._grown(encoder_id, is_given_up))
            return self._follow(self._followed)
        self._regrowth = None
        changes = self._follow(grown)
        self._followed = grown
        log.info("the index has been made anew: %d embeddings", len(grown.index))
        return changes

    def _stop_regrowing(self) -> None:
        if self._regrowth is not None:
            self._regrowth.give_up()
            self._regrowth = None

    def _follow(self, followed: _Followed) -> int:
        """Apply the journal, block by block; where it was pruned, compare the ids instead."""
        index, changes = followed.index, 0
        if self._read_only and self._settings.kind == milvus.KIND:
            return 0
        while True:
            try:
                entries = self._catalog.journal.after(followed.sequence, index.encoder_id, GLOBAL, _BLOCK)
            except NotFound:
                return changes + self._compare(followed)
            if not entries:
                return changes
            last = {int(entry.embedding_id): entry.added for entry in entries}
            present = self._add(index, [key for key, added in last.items() if added])
            gone = np.asarray(sorted(set(last) - present), dtype=np.int64)
            if gone.size:
                index.remove(gone)
            followed.sequence = entries[-1].sequence
            changes += len(entries)

    def _compare(self, followed: _Followed) -> int:
        """Make the index hold the catalog's embeddings, whatever it held; an id's vector never changes."""
        sequence = self._catalog.journal.last()
        index = followed.index
        wanted, held = self._catalog.embeddings.ids(index.encoder_id), index.ids()
        gone: NDArray[np.int64] = np.setdiff1d(held, wanted)
        if gone.size:
            index.remove(gone)
        missing = np.setdiff1d(wanted, held).tolist()
        for start in range(0, len(missing), _BLOCK):
            self._add(index, missing[start : start + _BLOCK])
        followed.sequence = sequence
        return len(gone) + len(missing)

    def _add(self, index: VectorIndex, keys: list[int]) -> set[int]:
        """Add those of the embeddings that exist; returns which do."""
        ids, vectors = self._catalog.embeddings.vectors_of(keys)
        if ids.size:
            index.add(ids, vectors)
        return set(ids.tolist())


def _digest(folder: Path) -> str | None:
    """SHA-256 of the snapshot's manifest, which names every byte of it; None if there is no manifest."""
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
