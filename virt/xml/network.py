"""libvirt networks."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Child, Children, Element, Prop
from virt.xml.metadata import Metadata


class Host(Element):
    """A promise of the DHCP server: this MAC gets this address."""

    tag = "host"
    mac = Prop("@mac")
    name = Prop("@name")
    ip = Prop("@ip")


class Range(Element):
    tag = "range"
    start = Prop("@start")
    end = Prop("@end")


class DHCP(Element):
    tag = "dhcp"
    ranges = Children(Range)
    hosts = Children(Host)


class IP(Element):
    tag = "ip"
    family = Prop("@family")
    address = Prop("@address")
    prefix = Prop("@prefix", INT)
    dhcp = Child(DHCP)


class Network(Element):
    tag = "network"
    name = Prop("name")
    metadata = Child(Metadata)
    forward = Prop("forward@mode")
    bridge = Prop("bridge@name")
    stp = Prop("bridge@stp", ON_OFF)
    ips = Children(IP)
