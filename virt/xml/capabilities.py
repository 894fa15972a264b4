"""What libvirt says of the host (read only)."""

from __future__ import annotations

from virt.xml.base import INT, YES_NO, Child, Children, Element, Prop
from virt.xml.cpu import CPUFeature, Topology


class HostFeature(Element):
    tag = "feature"
    name = Prop("@name")


class HostCPU(Element):
    tag = "cpu"
    arch = Prop("arch")
    model = Prop("model")
    vendor = Prop("vendor")
    topology = Child(Topology)
    features = Children(HostFeature)


class CellPages(Element):
    """How many pages of one size a cell has; ``size`` in KiB."""

    tag = "pages"
    size = Prop("@size", INT)
    count = Prop(".", INT)


class CellCPU(Element):
    tag = "cpu"
    id = Prop("@id", INT)
    socket = Prop("@socket_id", INT)
    siblings = Prop("@siblings")


class CellCPUs(Element):
    tag = "cpus"
    listed = Children(CellCPU)


class HostCell(Element):
    """One NUMA cell; ``memory`` in KiB."""

    tag = "cell"
    id = Prop("@id", INT)
    memory = Prop("memory", INT)
    pages = Children(CellPages)
    cpus = Child(CellCPUs)


class Cells(Element):
    """The host's NUMA cells."""

    tag = "cells"
    count = Prop("@num", INT)
    listed = Children(HostCell)


class HostTopology(Element):
    tag = "topology"
    cells = Child(Cells)


class Host(Element):
    tag = "host"
    uuid = Prop("uuid")
    cpu = Child(HostCPU)
    topology = Child(HostTopology)


class Machine(Element):
    """A machine type; ``canonical`` is what an alias such as q35 stands for today."""

    tag = "machine"
    name = Prop(".")
    canonical = Prop("@canonical")
    max_cpus = Prop("@maxCpus", INT)


class GuestDomain(Element):
    """A domain type (kvm, qemu) that the host offers."""

    tag = "domain"
    type = Prop("@type")


class Arch(Element):
    tag = "arch"
    name = Prop("@name")
    emulator = Prop("emulator")
    machines = Children(Machine)
    domains = Children(GuestDomain)


class GuestSupport(Element):
    tag = "guest"
    os_type = Prop("os_type")
    arch = Child(Arch)


class Capabilities(Element):
    tag = "capabilities"
    host = Child(Host)
    guests = Children(GuestSupport)


class UsableModel(Element):
    """A CPU model by name; ``usable`` is whether this host can run it in full."""

    tag = "model"
    name = Prop(".")
    usable = Prop("@usable", YES_NO)


class CPUMode(Element):
    """For host-model: the model and the flags that this host adds to it."""

    tag = "mode"
    name = Prop("@name")
    models = Children(UsableModel)
    features = Children(CPUFeature)


class GuestCPU(Element):
    tag = "cpu"
    modes = Children(CPUMode)


class Choice(Element):
    tag = "value"
    name = Prop(".")


class Choices(Element):
    """What an attribute or element of a domain may be here."""

    tag = "enum"
    name = Prop("@name")
    values = Children(Choice)


class DeviceSupport(Element):
    """One kind of device."""

    supported = Prop("@supported", YES_NO)
    choices = Children(Choices)

    def among(self, name: str) -> frozenset[str]:
        """The values of one attribute; empty where the device is not supported at all."""
        if not self.supported:
            return frozenset()
        return frozenset(value.name for each in self.choices if each.name == name
                         for value in each.values)


class VideoSupport(DeviceSupport):
    tag = "video"


class TPMSupport(DeviceSupport):
    tag = "tpm"


class DevicesSupport(Element):
    tag = "devices"
    video = Child(VideoSupport)
    tpm = Child(TPMSupport)


class SEVSupport(Element):
    """AMD's encryption of memory; ``most_es`` guests at once with encrypted registers."""

    tag = "sev"
    supported = Prop("@supported", YES_NO)
    most_es = Prop("maxESGuests", INT)


class FeaturesSupport(Element):
    tag = "features"
    sev = Child(SEVSupport)


class DomainCapabilities(Element):
    tag = "domainCapabilities"
    cpu = Child(GuestCPU)
    devices = Child(DevicesSupport)
    features = Child(FeaturesSupport)
