"""The host's PCI devices, from libvirt's node devices."""

from __future__ import annotations

from typing import Any

import libvirt
from oslo_log import log

from compute.errors import Failed, Refused
from compute.model.pci import PF, PLAIN, VF, HostDevice
from virt.libvirt.connection import Connection
from virt.xml.nodedev import NodeDevice

LOG = log.getLogger(__name__)
SLOW = 60.0  # seconds to read the descriptions of all devices, once


def parse(text: str) -> HostDevice | None:
    """The device that libvirt describes; None if it is none on PCI, or is not whole."""
    found = next((one for one in NodeDevice.parse(text).capabilities if one.type == "pci"), None)
    if found is None or not found.vendor or not found.product:
        return None
    functions = {one.type: [str(address) for address in one.addresses] for one in found.functions}
    parent = next(iter(functions.get("phys_function", ())), None)
    kind = VF if parent else PF if functions.get("virt_functions") else PLAIN
    return HostDevice(
        f"{found.domain:04x}:{found.bus:02x}:{found.slot:02x}.{found.function:x}",
        _hex(found.vendor), _hex(found.product), kind,
        found.cell if found.cell is not None and found.cell >= 0 else None, parent)


def _hex(text: str) -> str:
    return f"{int(text, 16):04x}"


class NodeDevices:
    """The node devices of one libvirtd."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def pci(self) -> tuple[HostDevice, ...]:
        """All PCI devices, by address, in two calls; none where libvirt cannot tell them. Raises
        Unknown.

        libvirt tells one description at a time; all are read in one go, since a physical function
        changes its own when virtual ones come or go.
        """
        try:
            handles = self._connection.ask(
                "list_node_devices", libvirt.virConnect.listAllDevices,
                libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
            texts = self._connection.call("read_node_devices", _describe, handles, timeout=SLOW)
        except (Failed, Refused) as error:
            LOG.warning("libvirt does not tell the host's PCI devices: %s", error)
            return ()
        found = (parse(text) for text in texts)
        return tuple(sorted((one for one in found if one), key=lambda one: one.address))


def _describe(handles: list[Any]) -> list[str]:
    """Runs on a native thread. A device that has gone since is left out."""
    found = []
    for handle in handles:
        try:
            found.append(handle.XMLDesc(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_NODE_DEVICE:
                raise
    return found
