"""Series whose files were given up, and studies that are here for a while only."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "released",
        sa.Column("series_pk", _ID, autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("swept", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_pk"], ["series.id"], name=op.f("fk_released_series_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_pk", name=op.f("pk_released")),
    )
    op.create_index(op.f("ix_released_swept"), "released", ["swept"], unique=False)
    op.create_table(
        "fetched",
        sa.Column("study_pk", _ID, autoincrement=False, nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["study_pk"], ["study.id"], name=op.f("fk_fetched_study_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_pk", name=op.f("pk_fetched")),
    )
    op.create_index(op.f("ix_fetched_asked_at"), "fetched", ["asked_at"], unique=False)
