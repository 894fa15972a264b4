"""Addresses of the embedded control plane's networks: who gets which, each exactly once.

This is what Neutron does in a cloud. The database's unique constraints decide; a lost race is
simply run again.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from compute.errors import Refused, Retryable
from control.wire import failure
from db.control import instances, networks
from db.control.store import Store

Row = dict[str, Any]
ATTEMPTS = 20


def nic(port: Row) -> Row:
    """A port, with its network's columns, as the fields of compute.model.guest.Nic."""
    subnet = ipaddress.ip_network(port["network_cidr"])
    address = {
        "address": port["address"], "cidr": port["network_cidr"], "version": subnet.version,
        "gateway": port["network_gateway"], "dns": list(port["network_dns"] or ()),
        "dhcp": port["network_dhcp"], "routes": [],
    }
    return {
        "id": port["uuid"], "mac": port["mac"], "network_id": port["network_uuid"],
        "label": port["network_name"], "kind": port["network_kind"],
        "source": port["network_source"], "mtu": port["network_mtu"], "addresses": [address],
        "model": None, "tag": port["tag"], "kept": port["kept"],
    }


def description(network: Row) -> Row:
    """A network as an agent's driver wants it for ``create_network``. Of a bridge it has to know
    no addresses: servers get theirs by config drive."""
    found = {"id": network["uuid"], "name": network["source"], "label": network["name"],
             "kind": network["kind"], "mtu": network["mtu"]}
    if network["kind"] != "network":
        return {**found, "bridge": network["source"]}
    first, last = pool(network)
    return {
        **found, "cidr": network["cidr"], "gateway": network["gateway"],
        "dhcp_start": str(first) if network["dhcp"] else None,
        "dhcp_end": str(last) if network["dhcp"] else None,
    }


def pool(network: Mapping[str, Any]) -> tuple[Any, Any]:
    """The first and the last address that servers may get."""
    subnet = ipaddress.ip_network(network["cidr"])
    first, last = subnet[1], subnet[-2] if subnet.version == 4 else subnet[-1]
    if network["gateway"] == str(first):
        first += 1
    if network["gateway"] == str(last):
        last -= 1
    return first, last


def free(network: Row, taken: set[str]) -> Iterator[str]:
    """The network's free addresses, beginning after the one given out last: a DHCP server still
    has the lease of a guest that is gone, so its address rests for as long as possible."""
    first, last = pool(network)
    given = network.get("last_address")
    start = ipaddress.ip_address(given) + 1 if given else first
    start = start if first <= start <= last else first
    for begin, end in ((start, last), (first, start - 1)):
        address = begin
        while address <= end:
            if str(address) not in taken and str(address) != network["gateway"]:
                yield str(address)
            address += 1


def check_fixed(network: Row, wanted: str, taken: set[str]) -> str:
    """An address that the caller asked for.

    :raises Refused: it is none, not of this network, reserved, or taken.
    """
    now = "No address was given out."
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError as error:
        raise Refused(f"{wanted!r} is no IP address.", now=now, code="bad_address",
                      next="Give an address such as 192.0.2.10, or none.") from error
    first, last = pool(network)
    if address.version != first.version or not first <= address <= last:
        raise Refused(f"{address} is not among the addresses of network {network['name']}.",
                      now=now, next=f"Choose one from {first} to {last}.",
                      code="bad_address")
    if str(address) == network["gateway"]:
        raise Refused(f"{address} is the gateway of network {network['name']}.", now=now,
                      next="Choose another one.", code="bad_address")
    if str(address) in taken:
        raise Refused(f"{address} is in use on network {network['name']}.", now=now,
                      next="Choose another one, or none to get a free one.",
                      code="address_in_use")
    return str(address)


def find_network(connection: Connection, key: str) -> Row:
    """A network by uuid or name. Raises Refused(code='network_missing')."""
    rows = networks.find(connection, key)
    if not rows:
        raise Refused(f"There is no network {key}.", now="Nothing was done.",
                      next="See 'magnetar network list'.", code="network_missing")
    return rows[0]


def allocate(
    store: Store, instance_uuid: str, requests: Iterable[Mapping[str, Any]], host: str | None,
    macs: Iterable[str] = (),
) -> list[Row]:
    """Ports for an instance, one for each request, in their order; asked again it gives the same.

    :param requests: ``{network_id, port_id, fixed_ip, tag}`` each; ``none`` as network for no NIC,
        a ``port_id`` for a port that is there.
    :param macs: MAC addresses to use for new ports, in order, as far as they go.
    :returns: NICs as dicts.
    :raises Refused: unknown network or port, an address or a port that cannot be had, or no
        address left.
    :raises InstanceNotFound: the instance is deleted.
    """
    wanted = [dict(r) for r in requests if r.get("network_id") not in ("none", "auto")]
    hints = list(macs)
    for _ in range(ATTEMPTS):
        try:
            with store.begin() as connection:
                _allocate(connection, instance_uuid, wanted, host, hints)
                ports = networks.instance_ports(connection, [instance_uuid])
            return [nic(port) for port in ports]
        except IntegrityError:
            continue
    raise _too_slow()


def attach(
    store: Store, instance_uuid: str, port: str, request: Mapping[str, Any], host: str | None
) -> Row:
    """One more port of this id for an instance; asked again it gives the same.

    :param request: ``{network_id, port_id, fixed_ip, tag}``; with a ``port_id`` the port has to be
        there, and nobody else's.
    :returns: its NIC as a dict.
    :raises Refused: unknown network or port, an address or a port that cannot be had, or no
        address left.
    """
    for _ in range(ATTEMPTS):
        try:
            with store.begin() as connection:
                have = networks.instance_ports(connection, [instance_uuid])
                if not any(one["uuid"] == port for one in have):
                    position = max((one["position"] for one in have), default=-1) + 1
                    if not instances.hold(connection, instance_uuid):
                        raise Refused(f"Server {instance_uuid} is deleted.",
                                      now="No address was given out.", code="guest_not_found")
                    if request.get("port_id"):
                        take(connection, instance_uuid, position, request, host)
                    else:
                        _create(connection, instance_uuid, position, request, host, None, port)
                    have = networks.instance_ports(connection, [instance_uuid])
            return nic(next(one for one in have if one["uuid"] == port))
        except IntegrityError:
            continue
    raise _too_slow()


def create_port(store: Store, network: Row, name: str, fixed_ip: str | None,
                mac: str | None) -> Row:
    """A port of no server, which stays until it is deleted.

    :raises Refused: address or MAC are in use, or no address is left.
    """
    for _ in range(ATTEMPTS):
        try:
            with store.begin() as connection:
                if mac and networks.has_mac(connection, mac):
                    raise Refused(f"Another port has the MAC address {mac}.",
                                  now="No port was created.", code="mac_in_use",
                                  next="Choose another one, or none to get a free one.")
                network = find_network(connection, network["uuid"])
                return networks.create_port(connection, {
                    "network_uuid": network["uuid"], "name": name, "kept": True,
                    "mac": mac or random_mac(),
                    "address": _address(connection, network, fixed_ip)})
        except IntegrityError:
            continue
    raise _too_slow()


def take(connection: Connection, instance_uuid: str, position: int, request: Mapping[str, Any],
         host: str | None) -> None:
    """Give a port that is there to an instance.

    :param request: ``{network_id, port_id, tag}``; a network has to be the port's.
    :raises Refused: codes ``port_missing``, ``port_in_use``, ``wrong_network``.
    """
    found = [port for port in networks.find_ports(connection, request["port_id"])
             if port["uuid"] == request["port_id"]]
    if not found:
        raise Refused(f"There is no port {request['port_id']}.",
                      now="The server got no address of it.", next="See 'magnetar port list'.",
                      code="port_missing")
    port = found[0]
    if request.get("network_id") not in (None, "auto", port["network_uuid"]):
        raise wrong_network(port, request["network_id"])
    values = {"instance_uuid": instance_uuid, "position": position, "host": host,
              "tag": request.get("tag")}
    if not networks.take_port(connection, port["uuid"], values):
        raise port_in_use(port)


def wrong_network(port: Row, network: str) -> Refused:
    """The refusal for a port of another network than was named."""
    return Refused(f"Port {port['uuid']} is on network {port['network_name']}, not on {network}.",
                   now="Nothing was done.", next="Name the port alone, or one of that network.",
                   code="wrong_network")


def port_in_use(port: Row) -> Refused:
    """The refusal for a port that a server has."""
    server = port["server_name"] or port["instance_uuid"] or "another server"
    return Refused(f"Port {port['name'] or port['uuid']} ({port['address']}) is used by server "
                   f"{server}.", now="Nothing was done.", code="port_in_use",
                   next="Take it out of that server first, with 'server remove port', or use "
                        "another port.")


def _too_slow() -> Retryable:
    return Retryable("Somebody else was always faster in taking an address.",
                     now="No address was given out.", next="Try again.")


def _allocate(
    connection: Connection, instance_uuid: str, wanted: list[Row], host: str | None,
    hints: list[str],
) -> None:
    if not instances.hold(connection, instance_uuid):
        raise failure(
            "InstanceNotFound",
            f"Instance {instance_uuid} could not be found.", instance_id=instance_uuid
        )
    have = {port["position"]: port for port in networks.instance_ports(connection, [instance_uuid])}
    if host is not None and any(port["host"] != host for port in have.values()):
        networks.bind_ports(connection, instance_uuid, host)
    for position, request in enumerate(wanted):
        if position in have:
            continue
        if request.get("port_id"):
            take(connection, instance_uuid, position, request, host)
        else:
            mac = hints[position] if position < len(hints) else None
            _create(connection, instance_uuid, position, request, host, mac, None)


def _create(
    connection: Connection, instance_uuid: str, position: int, request: Mapping[str, Any],
    host: str | None, mac: str | None, port: str | None,
) -> None:
    """A port, with an address of the network that was asked for."""
    network = find_network(connection, request["network_id"])
    values = {
        "network_uuid": network["uuid"], "instance_uuid": instance_uuid, "position": position,
        "host": host, "tag": request.get("tag"), "mac": mac or random_mac(),
        "address": _address(connection, network, request.get("fixed_ip")),
    }
    if port:
        values["uuid"] = port
    networks.create_port(connection, values)


def _address(connection: Connection, network: Row, fixed_ip: str | None) -> str:
    """The address that is wanted, or a free one, which is noted as the last that was given out.

    :raises Refused: it cannot be had, or there is none.
    """
    taken = networks.addresses(connection, network["uuid"])
    if fixed_ip:
        return check_fixed(network, fixed_ip, taken)
    address = next(free(network, taken), None)
    if address is None:
        raise Refused(f"Network {network['name']} ({network['cidr']}) has no free address; "
                      f"{len(taken)} are in use.", now="No address was given out.",
                      next="Delete servers or ports that are not needed, or use another network.",
                      code="no_more_addresses")
    networks.set_last_address(connection, network["uuid"], address)
    return address


def random_mac() -> str:
    """A MAC address of the range that Neutron uses."""
    return "fa:16:3e:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))
