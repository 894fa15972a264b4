"""Serial ports and channels."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Element, Prop


class CharDevice(Element):
    """What the guest writes to it also goes to ``log``, through virtlogd."""

    type = Prop("@type")
    master = Prop("source@master")  # of a null modem, the guest's and the host's end
    slave = Prop("source@slave")
    mode = Prop("source@mode")  # of type tcp: who connects to whom, and where
    host = Prop("source@host")
    service = Prop("source@service", INT)
    protocol = Prop("protocol@type")
    log = Prop("log@file")
    append = Prop("log@append", ON_OFF)
    target = Prop("target@type")
    port = Prop("target@port", INT)


class Serial(CharDevice):
    """A serial port."""

    tag = "serial"


class Console(CharDevice):
    """A console; libvirt adds one that stands for the first serial port."""

    tag = "console"


class Channel(Element):
    """A way into the guest by name; libvirt chooses the socket on the host."""

    tag = "channel"
    type = Prop("@type")
    target = Prop("target@type")
    name = Prop("target@name")
