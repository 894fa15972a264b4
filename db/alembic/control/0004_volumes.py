"""Volumes, and which servers they are attached to."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def times() -> list[sa.Column]:
    return [
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime),
    ]


def no(name: str) -> sa.Column:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def upgrade() -> None:
    op.create_table(
        "volumes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuid", sa.String(36), nullable=False, unique=True),
        sa.Column("name", sa.String(255), index=True),
        sa.Column("description", sa.String(255)),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("format", sa.String(16)),
        no("multiattach"),
        no("bootable"),
        sa.Column("source_image", sa.String(64)),
        sa.Column("source_volume", sa.String(36)),
        sa.Column("image_metadata", sa.JSON()),
        sa.Column("properties", sa.JSON()),
        sa.Column("connection_info", sa.JSON()),
        sa.Column("message", sa.Text),
        sa.Column("request_id", sa.String(64)),
        *times(),
        sa.UniqueConstraint("request_id", "name", name="uniq_volumes_request_name"),
    )
    op.create_table(
        "volume_attachments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuid", sa.String(36), nullable=False, unique=True),
        sa.Column(
            "volume_uuid", sa.String(36),
            sa.ForeignKey("volumes.uuid", name="volume_attachments_volume_uuid_fkey"),
            nullable=False, index=True,
        ),
        sa.Column("instance_uuid", sa.String(36), nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255)),
        sa.Column("mountpoint", sa.String(255)),
        sa.Column("connector", sa.JSON()),
        no("delete_volume"),
        *times(),
    )


def downgrade() -> None:
    op.drop_table("volume_attachments")
    op.drop_table("volumes")
