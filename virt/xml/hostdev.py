"""Devices of the host that a guest has for itself."""

from __future__ import annotations

from virt.xml.base import YES_NO, Child, Element, Prop
from virt.xml.nodedev import Address


class Source(Element):
    tag = "source"
    address = Child(Address)


class HostDevice(Element):
    """``managed``: libvirt takes the device from the host's driver, and gives it back."""

    tag = "hostdev"
    mode = Prop("@mode")
    type = Prop("@type")
    managed = Prop("@managed", YES_NO)
    source = Child(Source)

    @property
    def address(self) -> Address | None:
        """Where the device is on the host."""
        return self.source.address if self.source is not None else None


def pci(address: str, managed: bool) -> HostDevice:
    """A PCI device; ``address`` like ``0000:06:12.1``."""
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    where = Address(domain=f"0x{domain}", bus=f"0x{bus}", slot=f"0x{slot}",
                    function=f"0x{function}")
    return HostDevice(mode="subsystem", type="pci", managed=managed,
                      source=Source(address=where))
