"""Tables of the catalog: one schema for SQLite and PostgreSQL, changed only by the migrations beside it.

The catalog is the source of truth: every index file can be deleted and rebuilt from it. Times are seconds
since the epoch (UTC). `attributes` columns hold the level's attributes as a DICOM JSON Model object (PS3.18
annex F). A column `x_pk` is the `id` of a row of table `x`. Keys are never given twice (SQLite would, without
AUTOINCREMENT): an index or a search that still holds the key of a deleted row never finds another in its place.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = BigInteger().with_variant(Integer, "sqlite")
_Uid = String(64)


def _parent(table: str) -> Column[int]:
    name = f"{table}_pk"
    return Column(name, _Id, ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False, index=True)


meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

patient = Table(
    "patient",
    metadata,
    Column("id", _Id, primary_key=True),
    # Patient ID and issuer; or, where the Patient ID is empty, the study: nobody is taken for somebody else.
    Column("key", Text, nullable=False, unique=True),
    Column("patient_id", Text, nullable=False, index=True),
    Column("attributes", JSON, nullable=False),
    sqlite_autoincrement=True,
)

study = Table(
    "study",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("patient"),
    Column("study_instance_uid", _Uid, nullable=False, unique=True),
    Column("study_date", String(8), nullable=False, index=True),
    Column("accession_number", Text, nullable=False, index=True),
    Column("attributes", JSON, nullable=False),
    sqlite_autoincrement=True,
)

series = Table(
    "series",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("study"),
    Column("series_instance_uid", _Uid, nullable=False, unique=True),
    Column("modality", String(16), nullable=False, index=True),
    Column("attributes", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("revision", Integer, nullable=False, default=0),
    Column("last_instance_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("lease_owner", String(128)),
    # While SETTLED: nobody takes it before.
    Column("lease_until", Float),
    # Somebody waits for it: it is taken before others.
    Column("asked_at", Float),
    Index("ix_series_state", "state", "last_instance_at"),
    sqlite_autoincrement=True,
)

instance = Table(
    "instance",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("series"),
    Column("sop_instance_uid", _Uid, nullable=False, unique=True),
    Column("sop_class_uid", _Uid, nullable=False),
    Column("transfer_syntax_uid", _Uid, nullable=False),
    Column("path", Text, nullable=False, unique=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("embeddable", Boolean, nullable=False),
    Column("attributes", JSON, nullable=False),
    sqlite_autoincrement=True,
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("sop_instance_uid", _Uid, nullable=False),
    Column("path", Text, nullable=False, unique=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("received_at", Float, nullable=False),
    Column("reason", Text, nullable=False),
)

conflict = Table(
    "conflict",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("sop_instance_uid", _Uid, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("kept_sha256", String(64), nullable=False),
    Column("other_sha256", String(64), nullable=False),
)

indexing = Table(
    "indexing",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("series"),
    Column("encoder_id", String(80), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("seconds", JSON, nullable=False),
    Column("notes", JSON, nullable=False),
    UniqueConstraint("series_pk", "encoder_id"),
    sqlite_autoincrement=True,
)

chunk = Table(
    "chunk",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("indexing"),
    Column("series_pk", _Id, nullable=False, index=True),
    Column("volume", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("box_lps_mm", JSON, nullable=False),
    Column("slices", JSON, nullable=False),
    sqlite_autoincrement=True,
)

embedding = Table(
    "embedding",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("chunk"),
    Column("encoder_id", String(80), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Index("ix_embedding_encoder_kind", "encoder_id", "kind", "id"),
    sqlite_autoincrement=True,
)

journal = Table(
    "journal",
    metadata,
    Column("sequence", _Id, primary_key=True),
    Column("encoder_id", String(80), nullable=False),
    Column("embedding_id", _Id, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("added", Boolean, nullable=False),
    Index("ix_journal_encoder", "encoder_id", "sequence"),
    sqlite_autoincrement=True,
)

commitment = Table(
    "commitment",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("transaction_uid", _Uid, nullable=False, unique=True),
    Column("requester", String(16), nullable=False),
    Column("called", String(16), nullable=False),
    Column("requested_at", Float, nullable=False),
    # Pairs of SOP Class and SOP Instance UID; once checked, the Failure Reason (0008,1197) of each, or 0.
    Column("referenced", JSON, nullable=False),
    Column("reasons", JSON),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", Float, nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("finished_at", Float),
    Index("ix_commitment_state", "state", "due_at"),
    sqlite_autoincrement=True,
)

# Series whose files were given up once they were indexed; the archive has the instances that came until then.
released = Table(
    "released",
    metadata,
    Column("series_pk", _Id, ForeignKey("series.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("swept", Boolean, nullable=False, index=True),
)

# Studies that are here only because they were asked about.
fetched = Table(
    "fetched",
    metadata,
    Column("study_pk", _Id, ForeignKey("study.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("asked_at", Float, nullable=False, index=True),
)

# Studies that got images since the rules last looked: what rules ask for is due when all their series are at rest.
awaited = Table(
    "awaited",
    metadata,
    Column("study_pk", _Id, ForeignKey("study.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
)

# What the node has to tell others; a row stays, so that nobody is told the same twice.
delivery = Table(
    "delivery",
    metadata,
    Column("id", _Id, primary_key=True),
    _parent("study"),
    Column("key", String(255), nullable=False, unique=True),
    Column("rule", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("target", String(64), nullable=False),
    # Sum of the revisions of the study's series.
    Column("revision", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    # What is told, once it is known: every try tells the same.
    Column("payload", JSON),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", Float, nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("entered_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("ix_delivery_state", "state", "due_at"),
    sqlite_autoincrement=True,
)

# What was forgotten: a salted hash of its UID, and nothing else of it.
tombstone = Table(
    "tombstone",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("level", String(8), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("refuses", Boolean, nullable=False),
    UniqueConstraint("level", "digest"),
)

# What of the forgotten is still to be erased outside the tables.
erasure = Table(
    "erasure",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("name", Text, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("kind", "name"),
    sqlite_autoincrement=True,
)

# Studies of an Orthanc that were taken over from it, or are to be.
orthanc_study = Table(
    "orthanc_study",
    metadata,
    Column("id", _Id, primary_key=True),
    # Which Orthanc: a digest of its address.
    Column("server", String(16), nullable=False),
    Column("public_id", String(64), nullable=False),
    # Once taken over, unless nothing of it could be kept.
    Column("study_pk", _Id, ForeignKey("study.id", ondelete="CASCADE"), index=True),
    Column("is_waiting", Boolean, nullable=False),
    # Grows with every piece of news.
    Column("revision", BigInteger, nullable=False),
    # LastUpdate, as Orthanc writes it, of what was taken over.
    Column("last_update", String(32), nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", Float, nullable=False),
    Column("entered_at", Float, nullable=False),
    Column("note", Text, nullable=False, default=""),
    UniqueConstraint("server", "public_id"),
    Index("ix_orthanc_study_waiting", "is_waiting", "due_at"),
    sqlite_autoincrement=True,
)
