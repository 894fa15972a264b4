"""How a guest's memory is backed on the host, and the encryption of it."""

from __future__ import annotations

from virt.xml.base import Element, Flag, Prop


class MemoryBacking(Element):
    tag = "memoryBacking"
    locked = Flag("locked")


class LaunchSecurity(Element):
    """AMD SEV; ``policy`` as hexadecimal text."""

    tag = "launchSecurity"
    type = Prop("@type")
    policy = Prop("policy")
