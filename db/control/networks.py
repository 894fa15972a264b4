"""networks and ports: which addresses there are, and who has them."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, insert, update
from db.control.tables import networks, ports

Row = dict[str, Any]


def all_networks(connection: Connection) -> list[Row]:
    """All networks in order of name."""
    return fetch(connection, sa.select(networks).order_by(networks.c.name))


def find(connection: Connection, key: str) -> list[Row]:
    """Networks with this uuid or name."""
    c = networks.c
    return fetch(connection, sa.select(networks).where(sa.or_(c.uuid == key, c.name == key)))


def create(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new network. Raises sqlalchemy.exc.IntegrityError if the name is taken."""
    return insert(connection, networks, {"uuid": str(uuidlib.uuid4()), **values})


def set_status(connection: Connection, uuid: str, status: str) -> Row | None:
    """Set a network's status (creating, active, deleting); None if it is gone."""
    return update(connection, networks, networks.c.uuid == uuid, {"status": status})


def set_last_address(connection: Connection, uuid: str, address: str) -> None:
    """Note which address was given out last."""
    update(connection, networks, networks.c.uuid == uuid, {"last_address": address})


def delete(connection: Connection, uuid: str) -> None:
    """Remove a network. Raises sqlalchemy.exc.IntegrityError while it has ports."""
    connection.execute(networks.delete().where(networks.c.uuid == uuid))


def addresses(connection: Connection, network_uuid: str) -> set[str]:
    """The addresses of a network that are taken."""
    statement = sa.select(ports.c.address).where(ports.c.network_uuid == network_uuid)
    return set(connection.execute(statement).scalars())


def port_counts(connection: Connection) -> dict[str, int]:
    """How many ports each network has, by the network's uuid."""
    c = ports.c
    statement = sa.select(c.network_uuid, sa.func.count()).group_by(c.network_uuid)
    return {row[0]: row[1] for row in connection.execute(statement)}


def instance_ports(connection: Connection, instance_uuids: Iterable[str]) -> list[Row]:
    """Ports of these instances in order of position, each with its network's columns prefixed
    ``network_``, in one statement."""
    wanted = ("name", "kind", "source", "cidr", "gateway", "dns", "dhcp", "mtu")
    columns = [networks.c[name].label(f"network_{name}") for name in wanted]
    return fetch(
        connection,
        sa.select(ports, *columns)
        .join(networks, networks.c.uuid == ports.c.network_uuid)
        .where(ports.c.instance_uuid.in_(list(instance_uuids)))
        .order_by(ports.c.instance_uuid, ports.c.position),
    )


def create_port(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new port. Raises sqlalchemy.exc.IntegrityError if its address, MAC or place is taken."""
    return insert(connection, ports, {"uuid": str(uuidlib.uuid4()), **values})


def bind_ports(connection: Connection, instance_uuid: str, host: str | None) -> None:
    """Note on which host an instance's ports are."""
    connection.execute(
        ports.update().where(ports.c.instance_uuid == instance_uuid).values(host=host)
    )


def delete_ports(connection: Connection, instance_uuid: str, port: str | None = None) -> int:
    """Free all addresses of an instance, or that of one port; how many there were."""
    where = [ports.c.instance_uuid == instance_uuid]
    if port is not None:
        where.append(ports.c.uuid == port)
    return connection.execute(ports.delete().where(*where)).rowcount
