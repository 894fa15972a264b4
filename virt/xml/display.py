"""Screen, video card and pointer."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, YES_NO, Element, Prop


class Graphics(Element):
    """VNC or SPICE, on a unix socket that libvirt names, or on an address."""

    tag = "graphics"
    type = Prop("@type")
    autoport = Prop("@autoport", YES_NO)
    port = Prop("@port", INT)
    socket = Prop("@socket")
    former_listen = Prop("@listen")  # libvirt repeats the address here
    listen = Prop("listen@type")
    address = Prop("listen@address")
    listen_socket = Prop("listen@socket")


class Video(Element):
    """A video card; ``vram`` in KiB."""

    tag = "video"
    model = Prop("model@type")
    vram = Prop("model@vram", INT)
    iommu = Prop("driver@iommu", ON_OFF)


class Input(Element):
    tag = "input"
    type = Prop("@type")
    bus = Prop("@bus")
    iommu = Prop("driver@iommu", ON_OFF)
