"""moves: what the conductor remembers of each migration record that it made, and its claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, insert, update
from db.control.tables import instances, migrations, moves

Row = dict[str, Any]

# Statuses of a migration record with which nothing more happens, and nothing is claimed.
ENDED = ("confirmed", "reverted", "error", "failed", "completed", "cancelled", "done")
AMOUNTS = ("vcpus", "memory_mb", "disk_gb")
_MIGRATION = ("uuid", "status", "migration_type", "source_compute", "dest_compute",
              "source_node", "dest_node")
_INSTANCE = ("vm_state", "task_state", "host", "allocation_node", "display_name", "server_group")


def create(connection: Connection, values: Mapping[str, Any]) -> Row:
    """Remember a move. Raises sqlalchemy.exc.IntegrityError on a second one of a migration."""
    return insert(connection, moves, values)


def save(connection: Connection, move_id: int, values: Mapping[str, Any],
         *where: sa.ColumnElement[bool]) -> Row | None:
    """Write changes if ``where`` holds, else None."""
    return update(connection, moves, sa.and_(moves.c.id == move_id, *where), values)


def query(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
    """Moves of living instances in order of id, with what their migration and instance are now:
    ``migration_uuid``, ``status``, ``kind``, ``source_compute``, ``vm_state``, …, in one
    statement. ``source_node`` and ``dest_node`` are the compute nodes' uuids."""
    named = {"uuid": "migration_uuid", "migration_type": "kind", "source_node": "source_name",
             "dest_node": "dest_name"}
    columns: list[sa.ColumnElement[Any]] = [
        migrations.c[name].label(named.get(name, name)) for name in _MIGRATION]
    columns += [instances.c[name] for name in _INSTANCE]
    statement = (
        sa.select(moves, *columns)
        .join(migrations, migrations.c.id == moves.c.migration_id)
        .join(instances, instances.c.uuid == moves.c.instance_uuid)
        .where(instances.c.deleted.is_(False), *where)
        .order_by(moves.c.id)
    )
    return fetch(connection, statement)


def opened(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
    """Those whose migration has not ended."""
    return query(connection, migrations.c.status.not_in(ENDED), *where)


def get(connection: Connection, migration_id: int) -> Row | None:
    """The move of a migration, or None."""
    return next(iter(query(connection, moves.c.migration_id == migration_id)), None)


def by_migration(connection: Connection, migration_ids: Iterable[int]) -> dict[int, Row]:
    """The rows of these migrations, by the migration's id; of deleted instances too."""
    statement = sa.select(moves).where(moves.c.migration_id.in_(list(migration_ids)))
    return {row["migration_id"]: row for row in fetch(connection, statement)}


def advance(connection: Connection, migration_id: int, status: str,
          expected: Iterable[str]) -> bool:
    """Set a migration record's status if it still is one of the ``expected``; whether it was."""
    c = migrations.c
    where = sa.and_(c.id == migration_id, c.status.in_(list(expected)))
    return update(connection, migrations, where, {"status": status}, [c.id]) is not None


def claims(rows: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    """What open moves claim of each compute node, by its uuid: the former size at the source and
    the new one at the destination, until the end. On one host memory and CPUs are used once, disk
    twice. A guest counts as a server where it is, and as busy on both while it goes over."""
    found: dict[str, Row] = {}

    def node(uuid: str) -> Row:
        return found.setdefault(uuid, dict.fromkeys((*AMOUNTS, "servers", "busy"), 0))

    for row in rows:
        sides = [(row["source_node"], "old"), (row["dest_node"], "new")]
        if row["source_node"] == row["dest_node"]:
            claim = node(row["source_node"])
            for name in ("vcpus", "memory_mb"):
                claim[name] += max(row[f"old_{name}"], row[f"new_{name}"])
            claim["disk_gb"] += row["old_disk_gb"] + row["new_disk_gb"]
            sides = sides[:1]
        else:
            for uuid, side in sides:
                for name in AMOUNTS if uuid else ():
                    node(uuid)[name] += row[f"{side}_{name}"]
        for uuid, _ in sides:
            if uuid and row["status"] != "finished":
                node(uuid)["busy"] += 1
        if row["allocation_node"]:
            node(row["allocation_node"])["servers"] += 1
    return found


def open_instances() -> sa.Select:
    """The uuids of instances that have an open move, as a subquery."""
    return (
        sa.select(moves.c.instance_uuid)
        .join(migrations, migrations.c.id == moves.c.migration_id)
        .where(migrations.c.status.not_in(ENDED))
    )
