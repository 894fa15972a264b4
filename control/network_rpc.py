"""What an agent asks its embedded control plane that it would ask Neutron in a cloud.

Namespace ``magnetar``, version 1.0, topic ``conductor``.
"""

from __future__ import annotations

from typing import Any

import oslo_messaging

from compute.errors import MagnetarError
from compute.rpc.serializer import Context
from control import addresses
from control.conductor import expected
from db.control import networks
from db.control.store import Store

Row = dict[str, Any]


class NetworkService:
    """Ports and networks, as plain dicts."""

    target = oslo_messaging.Target(namespace="magnetar", version="1.0")

    def __init__(self, store: Store):
        self.store = store

    def network_allocate(
        self,
        context: Context,
        instance_uuid: str,
        requests: list[Row],
        host: str | None = None,
        macs: list[str] | None = None,
    ) -> list[Row]:
        """See :func:`control.addresses.allocate`."""
        return expected(
            lambda: addresses.allocate(self.store, instance_uuid, requests, host, macs or ())
        )

    def network_attach(
        self, context: Context, instance_uuid: str, port: str, request: Row,
        host: str | None = None,
    ) -> Row:
        """See :func:`control.addresses.attach`. Answers ``{"nic": …}``, or ``{"error": …}``."""
        try:
            return {"nic": addresses.attach(self.store, instance_uuid, port, request, host)}
        except MagnetarError as error:
            return {"error": error.to_dict()}

    def network_detach(self, context: Context, instance_uuid: str, port: str) -> int:
        """Free one address of an instance; returns how many there were."""
        with self.store.begin() as connection:
            return networks.release_ports(connection, instance_uuid, port)

    def network_deallocate(self, context: Context, instance_uuid: str) -> int:
        """Free an instance's addresses; returns how many there were."""
        with self.store.begin() as connection:
            return networks.release_ports(connection, instance_uuid)

    def network_nics(self, context: Context, instance_uuid: str) -> list[Row]:
        """An instance's NICs as they are."""
        with self.store.begin() as connection:
            ports = networks.instance_ports(connection, [instance_uuid])
        return [addresses.nic(port) for port in ports]

    def network_bind(self, context: Context, instance_uuid: str, host: str) -> list[Row]:
        """An instance's ports are on this host from now on; their addresses and MACs stay.
        Returns its NICs."""
        with self.store.begin() as connection:
            networks.bind_ports(connection, instance_uuid, host)
            ports = networks.instance_ports(connection, [instance_uuid])
        return [addresses.nic(port) for port in ports]

    def network_list(self, context: Context) -> list[Row]:
        """All networks, as ``create_network`` of a driver wants them."""
        with self.store.begin() as connection:
            rows = networks.all_networks(connection)
        return [addresses.description(row) for row in rows if row["status"] == "active"]
