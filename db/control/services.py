"""services and compute_nodes: who is there, what they have, when they were last heard of."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, fetch_one, insert, update
from db.control.tables import compute_nodes, services
from db.control.types import utcnow

Row = dict[str, Any]


def get(connection: Connection, host: str, binary: str = "nova-compute") -> Row | None:
    """The service of a host, or None."""
    return fetch_one(
        connection, sa.select(services).where(services.c.host == host, services.c.binary == binary)
    )


def get_by(connection: Connection, **values: Any) -> Row | None:
    """The service whose columns have these values, or None."""
    return fetch_one(connection, sa.select(services).filter_by(**values))


def all_hosts(connection: Connection) -> list[Row]:
    """All nova-compute services in order of host."""
    return fetch(
        connection,
        sa.select(services).where(services.c.binary == "nova-compute").order_by(services.c.host),
    )


def minimum_version(connection: Connection, binary: str) -> int:
    """The oldest version among services of this kind that are not forced down; 0 if none."""
    query = sa.select(sa.func.min(services.c.version)).where(
        services.c.binary == binary, services.c.forced_down.is_(False)
    )
    return connection.execute(query).scalar() or 0


def create(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new service. Raises sqlalchemy.exc.IntegrityError if host and binary are taken."""
    return insert(connection, services, {"uuid": str(uuidlib.uuid4()), **values})


def save(connection: Connection, service_id: int, values: Mapping[str, Any]) -> Row | None:
    """Write changes; a changed ``report_count`` is a heartbeat, after which a confirmation that
    the host is fenced holds no longer. None if there is no such row."""
    values = dict(values)
    if "report_count" in values:
        values.update(last_seen_up=utcnow(), fenced_at=None)
    return update(connection, services, services.c.id == service_id, values)


def destroy(connection: Connection, service_id: int) -> bool:
    """Remove a service's row; whether there was one."""
    return bool(connection.execute(services.delete().where(services.c.id == service_id)).rowcount)


# -- compute nodes ---------------------------------------------------------------------------


def nodes(connection: Connection, *, host: str | None = None,
          uuids: Iterable[str] | None = None, **values: Any) -> list[Row]:
    """Compute nodes by host, by uuids, or by other columns, in order of id."""
    query = sa.select(compute_nodes).filter_by(**values).order_by(compute_nodes.c.id)
    if host is not None:
        query = query.where(compute_nodes.c.host == host)
    if uuids is not None:
        query = query.where(compute_nodes.c.uuid.in_(list(uuids)))
    return fetch(connection, query)


def create_node(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new compute node. Raises sqlalchemy.exc.IntegrityError on a second one."""
    return insert(connection, compute_nodes, {"uuid": str(uuidlib.uuid4()), "mapped": 0, **values})


def save_node(connection: Connection, node_id: int, values: Mapping[str, Any]) -> Row | None:
    """Write changes; None if there is no such row."""
    return update(connection, compute_nodes, compute_nodes.c.id == node_id, dict(values))


def destroy_node(connection: Connection, node_id: int) -> bool:
    """Remove a compute node's row; whether there was one."""
    done = connection.execute(compute_nodes.delete().where(compute_nodes.c.id == node_id))
    return bool(done.rowcount)
