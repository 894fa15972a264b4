"""Alembic environment of all chains; connection and chain come from db.engine.migrate."""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"], version_table=f"alembic_{attributes['chain']}"
)
with context.begin_transaction():
    context.run_migrations()
