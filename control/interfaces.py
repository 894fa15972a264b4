"""Servers' NICs that come and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compute.errors import Refused
from compute.model import states
from compute.rpc.serializer import Context
from control import addresses
from control.common import NOTHING, context_for
from control.messages import Computes
from control.objects import Call
from control.objects.instances import load
from control.refusals import refusal
from db.control import instances, networks, records
from db.control.store import Store
from db.control.tables import instances as table

Row = dict[str, Any]
C = table.c
SENT = ("metadata", "system_metadata", "info_cache", "security_groups", "flavor",
        "device_metadata")
FROM = (states.ACTIVE, states.PAUSED, states.STOPPED)  # as in Nova


class Interfaces:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    computes: Computes
    # given by Servers, Networks and Ports
    _find: Callable[..., Row]
    _asked: Callable[[str, str, str | None], bool]
    _networks: Callable[[list | str | None], list[Row]]
    _network: Callable[[str], Row]
    _port: Callable[[str], Row]
    server_show: Callable[[str], Row]

    def server_ports(self, server: str) -> list[Row]:
        """A server's ports, in their order."""
        return [shown(port) for port in self._ports(self._find(server)["uuid"])]

    def _ports(self, uuid: str) -> list[Row]:
        with self.store.begin() as connection:
            return networks.instance_ports(connection, [uuid])

    def server_add_network(self, server: str, network: str, fixed_ip: str | None = None,
                           tag: str | None = None, request_id: str | None = None) -> Row:
        """Give a server, running or not, one more NIC on a network; returns its port when the NIC
        is in. The same request id again has no second effect.

        :raises Refused: network or address cannot be had, or the server is in another state.
        :raises Failed: the server's host could not do it; nothing of it is left.
        """
        [wish] = self._networks([{"network": network, "fixed_ip": fixed_ip, "tag": tag}])
        context, instance = self._begin(server, "attach_interface", request_id)
        vif = self.computes.call_long(
            context, instance["nova_object.data"]["host"], "attach_interface", instance=instance,
            network_id=wish["network_id"], port_id=None, requested_ip=wish["fixed_ip"],
            tag=wish["tag"])
        ports = self._ports(instance["nova_object.data"]["uuid"])
        return next(shown(port) for port in ports if port["uuid"] == vif["id"])

    def server_add_port(self, server: str, port: str, tag: str | None = None,
                        request_id: str | None = None) -> Row:
        """Give a server, running or not, a NIC of a port that is there; the answer and the errors
        are those of :meth:`server_add_network`."""
        row, wanted = self._find(server), self._port(port)
        again = wanted["instance_uuid"] == row["uuid"] and request_id and \
            self._asked(row["uuid"], "attach_interface", request_id)
        if wanted["instance_uuid"] and not again:
            raise addresses.port_in_use(wanted)
        context, instance = self._begin(row["uuid"], "attach_interface", request_id)
        vif = self.computes.call_long(
            context, instance["nova_object.data"]["host"], "attach_interface", instance=instance,
            network_id=None, port_id=wanted["uuid"], requested_ip=None, tag=tag)
        return next(shown(one) for one in self._ports(row["uuid"]) if one["uuid"] == vif["id"])

    def server_remove_port(self, server: str, port: str, request_id: str | None = None) -> Row:
        """Take the NIC of a port (by id or name, or by MAC or IP address) out of a server; its
        host goes on with it when this returns. A port that was made by itself stays, for other
        servers. The answer has the request's id, by which 'server.actions'
        tells how it ended."""
        row = self._find(server)
        have = self._ports(row["uuid"])
        found = [one for one in have if port in (one["uuid"], one["mac"])] or \
            [one for one in have if port in (one["name"], one["address"])]
        if not found:
            raise Refused(f"Server {row['display_name']} has no port {port}.", now=NOTHING,
                          next=f"See 'magnetar server port list {row['display_name']}'.",
                          code="port_not_found")
        if len(found) > 1:
            raise Refused(f"Server {row['display_name']} has {len(found)} ports {port}.",
                          now=NOTHING, next="Name the one you mean by its id.", code="ambiguous")
        return self._take_out(row, found, request_id)[0]

    def server_remove_network(self, server: str, network: str,
                              request_id: str | None = None) -> list[Row]:
        """The same for all NICs on a network."""
        row, wanted = self._find(server), self._network(network)
        found = [one for one in self._ports(row["uuid"])
                 if one["network_uuid"] == wanted["uuid"]]
        if not found:
            raise Refused(f"Server {row['display_name']} is not on network {wanted['name']}.",
                          now=NOTHING,
                          next=f"See 'magnetar server port list {row['display_name']}'.",
                          code="port_not_found")
        if len(found) > 1:
            listed = ", ".join(f"{one['uuid']} ({one['address']})" for one in found)
            raise Refused(f"Server {row['display_name']} has {len(found)} ports on network "
                          f"{wanted['name']}: {listed}.", now=NOTHING,
                          next="Remove them one after the other, with 'server remove port'.",
                          code="ambiguous")
        return self._take_out(row, found, request_id)

    def _take_out(self, row: Row, ports: Sequence[Row], request_id: str | None) -> list[Row]:
        told = []
        for port in ports:
            context, instance = self._begin(row["uuid"], "detach_interface", request_id)
            self.computes.cast(context, instance["nova_object.data"]["host"], "detach_interface",
                               instance=instance, port_id=port["uuid"])
            told.append({**shown(port), "request_id": context.request_id})
        return told

    def _begin(self, server: str, verb: str, request_id: str | None) -> tuple[Context, Row]:
        """Write the action down, if the server is in a state for it. Nova sets no task for it."""
        context, row = context_for(request_id), self._find(server)
        uuid = row["uuid"]
        again = bool(request_id) and self._asked(uuid, verb, request_id)
        with self.store.begin() as connection:
            now = instances.get(connection, uuid)
            fits = now is not None and now["vm_state"] in FROM and now["task_state"] is None \
                and now["host"] and now["launched_at"]
            if not fits:
                raise refusal(now, row, verb.replace("_", " an ") + " of", FROM, (None,))
            if not again:
                records.start_action(connection, verb, uuid, context.request_id or "",
                                     context.user_id, context.project_id)
            instance = load(Call(connection, context), C.uuid == uuid, attrs=SENT)[0]
        return context, instance


def shown(port: Mapping[str, Any]) -> Row:
    """A port as people and machines see it."""
    return {"id": port["uuid"], "name": port["name"], "network": port["network_name"],
            "mac": port["mac"], "address": port["address"], "tag": port["tag"],
            "host": port["host"]}
