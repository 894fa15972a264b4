"""Domains of libvirt's other drivers: containers (lxc), and Xen, bhyve, Cloud Hypervisor and
Virtuozzo.

They know far less than QEMU, so their domains are built here, from one small table, and what a
flavor or image asks beyond CPUs, memory, disks and NICs is refused. Of all of these only lxc was
ever run with this code; the others are XML that libvirt's schema accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compute.errors import Failed
from compute.model.guest import Disk, Guest, Nic
from virt.libvirt import metadata, quota
from virt.xml import chardev, disk, display, features, filesystem, interface, system
from virt.xml.domain import Devices, Domain

# What these domains can have is what they always have.
WISHES = ("hw:", "hw_", "quota:", "pci_passthrough:", "resources:VGPU", "accel:")
NAMES = ("quota:cpu_", "quota:vif_")


@dataclass(frozen=True)
class Kind:
    """What one hypervisor wants. ``formats`` of disks that it opens, ``bus`` and ``nic`` the models
    of devices ('' for its own), ``loader`` its firmware, ``kernel`` the same where it poses as a
    kernel, ``serial`` the kind of console."""

    os: str = "hvm"
    machine: str | None = None
    formats: tuple[str, ...] = ("raw",)
    bus: str = "virtio"
    nic: str = "virtio"
    driver: str | None = None
    loader: str | None = None
    pflash: bool = False
    kernel: str | None = None
    serial: str = "pty"
    screen: bool = False


KINDS = {
    "lxc": Kind(os="exe", nic="", serial="lxc"),
    "xen": Kind(machine="xenfv", formats=("raw", "qcow2"), bus="xen", nic="", driver="qemu",
                loader="/usr/lib/xen-4.17/boot/hvmloader", screen=True),
    "bhyve": Kind(loader="/usr/local/share/uefi-firmware/BHYVE_UEFI.fd", pflash=True,
                  serial="nmdm"),
    "ch": Kind(kernel="/usr/share/cloud-hypervisor/CLOUDHV.fd"),
    "vz": Kind(formats=("qcow2", "raw"), bus="scsi", driver="vz", screen=True),
}  # fmt: skip
PREFIX = {"virtio": "vd", "scsi": "sd", "xen": "xvd"}
LOOP_NAME = 63  # characters of a path that the kernel's loop device takes down


@dataclass(frozen=True)
class Plan:
    """All that such a domain is built from."""

    type: str
    arch: str
    guest: Guest
    disks: Sequence[Disk]
    nics: Sequence[Nic]
    generation: int
    operation: str
    vnc_listen: str = ""

    @property
    def kind(self) -> Kind:
        return KINDS[self.type]


def check(type: str, guest: Guest) -> None:
    """Refuse what such a guest cannot have, before anything is made.

    :raises Failed: code ``flavor_unacceptable`` or ``image_unacceptable``.
    """
    flavor = guest.flavor
    wishes = [name for name in flavor.extra_specs
              if name.startswith(WISHES) and not name.startswith(NAMES)]
    if type == "lxc" and (flavor.ephemeral_gb or flavor.swap_mb):
        wishes.append("ephemeral disk or swap")
    if wishes:
        raise _refusal(type, f"flavor {flavor.name}", wishes, "flavor_unacceptable")
    images = dict(guest.image.properties) if guest.image else {}
    wishes = [name for name in images if name.startswith("hw_") and name != "hw_architecture"]
    if type == "lxc" and guest.config_drive:
        wishes.append("config drive")
    if wishes:
        raise _refusal(type, "image or request", wishes, "image_unacceptable")


def build(plan: Plan) -> Domain:
    """The domain of a guest. Raises Failed."""
    check(plan.type, plan.guest)
    domain = Domain(type=plan.type)
    domain.devices = Devices()
    for configure in CONFIGURATORS:
        configure(domain, plan)
    return domain


def identity(domain: Domain, plan: Plan) -> None:
    guest = plan.guest
    domain.name, domain.uuid = guest.name, guest.uuid
    domain.metadata = metadata.describe(guest, plan.nics, plan.generation, plan.operation)
    domain.memory, domain.memory_unit = guest.flavor.memory_mb * 1024, "KiB"
    domain.vcpus = guest.flavor.vcpus
    domain.cputune = quota.cputune(guest.flavor)


def machine(domain: Domain, plan: Plan) -> None:
    kind = plan.kind
    made = system.OS(type=kind.os, arch=plan.arch, machine=kind.machine)
    if kind.os == "exe":
        made.init = "/sbin/init"
    else:
        domain.features = features.Features(acpi=True, apic=True)
    if kind.loader:
        made.loader = kind.loader
        if kind.pflash:
            made.loader_readonly, made.loader_type = True, "pflash"
    made.kernel = kind.kernel
    domain.os = made
    domain.clock = features.Clock(offset="utc")
    domain.on_poweroff, domain.on_reboot, domain.on_crash = "destroy", "restart", "destroy"


def disks(domain: Domain, plan: Plan) -> None:
    kind = plan.kind
    for number, each in enumerate(plan.disks):
        if each.format not in kind.formats:
            raise Failed(
                f"A disk in the format {each.format} cannot be opened by {plan.type}.",
                now="The guest was not defined; nothing was changed.",
                next=f"Set [disk] images_type = {kind.formats[0]} on this host.",
                code="image_unacceptable",
            )
        if plan.type == "lxc":
            if len(each.path) > LOOP_NAME:
                raise _too_long(each.path)
            domain.devices.add(filesystem.Filesystem(
                type="file", driver="loop", format=each.format, source=each.path, target="/"))
            continue
        made = disk.Disk(
            type="file", device=each.device, driver=kind.driver,
            format=each.format if kind.driver == "qemu" else None, source=each.path,
            target=f"{PREFIX[kind.bus]}{chr(ord('a') + number)}", bus=kind.bus,
        )  # fmt: skip
        if each.device == "cdrom":
            made.readonly = True
        domain.devices.add(made)


def nics(domain: Domain, plan: Plan) -> None:
    for nic in plan.nics:
        made = interface.Interface(type=nic.kind, mac=nic.mac, tap=nic.tap,
                                   model=plan.kind.nic or None)  # fmt: skip
        made.source = interface.InterfaceSource(**{nic.kind: nic.source})
        made.bandwidth = quota.bandwidth(plan.guest.flavor)
        domain.devices.add(made)


def consoles(domain: Domain, plan: Plan) -> None:
    kind = plan.kind
    if kind.serial == "lxc":
        domain.devices.add(chardev.Console(type="pty", target="lxc", port=0))
    elif kind.serial == "nmdm":
        end = f"/dev/nmdm-{plan.guest.name}-"
        domain.devices.add(chardev.Serial(type="nmdm", master=end + "A", slave=end + "B", port=0))
    else:
        domain.devices.add(chardev.Serial(type="pty", port=0))
    if kind.screen:
        domain.devices.add(display.Graphics(type="vnc", autoport=True, listen="address",
                                            address=plan.vnc_listen or "127.0.0.1"))  # fmt: skip


CONFIGURATORS: tuple[Callable[[Domain, Plan], None], ...] = (
    identity, machine, disks, nics, consoles,
)  # fmt: skip


def _refusal(type: str, whose: str, wishes: Sequence[str], code: str) -> Failed:
    return Failed(
        f"Guests of type {type} cannot have what {whose} asks for: {', '.join(sorted(wishes))}.",
        now="The guest was not defined; nothing was changed.",
        next="Remove it, or use a host whose virt_type is kvm or qemu.",
        code=code,
    )


def _too_long(path: str) -> Failed:
    room = LOOP_NAME - len(path.rpartition("/")[0].rpartition("/")[2]) - len("//disk")
    return Failed(
        f"libvirt cannot mount a container's disk whose path has more than {LOOP_NAME} characters: "
        f"{path}.",
        now="The guest was not defined; nothing was changed.",
        next=f"Set [disk] instances_path to a directory whose name has at most {room}.",
        code="image_unacceptable",
    )
