"""Studies of an Orthanc that were taken over from it, or are to be."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create their table."""
    study = sa.ForeignKeyConstraint(
        ["study_pk"], ["study.id"], name=op.f("fk_orthanc_study_study_pk"), ondelete="CASCADE"
    )
    op.create_table(
        "orthanc_study",
        sa.Column("id", _ID, nullable=False),
        sa.Column("server", sa.String(length=16), nullable=False),
        sa.Column("public_id", sa.String(length=64), nullable=False),
        sa.Column("study_pk", _ID, nullable=True),
        sa.Column("is_waiting", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("last_update", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("entered_at", sa.Float(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        study,
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orthanc_study")),
        sa.UniqueConstraint("server", "public_id", name=op.f("uq_orthanc_study_server_public_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_orthanc_study_waiting", "orthanc_study", ["is_waiting", "due_at"], unique=False)
    op.create_index(op.f("ix_orthanc_study_study_pk"), "orthanc_study", ["study_pk"], unique=False)
