"""What changes in a domain's definition when it moves to another host.

The definition that leaves is libvirt's own migratable one. Each part below changes what belongs to
the host in one kind of device, for the values that the destination gave; everything else stays as
it is, so that the guest sees the same machine. A new kind of device brings a function of its own
and is added to PARTS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from compute.model.guest import Nic
from compute.model.move import MovePlan
from compute.model.numa import Placement
from compute.model.volume import Attached, VolumeSource
from virt.libvirt import placed
from virt.libvirt.volumes import origin
from virt.storage.firmware import KIND as NVRAM
from virt.xml.chardev import CharDevice
from virt.xml.domain import Domain
from virt.xml.metadata import Metadata, Ownership

UNCACHED = ("none", "directsync")  # cache modes that keep nothing on the host; AIO needs one


@dataclass(frozen=True)
class Rewrite:
    """The destination's values. ``disks`` are paths by target (``vda``), ``cache`` how disks that
    get another path are cached there, ``console`` the path of the console log, ``listen`` the
    address for VNC (empty: a unix socket; None: as it is), ``spice`` that for SPICE, ``serial``
    where its serial console listens (empty: nowhere; None: as it is), ``nics`` what each MAC is
    attached to there, ``loader`` the path of the firmware there,
    ``volumes`` where each serial number is,
    ``placement`` the guest's place there or else ``shared_cpus`` (None: as it is, empty: all)."""

    generation: int
    operation: str
    disks: Mapping[str, str] = field(default_factory=dict)
    console: str | None = None
    listen: str | None = None
    nics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cache: str | None = None
    loader: str | None = None
    placement: Placement | None = None
    shared_cpus: str | None = None
    priority: int = 1
    spice: str | None = None
    serial: tuple[Any, ...] | None = None
    volumes: Mapping[str, VolumeSource] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: MovePlan) -> Rewrite:
        """The values of a plan, whose ``rewrite`` :func:`describe` made at the destination."""
        told = plan.rewrite
        return cls(
            plan.generation, plan.operation, dict(told.get("disks") or {}), told.get("console"),
            told.get("listen"),
            {nic["mac"].lower(): nic for nic in told.get("nics") or ()}, told.get("cache"),
            told.get("loader"),
            Placement.from_plain(told["placement"]) if told.get("placement") else None,
            told.get("shared_cpus"), told.get("priority") or 1, told.get("spice"),
            tuple(told["serial"]) if "serial" in told else None,
            {serial: VolumeSource.from_plain(plain)
             for serial, plain in (told.get("volumes") or {}).items()},
        )  # fmt: skip


def describe(
    disks: Mapping[str, str], console: str, listen: str, nics: tuple[Nic, ...], shared: bool,
    cache: str, loader: str | None = None, placement: Placement | None = None,
    shared_cpus: str = "", priority: int = 1, volumes: Iterable[Attached] = (),
) -> dict[str, Any]:
    """A destination's values as plain data; ``shared`` is whether both hosts see the disks."""
    return {
        "disks": dict(disks),
        "console": console,
        "listen": listen,
        "shared": shared,
        "cache": cache,
        "loader": loader,
        "placement": placement.to_plain() if placement else None,
        "shared_cpus": shared_cpus,
        "priority": priority,
        "volumes": {one.volume.shown: asdict(one.source) for one in volumes if one.source},
        "nics": [
            {"id": nic.id, "mac": nic.mac, "kind": nic.kind, "source": nic.source,
             "tap": nic.tap, "mtu": nic.mtu}
            for nic in nics
        ],
    }  # fmt: skip


def rewrite(text: str, wanted: Rewrite) -> str:
    """The definition ``text`` as the destination shall have it."""
    domain = Domain.parse(text)
    for part in PARTS:
        part(domain, wanted)
    return domain.to_xml()


def ownership(domain: Domain, wanted: Rewrite) -> None:
    if domain.metadata is None:
        domain.metadata = Metadata()
    if domain.metadata.ownership is None:
        domain.metadata.ownership = Ownership()
    owned = domain.metadata.ownership
    owned.generation, owned.operation = wanted.generation, wanted.operation


def disks(domain: Domain, wanted: Rewrite) -> None:
    for disk in domain.devices.disks:
        path = wanted.disks.get(disk.target)
        if path is not None and path != disk.source:
            disk.source = path
            disk.backing_store = False  # the destination's chain is found by its own headers
            disk.cache = wanted.cache or disk.cache
            if disk.io == "native" and disk.cache not in UNCACHED:
                disk.io = "threads"


def volumes(domain: Domain, wanted: Rewrite) -> None:
    """Volumes are where the destination reaches them; nothing of them is copied."""
    for disk in domain.devices.disks:
        source = wanted.volumes.get(disk.serial or "")
        if source is not None:
            disk.type, disk.origin = source.kind, origin(source)
            disk.backing_store = False


def firmware(domain: Domain, wanted: Rewrite) -> None:
    """The destination's copy of the firmware, and of the guest's variables in its directory."""
    if domain.os is None or domain.os.loader is None:
        return
    domain.os.loader = wanted.loader or domain.os.loader
    if domain.os.nvram is not None:
        domain.os.nvram = wanted.disks.get(NVRAM) or domain.os.nvram


def place(domain: Domain, wanted: Rewrite) -> None:
    """The destination's CPUs and cells; a guest that has no place runs on its shared CPUs."""
    if wanted.placement is not None:
        placed.bind(domain, wanted.placement, wanted.priority)
    elif wanted.shared_cpus is not None:
        domain.vcpu_cpus = wanted.shared_cpus or None


def console_log(domain: Domain, wanted: Rewrite) -> None:
    listed: list[CharDevice] = [*domain.devices.serials, *domain.devices.consoles]
    for device in listed:
        if wanted.console is not None and device.log is not None:
            device.log = wanted.console


def serial_port(domain: Domain, wanted: Rewrite) -> None:
    """The destination's port of a serial console that has one; the guest sees no difference."""
    listed: list[CharDevice] = [*domain.devices.serials, *domain.devices.consoles]
    for device in listed:
        if device.type != "tcp" or wanted.serial is None:
            continue
        if wanted.serial:
            device.host, device.service = wanted.serial
        else:
            device.type = "pty"
            device.mode = device.host = device.service = device.protocol = None


def screens(domain: Domain, wanted: Rewrite) -> None:
    for screen in domain.devices.graphics:
        if screen.type == "spice":
            screen.former_listen = screen.port = None
            screen.address, screen.autoport = wanted.spice or screen.address, True
        if screen.type != "vnc" or wanted.listen is None:
            continue
        screen.former_listen = screen.port = screen.socket = screen.listen_socket = None
        screen.listen = "address" if wanted.listen else "socket"
        screen.address = wanted.listen or None
        screen.autoport = True if wanted.listen else None


def interfaces(domain: Domain, wanted: Rewrite) -> None:
    """Attach each NIC to what is there; model, queues and guest address stay, and an MTU is only
    given to one that had one, since the guest cannot learn of it now."""
    for device in domain.devices.interfaces:
        nic = wanted.nics.get((device.mac or "").lower())
        if nic is None:
            continue
        # Anew, so that nothing of the old host's port stays.
        device.join(nic["kind"], nic["source"], nic.get("id", ""))
        device.tap = nic["tap"]
        if device.mtu is not None and nic["mtu"]:
            device.mtu = nic["mtu"]


PARTS: tuple[Callable[[Domain, Rewrite], None], ...] = (
    ownership,
    disks,
    volumes,
    firmware,
    place,
    console_log,
    serial_port,
    screens,
    interfaces,
)
