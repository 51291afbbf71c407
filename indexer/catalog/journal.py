"""The journal of embeddings that came and went, which indexes follow, and the snapshots that rest on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, select

from indexer.catalog.engine import JOURNAL_LOCK, lock, reading, writing
from indexer.catalog.schema import journal, meta
from indexer.errors import NotFound
from indexer.uids import EmbeddingId, EncoderId

KEPT_ENTRIES = 1_000_000
"""An index that is farther behind compares its ids with the catalog's instead."""

_PRUNED_TO = "journal_pruned_to"
_SNAPSHOT = "snapshot:"


@dataclass(frozen=True)
class JournalEntry:
    """An embedding that came or went; `sequence` grows."""

    sequence: int
    embedding_id: EmbeddingId
    added: bool


class Journal:
    """What an index has to follow. Entries become visible in the order of their sequence.

    On PostgreSQL a sequence number is drawn before its transaction commits: transactions that write the journal
    hold one advisory lock (`indexer.catalog.engine.JOURNAL_LOCK`), so that whoever has read an entry has read all
    before it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def last(self) -> int:
        """Newest position; 0 before the first entry."""
        with reading(self._engine) as connection:
            return _last(connection)

    def after(self, sequence: int, encoder_id: EncoderId, kind: str, limit: int) -> Sequence[JournalEntry]:
        """What came and went of a kind of one encoder's embeddings after a position: the next `limit` entries.

        Raises
        ------
        NotFound
            Entries after that position have been pruned.
        """
        chosen = (journal.c.encoder_id == encoder_id) & (journal.c.sequence > sequence) & (journal.c.kind == kind)
        columns = (journal.c.sequence, journal.c.embedding_id, journal.c.added)
        query = select(*columns).where(chosen).order_by(journal.c.sequence).limit(limit)
        with reading(self._engine) as connection:
            pruned_to = _pruned_to(connection)
            if sequence < pruned_to:
                raise NotFound(f"the journal begins after {pruned_to}, asked for what came after {sequence}")
            return [JournalEntry(row[0], EmbeddingId(row[1]), row[2]) for row in connection.execute(query)]

    def prune(self, keep: int = KEPT_ENTRIES) -> int:
        """Delete all but the newest `keep` positions; returns how many entries went."""
        with reading(self._engine) as connection:
            up_to = _last(connection) - keep
            if up_to <= _pruned_to(connection):
                return 0
        with writing(self._engine) as connection:
            lock(connection, JOURNAL_LOCK)
            set_meta(connection, _PRUNED_TO, str(up_to))
            return connection.execute(delete(journal).where(journal.c.sequence <= up_to)).rowcount

    def vouch(self, digest: str, instead_of: str | None) -> None:
        """Note that a snapshot is of this catalog, and not of one that a backup has undone.

        Parameters
        ----------
        digest : str
            SHA-256 of the snapshot's manifest, in hexadecimal.
        instead_of : str or None
            That of the snapshot it has replaced.
        """
        with writing(self._engine) as connection:
            if instead_of is not None:
                connection.execute(delete(meta).where(meta.c.key == _snapshot_key(instead_of)))
            set_meta(connection, _snapshot_key(digest), "")

    def vouches_for(self, digest: str) -> bool:
        """Whether the snapshot with this digest is of this catalog."""
        with reading(self._engine) as connection:
            key = _snapshot_key(digest)
            return connection.execute(select(meta.c.key).where(meta.c.key == key)).first() is not None


def get_meta(connection: Connection, key: str) -> str | None:
    """One value that the catalog keeps of itself, or None."""
    return connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar_one_or_none()


def set_meta(connection: Connection, key: str, value: str) -> None:
    """Replace one value that the catalog keeps of itself."""
    connection.execute(delete(meta).where(meta.c.key == key))
    connection.execute(insert(meta).values(key=key, value=value))


def _last(connection: Connection) -> int:
    newest = connection.execute(select(func.max(journal.c.sequence))).scalar_one()
    return int(newest) if newest is not None else _pruned_to(connection)


def _pruned_to(connection: Connection) -> int:
    return int(get_meta(connection, _PRUNED_TO) or 0)


def _snapshot_key(digest: str) -> str:
    return f"{_SNAPSHOT}{digest[:48]}"
