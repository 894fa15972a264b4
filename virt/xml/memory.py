"""How a guest's memory is backed on the host, and the encryption of it."""

from __future__ import annotations

from virt.xml.base import INT, Child, Children, Element, Flag, Prop


class Page(Element):
    """Huge pages of one size, in KiB, for the guest's NUMA cells in ``nodeset``."""

    tag = "page"
    size = Prop("@size", INT)
    unit = Prop("@unit")
    nodeset = Prop("@nodeset")


class HugePages(Element):
    tag = "hugepages"
    pages = Children(Page)


class MemoryBacking(Element):
    tag = "memoryBacking"
    huge = Child(HugePages)
    unmerged = Flag("nosharepages")
    locked = Flag("locked")
    source = Prop("source@type")
    access = Prop("access@mode")
    allocation = Prop("allocation@mode")
    discard = Flag("discard")


class CellMemory(Element):
    """Host cells of one guest cell's memory."""

    tag = "memnode"
    cell = Prop("@cellid", INT)
    mode = Prop("@mode")
    hosts = Prop("@nodeset")


class NUMATune(Element):
    """Which of the host's cells the memory comes from."""

    tag = "numatune"
    mode = Prop("memory@mode")
    hosts = Prop("memory@nodeset")
    cells = Children(CellMemory)


class LaunchSecurity(Element):
    """AMD SEV; ``policy`` as hexadecimal text."""

    tag = "launchSecurity"
    type = Prop("@type")
    policy = Prop("policy")
