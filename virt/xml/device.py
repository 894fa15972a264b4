"""Small devices: random numbers, balloon, watchdog, panic, sound, TPM, IOMMU."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Element, Prop


class RNG(Element):
    """Random numbers from the host: at most ``bytes`` in each ``period`` of milliseconds."""

    tag = "rng"
    model = Prop("@model")
    bytes = Prop("rate@bytes", INT)
    period = Prop("rate@period", INT)
    backend = Prop("backend@model")
    source = Prop("backend")
    iommu = Prop("driver@iommu", ON_OFF)


class Balloon(Element):
    """Memory balloon; ``period`` in seconds between statistics."""

    tag = "memballoon"
    model = Prop("@model")
    autodeflate = Prop("@autodeflate", ON_OFF)
    free_page_reporting = Prop("@freePageReporting", ON_OFF)
    period = Prop("stats@period", INT)
    iommu = Prop("driver@iommu", ON_OFF)


class Watchdog(Element):
    tag = "watchdog"
    model = Prop("@model")
    action = Prop("@action")


class Panic(Element):
    """Lets a crashing guest kernel say so."""

    tag = "panic"
    model = Prop("@model")


class Sound(Element):
    tag = "sound"
    model = Prop("@model")


class TPM(Element):
    """A TPM; its backend is a process of swtpm that libvirt starts."""

    tag = "tpm"
    model = Prop("@model")
    backend = Prop("backend@type")
    version = Prop("backend@version")


class IOMMU(Element):
    """Lets the guest keep its devices apart."""

    tag = "iommu"
    model = Prop("@model")
    intremap = Prop("driver@intremap", ON_OFF)
    caching_mode = Prop("driver@caching_mode", ON_OFF)
    eim = Prop("driver@eim", ON_OFF)
    iotlb = Prop("driver@iotlb", ON_OFF)
