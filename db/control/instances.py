"""instances and their info caches: one row per server, written by compare-and-swap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control import moves
from db.control.rows import fetch, fetch_one, insert, update
from db.control.tables import instance_faults, instance_info_caches, instances
from db.control.types import utcnow

Row = dict[str, Any]
Columns = Iterable[str]

EXTRA = frozenset({
    "metadata", "system_metadata", "flavor", "old_flavor", "new_flavor", "numa_topology",
    "pci_requests", "device_metadata", "vcpu_model", "migration_context", "keypairs", "tags",
    "trusted_certs", "resources",
})
OURS = frozenset({"allocation_node", "request_id", "build_args", "server_group", "scheduled_at"})
BASE = tuple(c.name for c in instances.c if c.name not in EXTRA | OURS)
FILTERS = frozenset({
    "uuid", "host", "node", "vm_state", "task_state", "project_id", "user_id", "cleaned",
    "display_name", "image_ref", "availability_zone", "power_state", "server_group", "hidden",
})


def _columns(extra: Columns, info_cache: bool) -> list[sa.ColumnElement[Any]]:
    chosen: list[sa.ColumnElement[Any]] = [
        instances.c[name] for name in (*BASE, *sorted(set(extra) & (EXTRA | OURS)))]
    if info_cache:
        cache = instance_info_caches.c
        chosen += [
            cache.network_info.label("cache_network_info"),
            cache.created_at.label("cache_created_at"),
            cache.updated_at.label("cache_updated_at"),
        ]
    return chosen


def query(
    connection: Connection,
    *where: sa.ColumnElement[bool],
    extra: Columns = (),
    info_cache: bool = False,
    limit: int | None = None,
    newest_first: bool = False,
) -> list[Row]:
    """Instances in order of id, in one statement.

    :param extra: names of JSON columns (and ours) to load besides the plain ones.
    :param info_cache: also ``cache_network_info`` and its times.
    """
    statement = sa.select(*_columns(extra, info_cache)).where(*where)
    if info_cache:
        statement = statement.select_from(
            instances.outerjoin(
                instance_info_caches, instance_info_caches.c.instance_uuid == instances.c.uuid
            )
        )
    order = instances.c.id.desc() if newest_first else instances.c.id
    return fetch(connection, statement.order_by(order).limit(limit))


def get(connection: Connection, uuid: str, *, deleted: bool = False,
        extra: Columns = (), info_cache: bool = False) -> Row | None:
    """One instance; a deleted one only with ``deleted``."""
    where = [instances.c.uuid == uuid]
    if not deleted:
        where.append(instances.c.deleted.is_(False))
    rows = query(connection, *where, extra=extra, info_cache=info_cache)
    return rows[0] if rows else None


def hold(connection: Connection, uuid: str) -> bool:
    """Whether an instance lives; where rows can be locked, it stays so until the transaction
    ends."""
    c = instances.c
    statement = sa.select(c.id).where(c.uuid == uuid, c.deleted.is_(False)).with_for_update()
    return connection.execute(statement).scalar() is not None


def by_filters(filters: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    """Conditions for filters as Nova's: equality, a list for any of. Unknown names raise KeyError.

    Without ``deleted`` both deleted and living instances match.
    """
    where: list[sa.ColumnElement[bool]] = []
    for name, value in filters.items():
        if name == "deleted":
            where.append(instances.c.deleted.is_(bool(value)))
        elif name == "soft_deleted":
            if not value:
                where.append(sa.or_(instances.c.vm_state.is_(None),
                                    instances.c.vm_state != "soft-delete"))
        else:
            column = instances.c["display_name" if name == "name" else name]
            if column.name not in FILTERS:
                raise KeyError(name)
            where.append(matches(column, value))
    return where


def matches(column: sa.Column, expected: Any) -> sa.ColumnElement[bool]:
    """``column`` has this value, or one of these values if a list is given; None is NULL."""
    values = list(expected) if isinstance(expected, list | tuple | set | frozenset) else [expected]
    present = [value for value in values if value is not None]
    choices: list[sa.ColumnElement[bool]] = []
    if present:
        choices.append(column.in_(present))
    if len(present) < len(values):
        choices.append(column.is_(None))
    return sa.or_(*choices) if choices else sa.false()


def create(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new instance with its empty info cache.

    :raises sqlalchemy.exc.IntegrityError: uuid, or request id and name, are taken.
    """
    row = insert(connection, instances, values)
    insert(connection, instance_info_caches,
           {"instance_uuid": row["uuid"], "network_info": "[]"})
    return row


def save(
    connection: Connection, uuid: str, values: Mapping[str, Any], *where: sa.ColumnElement[bool]
) -> Row | None:
    """Compare and swap in one UPDATE: write if the row lives and ``where`` holds, else None.

    Returns the plain columns.
    """
    condition = sa.and_(instances.c.uuid == uuid, instances.c.deleted.is_(False), *where)
    return update(connection, instances, condition, values, [instances.c[name] for name in BASE])


def destroy(connection: Connection, uuid: str, *where: sa.ColumnElement[bool]) -> Row | None:
    """Mark an instance deleted and give up its claim on a host; None if it was so already."""
    values = {"deleted": True, "deleted_at": utcnow(), "allocation_node": None, "build_args": None}
    return save(connection, uuid, values, *where)


def names(connection: Connection, uuids: Iterable[str]) -> dict[str, str]:
    """The display names of these instances, by uuid; of deleted ones too."""
    c = instances.c
    found = connection.execute(sa.select(c.uuid, c.display_name).where(c.uuid.in_(list(uuids))))
    return {row[0]: row[1] for row in found}


def uuids_by_host(connection: Connection, host: str) -> list[str]:
    """The uuids of the living instances on a host."""
    statement = sa.select(instances.c.uuid).where(
        instances.c.host == host, instances.c.deleted.is_(False)
    )
    return list(connection.execute(statement).scalars())


def allocations(connection: Connection) -> dict[str, Row]:
    """What the living instances claim of each compute node, by the node's uuid, in two statements:
    ``{vcpus, memory_mb, disk_gb, servers, busy}``; ``busy`` counts those being built or moved.

    An instance that is being moved claims what its move says, on both nodes.
    """
    c = instances.c
    disk = sa.func.coalesce(sa.func.sum(c.root_gb + c.ephemeral_gb), 0)
    busy = sa.case((c.task_state.in_(("scheduling", "networking", "block_device_mapping",
                                      "spawning", "migrating", "resize_prep")), 1),
                   (c.vm_state == "building", 1), else_=0)
    statement = (
        sa.select(
            c.allocation_node,
            sa.func.coalesce(sa.func.sum(c.vcpus), 0).label("vcpus"),
            sa.func.coalesce(sa.func.sum(c.memory_mb), 0).label("memory_mb"),
            disk.label("disk_gb"),
            sa.func.count().label("servers"),
            sa.func.sum(busy).label("busy"),
        )
        .where(c.deleted.is_(False), c.allocation_node.is_not(None),
               c.uuid.not_in(moves.open_instances()))
        .group_by(c.allocation_node)
    )
    found = {
        row["allocation_node"]: {k: int(v or 0) for k, v in row.items() if k != "allocation_node"}
        for row in fetch(connection, statement)
    }
    for node, claim in moves.claims(moves.opened(connection)).items():
        mine = found.setdefault(node, dict.fromkeys(claim, 0))
        found[node] = {name: mine[name] + amount for name, amount in claim.items()}
    return found


def group_nodes(connection: Connection, group: str) -> list[tuple[str, str]]:
    """(instance uuid, compute node uuid) of a server group's living members that have a host;
    one that is being moved counts on both its nodes."""
    c = instances.c
    statement = sa.select(c.uuid, c.allocation_node).where(
        c.server_group == group, c.deleted.is_(False), c.allocation_node.is_not(None)
    )
    found = {(row[0], row[1]) for row in connection.execute(statement)}
    for move in moves.opened(connection, c.server_group == group):
        found |= {(move["instance_uuid"], node)
                  for node in (move["source_node"], move["dest_node"]) if node}
    return sorted(found)


# -- info caches and faults ------------------------------------------------------------------


def get_cache(connection: Connection, uuid: str) -> Row | None:
    """An instance's info cache."""
    statement = sa.select(instance_info_caches).where(instance_info_caches.c.instance_uuid == uuid)
    return fetch_one(connection, statement)


def save_cache(connection: Connection, uuid: str, network_info: str) -> Row:
    """Write an instance's info cache, made if need be. ``network_info`` is JSON text."""
    where = instance_info_caches.c.instance_uuid == uuid
    values = {"network_info": network_info}
    return update(connection, instance_info_caches, where, values) or insert(
        connection, instance_info_caches, {"instance_uuid": uuid, **values}
    )


def create_fault(connection: Connection, values: Mapping[str, Any]) -> Row:
    """Write down why something failed."""
    return insert(connection, instance_faults, values)


def faults(connection: Connection, uuids: Iterable[str]) -> list[Row]:
    """Faults of these instances, newest first, in one statement."""
    statement = (
        sa.select(instance_faults)
        .where(instance_faults.c.instance_uuid.in_(list(uuids)))
        .order_by(instance_faults.c.id.desc())
    )
    return fetch(connection, statement)
