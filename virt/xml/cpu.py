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


class CPUTune(Element):
    """Weight and limit of the guest's CPU time, in cgroup units and microseconds."""

    tag = "cputune"
    shares = Prop("shares", INT)
    period = Prop("period", INT)
    quota = Prop("quota", INT)
