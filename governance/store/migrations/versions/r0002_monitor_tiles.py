"""What monitors counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "monitor_tile",
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("replica", sa.Text(), nullable=False),
        sa.Column("tile", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("route", "key", "level", "start", "replica"),
    )
    op.create_index("ix_monitor_tile_level_start", "monitor_tile", ["level", "start"])
    op.create_table(
        "monitor_replica",
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("replica", sa.Text(), nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("route", "key", "replica"),
    )


def downgrade() -> None:
    """Drop them, and what was counted with them."""
    op.drop_table("monitor_replica")
    op.drop_table("monitor_tile")
