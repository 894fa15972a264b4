"""The domain: the whole guest."""

from __future__ import annotations

from virt.xml.base import INT, Child, Children, Element, Prop
from virt.xml.chardev import Channel, Console, Serial
from virt.xml.controller import Controller
from virt.xml.cpu import CPU, CPUTune
from virt.xml.device import IOMMU, RNG, TPM, Balloon, Panic, Sound, Watchdog
from virt.xml.disk import Disk
from virt.xml.display import Graphics, Input, Video
from virt.xml.features import PM, Clock, Features
from virt.xml.filesystem import Filesystem
from virt.xml.hostdev import HostDevice
from virt.xml.interface import Interface
from virt.xml.memory import LaunchSecurity, MemoryBacking, NUMATune
from virt.xml.metadata import Metadata
from virt.xml.system import OS, Sysinfo


class Devices(Element):
    tag = "devices"
    disks = Children(Disk)
    filesystems = Children(Filesystem)
    controllers = Children(Controller)
    interfaces = Children(Interface)
    serials = Children(Serial)
    consoles = Children(Console)
    channels = Children(Channel)
    inputs = Children(Input)
    tpms = Children(TPM)
    graphics = Children(Graphics)
    sounds = Children(Sound)
    videos = Children(Video)
    hostdevs = Children(HostDevice)
    watchdogs = Children(Watchdog)
    rngs = Children(RNG)
    balloons = Children(Balloon)
    panics = Children(Panic)
    iommus = Children(IOMMU)


class Domain(Element):
    """A guest. ``memory`` in ``memory_unit``, always KiB when we write it; both it and ``vcpus``
    are maxima where ``memory_now`` (KiB) and ``vcpus_online`` say less."""

    tag = "domain"
    type = Prop("@type")
    name = Prop("name")
    uuid = Prop("uuid")
    metadata = Child(Metadata)
    memory = Prop("memory", INT)
    memory_unit = Prop("memory@unit")
    memory_now = Prop("currentMemory", INT)
    memory_now_unit = Prop("currentMemory@unit")
    memory_backing = Child(MemoryBacking)
    vcpus = Prop("vcpu", INT)
    vcpu_cpus = Prop("vcpu@cpuset")  # host CPUs of vCPUs that are pinned nowhere
    vcpus_online = Prop("vcpu@current", INT)
    iothreads = Prop("iothreads", INT)
    cputune = Child(CPUTune)
    numatune = Child(NUMATune)
    sysinfo = Child(Sysinfo)
    os = Child(OS)
    features = Child(Features)
    cpu = Child(CPU)
    clock = Child(Clock)
    on_poweroff = Prop("on_poweroff")
    on_reboot = Prop("on_reboot")
    on_crash = Prop("on_crash")
    pm = Child(PM)
    devices = Child(Devices)
    launch_security = Child(LaunchSecurity)
