"""Network interfaces."""

from __future__ import annotations

from virt.xml.base import INT, Child, Element, Prop


class InterfaceSource(Element):
    """What a NIC is attached to: a libvirt network or a bridge."""

    tag = "source"
    network = Prop("@network")
    bridge = Prop("@bridge")


class Interface(Element):
    """One NIC on a libvirt network or a bridge. ``tap`` is the device on the host."""

    tag = "interface"
    type = Prop("@type")
    mac = Prop("mac@address")
    source = Child(InterfaceSource)
    tap = Prop("target@dev")
    model = Prop("model@type")
    queues = Prop("driver@queues", INT)
    rx_queue_size = Prop("driver@rx_queue_size", INT)
    tx_queue_size = Prop("driver@tx_queue_size", INT)
    mtu = Prop("mtu@size", INT)
