"""Ports that exist by themselves: made before a server has them, and kept when it goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from compute.errors import Refused
from control import addresses, common
from control.common import NOTHING
from control.interfaces import shown
from db.control import networks
from db.control.store import Store
from db.control.tables import ports as table

Row = dict[str, Any]
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Ports:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    # given by Servers and Networks
    _find: Callable[..., Row]
    _network: Callable[[str], Row]
    _usable: Callable[[Row], Row]

    def port_create(self, name: str, network: str, fixed_ip: str | None = None,
                    mac: str | None = None) -> Row:
        """Create a port with an address of a network, which no server has yet.

        :param fixed_ip: this address. :param mac: this MAC address.
        :raises Refused: the network, address or MAC cannot be had; nothing was created.
        """
        name = common.checked_name("port", name)
        on = self._usable(self._network(network))
        made = addresses.create_port(self.store, on, name, fixed_ip, mac and checked_mac(mac))
        return self.port_show(made["uuid"])

    def port_list(self, network: str | None = None, server: str | None = None) -> list[Row]:
        """All ports, the oldest first: also those that servers got from a network."""
        where = []
        if network is not None:
            where.append(table.c.network_uuid == self._network(network)["uuid"])
        if server is not None:
            where.append(table.c.instance_uuid == self._find(server)["uuid"])
        with self.store.begin() as connection:
            return [view(port) for port in networks.all_ports(connection, *where)]

    def port_show(self, port: str) -> Row:
        """One port by id or name."""
        return view(self._port(port))

    def port_delete(self, port: str) -> None:
        """Delete a port that no server has.

        :raises Refused: code ``port_in_use``.
        """
        uuid = self._port(port)["uuid"]
        with self.store.begin() as connection:
            gone = networks.delete_port(connection, uuid)
        if not gone:
            raise addresses.port_in_use(self._port(uuid))

    def _port(self, key: str) -> Row:
        with self.store.begin() as connection:
            return common.one("port", key, networks.find_ports(connection, key))

    def _port_request(self, asked: Row, others: list[Row]) -> Row:
        """What a create asks for as ``{port, tag}``, perhaps with the port's network. Whether
        another server has the port is seen when the server is written down: the same request again
        finds it with its own.

        :raises Refused: unknown or ambiguous port, one that is asked for twice, another network.
        """
        if set(asked) - {"port", "network", "tag"} or not isinstance(asked["port"], str):
            raise Refused(f"The port {asked!r} is not understood.", now=NOTHING,
                          next="Give {port, tag}; its address is known.", code="bad_value")
        port = self._port(asked["port"])
        if asked.get("network") and \
                self._network(asked["network"])["uuid"] != port["network_uuid"]:
            raise addresses.wrong_network(port, asked["network"])
        if any(port["uuid"] == one["port_id"] for one in others):
            raise Refused(f"Port {asked['port']} is asked for twice.", now=NOTHING,
                          next="Name each port once.", code="bad_value")
        return {"network_id": port["network_uuid"], "port_id": port["uuid"], "fixed_ip": None,
                "tag": asked.get("tag")}


def view(port: Row) -> Row:
    """A port with the server that has it."""
    return {**shown(port), "network_id": port["network_uuid"], "server": port["server_name"],
            "server_id": port["instance_uuid"],
            "status": "active" if port["instance_uuid"] else "down", "kept": port["kept"],
            "created_at": port["created_at"]}


def checked_mac(text: str) -> str:
    """A MAC address that a NIC can have, in lower case. Raises Refused(code='bad_mac')."""
    mac = text.strip().lower().replace("-", ":")
    first = int(mac[:2], 16) if MAC.fullmatch(mac) else 1
    if first & 1 or first == 0xFE or mac == "00:00:00:00:00:00":
        raise Refused(f"{text!r} cannot be the MAC address of a port.", now="No port was created.",
                      next="Give one such as fa:16:3e:00:00:01: not of a group, nor fe:…, which "
                           "hosts keep for their own side of a NIC.", code="bad_mac")
    return mac
