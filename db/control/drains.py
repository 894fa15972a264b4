"""drains: hosts whose guests are all to go elsewhere, and how far that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, fetch_one, insert, update
from db.control.tables import drains

Row = dict[str, Any]
RUNNING = "running"


def create(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new drain, running."""
    return insert(connection, drains, {"status": RUNNING, "notes": {}, **values})


def newest(connection: Connection, host: str) -> Row | None:
    """The newest drain of a host, or None."""
    statement = sa.select(drains).where(drains.c.host == host)
    return fetch_one(connection, statement.order_by(drains.c.id.desc()).limit(1))


def get(connection: Connection, drain_id: int) -> Row | None:
    """One drain, or None."""
    return fetch_one(connection, sa.select(drains).where(drains.c.id == drain_id))


def running(connection: Connection) -> list[Row]:
    """Those that go on, in order of id."""
    return fetch(connection,
                 sa.select(drains).where(drains.c.status == RUNNING).order_by(drains.c.id))


def save(connection: Connection, drain_id: int, values: Mapping[str, Any],
         status: str = RUNNING) -> Row | None:
    """Write changes if the drain has this status, else None."""
    where = sa.and_(drains.c.id == drain_id, drains.c.status == status)
    return update(connection, drains, where, values)
