"""Rows as plain dicts, and single-row writes that give the row back.

SQLite and PostgreSQL return the row from the statement itself; elsewhere it is read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.types import utcnow

Row = dict[str, Any]


def fetch(connection: Connection, query: sa.Executable) -> list[Row]:
    """All rows of a query."""
    return [dict(row) for row in connection.execute(query).mappings()]


def fetch_one(connection: Connection, query: sa.Executable) -> Row | None:
    """The first row of a query, or None."""
    row = connection.execute(query).mappings().first()
    return dict(row) if row is not None else None


def insert(connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> Row:
    """Insert one row and return it whole, with id and created_at."""
    values = {"created_at": utcnow(), **values}
    if connection.dialect.insert_returning:
        done = connection.execute(table.insert().values(**values).returning(table))
        return dict(done.mappings().one())
    (key,) = connection.execute(table.insert().values(**values)).inserted_primary_key or (None,)
    return fetch_one(connection, sa.select(table).where(table.c.id == key)) or {}


def update(
    connection: Connection,
    table: sa.Table,
    where: sa.ColumnElement[bool],
    values: Mapping[str, Any],
    columns: Sequence[sa.Column] | None = None,
) -> Row | None:
    """Update the one row that ``where`` names and return it (or these columns of it); None if
    nothing matched."""
    values = {"updated_at": utcnow(), **values}
    wanted = columns or list(table.c)
    statement = table.update().where(where).values(**values)
    if connection.dialect.update_returning:
        row = connection.execute(statement.returning(*wanted)).mappings().first()
        return dict(row) if row is not None else None
    key = connection.execute(sa.select(table.c.id).where(where).with_for_update()).scalar()
    if key is None:
        return None
    connection.execute(statement)
    return fetch_one(connection, sa.select(*wanted).where(table.c.id == key))
