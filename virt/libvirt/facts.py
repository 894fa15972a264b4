"""What two hosts tell each other before a guest moves, as plain data."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import libvirt

from compute.errors import Refused
from virt.libvirt import hotplug, tls
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.host import Host
from virt.xml.domain import Domain

PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22}


class Facts:
    """Of one host, and of its guests that may leave.

    :param certificates: finds and judges the host's certificates.
    """

    def __init__(
        self, conf: Any, connection: Connection, domains: Domains, host: Host, store: Any,
        certificates: tls.Certificates,
    ):
        self._conf, self._connection, self._domains = conf, connection, domains
        self._host, self._store, self._certificates = host, store, certificates

    def common(self) -> dict[str, Any]:
        """What both ends tell of themselves. Raises Unknown."""
        ask, connect = self._connection.ask, libvirt.virConnect
        caps = self._host.caps()
        return {
            "hostname": ask("read_host_name", connect.getHostname),
            "host_uuid": caps.uuid,
            "cpu_info": dict(caps.cpu_info),
            "emulator_version": ask("read_hypervisor_version", connect.getVersion),
            "libvirt_version": ask("read_libvirt_version", connect.getLibVersion),
            "tls": self._certificates.complete(),
            "storage": self._store.storage_id(),
            "time": time.time(),
        }

    def incoming(self) -> dict[str, Any]:
        """See :meth:`virt.driver.Driver.incoming_facts`."""
        told = self.common()
        options = self._conf.libvirt
        inbound = options.live_migration_inbound_addr
        name = _bracketed(inbound or told["hostname"])
        free = os.statvfs(_existing(self._conf.disk.instances_path))
        return {
            **told,
            "uri": f"qemu+{options.live_migration_scheme}://{name}/system",
            "migrate_uri": f"tcp://{name}" if inbound else None,
            "listen": inbound,
            "machine_types": sorted(self._host.caps().native().machines),
            "disk_free": free.f_bavail * free.f_frsize,
        }

    def outgoing(self, uuid: str) -> dict[str, Any]:
        """See :meth:`virt.driver.Driver.outgoing`. Raises Refused(guest_not_found, guest_off)."""
        handle = self._domains.required(uuid)
        domain, told = self.definition(uuid, handle), self.common()
        targets = {disk.source: disk.target for disk in domain.devices.disks if disk.source}
        return {
            **told,
            **self._store.outgoing(uuid, targets),
            "memory_mb": domain.memory // 1024,
            "vcpus": domain.vcpus,
            "machine": domain.os.machine,
            "arch": domain.os.arch,
            "type": domain.type,
            "cpu": domain.cpu.to_xml() if domain.cpu is not None else "",
            "immovable": [device.words for device in hotplug.immovable(domain)],
            "nics": [{"mac": nic.mac, "kind": nic.type} for nic in domain.devices.interfaces],
        }

    def definition(self, uuid: str, handle: Any) -> Domain:
        """The migratable definition of a running domain, in which libvirt has spelled out what
        its host chose. Raises Refused(code='guest_off')."""
        if not self._connection.call("read_activity", handle.isActive):
            raise Refused(
                f"Guest {uuid} does not run.",
                now="Nothing was changed.",
                next="Start it, or move it cold.",
                code="guest_off",
            )
        flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
        return Domain.parse(self._connection.call("read_definition", handle.XMLDesc, flags))


def port_of(uri: str) -> tuple[str, int]:
    """Host and port that a libvirt URI leads to."""
    scheme = uri.partition("://")[0].partition("+")[2]
    rest = uri.partition("://")[2].partition("/")[0].rpartition("@")[2]
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.lstrip(":")
    else:
        host, _, port = rest.partition(":")
    return host, int(port) if port else PORTS.get(scheme, PORTS["tls"])


def newer(mine: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> bool:
    """Whether ``mine`` has a version at least as new."""
    return int(mine[name]) >= int(theirs[name])


def version(number: int) -> str:
    """libvirt's way to write a version, for people: 7002000 is 7.2.0."""
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _existing(path: str) -> str:
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
