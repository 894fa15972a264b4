"""What the conductor remembers of moves, drains of hosts, and confirmations of fencing."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def times() -> list[sa.Column]:
    return [
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime),
    ]


def upgrade() -> None:
    op.add_column("services", sa.Column("fenced_at", sa.DateTime))
    op.create_table(
        "moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("migration_id", sa.Integer, nullable=False, unique=True),
        sa.Column("instance_uuid", sa.String(36), nullable=False, index=True),
        sa.Column("request_id", sa.String(64)),
        sa.Column("source_node", sa.String(36)),
        sa.Column("dest_node", sa.String(36)),
        sa.Column("old_vcpus", sa.Integer, nullable=False),
        sa.Column("old_memory_mb", sa.Integer, nullable=False),
        sa.Column("old_disk_gb", sa.Integer, nullable=False),
        sa.Column("new_vcpus", sa.Integer, nullable=False),
        sa.Column("new_memory_mb", sa.Integer, nullable=False),
        sa.Column("new_disk_gb", sa.Integer, nullable=False),
        sa.Column("args", sa.JSON()),
        sa.Column("drain_id", sa.Integer, index=True),
        sa.Column("sent_at", sa.DateTime),
        sa.Column("token", sa.String(36)),
        sa.Column("message", sa.Text),
        *times(),
    )
    op.create_table(
        "drains",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("host", sa.String(255), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("max_moves", sa.Integer, nullable=False),
        sa.Column("notes", sa.JSON()),
        sa.Column("ended_at", sa.DateTime),
        *times(),
    )


def downgrade() -> None:
    op.drop_table("drains")
    op.drop_table("moves")
    op.drop_column("services", "fenced_at")
