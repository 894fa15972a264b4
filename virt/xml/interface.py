"""Network interfaces."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Child, Element, Prop


class InterfaceSource(Element):
    """What a NIC is attached to: a libvirt network or a bridge."""

    tag = "source"
    network = Prop("@network")
    bridge = Prop("@bridge")


class Bandwidth(Element):
    """Limits of one NIC: average and peak in KiB/s, burst in KiB."""

    tag = "bandwidth"
    in_average = Prop("inbound@average", INT)
    in_peak = Prop("inbound@peak", INT)
    in_burst = Prop("inbound@burst", INT)
    out_average = Prop("outbound@average", INT)
    out_peak = Prop("outbound@peak", INT)
    out_burst = Prop("outbound@burst", INT)


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
    packed = Prop("driver@packed", ON_OFF)
    iommu = Prop("driver@iommu", ON_OFF)
    bandwidth = Child(Bandwidth)
    mtu = Prop("mtu@size", INT)
