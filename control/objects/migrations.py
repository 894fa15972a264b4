"""Migration records: made by the conductor, carried forward by the hosts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import func, or_

from compute.rpc import primitives
from control import wire
from control.objects import Call, class_method, method
from control.wire import failure
from db.control import instances, records, tables
from db.control.moves import ENDED
from db.control.types import utcnow

Primitive = dict[str, Any]
Answer = tuple[dict[str, Any], Any]
M = tables.migrations.c


def migration(row: dict[str, Any]) -> Primitive:
    """A Migration of a row of ``migrations``."""
    return wire.from_row("Migration", row)


def migration_list(call: Call, *where: Any) -> Primitive:
    """A MigrationList of what matches."""
    rows = records.query_migrations(call.connection, *where)
    return wire.make_list("MigrationList", map(migration, rows))


def _touches(host: str, node: str) -> Any:
    source = (M.source_compute == host) & (M.source_node == node)
    return or_(source, (M.dest_compute == host) & (M.dest_node == node))


@class_method("MigrationList.get_in_progress_by_host_and_node")
def migrations_in_progress(call: Call, host: str, node: str) -> Primitive:
    return migration_list(call, _touches(host, node), M.status.not_in(ENDED))


@class_method("MigrationList.get_in_progress_by_instance")
def migrations_of_instance(
    call: Call, instance_uuid: str, migration_type: str | None = None
) -> Primitive:
    where = [M.instance_uuid == instance_uuid, M.status.not_in(ENDED)]
    if migration_type is not None:
        where.append(M.migration_type == migration_type)
    return migration_list(call, *where)


@class_method("MigrationList.get_in_progress_and_error")
def migrations_in_progress_and_error(call: Call, host: str, node: str) -> Primitive:
    quiet = [status for status in ENDED if status != "error"]
    return migration_list(call, _touches(host, node), M.status.not_in(quiet))


@class_method("MigrationList.get_unconfirmed_by_dest_compute")
def migrations_unconfirmed(
    call: Call, confirm_window: int, dest_compute: str, use_slave: bool = False
) -> Primitive:
    """Those that finished at least ``confirm_window`` seconds ago and wait for a word."""
    since = func.coalesce(M.updated_at, M.created_at)
    return migration_list(call, M.dest_compute == dest_compute, M.status == "finished",
                          since <= utcnow() - timedelta(seconds=confirm_window))


@class_method("MigrationList.get_by_filters")
def migrations_by_filters(call: Call, filters: dict[str, Any], **_sorting: Any) -> Primitive:
    where = []
    for name, value in filters.items():
        if name == "host":
            where.append(or_(M.source_compute == value, M.dest_compute == value))
        elif name == "node":
            where.append(or_(M.source_node == value, M.dest_node == value))
        elif name == "changes-since":
            where.append(func.coalesce(M.updated_at, M.created_at) >= value)
        elif name in M:
            where.append(instances.matches(M[name], value))
        else:
            raise failure("Invalid", f"Migrations cannot be filtered by {name}.")
    return migration_list(call, *where)


@class_method("Migration.get_by_id")
def migration_by_id(call: Call, migration_id: int) -> Primitive:
    return _one(call, M.id == migration_id, key=migration_id)


@class_method("Migration.get_by_uuid")
def migration_by_uuid(call: Call, migration_uuid: str) -> Primitive:
    return _one(call, M.uuid == migration_uuid, key=migration_uuid)


@class_method("Migration.get_by_id_and_instance")
def migration_by_id_and_instance(call: Call, migration_id: int, instance_uuid: str) -> Primitive:
    where = (M.id == migration_id, M.instance_uuid == instance_uuid)
    return _one(call, *where, key=migration_id)


@class_method("Migration.get_by_instance_and_status")
def migration_by_status(call: Call, instance_uuid: str, status: str) -> Primitive:
    where = (M.instance_uuid == instance_uuid, M.status == status)
    return _one(call, *where, key=f"of {instance_uuid} with status {status}")


def _one(call: Call, *where: Any, key: Any) -> Primitive:
    """The newest that matches."""
    rows = records.query_migrations(call.connection, *where)
    if not rows:
        raise failure("MigrationNotFound", f"Migration {key} could not be found.",
                      migration_id=key)
    return migration(rows[-1])


@method("Migration.create")
def create_migration(call: Call, objinst: Primitive) -> Answer:
    values = wire.changed(objinst)
    if "uuid" in primitives.data(objinst):
        values["uuid"] = primitives.data(objinst)["uuid"]
    return _saved(objinst, records.create_migration(call.connection, values))


@method("Migration.save")
def save_migration(call: Call, objinst: Primitive) -> Answer:
    data = primitives.data(objinst)
    row = records.save_migration(call.connection, data["id"], wire.changed(objinst))
    if row is None:
        raise failure("MigrationNotFound", f"Migration {data['id']} could not be found.",
                      migration_id=data["id"])
    return _saved(objinst, row)


def _saved(objinst: Primitive, row: dict[str, Any]) -> Answer:
    return wire.updates(objinst, primitives.data(migration(row))), None
