"""instance_actions and their events, block_device_mapping, virtual_interfaces, migrations."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.moves import ENDED
from db.control.rows import fetch, fetch_one, insert, update
from db.control.tables import (
    block_device_mapping,
    instance_action_events,
    instance_actions,
    migrations,
    virtual_interfaces,
)
from db.control.types import utcnow

Row = dict[str, Any]


# -- actions -----------------------------------------------------------------------------------


def start_action(
    connection: Connection, action: str, instance_uuid: str, request_id: str,
    user_id: str | None = None, project_id: str | None = None,
) -> Row:
    """Write down that somebody asked for something."""
    return insert(connection, instance_actions, {
        "action": action, "instance_uuid": instance_uuid, "request_id": request_id,
        "user_id": user_id, "project_id": project_id, "start_time": utcnow(),
    })


def find_action(connection: Connection, instance_uuid: str, request_id: str | None) -> Row | None:
    """The action of this request, or with None the newest one."""
    statement = sa.select(instance_actions).where(instance_actions.c.instance_uuid == instance_uuid)
    if request_id is not None:
        statement = statement.where(instance_actions.c.request_id == request_id)
    return fetch_one(connection, statement.order_by(instance_actions.c.id.desc()).limit(1))


def forget_action(connection: Connection, instance_uuid: str, request_id: str | None) -> None:
    """What was asked could not be passed on: the same request may be made again."""
    c = instance_actions.c
    connection.execute(instance_actions.delete().where(
        c.instance_uuid == instance_uuid, c.request_id == request_id))


def actions(connection: Connection, instance_uuid: str) -> list[Row]:
    """All actions on an instance, oldest first."""
    statement = sa.select(instance_actions).where(instance_actions.c.instance_uuid == instance_uuid)
    return fetch(connection, statement.order_by(instance_actions.c.id))


def events(connection: Connection, action_ids: Iterable[int]) -> list[Row]:
    """The events of these actions, oldest first."""
    c = instance_action_events.c
    return fetch(
        connection,
        sa.select(instance_action_events).where(c.action_id.in_(list(action_ids))).order_by(c.id),
    )


def start_event(connection: Connection, action_id: int, event: str, host: str | None) -> Row:
    """A host has begun on its part of an action."""
    return insert(connection, instance_action_events, {
        "action_id": action_id, "event": event, "host": host, "start_time": utcnow(),
    })


def finish_event(
    connection: Connection, action_id: int, event: str, result: str, traceback: str | None,
    details: str | None,
) -> Row | None:
    """A host has ended its part; None if it never began. A failure marks the action too."""
    c = instance_action_events.c
    newest = (
        sa.select(sa.func.max(c.id))
        .where(c.action_id == action_id, c.event == event)
        .scalar_subquery()
    )
    row = update(
        connection, instance_action_events, c.id == newest,
        {"finish_time": utcnow(), "result": result, "traceback": traceback, "details": details},
    )
    if row is not None:
        values: Row = {"finish_time": utcnow()}
        if result != "Success":
            values["message"] = "Error"
        update(connection, instance_actions, instance_actions.c.id == action_id, values)
    return row


# -- block devices and virtual interfaces --------------------------------------------------------


def devices(connection: Connection, instance_uuids: Iterable[str]) -> list[Row]:
    """Block device mappings of these instances, in order of id, in one statement."""
    c = block_device_mapping.c
    return fetch(
        connection,
        sa.select(block_device_mapping)
        .where(c.instance_uuid.in_(list(instance_uuids)), c.deleted.is_(False))
        .order_by(c.id),
    )


def find_device(connection: Connection, **values: Any) -> Row | None:
    """The block device mapping whose columns have these values, or None."""
    statement = sa.select(block_device_mapping).filter_by(deleted=False, **values)
    return fetch_one(connection, statement)


def query_devices(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
    """Block device mappings in order of id."""
    c = block_device_mapping.c
    return fetch(connection, sa.select(block_device_mapping)
                 .where(c.deleted.is_(False), *where).order_by(c.id))


def create_device(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new block device mapping."""
    return insert(connection, block_device_mapping, {"uuid": str(uuidlib.uuid4()), **values})


def save_device(connection: Connection, device_id: int, values: Mapping[str, Any]) -> Row | None:
    """Write changes; None if there is no such row."""
    where = sa.and_(block_device_mapping.c.id == device_id,
                    block_device_mapping.c.deleted.is_(False))
    return update(connection, block_device_mapping, where, values)


def delete_devices(connection: Connection, *where: sa.ColumnElement[bool]) -> None:
    """Mark block device mappings deleted."""
    connection.execute(
        block_device_mapping.update()
        .where(block_device_mapping.c.deleted.is_(False), *where)
        .values(deleted=True, deleted_at=utcnow())
    )


def interfaces(connection: Connection, instance_uuid: str) -> list[Row]:
    """The virtual interfaces of an instance, in order of id."""
    c = virtual_interfaces.c
    return fetch(
        connection,
        sa.select(virtual_interfaces)
        .where(c.instance_uuid == instance_uuid, c.deleted.is_(False))
        .order_by(c.id),
    )


def create_interface(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new virtual interface."""
    return insert(connection, virtual_interfaces, {"uuid": str(uuidlib.uuid4()), **values})


def delete_interfaces(connection: Connection, instance_uuid: str) -> None:
    """Remove an instance's virtual interfaces."""
    connection.execute(
        virtual_interfaces.delete().where(virtual_interfaces.c.instance_uuid == instance_uuid)
    )


# -- migrations ----------------------------------------------------------------------------------


def query_migrations(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
    """Migrations in order of id."""
    statement = sa.select(migrations).where(migrations.c.deleted.is_(False), *where)
    return fetch(connection, statement.order_by(migrations.c.id))


def create_migration(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new migration record."""
    return insert(connection, migrations, {"uuid": str(uuidlib.uuid4()), **values})


def save_migration(connection: Connection, migration_id: int, values: Mapping[str, Any]
                   ) -> Row | None:
    """Write changes; None if there is no such row."""
    return update(connection, migrations, migrations.c.id == migration_id, values)


def end_migrations(connection: Connection, instance_uuid: str) -> None:
    """An instance is gone: what went on with it ends. A confirmation goes on, since it removes
    what is left at the source."""
    c = migrations.c
    connection.execute(
        migrations.update()
        .where(c.instance_uuid == instance_uuid, c.status.not_in((*ENDED, "confirming")))
        .values(status="error", updated_at=utcnow())
    )
