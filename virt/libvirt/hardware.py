"""What hardware a guest gets: image properties, flavor extra specs and options, judged once.

Values that are not known are refused by name, as are requests for what this release cannot do:
a guest never silently gets less than was asked for.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compute.errors import Failed
from compute.model.guest import Guest
from compute.model.numa import Wish
from virt import topology
from virt.libvirt import boot, extras, flags, sev, tpm
from virt.libvirt.caps import HostCaps, Support, machine_type
from virt.storage import firmware
from virt.wishes import Wishes, lacking, refuse

DISK_BUSES = ("virtio", "scsi", "sata", "ide")
CDROM_BUSES = ("scsi", "sata", "ide")
SCSI_MODELS = ("virtio-scsi",)
VIF_MODELS = ("virtio", "e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet")
VIDEO_MODELS = ("virtio", "vga", "cirrus", "bochs", "vmvga", "qxl", "none")
WATCHDOG_ACTIONS = ("disabled", "none", "reset", "poweroff", "pause")
POINTERS = ("ps2mouse", "usbtablet")
ARCHITECTURES = ("x86_64", "i686")  # others have no BIOS
DEFAULT_MACHINE = "q35"
EMULATED_CPU = "Nehalem"  # x86-64-v2: what distributions ask for, and fixed for good

# Asked for in a flavor or image, these change the guest in ways that this release cannot provide.
# Each with the values that ask for nothing special.
NOT_YET: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hw[:_]tpm_secret_security", ()),
    ("hw[:_]pmem", ()),
    ("accel:device_profile", ()),
    ("resources:VGPU", ()),
    ("hw[:_]redirected_usb_ports", ("0",)),
)


@dataclass(frozen=True)
class Hardware:
    """The decision. ``vram`` KiB, ``rng_rate`` (bytes, milliseconds) or None; ``cpu_model`` only
    with mode custom; ``scsi`` says whether any disk sits on the SCSI bus. ``most_vcpus`` and
    ``most_memory_mb`` are what the guest may grow to while it runs; ``flags`` are CPU flags that it
    has to have (True) or must not have."""

    arch: str
    virt_type: str
    machine: str
    pcie: bool
    disk_bus: str
    cdrom_bus: str
    scsi_model: str
    vif_model: str
    vif_queues: int
    disk_queues: int
    video: str
    vram: int | None
    pointer: str
    agent: bool
    rng: bool
    rng_rate: tuple[int, int] | None
    watchdog: str
    cpu_mode: str
    cpu_model: str
    sockets: int
    cores: int
    threads: int
    windows: bool
    most_vcpus: int
    most_memory_mb: int
    flags: tuple[tuple[str, bool], ...] = ()
    extras: extras.Extras = extras.Extras()
    firmware: firmware.Wish | None = None
    tpm: tpm.TPM | None = None
    encryption: str | None = None

    def recorded(self) -> dict[str, str]:
        """What has to stay so for the guest's life, as image properties."""
        record = {
            "hw_machine_type": self.machine,
            "hw_disk_bus": self.disk_bus,
            "hw_cdrom_bus": self.cdrom_bus,
            "hw_vif_model": self.vif_model,
            "hw_video_model": self.video,
            "hw_pointer_model": self.pointer,
        }
        if "scsi" in (self.disk_bus, self.cdrom_bus):
            record["hw_scsi_model"] = self.scsi_model
        return {**record, **boot.recorded(self.firmware)}


def decide(
    guest: Guest, conf: Any, caps: HostCaps, virt_type: str, cpu_models: Mapping[str, bool]
) -> Hardware:
    """Judge everything that flavor, image and options say of a guest's hardware.

    :param conf: the global configuration.
    :param cpu_models: what the host offers for cpu_mode=custom: name -> whether it can run here.
    :raises Failed: with code ``image_unacceptable`` or ``flavor_unacceptable``, naming the
        property, its value and what is allowed.
    """
    wishes, options = Wishes(guest), conf.libvirt
    _refuse_what_is_not_there_yet(guest)
    support = _support(guest, caps)
    if virt_type not in support.types:
        virt_type = "qemu"
    machine = _machine(guest, options, support)
    pcie = "q35" in machine
    vcpus = guest.flavor.vcpus
    most = support.machines[machine]
    if most and vcpus > most:
        refuse("flavor", "vcpus", vcpus, f"at most {most}, which is what {machine} takes")
    disk_bus, cdrom_bus = _buses(wishes, pcie)
    uefi = firmware.wish(guest)
    if uefi and not (pcie and support.arch == firmware.ARCH):
        refuse("image", "hw_firmware_type", "uefi", f"bios on {support.arch} {machine}")
    cpu_mode, cpu_model = _cpu(options, virt_type, cpu_models)
    wish = topology.wish(guest)
    _refuse_files(wish, options)
    grows = wish is None  # memory and CPUs of a place are the flavor's, no more
    most_vcpus, shape = _growth(
        wishes, vcpus, most, options.live_resize_max_vcpus if grows else vcpus)
    sockets, cores, threads = shape
    queues = min(vcpus, options.max_queues)
    return Hardware(
        arch=support.arch, virt_type=virt_type, machine=machine,
        pcie=pcie, disk_bus=disk_bus, cdrom_bus=cdrom_bus,
        scsi_model=wishes.word("hw_scsi_model", SCSI_MODELS, "virtio-scsi"),
        vif_model=wishes.word("hw_vif_model", VIF_MODELS, "virtio"),
        vif_queues=queues if _multiqueue(wishes, options) else 1,
        disk_queues=queues,
        **_screen(wishes, options.vnc or conf.spice.enabled),
        pointer=wishes.word("hw_pointer_model", POINTERS, "ps2mouse"),
        agent=_either(wishes.switch("image", "hw_qemu_guest_agent"), options.guest_agent),
        **_rng(wishes),
        watchdog=_watchdog(wishes),
        cpu_mode=cpu_mode, cpu_model=cpu_model,
        sockets=sockets, cores=cores, threads=threads,
        windows=(guest.os_type or guest.prop("os_type", "")) == "windows",
        most_vcpus=most_vcpus,
        most_memory_mb=_most_memory(guest, options) if grows else guest.flavor.memory_mb,
        flags=flags.wanted(guest), extras=extras.decide(wishes, pcie), firmware=uefi,
        tpm=tpm.decide(wishes), encryption=sev.decide(wishes, uefi),
    )  # fmt: skip


def _either(said: bool | None, default: bool) -> bool:
    return default if said is None else said


def _refuse_what_is_not_there_yet(guest: Guest) -> None:
    image = {**(guest.image.properties if guest.image else {})}
    for key, value in guest.system_metadata.items():
        if key.startswith("image_"):
            image[key.removeprefix("image_")] = value
    for source, wishes in (("flavor", guest.flavor.extra_specs), ("image", image)):
        for name, value in wishes.items():
            for pattern, harmless in NOT_YET:
                if fnmatch.fnmatchcase(name, pattern) and str(value).lower() not in harmless:
                    allowed = " or ".join(harmless) or "nothing"
                    refuse(source, name, value, f"{allowed} (this release has no more)")


def _refuse_files(wish: Wish | None, options: Any) -> None:
    """Memory from files is neither huge pages nor locked."""
    if options.file_backed_memory and wish is not None and (
            wish.locked or wish.page not in (None, "small", "any")):
        raise lacking(
            "This host takes guests' memory from files ([libvirt] file_backed_memory), which are "
            "neither huge pages nor locked.", "Choose another host.")


def _support(guest: Guest, caps: HostCaps) -> Support:
    wanted = guest.prop("hw_architecture") or caps.arch
    offered = [arch for arch in ARCHITECTURES if arch in caps.support]
    if wanted not in offered:
        refuse("image", "hw_architecture", wanted, "one of " + ", ".join(offered))
    return caps.support[wanted]


def _machine(guest: Guest, options: Any, support: Support) -> str:
    wanted = guest.prop("hw_machine_type") or options.hw_machine_type.get(support.arch)
    return machine_type(support, wanted or DEFAULT_MACHINE)


def _buses(wishes: Wishes, pcie: bool) -> tuple[str, str]:
    disk = wishes.word("hw_disk_bus", DISK_BUSES, "virtio")
    # Not sata with PCIe: many a small cloud kernel is built without AHCI.
    cdrom = wishes.word("hw_cdrom_bus", CDROM_BUSES, "scsi" if pcie else "ide")
    for name, bus in (("hw_disk_bus", disk), ("hw_cdrom_bus", cdrom)):
        if pcie and bus == "ide":
            refuse("image", name, bus, "scsi or sata (this machine type has no IDE)")
    return disk, cdrom


def _cpu(options: Any, virt_type: str, models: Mapping[str, bool]) -> tuple[str, str]:
    """CPU mode and model; '' for what libvirt shall choose."""
    mode, wanted = options.cpu_mode, list(options.cpu_models)
    if mode is None and virt_type == "kvm":
        return "host-model", ""
    if mode is None:
        return ("custom", EMULATED_CPU) if models.get(EMULATED_CPU) else ("maximum", "")
    if mode == "none":
        return "", ""
    if mode != "custom":
        return mode, ""
    usable = [model for model in wanted if models.get(model)]
    if not usable:
        raise Failed(
            f"None of [libvirt] cpu_models ({', '.join(wanted) or 'empty'}) can run on this host.",
            now="The guest was not defined; nothing was changed.",
            next="Set cpu_models to models that 'virsh domcapabilities' calls usable.",
            code="cpu_unacceptable",
        )
    return "custom", usable[-1]


def _topology(wishes: Wishes, vcpus: int) -> tuple[int, int, int]:
    """Sockets, cores and threads. What is not fixed becomes sockets, as far as limits allow."""
    fixed: dict[str, int | None] = {}
    most: dict[str, int | None] = {}
    for part in ("sockets", "cores", "threads"):
        for found, name in ((fixed, part), (most, f"max_{part}")):
            flavor = wishes.number("flavor", f"hw:cpu_{name}")
            found[part] = flavor or wishes.number("image", f"hw_cpu_{name}")
    # Threads only on request: they tell the guest that two CPUs share one.
    most["threads"] = most["threads"] or 1
    fits = [
        shape
        for shape in _shapes(vcpus)
        if all(
            count == fixed[part] if fixed[part] else count <= (most[part] or vcpus)
            for part, count in zip(fixed, shape, strict=True)
        )
    ]
    if not fits:
        asked = [f"{part} {number}" for part, number in fixed.items() if number]
        asked += [f"at most {number} {part}" for part, number in most.items() if number]
        refuse("flavor", "hw:cpu_sockets/cores/threads", ", ".join(asked),
                f"numbers whose product is {vcpus} vCPUs")  # fmt: skip
    return max(fits)


def _growth(
    wishes: Wishes, vcpus: int, machine_most: int, wanted: int
) -> tuple[int, tuple[int, int, int]]:
    """The vCPUs that a guest may grow to, and their topology. A guest does not grow where flavor
    or image say of the topology what only fits its own number."""
    own = _topology(wishes, vcpus)
    most = min(wanted, machine_most or wanted)
    if most <= vcpus:
        return vcpus, own
    try:
        return most, _topology(wishes, most)
    except Failed:
        return vcpus, own


def _most_memory(guest: Guest, options: Any) -> int:
    """MiB that a guest may grow to; only a balloon can keep the rest from it."""
    own = guest.flavor.memory_mb
    if options.mem_stats_period_seconds <= 0:
        return own
    return max(own, options.live_resize_max_memory_mb)


def _shapes(vcpus: int) -> list[tuple[int, int, int]]:
    divisors = [number for number in range(1, vcpus + 1) if vcpus % number == 0]
    return [
        (sockets, cores, vcpus // sockets // cores)
        for sockets in divisors
        for cores in divisors
        if vcpus // sockets % cores == 0
    ]


def _multiqueue(wishes: Wishes, options: Any) -> bool:
    flavor = wishes.switch("flavor", "hw:vif_multiqueue_enabled")
    image = wishes.switch("image", "hw_vif_multiqueue_enabled")
    if flavor is not None and image is not None and flavor != image:
        refuse("image", "hw_vif_multiqueue_enabled", image, f"{flavor}, as the flavor says")
    return _either(flavor, _either(image, options.vif_multiqueue))


def _screen(wishes: Wishes, shown: bool) -> dict[str, Any]:
    video = wishes.word("hw_video_model", VIDEO_MODELS, "virtio" if shown else "none")
    vram = wishes.number("image", "hw_video_ram")
    most = wishes.number("flavor", "hw_video:ram_max_mb")
    if vram and (most is None or vram > most):
        refuse("image", "hw_video_ram", vram,
                f"at most the flavor's hw_video:ram_max_mb ({most or 'not set'})")  # fmt: skip
    return {"video": video, "vram": vram * 1024 if vram else None}


def _rng(wishes: Wishes) -> dict[str, Any]:
    allowed = _either(wishes.switch("flavor", "hw_rng:allowed"), True)
    wishes.word("hw_rng_model", ("virtio",), "virtio")
    amount = wishes.number("flavor", "hw_rng:rate_bytes")
    period = wishes.number("flavor", "hw_rng:rate_period") or 1000
    return {"rng": allowed, "rng_rate": (amount, period) if amount else None}


def _watchdog(wishes: Wishes) -> str:
    """The image's word goes before the flavor's, as in Nova; 'disabled' for no watchdog."""
    flavor = wishes.spec("hw:watchdog_action", WATCHDOG_ACTIONS)
    return wishes.word("hw_watchdog_action", WATCHDOG_ACTIONS, flavor or "disabled")
