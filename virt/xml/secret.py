"""A secret: how libvirt describes what it keeps for QEMU. The value is never part of it."""

from __future__ import annotations

from virt.xml.base import YES_NO, Element, Prop


class Secret(Element):
    """The name of the usage is in the child that belongs to its type."""

    tag = "secret"
    ephemeral = Prop("@ephemeral", YES_NO)
    private = Prop("@private", YES_NO)
    uuid = Prop("uuid")
    description = Prop("description")
    usage = Prop("usage@type")
    volume = Prop("usage/volume")
    target = Prop("usage/target")
    name = Prop("usage/name")
