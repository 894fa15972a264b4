"""Migration records as people and machines see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import or_

from compute.errors import Refused
from control.common import NOTHING
from control.moves.base import M
from db.control import instances, moves, records, services
from db.control.moves import ENDED
from db.control.store import Store

Row = dict[str, Any]
BYTES = tuple(f"{what}_{which}" for what in ("memory", "disk")
              for which in ("total", "processed", "remaining"))
FAILED = ("error", "failed")
KINDS = {"cold-migration": "migration"}  # openstackclient's word


class Migrations:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    _find: Callable[..., Row]

    def migration_list(self, host: str | None = None, status: str | None = None,
                       type: str | None = None,  # noqa: A002 - openstackclient's word
                       server: str | None = None, all: bool = False) -> list[Row]:  # noqa: A002
        """Migrations, the oldest first: those going on, or with ``all`` those that ended too.

        :param host: from or to this host. :param status: with this one. :param type: resize,
            migration (or cold-migration), live-migration or evacuation.
        """
        where = []
        if host is not None:
            where.append(or_(M.source_compute == host, M.dest_compute == host))
        if status is not None:
            where.append(M.status == status)
        elif not all:
            where.append(M.status.not_in(ENDED))
        if type is not None:
            where.append(M.migration_type == KINDS.get(type, type))
        if server is not None:
            where.append(M.instance_uuid == self._find(server, deleted=True)["uuid"])
        return self._shown(*where)

    def server_migration_list(self, server: str) -> list[Row]:
        """All migrations of a server, the oldest first."""
        return self.migration_list(server=server, all=True)

    def server_migration_show(self, server: str, migration: int | None = None) -> Row:
        """One migration of a server by its id, or the newest one.

        :raises Refused: code ``migration_not_found``.
        """
        row = self._find(server, deleted=True)
        where = [M.instance_uuid == row["uuid"]]
        where += [M.id == migration] if migration is not None else []
        found = self._shown(*where)
        if not found:
            which = f"no migration {migration}" if migration is not None else "no migrations"
            raise Refused(f"Server {row['display_name']} has {which}.", now=NOTHING,
                          next=f"See 'magnetar server migration list --server {row['uuid']}'.",
                          code="migration_not_found")
        return found[-1]

    def _shown(self, *where: Any) -> list[Row]:
        """In a constant number of statements."""
        with self.store.begin() as connection:
            rows = records.query_migrations(connection, *where)
            if not rows:
                return []
            uuids = {row["instance_uuid"] for row in rows}
            names = instances.names(connection, uuids)
            planned = moves.by_migration(connection, [row["id"] for row in rows])
            nodes = {node["uuid"]: node["host"] for node in services.nodes(connection)}
            broken = {row["instance_uuid"] for row in rows if row["status"] in FAILED}
            faults = instances.faults(connection, broken) if broken else []
        return [self._view(row, names, planned.get(row["id"], {}), nodes, faults) for row in rows]

    @staticmethod
    def _view(row: Row, names: Row, move: Row, nodes: Row, faults: Iterable[Row]) -> Row:
        message = move.get("message")
        if row["status"] in FAILED and not message:
            message = next((fault["message"] for fault in faults
                            if fault["instance_uuid"] == row["instance_uuid"]
                            and fault["created_at"] >= row["created_at"]), None)
        return {
            "id": row["id"], "uuid": row["uuid"], "server_id": row["instance_uuid"],
            "server": names.get(row["instance_uuid"]), "type": row["migration_type"],
            "status": row["status"], "ended": row["status"] in ENDED,
            "source_compute": row["source_compute"], "source_node": row["source_node"],
            "dest_compute": row["dest_compute"] or nodes.get(move.get("dest_node")),
            "dest_node": row["dest_node"], "dest_host": row["dest_host"],
            **{name: row[name] for name in BYTES}, "message": message,
            "asked": (move.get("args") or {}).get("asked") or {},
            "created_at": row["created_at"], "updated_at": row["updated_at"],
        }
