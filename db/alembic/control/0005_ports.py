"""Ports that no server has, and that stay when their server goes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("ports") as ports:
        ports.alter_column("instance_uuid", existing_type=sa.String(36), nullable=True)
        ports.alter_column("position", existing_type=sa.Integer, nullable=True)
        ports.add_column(sa.Column("name", sa.String(255)))
        ports.add_column(
            sa.Column("kept", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.execute("DELETE FROM ports WHERE instance_uuid IS NULL")
    with op.batch_alter_table("ports") as ports:
        ports.drop_column("kept")
        ports.drop_column("name")
        ports.alter_column("position", existing_type=sa.Integer, nullable=False)
        ports.alter_column("instance_uuid", existing_type=sa.String(36), nullable=False)
