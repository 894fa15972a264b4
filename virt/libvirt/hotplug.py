"""Devices that keep a guest from being saved or moved: found, taken out, put back."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from compute.errors import Failed, MagnetarError
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.xml.domain import Domain

DETACH_SECONDS = 20.0  # for one attempt; a guest without driver never lets go
ATTEMPTS = 3
POLL = 0.2
# What belongs to one run of the guest, not to the device.
PASSING = ("alias", "address", "driver", "model")


@dataclass(frozen=True)
class Device:
    """One device: ``words`` for people, ``text`` its XML."""

    words: str
    text: str


def _hostdev(node: Any) -> str | None:
    return f"host device ({node.get('type')})"


def _interface(node: Any) -> str | None:
    kind = node.get("type")
    return f"network interface of type {kind}" if kind in ("hostdev", "vdpa") else None


def _shmem(node: Any) -> str | None:
    # The master of an ivshmem brings its contents along, a peer cannot.
    model = node.find("model")
    plain = model is None or model.get("type") != "ivshmem-doorbell"
    moves = plain and node.get("role") == "master"
    return None if moves else f"shared memory {node.get('name')}"


def _filesystem(node: Any) -> str | None:
    target = node.find("target")
    return f"shared directory {target.get('dir') if target is not None else ''}".rstrip()


def _disk(node: Any) -> str | None:
    return "vhost-user disk" if node.get("type") == "vhostuser" else None


KINDS: dict[str, Callable[[Any], str | None]] = {
    "hostdev": _hostdev,
    "interface": _interface,
    "shmem": _shmem,
    "filesystem": _filesystem,
    "disk": _disk,
    "redirdev": lambda node: "redirected USB device",
}


def immovable(domain: Domain) -> Iterator[Device]:
    """The devices of a domain that can be neither saved nor moved."""
    for node in domain.devices.node:
        words = KINDS.get(node.tag, lambda node: None)(node)
        if words is not None:
            yield Device(words, etree.tostring(node, encoding="unicode").strip())


def same(one: Any, other: Any) -> bool:
    """Whether two device nodes are the same device, plugged perhaps at another time."""
    return _essence(one) == _essence(other)


def _essence(node: Any) -> str:
    plain = copy.deepcopy(node)
    for tag in PASSING:
        for child in plain.findall(tag):
            plain.remove(child)
    for source in plain.findall("source"):
        source.attrib.pop("index", None)
    for each in plain.iter():
        each.text = each.tail = None
    return etree.tostring(plain, method="c14n").decode()


class Hotplug:
    """Takes devices out of running domains of one libvirtd, and puts them back."""

    def __init__(self, connection: Connection, domains: Domains):
        self._connection, self._domains = connection, domains

    def unsaveable(self, uuid: str) -> tuple[str, ...]:
        """See :meth:`virt.driver.Driver.unsaveable`."""
        return tuple(
            device.text for device in immovable(self._live(self._domains.required(uuid)))
        )

    def unplug(self, uuid: str, device: str) -> None:
        """Take a device out of the running domain; its next boot has it again.

        :raises Failed: code ``device_stays`` when the guest does not let go of it.
        """
        handle, node = self._domains.required(uuid), etree.fromstring(device)
        reason = ""
        for _ in range(ATTEMPTS):
            if self._find(handle, node) is None:
                return
            try:
                self._connection.call("unplug_device", handle.detachDeviceFlags, device,
                                      libvirt.VIR_DOMAIN_AFFECT_LIVE)  # fmt: skip
            except MagnetarError as error:
                if error.code in ("libvirt_lost", "guest_not_found"):
                    raise
                reason = error.what  # it may be on its way out from the attempt before
            deadline = time.monotonic() + DETACH_SECONDS
            while time.monotonic() < deadline:
                if self._find(handle, node) is None:
                    return
                time.sleep(POLL)
        words = KINDS.get(node.tag, lambda node: None)(node) or node.tag
        raise Failed(
            f"Guest {uuid} does not let go of its {words}. {reason}".rstrip(),
            now="The device is still in the guest, which goes on.",
            next="Let the guest's system release it (a paused or booting guest cannot), or shut "
            "the guest down instead.",
            code="device_stays",
        )

    def plug(self, uuid: str, device: str) -> None:
        """Put a device back into the running domain; quiet if it is in."""
        handle, node = self._domains.required(uuid), etree.fromstring(device)
        if self._find(handle, node) is not None:
            return
        for alias in node.findall("alias"):
            node.remove(alias)
        self._connection.call("plug_device", handle.attachDeviceFlags,
                              etree.tostring(node, encoding="unicode"),
                              libvirt.VIR_DOMAIN_AFFECT_LIVE)  # fmt: skip

    def _find(self, handle: Any, wanted: Any) -> Any | None:
        """The device in the running domain, None if it is not there."""
        devices = self._live(handle).devices.node
        return next((node for node in devices.findall(wanted.tag) if same(node, wanted)), None)

    def _live(self, handle: Any) -> Domain:
        text = self._connection.call("read_definition", handle.XMLDesc,
                                     libvirt.VIR_DOMAIN_XML_SECURE)  # fmt: skip
        return Domain.parse(text)
