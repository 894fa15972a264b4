"""What libvirt says of the host (read only)."""

from __future__ import annotations

from virt.xml.base import INT, YES_NO, Child, Children, Element, Prop
from virt.xml.cpu import Topology


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


class Cells(Element):
    """The host's NUMA cells."""

    tag = "cells"
    count = Prop("@num", INT)


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
    tag = "mode"
    name = Prop("@name")
    models = Children(UsableModel)


class GuestCPU(Element):
    tag = "cpu"
    modes = Children(CPUMode)


class DomainCapabilities(Element):
    tag = "domainCapabilities"
    cpu = Child(GuestCPU)
