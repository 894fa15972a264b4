"""volumes and volume_attachments: what volumes there are, and which servers have them.

A volume's status is Cinder's: ``creating``, ``downloading`` (from an image), ``available``,
``reserved``, ``attaching``, ``in-use``, ``detaching``, ``extending``, ``deleting``, ``error``. An
attachment is ``reserved``, ``attaching`` or ``attached``.
"""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, fetch_one, insert, update
from db.control.tables import volume_attachments, volumes

Row = dict[str, Any]
V, A = volumes.c, volume_attachments.c


def query(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
    """Volumes, the oldest first."""
    return fetch(connection, sa.select(volumes).where(*where).order_by(V.id))


def find(connection: Connection, key: str) -> list[Row]:
    """Volumes with this uuid or name."""
    return query(connection, sa.or_(V.uuid == key, V.name == key))


def get(connection: Connection, uuid: str) -> Row | None:
    """One volume, None if it is gone."""
    return fetch_one(connection, sa.select(volumes).where(V.uuid == uuid))


def create(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new volume. Raises sqlalchemy.exc.IntegrityError if its request made one of its name."""
    return insert(connection, volumes, {"uuid": str(uuidlib.uuid4()), **values})


def save(connection: Connection, uuid: str, values: Mapping[str, Any],
         statuses: Iterable[str] | None = None) -> Row | None:
    """Write changes, with ``statuses`` only while the status is one of them; None if not."""
    where = [V.uuid == uuid]
    if statuses is not None:
        where.append(V.status.in_(list(statuses)))
    return update(connection, volumes, sa.and_(*where), values)


def delete(connection: Connection, uuid: str) -> None:
    """Remove a volume. Raises sqlalchemy.exc.IntegrityError while it has attachments."""
    connection.execute(volumes.delete().where(V.uuid == uuid))


def promised(connection: Connection) -> int:
    """GiB that all volumes which are files of ours may come to take."""
    statement = sa.select(sa.func.coalesce(sa.func.sum(V.size), 0)).where(V.format.is_not(None))
    return int(connection.execute(statement).scalar() or 0)


# -- attachments -------------------------------------------------------------------------------


def attachments(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
    """Attachments, the oldest first."""
    return fetch(connection, sa.select(volume_attachments).where(*where).order_by(A.id))


def attachment(connection: Connection, uuid: str) -> Row | None:
    """One attachment, None if it is gone."""
    return fetch_one(connection, sa.select(volume_attachments).where(A.uuid == uuid))


def attach(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new attachment."""
    return insert(connection, volume_attachments, {"uuid": str(uuidlib.uuid4()), **values})


def save_attachment(connection: Connection, uuid: str, values: Mapping[str, Any]) -> Row | None:
    """Write changes; None if it is gone."""
    return update(connection, volume_attachments, A.uuid == uuid, values)


def detach(connection: Connection, uuid: str) -> None:
    """Remove an attachment; quiet if it is gone."""
    connection.execute(volume_attachments.delete().where(A.uuid == uuid))
