"""Networks: their rows here, and what the hosts must have for them."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import IntegrityError

from compute.errors import MagnetarError, Refused
from compute.rpc.serializer import Context
from control import addresses, common, views
from control.common import NOTHING, context_for
from control.messages import Computes, everywhere
from control.scheduler.hosts import is_up
from db.control import networks, services
from db.control.store import Store

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")
BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


class Networks:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    store: Store
    computes: Computes
    _port_request: Callable[[Row, list[Row]], Row]  # given by Ports

    def network_create(
        self,
        name: str,
        subnet: str | None = None,
        bridge: str | None = None,
        nat: bool | None = None,
        gateway: str | None = None,
        dns: list[str] | None = None,
        mtu: int | None = None,
        ovs: bool = False,
    ) -> Row:
        """Create a network: a libvirt NAT network with DHCP on each host, or, with ``bridge``,
        one on a bridge that the hosts have already (addresses then come by config drive), with
        ``ovs`` one of Open vSwitch.

        Each host that is up is asked to make it; when one cannot, nothing of it stays.

        :param subnet: its addresses, as CIDR.
        :raises Refused: name, subnet or bridge are wrong or taken, or a host said no.
        """
        values = network_values(name, subnet, bridge, nat, gateway, dns, mtu, ovs)
        context = context_for()
        row = self._insert(values)
        try:
            self._on_hosts(context, row)
        except MagnetarError:
            with self.store.begin() as connection:
                networks.delete(connection, row["uuid"])
            raise
        with self.store.begin() as connection:
            active = networks.set_status(connection, row["uuid"], "active")
        return views.network(active or row, 0)

    def _insert(self, values: Row) -> Row:
        try:
            with self.store.begin() as connection:
                check_overlap(values, networks.all_networks(connection))
                return networks.create(connection, values)
        except IntegrityError as error:
            raise common.taken("network", values["name"]) from error

    def _on_hosts(self, context: Context, row: Row) -> None:
        def undo(host: str) -> None:
            self.computes.call_own(context, host, "delete_network", name=row["source"])

        everywhere(
            self.computes, context, self._up_hosts(), "create_network",
            undo if row["kind"] == "network" else None, network=addresses.description(row),
        )

    def _up_hosts(self) -> list[str]:
        with self.store.begin() as connection:
            rows = services.all_hosts(connection)
        return [row["host"] for row in rows if is_up(row, self.conf)]

    def network_list(self) -> list[Row]:
        """All networks in order of name."""
        with self.store.begin() as connection:
            counts = networks.port_counts(connection)
            return [views.network(row, counts.get(row["uuid"], 0))
                    for row in networks.all_networks(connection)]

    def network_show(self, network: str) -> Row:
        """One network by id or name."""
        row = self._network(network)
        with self.store.begin() as connection:
            return views.network(row, networks.port_counts(connection).get(row["uuid"], 0))

    def network_delete(self, network: str) -> None:
        """Delete a network that no server uses, here and on all hosts that are up.

        :raises Refused: code ``network_in_use``.
        """
        row = self._network(network)
        with self.store.begin() as connection:
            used = networks.port_counts(connection).get(row["uuid"], 0)
            if used:
                raise self._in_use(row, used)
            networks.set_status(connection, row["uuid"], "deleting")
        try:
            self._remove(row)
        except IntegrityError as error:
            raise self._in_use(row, 1) from error

    def _remove(self, row: Row) -> None:
        """Remove a network from all hosts that are up, and its row."""
        if row["kind"] == "network":
            everywhere(self.computes, context_for(), self._up_hosts(), "delete_network",
                       name=row["source"])
        with self.store.begin() as connection:
            networks.delete(connection, row["uuid"])

    def unfinished_networks(self) -> list[Row]:
        """Networks whose create or delete was begun; asked at start, by an earlier process."""
        with self.store.begin() as connection:
            return [row for row in networks.all_networks(connection) if row["status"] != "active"]

    def clean_networks(self, rows: list[Row]) -> list[str]:
        """Remove unfinished networks. Returns the names of those that are gone; what a host cannot
        remove now stays as it is, for an operator or for the next start."""
        done = []
        for row in rows:
            try:
                self._remove(row)
                done.append(row["name"])
            except (MagnetarError, IntegrityError) as error:
                LOG.warning("Network %s is %s and cannot be removed now: %s Try 'magnetar "
                            "network delete %s'.", row["name"], row["status"], error, row["name"])
        return done

    @staticmethod
    def _in_use(row: Row, ports: int) -> Refused:
        return Refused(f"Network {row['name']} has {ports} ports.", now="It was not deleted.",
                       next="Delete their servers first, and ports that were made by themselves; "
                            f"see 'magnetar port list --network {row['name']}'.",
                       code="network_in_use")

    def _network(self, key: str) -> Row:
        with self.store.begin() as connection:
            return common.one("network", key, networks.find(connection, key))

    def _networks(self, wanted: list | str | None) -> list[Row]:
        """What a create asks for, as ``{network_id, port_id, fixed_ip, tag}`` each.

        :raises Refused: unknown or ambiguous network or port, a fixed address that cannot be.
        """
        if wanted == "none" or wanted == []:
            return []
        if wanted is None or wanted == "auto":
            return self._automatic()
        requests = []
        for item in [wanted] if isinstance(wanted, str) else wanted:
            asked = {"network": item} if isinstance(item, str) else item
            if "port" in asked:
                requests.append(self._port_request(asked, requests))
                continue
            unknown = set(asked) - {"network", "fixed_ip", "tag"}
            if unknown or not isinstance(asked.get("network"), str):
                raise Refused(f"The network {item!r} is not understood.", now=NOTHING,
                              next="Give a name, an id, {network, fixed_ip, tag} or {port, tag}.",
                              code="bad_value")
            row = self._usable(self._network(asked["network"]))
            if asked.get("fixed_ip"):
                with self.store.begin() as connection:
                    taken = networks.addresses(connection, row["uuid"])
                addresses.check_fixed(row, asked["fixed_ip"], taken)
            requests.append({
                "network_id": row["uuid"], "port_id": None, "fixed_ip": asked.get("fixed_ip"),
                "tag": asked.get("tag"),
            })
        return requests

    def _automatic(self) -> list[Row]:
        with self.store.begin() as connection:
            rows = networks.all_networks(connection)
        if len(rows) > 1:
            names = ", ".join(row["name"] for row in rows)
            raise Refused(f"There are {len(rows)} networks: {names}.", now=NOTHING,
                          next="Name the one that the server shall be on, or none.",
                          code="ambiguous")
        return [{"network_id": self._usable(row)["uuid"], "port_id": None, "fixed_ip": None,
                 "tag": None} for row in rows]

    @staticmethod
    def _usable(row: Row) -> Row:
        if row["status"] != "active":
            raise Refused(f"Network {row['name']} is {row['status']}.", now=NOTHING,
                          next="Wait until it is active, or use another one.",
                          code="network_not_active")
        return row


def network_values(
    name: str, subnet: str | None, bridge: str | None, nat: bool | None, gateway: str | None,
    dns: list[str] | None, mtu: int | None, ovs: bool = False,
) -> Row:
    """The columns of a new network. Raises Refused when something does not make sense."""
    name = common.checked_name("network", name)
    if bridge and nat:
        raise _bad("A bridge is as its host made it; it cannot be a NAT network too.",
                   "Leave out one of bridge and nat.")
    if ovs and not bridge:
        raise _bad("Open vSwitch has many bridges.", "Name the bridge too.")
    if bridge and not BRIDGE.fullmatch(bridge):
        raise _bad(f"{bridge!r} cannot be the name of a bridge.", "See 'ip link' on the host.")
    if not bridge and not SOURCE.fullmatch(name):
        raise _bad(f"{name!r} cannot be the name of a libvirt network.",
                   "Use up to 50 letters, digits and . _ -")
    if not subnet:
        raise _bad("A network needs a subnet, from which its servers get addresses.",
                   "Give one such as 192.0.2.0/24.")
    cidr = checked_subnet(subnet)
    via = checked_gateway(cidr, gateway, required=not bridge)
    if mtu is not None:
        common.checked_number("The MTU", mtu, 68, 65535)
    return {
        "name": name, "source": bridge or name,
        "kind": "ovs" if ovs else "bridge" if bridge else "network",
        "cidr": str(cidr), "gateway": via, "dns": [str(_address(a)) for a in dns or ()],
        "dhcp": not bridge, "mtu": mtu, "status": "creating",
    }


def _bad(what: str, next: str) -> Refused:  # noqa: A002
    return Refused(what, now="No network was created.", next=next, code="bad_network")


def _address(text: str) -> Any:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise _bad(f"{text!r} is no IP address.", "Give one such as 192.0.2.1.") from error


def checked_subnet(text: str) -> Any:
    """A subnet with room for a gateway and a server at least. Raises Refused."""
    try:
        cidr = ipaddress.ip_network(text)
    except ValueError as error:
        raise _bad(f"{text!r} is no subnet: {error}.",
                   "Give one such as 192.0.2.0/24.") from error
    if cidr.num_addresses < 4 or cidr.is_multicast or cidr.is_loopback or cidr.is_link_local:
        raise _bad(f"Servers cannot live in {cidr}.", "Give a subnet of 4 addresses or more, "
                   "such as 192.0.2.0/24.")
    return cidr


def checked_gateway(cidr: Any, text: str | None, required: bool) -> str | None:
    """The gateway: as given, else the first address of a NAT network, else none."""
    if not text:
        return str(cidr[1]) if required else None
    address = _address(text)
    reserved = (cidr[0], cidr[-1]) if cidr.version == 4 else (cidr[0],)
    if address.version != cidr.version or address not in cidr or address in reserved:
        raise _bad(f"{address} cannot be the gateway of {cidr}.", "Choose an address of it.")
    return str(address)


def check_overlap(values: Row, others: list[Row]) -> None:
    """NAT networks of one host may not overlap. Raises Refused(code='network_overlaps')."""
    mine = ipaddress.ip_network(values["cidr"])
    for other in others:
        theirs = ipaddress.ip_network(other["cidr"])
        both = {values["kind"], other["kind"]} == {"network"}
        if both and mine.version == theirs.version and mine.overlaps(theirs):
            raise Refused(f"{mine} overlaps with network {other['name']} ({theirs}).",
                          now="No network was created.", next="Choose another subnet.",
                          code="network_overlaps")
