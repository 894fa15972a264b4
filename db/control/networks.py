"""networks and ports: which addresses there are, and who has them."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from db.control.rows import fetch, insert, update
from db.control.tables import instances, networks, ports

Row = dict[str, Any]
OF_NETWORK = ("name", "kind", "source", "cidr", "gateway", "dns", "dhcp", "mtu")
FREED = {"instance_uuid": None, "position": None, "host": None, "tag": None}


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
    columns = [networks.c[name].label(f"network_{name}") for name in OF_NETWORK]
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


def all_ports(connection: Connection, *where: Any) -> list[Row]:
    """Ports, the oldest first, each with ``network_name`` and ``server_name``."""
    return fetch(
        connection,
        sa.select(ports, networks.c.name.label("network_name"),
                  instances.c.display_name.label("server_name"))
        .join(networks, networks.c.uuid == ports.c.network_uuid)
        .outerjoin(instances, instances.c.uuid == ports.c.instance_uuid)
        .where(*where)
        .order_by(ports.c.id),
    )


def find_ports(connection: Connection, key: str) -> list[Row]:
    """Ports with this uuid or name."""
    return all_ports(connection, sa.or_(ports.c.uuid == key, ports.c.name == key))


def has_mac(connection: Connection, mac: str) -> bool:
    """Whether a port has this MAC address."""
    return connection.execute(sa.select(ports.c.id).where(ports.c.mac == mac)).first() is not None


def take_port(connection: Connection, uuid: str, values: Mapping[str, Any]) -> bool:
    """Give a port to an instance; False if another took it first, or it is gone.

    :param values: ``instance_uuid``, ``position``, ``host``, ``tag``.
    """
    free = sa.and_(ports.c.uuid == uuid, ports.c.instance_uuid.is_(None))
    return update(connection, ports, free, values) is not None


def delete_port(connection: Connection, uuid: str) -> bool:
    """Remove a port that no instance has; False if one has it, or it is gone."""
    statement = ports.delete().where(ports.c.uuid == uuid, ports.c.instance_uuid.is_(None))
    return connection.execute(statement).rowcount > 0


def bind_ports(connection: Connection, instance_uuid: str, host: str | None) -> None:
    """Note on which host an instance's ports are."""
    connection.execute(
        ports.update().where(ports.c.instance_uuid == instance_uuid).values(host=host)
    )


def release_ports(connection: Connection, instance_uuid: str, port: str | None = None) -> int:
    """Free all addresses of an instance, or that of one port; how many there were. Ports that were
    made by themselves are free for others then, all others are gone."""
    where = [ports.c.instance_uuid == instance_uuid]
    if port is not None:
        where.append(ports.c.uuid == port)
    freed = connection.execute(ports.update().where(*where, ports.c.kept.is_(True)).values(**FREED))
    return freed.rowcount + connection.execute(ports.delete().where(*where)).rowcount
