"""Devices of the host as libvirt's node devices describe them (read only)."""

from __future__ import annotations

from virt.xml.base import INT, Children, Element, Prop


class Address(Element):
    """A PCI address; its numbers are hexadecimal."""

    tag = "address"
    domain = Prop("@domain")
    bus = Prop("@bus")
    slot = Prop("@slot")
    function = Prop("@function")

    def __str__(self) -> str:
        parts = [int(part, 16) for part in (self.domain, self.bus, self.slot, self.function)]
        return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


class Functions(Element):
    """``phys_function`` with the address of it, or ``virt_functions`` with those of all."""

    tag = "capability"
    type = Prop("@type")
    addresses = Children(Address)


class PCI(Element):
    """What a device is on the bus; here the numbers of the address are decimal."""

    tag = "capability"
    type = Prop("@type")
    domain = Prop("domain", INT)
    bus = Prop("bus", INT)
    slot = Prop("slot", INT)
    function = Prop("function", INT)
    product = Prop("product@id")
    vendor = Prop("vendor@id")
    functions = Children(Functions)
    cell = Prop("numa@node", INT)


class NodeDevice(Element):
    tag = "device"
    capabilities = Children(PCI)
