"""Network interfaces."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Child, Element, Prop


class InterfaceSource(Element):
    """What a NIC is attached to: a libvirt network or a bridge."""

    tag = "source"
    network = Prop("@network")
    bridge = Prop("@bridge")


class VirtualPort(Element):
    """The port of a virtual switch; ``interface_id`` is what the switch knows it by."""

    tag = "virtualport"
    type = Prop("@type")
    interface_id = Prop("parameters@interfaceid")


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
    virtual_port = Child(VirtualPort)
    tap = Prop("target@dev")
    model = Prop("model@type")
    queues = Prop("driver@queues", INT)
    rx_queue_size = Prop("driver@rx_queue_size", INT)
    tx_queue_size = Prop("driver@tx_queue_size", INT)
    packed = Prop("driver@packed", ON_OFF)
    iommu = Prop("driver@iommu", ON_OFF)
    bandwidth = Child(Bandwidth)
    mtu = Prop("mtu@size", INT)

    def join(self, kind: str, source: str, port: str) -> None:
        """Attach it to a ``network`` or a ``bridge``; for ``ovs`` the bridge is one of Open
        vSwitch, and libvirt makes the port, by which the switch's controller knows it."""
        self.type = "network" if kind == "network" else "bridge"
        self.source = InterfaceSource(**{self.type: source})
        if kind == "ovs":
            self.virtual_port = VirtualPort(type="openvswitch", interface_id=port)
