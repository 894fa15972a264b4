"""Another flavor's disks: larger ones grow, swap is made anew, and nothing ever shrinks."""

from __future__ import annotations

import os
from dataclasses import replace

from compute.errors import Failed
from compute.model.guest import Disk, Flavor, Guest
from virt.storage import command, files, making
from virt.storage.dirs import Dirs
from virt.storage.making import GIB

ROLES = ("root", "ephemeral", "swap", "config", "nvram")  # as the guest sees them
SWAP = "disk.swap"


def check(guest: Guest, recorded: tuple[Disk, ...], flavor: Flavor) -> None:
    """Check that no disk with data is larger than in ``flavor``.

    :param recorded: the guest's disks; where there are none here, its present flavor counts.
    :raises Failed: code ``disk_shrink``.
    """
    sizes = {"root": guest.flavor.root_gb * GIB, "ephemeral": guest.flavor.ephemeral_gb * GIB}
    sizes |= {disk.role: disk.size for disk in recorded}
    wanted = {"root": flavor.root_gb * GIB, "ephemeral": flavor.ephemeral_gb * GIB}
    if not flavor.root_gb and not guest.flavor.root_gb:
        wanted["root"] = sizes["root"]  # both say: as large as the image
    for role, size in wanted.items():
        if sizes[role] > size:
            raise Failed(
                f"The {role} disk of guest {guest.uuid} has {sizes[role]} bytes, and flavor "
                f"{flavor.name} gives it {size}.",
                now="Nothing was changed: a disk is never made smaller, since nothing on this host "
                "knows what would be cut off.",
                next="Choose a flavor with disks that are at least as large.",
                code="disk_shrink",
            )


def grow(
    dirs: Dirs, maker: making.Maker, qemu_img: command.QemuImg, guest: Guest
) -> tuple[Disk, ...]:
    """Enlarge a guest's disks to its flavor and record it; see virt/driver.py. Idempotent.

    Ephemeral disk and swap are made where the flavor brings one; swap that the flavor has not, or
    has in another size, is given up, for nothing on it outlives a boot.

    :raises Failed: code ``disk_missing``.
    :raises Retryable: code ``disk_full``.
    """
    record = dirs.record(guest.uuid)
    if record is None:
        raise Failed(
            f"Guest {guest.uuid} has no complete disks in {dirs.of(guest.uuid)}.",
            now="Nothing was changed.",
            next=f"See 'magnetar explain {guest.uuid}' for where they may be.",
            code="disk_missing",
        )
    directory = dirs.of(guest.uuid)
    files.remove_parts(directory)  # of a dead process: the operation holds the guest
    plans = {plan.role: plan for plan in maker.plan(guest, None, {})}
    disks = {disk.role: disk for disk in record.disks}
    for role, size in (("root", guest.flavor.root_gb), ("ephemeral", guest.flavor.ephemeral_gb)):
        if role in disks:
            disks[role] = _grown(guest.uuid, disks[role], size * GIB, qemu_img)
    if "ephemeral" in plans and "ephemeral" not in disks:
        disks["ephemeral"] = maker.create(directory, plans["ephemeral"], None)
    swap = plans.get("swap")
    if swap is None:
        disks.pop("swap", None)
    elif not _is_made(disks.get("swap"), swap):
        disks["swap"] = maker.create(directory, swap, None, anew=True)
    grown = tuple(sorted(disks.values(), key=_place))
    if grown != record.disks:
        dirs.write(guest.uuid, replace(record, disks=grown))
    if swap is None:
        files.remove(os.path.join(directory, SWAP))
    return grown


def _place(disk: Disk) -> int:
    return ROLES.index(disk.role) if disk.role in ROLES else len(ROLES)


def _is_made(disk: Disk | None, plan: making.Plan) -> bool:
    return disk is not None and disk.size == plan.size and os.path.exists(disk.path)


def _grown(uuid: str, disk: Disk, wanted: int, qemu_img: command.QemuImg) -> Disk:
    """A disk with at least ``wanted`` bytes, and never fewer than it has."""
    if not os.path.exists(disk.path):
        raise making.missing(uuid, disk)
    if disk.format == "raw":
        size = os.stat(disk.path).st_size
    else:
        size = int(qemu_img.info(disk.path, disk.format)["virtual-size"])
    if size < wanted:
        qemu_img.enlarge(disk.path, disk.format, wanted)
        files.sync(disk.path)
        size = wanted
    return replace(disk, size=size)
