"""The journal: operations, their steps, claims, and small facts about this host."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("verb", sa.String(32), nullable=False),
        sa.Column("guest", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("lock", sa.String(36), unique=True),
        sa.Column("waits_for", sa.String(36)),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("step", sa.String(32)),
        sa.Column("steps_done", sa.Integer, nullable=False),
        sa.Column("steps_total", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("abort", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("verdict", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float),
        sa.Column("retry_at", sa.Float),
    )
    op.create_index("operations_active", "operations", ["active", "created"])
    op.create_index("operations_guest", "operations", ["guest", "created"])
    op.create_index(
        "operations_request", "operations", ["verb", "guest", "request_id"], unique=True
    )
    op.create_table(
        "steps",
        sa.Column("operation", sa.String(36), sa.ForeignKey("operations.id", ondelete="CASCADE"),
                  primary_key=True),
        sa.Column("phase", sa.String(8), primary_key=True),
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("undo", sa.JSON),
        sa.Column("outcome", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
    )
    op.create_table(
        "claims",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("guest", sa.String(36), nullable=False),
        sa.Column("operation", sa.String(36), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_index("claims_guest", "claims", ["guest"])
    op.create_table(
        "facts",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
