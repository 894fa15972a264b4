"""Small devices: random numbers, balloon, watchdog, panic."""

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


class Balloon(Element):
    """Memory balloon; ``period`` in seconds between statistics."""

    tag = "memballoon"
    model = Prop("@model")
    autodeflate = Prop("@autodeflate", ON_OFF)
    free_page_reporting = Prop("@freePageReporting", ON_OFF)
    period = Prop("stats@period", INT)


class Watchdog(Element):
    tag = "watchdog"
    model = Prop("@model")
    action = Prop("@action")


class Panic(Element):
    """Lets a crashing guest kernel say so."""

    tag = "panic"
    model = Prop("@model")
