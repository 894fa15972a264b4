"""Features of the machine, its clock and its power management."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, YES_NO, Child, Children, Element, Flag, Prop


class HyperV(Element):
    """Enlightenments for Windows."""

    tag = "hyperv"
    relaxed = Prop("relaxed@state", ON_OFF)
    vapic = Prop("vapic@state", ON_OFF)
    spinlocks = Prop("spinlocks@state", ON_OFF)
    retries = Prop("spinlocks@retries", INT)
    vpindex = Prop("vpindex@state", ON_OFF)
    runtime = Prop("runtime@state", ON_OFF)
    synic = Prop("synic@state", ON_OFF)
    stimer = Prop("stimer@state", ON_OFF)
    reset = Prop("reset@state", ON_OFF)
    vendor_spoofed = Prop("vendor_id@state", ON_OFF)
    vendor = Prop("vendor_id@value")
    frequencies = Prop("frequencies@state", ON_OFF)
    tlbflush = Prop("tlbflush@state", ON_OFF)
    ipi = Prop("ipi@state", ON_OFF)


class Features(Element):
    tag = "features"
    acpi = Flag("acpi")
    apic = Flag("apic")
    hyperv = Child(HyperV)
    hidden = Prop("kvm/hidden@state", ON_OFF)
    pmu = Prop("pmu@state", ON_OFF)
    smm = Prop("smm@state", ON_OFF)
    ioapic = Prop("ioapic@driver")
    vmcoreinfo = Prop("vmcoreinfo@state", ON_OFF)
    tb_cache = Prop("tcg/tb-cache", INT)
    tb_cache_unit = Prop("tcg/tb-cache@unit")


class Timer(Element):
    tag = "timer"
    name = Prop("@name")
    tickpolicy = Prop("@tickpolicy")
    present = Prop("@present", YES_NO)


class Clock(Element):
    tag = "clock"
    offset = Prop("@offset")
    timers = Children(Timer)


class PM(Element):
    tag = "pm"
    suspend_to_mem = Prop("suspend-to-mem@enabled", YES_NO)
    suspend_to_disk = Prop("suspend-to-disk@enabled", YES_NO)
