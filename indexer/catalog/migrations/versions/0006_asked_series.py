"""Series that somebody waits for."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add when a series was asked about."""
    op.add_column("series", sa.Column("asked_at", sa.Float(), nullable=True))
