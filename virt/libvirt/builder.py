"""A guest's domain: a list of configurators, each of which adds one part of the machine."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from compute.errors import Failed
from compute.model import guest as model
from compute.model import volume as model_volume
from virt.libvirt import boot, extras, hostdevs, linked, metadata, placed, quota, sev, tpm
from virt.libvirt import volumes as volume_disks
from virt.libvirt.hardware import Hardware
from virt.storage.firmware import KIND as NVRAM
from virt.storage.firmware import Firmware
from virt.xml import chardev, controller, cpu, device, disk, display, features, interface, system
from virt.xml.domain import Devices, Domain

PREFIX = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd", "usb": "sd"}
# Disks on a bus: as many as there are letters, units of virtio-scsi, channels of IDE.
LIMITS = {"virtio": 26, "scsi": 256, "sata": 26, "ide": 4, "usb": 26}


@dataclass(frozen=True)
class Plan:
    """All that a domain is built from. ``cache`` is the cache mode for disks of type file;
    ``console`` the path of the console log, ``firmware`` what this host has of the wished kind,
    ``shared_cpus`` those of guests that have no place of their own (empty: all), ``spice_listen``
    the address for SPICE (None: none), ``serial_host`` the one for a serial console with a port."""

    guest: model.Guest
    disks: Sequence[model.Disk]
    nics: Sequence[model.Nic]
    hardware: Hardware
    options: Any
    cache: str
    console: str
    generation: int
    operation: str
    firmware: Firmware | None = None
    shared_cpus: frozenset[int] = frozenset()
    spice_listen: str | None = None
    serial_host: str = ""

    @property
    def drives(self) -> list[model.Disk]:
        """The disks that the guest sees as such."""
        return [disk for disk in self.disks if disk.role != NVRAM]


def build(plan: Plan) -> Domain:
    """The domain of a guest. Raises Failed for flavors whose quota cannot be read."""
    domain = Domain(type=plan.hardware.virt_type)
    domain.devices = Devices()
    for configure in CONFIGURATORS:
        configure(domain, plan)
    return domain


def identity(domain: Domain, plan: Plan) -> None:
    domain.name, domain.uuid = plan.guest.name, plan.guest.uuid
    domain.metadata = metadata.describe(plan.guest, plan.nics, plan.generation, plan.operation)


def size(domain: Domain, plan: Plan) -> None:
    flavor, hardware = plan.guest.flavor, plan.hardware
    domain.memory, domain.memory_unit = hardware.most_memory_mb * 1024, "KiB"
    if hardware.most_memory_mb > flavor.memory_mb:  # the balloon takes the rest
        domain.memory_now, domain.memory_now_unit = flavor.memory_mb * 1024, "KiB"
    domain.vcpus = hardware.most_vcpus
    if hardware.most_vcpus > flavor.vcpus:
        domain.vcpus_online = flavor.vcpus
    domain.cputune = quota.cputune(plan.guest.flavor)


def firmware(domain: Domain, plan: Plan) -> None:
    hardware = plan.hardware
    domain.os = system.OS(
        type="hvm", arch=hardware.arch, machine=hardware.machine, smbios="sysinfo"
    )
    entries = {
        "manufacturer": "OpenStack Foundation",
        # cloud-init looks for this name to know that a metadata service may be there.
        "product": "OpenStack Nova",
        "version": metadata.VERSION,
        "serial": plan.guest.uuid if plan.options.sysinfo_serial == "unique" else None,
        "uuid": plan.guest.uuid,
        "family": "Virtual Machine",
    }
    listed = system.System(
        entries=[system.Entry(name=name, value=value) for name, value in entries.items() if value]
    )
    domain.sysinfo = system.Sysinfo(type="smbios", systems=[listed])


def machine_features(domain: Domain, plan: Plan) -> None:
    hardware = plan.hardware
    found = features.Features(acpi=True, apic=True, vmcoreinfo=True)
    if hardware.windows and hardware.virt_type == "kvm":
        found.hyperv = features.HyperV(
            relaxed=True, vapic=True, spinlocks=True, retries=8191, vpindex=True, runtime=True,
            synic=True, stimer=True, reset=True, frequencies=True, tlbflush=True, ipi=True,
        )  # fmt: skip
    if hardware.virt_type == "qemu" and plan.options.tb_cache_size:
        found.tb_cache, found.tb_cache_unit = plan.options.tb_cache_size, "MiB"
    domain.features = found


def processor(domain: Domain, plan: Plan) -> None:
    hardware = plan.hardware
    made = cpu.CPU(
        topology=cpu.Topology(
            sockets=hardware.sockets, dies=1, cores=hardware.cores, threads=hardware.threads
        )
    )
    if hardware.cpu_mode:
        made.mode = hardware.cpu_mode
    if hardware.cpu_mode == "custom":
        made.match, made.model, made.fallback = "exact", hardware.cpu_model, "forbid"
    if hardware.cpu_mode in ("host-model", "host-passthrough", "maximum"):
        made.check = "none" if hardware.virt_type == "qemu" else "partial"
    wanted: dict[str, str] = {}
    for flag in plan.options.cpu_model_extra_flags:
        policy = "disable" if flag.startswith("-") else "require"
        wanted[flag.lstrip("+-").lower()] = policy
    for name, there in hardware.flags:
        wanted[name] = "require" if there else "disable"
    if hardware.cpu_mode:
        made.features = [cpu.CPUFeature(policy=policy, name=name)
                         for name, policy in wanted.items()]
    domain.cpu = made


def clock(domain: Domain, plan: Plan) -> None:
    hardware = plan.hardware
    made = features.Clock(offset="localtime" if hardware.windows else "utc")
    if hardware.virt_type == "kvm":
        made.timers = [
            features.Timer(name="pit", tickpolicy="delay"),
            features.Timer(name="rtc", tickpolicy="catchup"),
            features.Timer(name="hpet", present=False),
        ]
        if hardware.windows:
            made.add(features.Timer(name="hypervclock", present=True))
    domain.clock = made


def endings(domain: Domain, plan: Plan) -> None:
    domain.on_poweroff, domain.on_reboot, domain.on_crash = "destroy", "restart", "destroy"
    domain.pm = features.PM(suspend_to_mem=False, suspend_to_disk=False)
    domain.devices.add(device.Panic(model="isa"))


def buses(domain: Domain, plan: Plan) -> None:
    hardware, options = plan.hardware, plan.options
    if hardware.pcie and options.num_pcie_ports:
        domain.devices.add(controller.Controller(type="pci", index=0, model="pcie-root"))
        for index in range(1, options.num_pcie_ports + 1):
            port = controller.Controller(type="pci", index=index, model="pcie-root-port")
            domain.devices.add(port)
    used = {_bus(plan, drive) for drive in plan.drives}
    if "scsi" in used | {one.volume.bus for one in plan.guest.volumes}:
        made = controller.Controller(type="scsi", index=0, model=hardware.scsi_model)
        if hardware.disk_bus == "scsi":  # not for a cdrom alone
            made.queues = hardware.disk_queues if hardware.disk_queues > 1 else None
            made.iothread = 1 if options.disk_iothreads else None
        domain.devices.add(made)


def disks(domain: Domain, plan: Plan) -> None:
    used: dict[str, int] = {}
    given = {one.volume.target for one in plan.guest.volumes}
    virtio = 0
    boots = "rescue" if "rescue" in {drive.role for drive in plan.drives} else "root"
    for drive in plan.drives:
        bus = _bus(plan, drive)
        made = disk.Disk(
            type="file", device=drive.device, driver="qemu", format=drive.format,
            cache=plan.cache, source=drive.path, target=_target(used, bus, given), bus=bus,
        )  # fmt: skip
        if drive.link:
            linked.lead(made, drive, plan.options)
        if drive.device == "cdrom":
            made.readonly = True
        else:
            _tune(made, plan)
        if bus == "virtio":
            _spread(made, plan.hardware, plan.options, virtio)
            virtio += 1
        if bus == "scsi":
            _place(made, used)
        if drive.role == boots:
            made.boot_order = 1
        domain.devices.add(made)
    virtio += volumes(domain, plan, used, virtio)
    if plan.hardware.disk_bus in ("virtio", "scsi") or virtio:
        # All disks of virtio-scsi share the controller's one thread; an idle thread helps nobody.
        useful = min(plan.options.disk_iothreads, max(1, virtio))
        domain.iothreads = useful or None


def volumes(domain: Domain, plan: Plan, used: dict[str, int], virtio: int) -> int:
    """The volumes, under the names that they were given; how many of them are on virtio."""
    count = 0
    for one in plan.guest.volumes:
        if one.source is None:
            continue
        made = volume(one.volume, one.source, plan.guest.flavor, plan.hardware, plan.options,
                      virtio + count)
        count += made.bus == "virtio"
        if made.bus == "scsi":
            _place(made, used)
        domain.devices.add(made)
    return count


def volume(one: model_volume.Volume, source: model_volume.VolumeSource, flavor: model.Flavor,
           hardware: Hardware, options: Any, index: int = 0) -> disk.Disk:
    """A volume's disk, for a whole domain or for one that gets it while it runs. Its own limits go
    before the flavor's."""
    made = volume_disks.device(one, replace(source, serial=one.shown),
                               bool(options.disk_detect_zeroes))
    if made.bus == "virtio":
        _spread(made, hardware, options, index)
        if hardware.disk_bus not in ("virtio", "scsi"):
            made.iothread = None  # a guest without such disks of its own may have no thread
    if not source.iotune:
        quota.limit_disk(made, flavor)
    return made


def _bus(plan: Plan, drive: model.Disk) -> str:
    if drive.bus == "ide" and plan.hardware.pcie:
        raise Failed(f"The machine {plan.hardware.machine} has no IDE for the {drive.role} disk.",
                     now="The guest was not defined; nothing was changed.",
                     next="Use hw_rescue_bus=sata or virtio.", code="image_unacceptable")
    usual = plan.hardware.cdrom_bus if drive.device == "cdrom" else plan.hardware.disk_bus
    return drive.bus or usual


def _place(made: disk.Disk, used: dict[str, int]) -> None:
    """One unit after the other on one controller. libvirt itself would begin another controller,
    of another model, after seven."""
    unit = used.get("units", 0)
    used["units"] = unit + 1
    made.address_type, made.controller, made.address_bus = "drive", 0, 0
    made.address_target, made.unit = 0, unit


def _target(used: dict[str, int], bus: str, given: Set[str]) -> str:
    """The next free name on a bus: vda, vdb, …; the buses named sd share one row of letters.
    ``given`` are those of volumes."""
    prefix = PREFIX[bus]
    index = used.get(prefix, 0)
    while _named(prefix, index) in given:
        index += 1
    if index >= LIMITS[bus]:
        raise Failed(
            f"The guest has more than {index} disks on the bus {bus}.",
            now="The guest was not defined; nothing was changed.",
            next="Use hw_disk_bus=virtio or scsi.",
            code="image_unacceptable",
        )
    used[prefix] = index + 1
    return _named(prefix, index)


def _named(prefix: str, index: int) -> str:
    letters, rest = string.ascii_lowercase, index // len(string.ascii_lowercase)
    first = letters[rest - 1] if rest else ""
    return prefix + first + letters[index % len(letters)]


def _tune(made: disk.Disk, plan: Plan) -> None:
    """Settings of a writable disk. Native AIO needs cache=none and never blocks only on raw."""
    options = plan.options
    if made.type != "network":
        made.io = "native" if made.format == "raw" and made.cache == "none" else "threads"
    if options.hw_disk_discard == "unmap":
        made.discard = "unmap"
        made.detect_zeroes = "unmap" if options.disk_detect_zeroes else None
    quota.limit_disk(made, plan.guest.flavor)


def _spread(made: disk.Disk, hardware: Hardware, options: Any, index: int) -> None:
    """Queues and I/O thread of a virtio disk; the threads take turns."""
    if hardware.disk_queues > 1:
        made.queues = hardware.disk_queues
    if options.disk_iothreads:
        made.iothread = index % options.disk_iothreads + 1


def nics(domain: Domain, plan: Plan) -> None:
    for nic in plan.nics:
        domain.devices.add(
            network_interface(nic, plan.guest.flavor, plan.hardware, plan.options))


def network_interface(nic: model.Nic, flavor: model.Flavor, hardware: Hardware,
                      options: Any) -> interface.Interface:
    """A NIC, for a whole domain or for one that gets it while it runs."""
    made = interface.Interface(
        mac=nic.mac, tap=nic.tap, mtu=nic.mtu, model=nic.model or hardware.vif_model,
    )  # fmt: skip
    made.join(nic.kind, nic.source, nic.id)
    if made.model == "virtio":
        made.queues = hardware.vif_queues if hardware.vif_queues > 1 else None
        made.rx_queue_size = options.rx_queue_size
        made.tx_queue_size = options.tx_queue_size
    made.bandwidth = quota.bandwidth(flavor)
    return made


def consoles(domain: Domain, plan: Plan) -> None:
    made = chardev.Serial(type="pty", log=plan.console, append=True, target="isa-serial", port=0)
    if plan.guest.serial_port is not None:
        made.type, made.mode, made.protocol = "tcp", "bind", "raw"
        made.host, made.service = plan.serial_host, plan.guest.serial_port
    domain.devices.add(made)


def guest_agent(domain: Domain, plan: Plan) -> None:
    if plan.hardware.agent:
        name = "org.qemu.guest_agent.0"
        domain.devices.add(chardev.Channel(type="unix", target="virtio", name=name))


def screen(domain: Domain, plan: Plan) -> None:
    hardware, options = plan.hardware, plan.options
    if options.vnc and hardware.video != "none":
        made = display.Graphics(type="vnc", listen="socket")
        if options.vnc_listen:
            made.autoport, made.listen = True, "address"
            made.address = options.vnc_listen
        domain.devices.add(made)
    if plan.spice_listen is not None and hardware.video != "none":
        domain.devices.add(display.Graphics(
            type="spice", autoport=True, listen="address", address=plan.spice_listen))
    domain.devices.add(display.Video(model=hardware.video, vram=hardware.vram))


def randomness(domain: Domain, plan: Plan) -> None:
    if plan.hardware.rng:
        made = device.RNG(model="virtio", backend="random", source=plan.options.rng_dev_path)
        if plan.hardware.rng_rate:
            made.bytes, made.period = plan.hardware.rng_rate
        domain.devices.add(made)


def balloon(domain: Domain, plan: Plan) -> None:
    period = plan.options.mem_stats_period_seconds
    if period <= 0:
        domain.devices.add(device.Balloon(model="none"))
        return
    domain.devices.add(
        device.Balloon(model="virtio", autodeflate=True, free_page_reporting=True, period=period)
    )


def watchdog(domain: Domain, plan: Plan) -> None:
    if plan.hardware.watchdog != "disabled":
        domain.devices.add(device.Watchdog(model="i6300esb", action=plan.hardware.watchdog))


CONFIGURATORS: tuple[Callable[[Domain, Plan], None], ...] = (
    identity,
    size,
    firmware,
    machine_features,
    processor,
    clock,
    endings,
    buses,
    disks,
    nics,
    hostdevs.add,
    consoles,
    guest_agent,
    screen,
    randomness,
    balloon,
    watchdog,
    *extras.CONFIGURATORS,
    boot.uefi,
    placed.back_by_files,
    placed.add,
    tpm.add,
    sev.encrypt,
)
