"""The virtual CPU."""

from __future__ import annotations

from virt.xml.base import INT, Child, Children, Element, Prop


class Topology(Element):
    tag = "topology"
    sockets = Prop("@sockets", INT)
    dies = Prop("@dies", INT)
    cores = Prop("@cores", INT)
    threads = Prop("@threads", INT)


class CPUFeature(Element):
    """A CPU flag; ``policy`` is require or disable."""

    tag = "feature"
    policy = Prop("@policy")
    name = Prop("@name")


class GuestCell(Element):
    """One NUMA cell of the guest; ``memory`` in KiB, ``access`` shared lets other processes map
    it."""

    tag = "cell"
    id = Prop("@id", INT)
    cpus = Prop("@cpus")
    memory = Prop("@memory", INT)
    unit = Prop("@unit")
    access = Prop("@memAccess")


class GuestCells(Element):
    tag = "numa"
    cells = Children(GuestCell)


class CPU(Element):
    tag = "cpu"
    mode = Prop("@mode")
    match = Prop("@match")
    check = Prop("@check")
    model = Prop("model")
    fallback = Prop("model@fallback")
    topology = Child(Topology)
    address_mode = Prop("maxphysaddr@mode")
    address_bits = Prop("maxphysaddr@bits", INT)
    features = Children(CPUFeature)
    numa = Child(GuestCells)


class CPUPin(Element):
    """Host CPUs on which one vCPU runs."""

    tag = "vcpupin"
    vcpu = Prop("@vcpu", INT)
    cpus = Prop("@cpuset")


class IOThreadPin(Element):
    tag = "iothreadpin"
    iothread = Prop("@iothread", INT)
    cpus = Prop("@cpuset")


class CPUSchedule(Element):
    """The kernel's scheduler for some vCPUs."""

    tag = "vcpusched"
    vcpus = Prop("@vcpus")
    scheduler = Prop("@scheduler")
    priority = Prop("@priority", INT)


class CPUTune(Element):
    """Weight and limit of the guest's CPU time, in cgroup units and microseconds, and where it
    runs."""

    tag = "cputune"
    shares = Prop("shares", INT)
    period = Prop("period", INT)
    quota = Prop("quota", INT)
    pins = Children(CPUPin)
    emulator = Prop("emulatorpin@cpuset")
    iothread_pins = Children(IOThreadPin)
    schedules = Children(CPUSchedule)
