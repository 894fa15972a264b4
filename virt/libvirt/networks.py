"""libvirt networks that we make, and what NICs need on this host."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import libvirt

from compute.errors import Failed, MagnetarError, Refused, Retryable
from compute.model.guest import Nic
from virt.libvirt.connection import Connection
from virt.xml.metadata import Metadata, NetworkOwnership
from virt.xml.network import DHCP, IP, Host, Network, Range

LIVE_AND_STORED = (
    libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
)
ADD = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
DELETE = libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
DHCP_HOST = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST


def _refused(code: str, what: str, next: str) -> Refused:
    return Refused(what, now="Nothing was changed.", next=next, code=code)


class Networks:
    """The networks of one libvirtd and the bridges of its host.

    :param sys_net: the kernel's directory of network devices.
    """

    def __init__(self, connection: Connection, sys_net: str = "/sys/class/net"):
        self._connection, self._sys_net = connection, sys_net

    # -- networks ---------------------------------------------------------------------------
    def create(self, network: Mapping[str, Any]) -> None:
        """Make and start a NAT network, or check a bridge; see Driver.create_network."""
        if not network.get("cidr"):
            bridge = network.get("bridge")
            if network.get("kind") == "ovs":
                self._check_switch(bridge or "")
                return
            if not bridge or not self._is_bridge(bridge):
                raise _refused(
                    "network_missing", f"There is no bridge {bridge!r} on this host.",
                    "Create the bridge, or name one that 'ip link show type bridge' lists.",
                )  # fmt: skip
            return
        wanted = document(network)
        name, spec = wanted.name, wanted.metadata.network.spec
        existing = self._find(name)
        if existing is None:
            existing = self._connection.ask(
                "define_network", libvirt.virConnect.networkDefineXML, wanted.to_xml()
            )
        else:
            self._check_same(existing, name, spec)
        self._connection.call("set_network_autostart", existing.setAutostart, 1)
        self._start(existing)

    def _check_same(self, existing: Any, name: str, spec: str) -> None:
        present = self._description(existing)
        if not _ours(present):
            raise _refused(
                "network_exists", f"libvirt has a network {name} that Magnetar did not make.",
                "Choose another name; the existing network was left alone.",
            )  # fmt: skip
        if present.metadata.network.spec != spec:
            raise _refused(
                "network_exists",
                f"Network {name} exists with other settings ({present.metadata.network.spec}).",
                "Delete it first, or choose another name.",
            )

    def _start(self, network: Any) -> None:
        """Start it unless it runs, or somebody else starts it in this moment."""
        if self._runs(network):
            return
        try:
            self._connection.call("start_network", network.create)
        except MagnetarError:
            if not self._runs(network):
                raise

    def _runs(self, network: Any) -> bool:
        return bool(self._connection.call("read_network_state", network.isActive))

    def delete(self, name: str) -> None:
        """Remove a network of ours that no guest uses; quiet if there is none."""
        network = self._find(name)
        if network is None:
            return
        if not _ours(self._description(network)):
            raise _refused(
                "not_ours", f"The libvirt network {name} was not made by Magnetar.",
                f"Use 'virsh net-undefine {name}' if it really should go.",
            )  # fmt: skip
        ports = self._connection.call("list_network_ports", network.listAllPorts)
        if ports:
            raise _refused(
                "network_in_use", f"{len(ports)} NICs of running guests use network {name}.",
                "Delete or stop these guests first.",
            )  # fmt: skip
        if self._runs(network):
            self._connection.call("stop_network", network.destroy)
        try:
            self._connection.call("undefine_network", network.undefine)
        except Failed as error:
            if error.code != "network_missing":
                raise

    # -- addresses --------------------------------------------------------------------------
    def reserve(self, name: str, mac: str, address: str, hostname: str) -> None:
        """Tell a network's DHCP server who gets which address. Raises Refused(address_in_use).

        IPv6 addresses are left to the guest: libvirt's DHCPv6 does not know it by its MAC.
        """
        if ":" in address:
            return
        network = self._find(name)
        if network is None:
            raise _missing(name)
        wanted = Host(mac=mac, name=hostname or None, ip=address)
        for host in _hosts(self._description(network)):
            same_mac = (host.mac or "").lower() == mac.lower()
            if same_mac and host.ip == address and host.name == wanted.name:
                return
            if same_mac:
                self._update(network, DELETE, host)
            elif host.ip == address:
                raise _refused(
                    "address_in_use",
                    f"Address {address} of network {name} is promised to {host.mac}.",
                    "Ask for another address.",
                )
            elif host.name and host.name == wanted.name:
                wanted.name = None  # names are unique there, and only a comfort
        self._update(network, ADD, wanted)

    def release(self, name: str, mac: str) -> None:
        """Forget the promise made to a MAC; quiet if there is none."""
        network = self._find(name)
        if network is None:
            return
        for host in _hosts(self._description(network)):
            if (host.mac or "").lower() == mac.lower():
                self._update(network, DELETE, host)

    def _update(self, network: Any, command: int, host: Host) -> None:
        running = self._runs(network)
        flags = LIVE_AND_STORED if running else libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        self._connection.call(
            "update_network", network.update, command, DHCP_HOST, -1, host.to_xml(), flags
        )

    # -- NICs -------------------------------------------------------------------------------
    def plug(self, nic: Nic) -> None:
        """Make sure that a NIC's network runs, or that its bridge is there."""
        network = self.check(nic)
        if network is not None:
            self._start(network)

    def check(self, nic: Nic) -> Any | None:
        """Look whether what a NIC is attached to is here; its libvirt network, None for a bridge.

        :raises Failed: code ``network_missing``.
        """
        if nic.kind == "ovs":
            self._check_switch(nic.source)
            return None
        if nic.kind == "bridge":
            if not self._is_bridge(nic.source):
                raise Failed(
                    f"There is no bridge {nic.source!r} on this host.",
                    now="The guest was not started.",
                    next="Create the bridge, or attach the guest to another network.",
                    code="network_missing",
                )
            return None
        network = self._find(nic.source)
        if network is None:
            raise _missing(nic.source)
        return network

    def _check_switch(self, name: str) -> None:
        """A bridge of Open vSwitch has a device of its name on the host."""
        if not name or "/" in name or not os.path.isdir(os.path.join(self._sys_net, name)):
            raise Failed(f"Open vSwitch has no bridge {name!r} on this host.",
                         now="Nothing was changed.",
                         next="See with 'ovs-vsctl show' whether the switch runs here.",
                         code="network_missing")

    def unplug(self, nic: Nic) -> None:
        """Remove a tap device, and a port of Open vSwitch, that outlived the guest; quiet if there
        is none."""
        if nic.kind == "ovs":
            _run("ovs-vsctl", "--timeout=20", "--if-exists", "del-port", nic.source, nic.tap,
                 of=f"The port {nic.tap} of {nic.source}")
        path = os.path.join(self._sys_net, nic.tap)
        if os.path.exists(os.path.join(path, "tun_flags")):
            _run("ip", "link", "delete", "dev", nic.tap, of=f"The tap device {nic.tap}",
                 unless=lambda: not os.path.exists(path))

    def _is_bridge(self, name: str) -> bool:
        fine = name and "/" not in name and name not in (".", "..")
        return bool(fine) and os.path.isdir(os.path.join(self._sys_net, name, "bridge"))

    def _find(self, name: str) -> Any | None:
        try:
            return self._connection.ask(
                "look_up_network", libvirt.virConnect.networkLookupByName, name
            )
        except Failed as error:
            if error.code == "network_missing":
                return None
            raise

    def _description(self, network: Any) -> Network:
        return Network.parse(self._connection.call("read_network", network.XMLDesc))


def _run(*command: str, of: str, unless: Callable[[], bool] = lambda: False) -> None:
    """Run a command that removes something; ``unless`` tells whether it is gone all the same.

    :raises Retryable: code ``tap_left``.
    """
    # Bounded by a command, since under eventlet a timeout raises another module's class.
    done = subprocess.run(["timeout", "30", *command], capture_output=True, text=True, check=False)
    if done.returncode and not unless():
        raise Retryable(
            f"{of} could not be removed: {done.stderr.strip()}.",
            now="It is still there.",
            next="It is tried again.",
            code="tap_left",
        )


def _missing(name: str) -> Failed:
    return Failed(
        f"libvirt has no network {name!r} on this host.",
        now="Nothing was changed.",
        next="Create it with 'magnetar network create', or use another network.",
        code="network_missing",
    )


def _ours(network: Network) -> bool:
    return network.metadata is not None and network.metadata.network is not None


def _hosts(network: Network) -> list[Host]:
    return [host for ip in network.ips if ip.dhcp is not None for host in ip.dhcp.hosts]


def document(network: Mapping[str, Any]) -> Network:
    """The document of a NAT network. Raises Refused(code='invalid_network')."""
    name = str(network.get("name") or "")
    try:
        if not name or "/" in name or not name.isprintable():
            raise ValueError(f"{name!r} is no name for a network")
        cidr = ipaddress.ip_network(str(network["cidr"]))
        gateway = _address(network.get("gateway") or next(cidr.hosts()), cidr)
        pool = _pool(network, cidr)
    except ValueError as error:
        raise _refused(
            "invalid_network", f"The network {name or '(no name)'} cannot be made: {error}.",
            "Correct the name, cidr, gateway or DHCP range.",
        ) from error  # fmt: skip
    ip = IP(family=f"ipv{cidr.version}", address=str(gateway), prefix=cidr.prefixlen)
    spec = f"{cidr} gateway {gateway}"
    if pool is not None:
        ip.dhcp = DHCP(ranges=[pool])
        spec += f" dhcp {pool.start} to {pool.end}"
    if network.get("bridge"):
        spec += f" bridge {network['bridge']}"
    return Network(
        name=name,
        metadata=Metadata(network=NetworkOwnership(spec=spec)),
        forward="nat",
        bridge=network.get("bridge"),
        stp=True,
        ips=[ip],
    )


def _address(value: Any, cidr: Any) -> Any:
    address = ipaddress.ip_address(str(value))
    if address not in cidr:
        raise ValueError(f"{address} is not in {cidr}")
    return address


def _pool(network: Mapping[str, Any], cidr: Any) -> Range | None:
    """The range for DHCP; None when neither end is named."""
    ends = [network.get("dhcp_start"), network.get("dhcp_end")]
    if not any(ends):
        return None
    if not all(ends):
        raise ValueError("dhcp_start and dhcp_end belong together")
    start, end = (_address(value, cidr) for value in ends)
    if start > end:
        raise ValueError(f"dhcp_start {start} comes after dhcp_end {end}")
    return Range(start=str(start), end=str(end))
