"""What the guest's firmware sees: machine, boot, SMBIOS."""

from __future__ import annotations

from virt.xml.base import Children, Element, Prop


class OS(Element):
    tag = "os"
    type = Prop("type")
    arch = Prop("type@arch")
    machine = Prop("type@machine")
    smbios = Prop("smbios@mode")


class Entry(Element):
    """One SMBIOS value, for example name='product'."""

    tag = "entry"
    name = Prop("@name")
    value = Prop(".")


class System(Element):
    tag = "system"
    entries = Children(Entry)


class Sysinfo(Element):
    tag = "sysinfo"
    type = Prop("@type")
    systems = Children(System)
