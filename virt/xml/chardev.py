"""Serial ports and channels."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Element, Prop


class Serial(Element):
    """A serial port; what the guest writes to it also goes to ``log``, through virtlogd."""

    tag = "serial"
    type = Prop("@type")
    log = Prop("log@file")
    append = Prop("log@append", ON_OFF)
    target = Prop("target@type")
    port = Prop("target@port", INT)


class Channel(Element):
    """A way into the guest by name; libvirt chooses the socket on the host."""

    tag = "channel"
    type = Prop("@type")
    target = Prop("target@type")
    name = Prop("target@name")
