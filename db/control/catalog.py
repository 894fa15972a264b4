"""flavors, key_pairs and server_groups: what a create may name."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, insert
from db.control.tables import flavors, instances, key_pairs, server_groups

Row = dict[str, Any]


def list_flavors(connection: Connection) -> list[Row]:
    """All flavors, the smallest first."""
    return fetch(connection, sa.select(flavors).order_by(flavors.c.memory_mb, flavors.c.name))


def find_flavors(connection: Connection, key: str) -> list[Row]:
    """Flavors with this id or name."""
    return fetch(
        connection,
        sa.select(flavors).where(sa.or_(flavors.c.flavorid == key, flavors.c.name == key)),
    )


def create_flavor(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new flavor. Raises sqlalchemy.exc.IntegrityError if id or name are taken."""
    return insert(connection, flavors, values)


def delete_flavor(connection: Connection, flavor_id: int) -> None:
    """Remove a flavor; servers keep their own copy."""
    connection.execute(flavors.delete().where(flavors.c.id == flavor_id))


def list_keypairs(connection: Connection, name: str | None = None) -> list[Row]:
    """All key pairs, or the one of this name."""
    statement = sa.select(key_pairs).order_by(key_pairs.c.name)
    if name is not None:
        statement = statement.where(key_pairs.c.name == name)
    return fetch(connection, statement)


def create_keypair(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new key pair. Raises sqlalchemy.exc.IntegrityError if the name is taken."""
    return insert(connection, key_pairs, values)


def delete_keypair(connection: Connection, name: str) -> bool:
    """Remove a key pair; whether there was one."""
    return bool(connection.execute(key_pairs.delete().where(key_pairs.c.name == name)).rowcount)


def list_groups(connection: Connection) -> list[Row]:
    """All server groups in order of name."""
    return fetch(connection, sa.select(server_groups).order_by(server_groups.c.name))


def find_groups(connection: Connection, key: str) -> list[Row]:
    """Server groups with this uuid or name."""
    c = server_groups.c
    return fetch(connection, sa.select(server_groups).where(sa.or_(c.uuid == key, c.name == key)))


def create_group(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new server group. Raises sqlalchemy.exc.IntegrityError if the name is taken."""
    return insert(connection, server_groups, {"uuid": str(uuidlib.uuid4()), **values})


def delete_group(connection: Connection, uuid: str) -> None:
    """Remove a server group."""
    connection.execute(server_groups.delete().where(server_groups.c.uuid == uuid))


def group_members(connection: Connection, uuid: str) -> list[Row]:
    """Living members of a group: ``{uuid, host}``."""
    c = instances.c
    return fetch(
        connection,
        sa.select(c.uuid, c.host).where(c.server_group == uuid, c.deleted.is_(False)),
    )
