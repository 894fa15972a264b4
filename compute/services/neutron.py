"""Ports of Neutron, over its REST API v2.0. See :class:`compute.engine.world.Networks`.

What is made here is told from what was there before by its description, which also says for what it
was made: asked again, the same is found again, and only what was made here is ever deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Failed, MagnetarError, Refused
from compute.model.guest import Address, NetworkRequest, Nic
from compute.services.rest import Missing, Rest

Context = Mapping[str, Any]
Row = dict[str, Any]
OWNER = "compute:"  # of a port's device, as Nova's, with the availability zone after it
MADE = "Made for server"  # begins the description of ports that are made here
UNUSABLE = ("unbound", "binding_failed", None, "")


class Neutron:
    """An adapter of the network port.

    :param conf: the global configuration; ``[neutron]`` has Nova's options.
    """

    def __init__(self, conf: Any, host: str):
        self.host, self.bridge = host, conf.neutron.ovs_bridge
        self._rest = Rest(conf, "neutron", "the network service", conf.neutron.http_retries,
                          service_type=conf.neutron.service_type or "network", prefix="/v2.0")

    # -- the port's methods --------------------------------------------------------------------

    def allocate(self, context: Context, guest: str,
                 requests: tuple[NetworkRequest, ...]) -> tuple[Nic, ...]:
        """Ports for a guest; asked again it gives the same."""
        wanted = [request for request in requests if request.network_id != "none"]
        if not wanted:
            return ()
        there = self._ports(guest)
        made = [self._port(context, guest, str(index), request, there)
                for index, request in enumerate(wanted)]
        return self._nics(made, [request.tag for request in wanted])

    def attach(self, context: Context, guest: str, port: str, request: NetworkRequest) -> Nic:
        """One more port for a guest, known by ``port`` from then on, or by its own id."""
        made = self._port(context, guest, port, request, self._ports(guest))
        return self._nics([made], [request.tag], port)[0]

    def detach(self, context: Context, guest: str, port: str) -> None:
        """Give one port of a guest back. Quiet if it is gone."""
        for found in self._ports(guest):
            if port == found["id"] or found.get("description") == _description(guest, port):
                self._give_back(found)

    def deallocate(self, context: Context, guest: str) -> None:
        """Give all ports of a guest back. Quiet if there are none."""
        for found in self._ports(guest):
            self._give_back(found)

    def bind(self, context: Context, guest: str, host: str) -> tuple[Nic, ...]:
        """The guest's ports are on ``host`` from now on; its NICs as they are there."""
        moved = [self._update(found["id"], {"binding:host_id": host})
                 if found.get("binding:host_id") != host else found
                 for found in self._ports(guest)]
        return self._nics(moved, [None] * len(moved))

    # -- one port ------------------------------------------------------------------------------

    def _port(self, context: Context, guest: str, key: str, request: NetworkRequest,
              there: Iterable[Row]) -> Row:
        """The port for a request: one that is there, or a new one."""
        if request.port_id:
            return self._take(guest, request.port_id)
        wish = _description(guest, key)
        for found in there:
            if found.get("description") == wish:
                return found
        network = self._network_of(context, request)
        fields = {
            "network_id": network, "device_id": guest, "device_owner": f"{OWNER}nova",
            "admin_state_up": True, "binding:host_id": self.host, "description": wish,
            "tenant_id": context.get("project_id"),
            "fixed_ips": [{"ip_address": request.fixed_ip}] if request.fixed_ip else None,
        }
        body = {"port": {name: value for name, value in fields.items() if value is not None}}
        try:
            return self._rest.call("POST", "/ports", f"make a port on network {network}",
                                   body)["port"]
        except Missing as error:
            raise _no_network(network) from error
        except Refused as error:
            raise _refusal(error, request) from error

    def _take(self, guest: str, port: str) -> Row:
        """Bind a port that is there already."""
        try:
            found = self._rest.call("GET", f"/ports/{port}", f"show port {port}")["port"]
        except Missing as error:
            raise _no_port(port) from error
        if found.get("device_id") not in (None, "", guest):
            raise Refused(f"Port {port} is used by {found['device_id']}.", now="Nothing was done.",
                          next="Choose another port.", code="port_missing")
        return self._update(port, {"device_id": guest, "device_owner": f"{OWNER}nova",
                                   "binding:host_id": self.host})

    def _give_back(self, port: Mapping[str, Any]) -> None:
        """Delete a port that was made here; set free one that was there before."""
        try:
            if _is_ours(port):
                self._rest.call("DELETE", f"/ports/{port['id']}", f"delete port {port['id']}")
            else:
                self._update(port["id"], {"device_id": "", "device_owner": "",
                                          "binding:host_id": "", "binding:profile": {}})
        except Missing:
            return
        except Refused as error:
            if error.code != "port_missing":
                raise

    def _update(self, port: str, fields: Mapping[str, Any]) -> Row:
        try:
            return self._rest.call("PUT", f"/ports/{port}", f"bind port {port}",
                                   {"port": dict(fields)})["port"]
        except Missing as error:
            raise _no_port(port) from error

    def _network_of(self, context: Context, request: NetworkRequest) -> str:
        if request.network_id not in (None, "auto"):
            return str(request.network_id)
        project = context.get("project_id") or ""
        try:
            found = self._rest.call("GET", f"/auto-allocated-topology/{project}",
                                    "find a network for the server's project")
            return found["auto_allocated_topology"]["id"]
        except Missing as error:
            raise _no_network("any") from error

    # -- looking -------------------------------------------------------------------------------

    def _ports(self, guest: str) -> list[Row]:
        found = self._rest.call("GET", "/ports", f"list the ports of guest {guest}",
                                params={"device_id": guest})["ports"]
        return [port for port in found if port["device_id"] == guest]

    def _nics(self, ports: list[Row], tags: Iterable[str | None],
              asked: str | None = None) -> tuple[Nic, ...]:
        networks = self._by_id("networks", {port["network_id"] for port in ports})
        subnets = self._by_id("subnets", {ip["subnet_id"] for port in ports
                                          for ip in port.get("fixed_ips") or ()})
        return tuple(self._nic(port, networks[port["network_id"]], subnets, tag, asked)
                     for port, tag in zip(ports, tags, strict=True))

    def _by_id(self, what: str, ids: set[str]) -> dict[str, Row]:
        if not ids:
            return {}
        found = self._rest.call("GET", f"/{what}", f"list {what}", params={"id": sorted(ids)})
        return {row["id"]: row for row in found[what]}

    def _nic(self, port: Row, network: Row, subnets: Mapping[str, Row], tag: str | None,
             asked: str | None) -> Nic:
        kind, details = port.get("binding:vif_type"), port.get("binding:vif_details") or {}
        if kind in UNUSABLE:
            raise Failed(
                f"Neutron could not bind port {port['id']} to host {self.host} ({kind}).",
                now="The port is not connected to anything.",
                next="See whether Neutron's agent of this host is alive: 'openstack network agent "
                     "list'.", code="network_missing")
        if kind == "ovs" and not details.get("ovs_hybrid_plug"):
            source = details.get("bridge_name") or self.bridge
        elif kind == "bridge":
            source = details.get("bridge_name") or f"brq{network['id'][:11]}"
        else:
            hybrid = " with a hybrid plug" if kind == "ovs" else ""
            raise Failed(f"Port {port['id']} is bound as {kind}{hybrid}, which this agent cannot "
                         "plug.", now="The port is bound to this host, and nothing uses it.",
                         next="It plugs ports of Open vSwitch and of Linux bridges.",
                         code="network_missing")
        return Nic(
            id=port["id"], mac=port["mac_address"], network_id=network["id"],
            label=network.get("name") or "", kind=kind, source=source, mtu=network.get("mtu"),
            addresses=tuple(_address(ip, subnets[ip["subnet_id"]])
                            for ip in port.get("fixed_ips") or ()),
            tag=tag, asked=asked if asked != port["id"] else None, kept=not _is_ours(port))


def _address(ip: Mapping[str, Any], subnet: Mapping[str, Any]) -> Address:
    return Address(
        address=ip["ip_address"], cidr=subnet["cidr"], version=subnet.get("ip_version") or 4,
        gateway=subnet.get("gateway_ip"), dns=tuple(subnet.get("dns_nameservers") or ()),
        dhcp=bool(subnet.get("enable_dhcp")),
        routes=tuple((route["destination"], route["nexthop"])
                     for route in subnet.get("host_routes") or ()))


def _is_ours(port: Mapping[str, Any]) -> bool:
    """Whether a port was made here."""
    return str(port.get("description") or "").startswith(MADE)


def _description(guest: str, key: str) -> str:
    return f"{MADE} {guest}, NIC {key}"


def _no_network(network: str) -> Refused:
    return Refused(f"The network service has no network {network}.", now="No port was made.",
                   next="Look with 'openstack network list'.", code="network_missing")


def _no_port(port: str) -> Refused:
    return Refused(f"The network service has no port {port}.", now="Nothing was done.",
                   next="Look with 'openstack port list'.", code="port_missing")


def _refusal(error: Refused, request: NetworkRequest) -> MagnetarError:
    """Why there is no port, by the name of Neutron's exception."""
    codes = (("IpAddressInUse", "address_in_use"), ("IpAddressAlreadyAllocated", "address_in_use"),
             ("InvalidIpForNetwork", "bad_address"), ("InvalidIpForSubnet", "bad_address"),
             ("IpAddressGenerationFailure", "no_more_addresses"),
             ("OverQuota", "no_more_addresses"))
    code = next((code for name, code in codes if name in error.what), "service_refused")
    if code == "service_refused" and request.fixed_ip:
        code = "bad_address"
    return Refused(error.what, now="No port was made.", next=error.next, code=code)
