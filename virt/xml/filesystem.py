"""File systems that a container sees."""

from __future__ import annotations

from virt.xml.base import Element, Prop


class Filesystem(Element):
    """A file with a file system in it, which libvirt mounts at ``target``."""

    tag = "filesystem"
    type = Prop("@type")
    driver = Prop("driver@type")
    format = Prop("driver@format")
    source = Prop("source@file")
    target = Prop("target@dir")
