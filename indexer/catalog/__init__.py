"""The catalog: everything the node knows, in one SQL database; the source of truth."""

from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, func, select

from config.access import Cohort
from indexer.catalog.browse import Browse
from indexer.catalog.commitments import Commitments
from indexer.catalog.embeddings import Embeddings
from indexer.catalog.engine import held_by_session, open_engine, reading
from indexer.catalog.holdings import Holdings
from indexer.catalog.journal import Journal
from indexer.catalog.lookup import Lookup
from indexer.catalog.orthanc_studies import OrthancStudies
from indexer.catalog.outbox import Outbox
from indexer.catalog.progress import Progress
from indexer.catalog.receipts import Receipts
from indexer.catalog.states import SeriesState
from indexer.catalog.tombstones import Tombstones
from indexer.sealing import Vault

__all__ = [
    "Browse",
    "Catalog",
    "CatalogView",
    "Commitments",
    "Embeddings",
    "Holdings",
    "Journal",
    "Lookup",
    "OrthancStudies",
    "Outbox",
    "Progress",
    "Receipts",
    "SeriesState",
    "Tombstones",
]


@dataclass(frozen=True)
class CatalogView:
    """What somebody may see of a catalog: a cohort's studies, and all that belongs to them; nothing else is there.

    Attributes
    ----------
    cohort : Cohort or None
        None: all of the catalog.
    """

    cohort: Cohort | None
    lookup: Lookup
    holdings: Holdings
    browse: Browse


class Catalog:
    """One open catalog, safe to share among threads; its parts are named for what they do.

    Parameters
    ----------
    url : str
        SQLAlchemy URL (SQLite or PostgreSQL); the schema is brought up to date.
    vault : Vault, optional
        Seals the embeddings, and the snapshots of indexes that are made of them.

    Raises
    ------
    indexer.errors.Transient
        The database cannot be reached.
    indexer.errors.Damaged
        It is not a catalog that this version knows.
    config.errors.ConfigError
        The URL cannot be used, or its driver is not installed.
    """

    def __init__(self, url: str, vault: Vault | None = None) -> None:
        self._engine = open_engine(url)
        self._held: dict[str, Connection] = {}
        self.vault = vault
        self.receipts = Receipts(self._engine)
        self.progress = Progress(self._engine)
        self.embeddings = Embeddings(self._engine, vault)
        self.journal = Journal(self._engine)
        self.holdings = Holdings(self._engine)
        self.lookup = Lookup(self._engine)
        self.browse = Browse(self._engine)
        self.commitments = Commitments(self._engine)
        self.tombstones = Tombstones(self._engine)
        self.outbox = Outbox(self._engine)
        self.orthanc_studies = OrthancStudies(self._engine)

    def hold(self, what: str) -> bool:
        """Be the only one of the processes with this catalog that does something, until this is closed or dies.

        With SQLite nobody is asked: its data folder has one node.

        Returns
        -------
        bool
            False if another process does it.

        Raises
        ------
        indexer.errors.Transient
            The database cannot be reached.
        """
        if self._engine.dialect.name != "postgresql" or what in self._held:
            return True
        key = int.from_bytes(sha256(what.encode()).digest()[:8], "big", signed=True)
        connection = held_by_session(self._engine, key)
        if connection is not None:
            self._held[what] = connection
        return connection is not None

    def clock(self) -> float | None:
        """The time of the database's machine, seconds since the epoch; None for SQLite, which has no other.

        Raises
        ------
        indexer.errors.Transient
            The database cannot be reached.
        """
        if self._engine.dialect.name != "postgresql":
            return None
        with reading(self._engine) as connection:
            now = select(func.extract("epoch", func.clock_timestamp()))
            return float(connection.execute(now).scalar_one())

    def within(self, cohort: Cohort | None) -> CatalogView:
        """What the members of a cohort let somebody see; all, where there is no cohort."""
        if cohort is None:
            return CatalogView(None, self.lookup, self.holdings, self.browse)
        parts = Lookup(self._engine, cohort), Holdings(self._engine, cohort), Browse(self._engine, cohort)
        return CatalogView(cohort, *parts)

    def close(self) -> None:
        """Give the connections back, and what was held."""
        while self._held:
            self._held.popitem()[1].close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
