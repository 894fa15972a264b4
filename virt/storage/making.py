"""Makes the disks that a guest shall have, by its flavor, its image and the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from oslo_config import cfg

from compute.errors import Failed
from compute.model.guest import CachedImage, Disk, Guest
from virt.storage import command, configdrive, dirs, files, firmware, linked

GIB = 1024**3
MIB = 1024**2
EPHEMERAL_LABEL = "ephemeral0"


@dataclass(frozen=True)
class Plan:
    """One disk that a guest shall have. ``make`` writes it to the path that it is given."""

    role: str
    file: str
    format: str
    size: int  # bytes; 0 = as large as it becomes
    make: Callable[[str], str | None]  # returns the target where the path became a link
    device: str = "disk"
    linked: bool = False  # ``make`` is given the final path, and makes a link there at its end


class Maker:
    """Plans disks and makes them, each under a temporary name that becomes final at the end."""

    def __init__(self, conf: cfg.ConfigOpts, qemu_img: command.QemuImg, links: linked.Linked):
        self._conf, self._qemu_img, self._linked = conf, qemu_img, links

    def plan(
        self, guest: Guest, base: CachedImage | None, secrets: Mapping[str, Any]
    ) -> list[Plan]:
        """All disks of a guest, in the order in which it sees them; no root disk without base."""
        flavor = guest.flavor
        plans = []
        if base is not None:
            size = flavor.root_gb * GIB or base.virtual_size
            plans.append(self._plan_root(guest, base, size))
        if flavor.ephemeral_gb:
            size = flavor.ephemeral_gb * GIB
            plans.append(
                Plan("ephemeral", "disk.eph0", "raw", size, partial(self._make_ephemeral, size))
            )
        if flavor.swap_mb:
            size = flavor.swap_mb * MIB
            plans.append(Plan("swap", "disk.swap", "raw", size, partial(self._make_swap, size)))
        if drive := self._plan_drive(guest, secrets, "disk.config"):
            plans.append(drive)
        if (uefi := firmware.wish(guest)) is not None and not uefi.stateless:
            found = firmware.required(uefi)
            plans.append(Plan(firmware.KIND, firmware.FILE, "raw", found.size,
                              partial(_make_variables, found), firmware.KIND))  # fmt: skip
        return plans

    def _plan_root(self, guest: Guest, base: CachedImage, size: int) -> Plan:
        kind = self._conf.disk.images_type
        if kind in ("lvm", "rbd"):
            def make(path: str) -> str:
                return self._linked.create(kind, guest.uuid, path, base, size)
            return Plan("root", "disk", "raw", size, make, linked=True)
        fill = self._make_overlay if kind == "qcow2" else self._make_copy
        return Plan("root", "disk", kind, size, partial(fill, base, size))

    def plan_rescue(
        self, guest: Guest, base: CachedImage, secrets: Mapping[str, Any]
    ) -> tuple[Plan, Plan | None]:
        """A rescue system's disk, as large as its image, and its config drive if the guest has
        one."""
        size = base.virtual_size
        kind = "qcow2" if self._conf.disk.images_type == "qcow2" else "raw"
        make = self._make_overlay if kind == "qcow2" else self._make_copy
        root = Plan("rescue", "disk.rescue", kind, size, partial(make, base, size))
        return root, self._plan_drive(guest, secrets, "disk.config.rescue")

    def _plan_drive(self, guest: Guest, secrets: Mapping[str, Any], file: str) -> Plan | None:
        conf = self._conf
        if not configdrive.wanted(guest, conf.force_config_drive):
            return None
        make_drive = partial(
            configdrive.make,
            guest=guest,
            secrets=secrets,
            tool=conf.disk.mkisofs_cmd,
            domain=conf.dhcp_domain,
            timeout=conf.disk.command_timeout,
        )
        return Plan("config", file, "raw", 0, make_drive, "cdrom")

    def create(
        self, directory: str, plan: Plan, base: CachedImage | None, anew: bool = False
    ) -> Disk:
        """Make one disk, unless it exists; ``anew`` puts a new one in its place.

        :raises Failed: code ``disk_in_the_way``.
        """
        path = os.path.join(directory, plan.file)
        if plan.linked:
            link = os.readlink(path) if os.path.islink(path) else plan.make(path)
            return Disk(plan.role, path, plan.format, plan.size, plan.device, link=str(link))
        if os.path.exists(path) and not anew:
            _check_existing(path, plan, base)
        else:
            part = files.part_name(path)
            try:
                plan.make(part)
                os.chmod(part, 0o600)  # libvirt gives it to QEMU's user
                files.publish(part, path)
            finally:
                files.remove(part)
        size = plan.size or os.stat(path).st_size
        return Disk(plan.role, path, plan.format, size, plan.device)

    def complete(
        self, uuid: str, recorded: tuple[Disk, ...], plans: Iterable[Plan]
    ) -> tuple[Disk, ...]:
        """Make recorded disks that are missing, if nothing was on them. Lost data stays lost.

        :raises Failed: code ``disk_missing``.
        """
        for disk in recorded:
            if os.path.lexists(disk.path):
                continue
            plan = next((each for each in plans if each.role == disk.role), None)
            if plan is None or disk.role in ("root", "ephemeral", firmware.KIND):
                raise missing(uuid, disk)
            self.create(os.path.dirname(disk.path), plan, None)
        return recorded

    def _make_overlay(self, base: CachedImage, size: int, path: str) -> None:
        self._qemu_img.create_overlay(path, size, base.path, base.format)

    def _make_copy(self, base: CachedImage, size: int, path: str) -> None:
        if base.format == "raw":
            files.copy(base.path, path)
        else:
            self._qemu_img.convert_to_raw(base.path, base.format, path, base.virtual_size)
        os.truncate(path, size)

    def _make_ephemeral(self, size: int, path: str) -> None:
        make_empty(path, size)
        if self._conf.disk.default_ephemeral_format == "ext4":
            argv = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-L", EPHEMERAL_LABEL, path)
            command.run(argv, self._conf.disk.command_timeout)

    def _make_swap(self, size: int, path: str) -> None:
        make_empty(path, size)
        command.run(("mkswap", path), self._conf.disk.command_timeout)


def _make_variables(found: firmware.Firmware, path: str) -> None:
    """A guest's own copy of its firmware's variables, as they are before a first boot."""
    files.copy(str(found.template), path)


def make_empty(path: str, size: int) -> None:
    """Create a sparse file of ``size`` bytes."""
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.truncate(size)


def _check_existing(path: str, plan: Plan, base: CachedImage | None) -> None:
    """A file with a final name is whole; make sure that it is the one that we would make."""
    if plan.format == "qcow2":
        right = base is not None and dirs.backing_file(path) == base.path
    else:
        right = plan.size in (0, os.stat(path).st_size)
    if not right:
        raise Failed(
            f"A {plan.role} disk of another origin is in the way: {path}.",
            now="It was not touched, and no disk was made.",
            next="Find out whose it is; move its directory away, then try again.",
            code="disk_in_the_way",
        )


def missing(uuid: str, disk: Disk) -> Failed:
    """The error for a recorded disk whose file is gone, code ``disk_missing``."""
    return Failed(
        f"The {disk.role} disk of guest {uuid} has vanished: {disk.path}.",
        now="Its other disks are as they were; no empty disk was put in its place.",
        next="Restore the file, or delete the guest.",
        code="disk_missing",
    )
