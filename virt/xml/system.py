"""What the guest's firmware sees: machine, boot, SMBIOS."""

from __future__ import annotations

from virt.xml.base import YES_NO, Children, Element, Prop


class OS(Element):
    """``loader`` is the firmware's code, ``nvram`` the file with the guest's own variables;
    ``init`` what a container runs, ``kernel`` what a machine without firmware boots."""

    tag = "os"
    type = Prop("type")
    arch = Prop("type@arch")
    machine = Prop("type@machine")
    loader = Prop("loader")
    loader_readonly = Prop("loader@readonly", YES_NO)
    loader_secure = Prop("loader@secure", YES_NO)
    loader_type = Prop("loader@type")
    loader_stateless = Prop("loader@stateless", YES_NO)
    nvram = Prop("nvram")
    boot_menu = Prop("bootmenu@enable", YES_NO)
    init = Prop("init")
    kernel = Prop("kernel")
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
