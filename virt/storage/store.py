"""The storage half of a driver: cached images, the guests' disks, and quarantine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from oslo_config import cfg
from oslo_log import log

from compute.errors import Failed, Retryable, Unknown
from compute.model.guest import CachedImage, Disk, Guest, Image
from virt.driver import Cancel, ImageSource, Progress
from virt.storage import cache, command, configdrive, dirs, files

LOG = log.getLogger(__name__)
GIB = 1024**3
MIB = 1024**2
DAY = 86400
EPHEMERAL_LABEL = "ephemeral0"


@dataclass(frozen=True)
class _Plan:
    """One disk that a guest shall have. ``make`` writes it to the path that it is given."""

    role: str
    file: str
    format: str
    size: int  # bytes; 0 = as large as it becomes
    make: Callable[[str], None]
    device: str = "disk"


class Store:
    """Disks and images below ``[disk] instances_path``."""

    def __init__(self, conf: cfg.ConfigOpts):
        self._conf = conf
        path = os.path.abspath(conf.disk.instances_path)
        self._dirs = dirs.Dirs(path)
        self._qemu_img = command.QemuImg(
            conf.disk.images_cpu_time_limit,
            conf.disk.images_address_space_limit,
            conf.disk.command_timeout,
        )
        self._cache = cache.Cache(
            path,
            self._qemu_img,
            users=self._dirs.bases,
            lock_timeout=conf.disk.image_lock_timeout,
            force_raw=conf.disk.force_raw_images,
        )

    # -- images -----------------------------------------------------------------------------
    def cached_image(self, image: Image) -> CachedImage | None:
        """The cached base, if it is complete. Never downloads."""
        return self._cache.get(image)

    def fetch_image(
        self, image: Image, source: ImageSource, progress: Progress, cancel: Cancel
    ) -> CachedImage:
        """Bring an image into the cache; several callers at once make one download.

        :raises Failed: code ``image_unacceptable``.
        :raises Retryable: code ``disk_full``, ``busy``; and whatever the source raises.
        """
        return self._cache.fetch(image, source, progress, cancel)

    def check_image(self, guest: Guest, base: CachedImage) -> None:
        """Check that the guest's flavor is large enough for its image.

        :raises Failed: code ``flavor_disk_too_small`` or ``flavor_memory_too_small``.
        """
        flavor, image = guest.flavor, guest.image
        if image is not None and image.min_ram > flavor.memory_mb:
            raise _too_small(
                f"Image {base.image_id} needs {image.min_ram} MiB of memory, and flavor "
                f"{flavor.name} has {flavor.memory_mb}.",
                "flavor_memory_too_small",
            )
        if not flavor.root_gb:  # the root disk becomes as large as the image
            return
        if base.virtual_size > flavor.root_gb * GIB:
            raise _too_small(
                f"Image {base.image_id} holds a disk of {base.virtual_size} bytes, and flavor "
                f"{flavor.name} has a root disk of {flavor.root_gb} GiB "
                f"({flavor.root_gb * GIB} bytes).",
                "flavor_disk_too_small",
            )
        if image is not None and image.min_disk > flavor.root_gb:
            raise _too_small(
                f"Image {base.image_id} asks for a root disk of {image.min_disk} GiB, and flavor "
                f"{flavor.name} has {flavor.root_gb}.",
                "flavor_disk_too_small",
            )

    # -- disks ------------------------------------------------------------------------------
    def disks(self, uuid: str) -> tuple[Disk, ...]:
        """The disks that exist for a guest, as recorded; empty until all were made.

        :raises Unknown: the record cannot be read.
        """
        return self._dirs.disks(uuid)

    def guest_dirs(self) -> Iterable[str]:
        """The uuids that have a directory of disks, complete or not. Raises Unknown."""
        return self._dirs.uuids()

    def create_disks(
        self, guest: Guest, base: CachedImage | None, secrets: Mapping[str, str]
    ) -> tuple[Disk, ...]:
        """Create what is missing of a guest's disks, then record them; see virt/driver.py.

        :raises Retryable: code ``disk_full``, ``image_not_cached``, ``command_timeout``.
        :raises Failed: code ``disk_missing`` if a recorded disk with data has vanished,
            ``disk_in_the_way`` if a file is there that is not the one to be made.
        """
        directory = self._dirs.of(guest.uuid)
        with files.explained(f"Creating the disks of guest {guest.uuid}", "Some may exist."):
            recorded = self._dirs.disks_recorded(guest.uuid)
            if base is not None and recorded is None:
                self.check_image(guest, base)
            files.make_dirs(self._dirs.path)
            files.make_dirs(directory)
            files.remove_parts(directory)  # of a dead process: the operation holds the guest
            plans = self._plan(guest, base, secrets)
            if recorded is not None:
                return self._complete(guest.uuid, recorded, plans)
            with self._cache.using(base) if base else nullcontext():
                disks = tuple(self._create(directory, plan, base) for plan in plans)
                backing = base if base and self._conf.disk.images_type == "qcow2" else None
                self._dirs.write(guest.uuid, disks, backing)
        return disks

    def delete_disks(self, uuid: str) -> None:
        """Remove a guest's directory. Only called with a proof of ownership.

        :raises Retryable: code ``delete_failed``; a sweep tries again, too.
        """
        with files.explained(f"Removing the disks of guest {uuid}", "They still exist."):
            self._dirs.set_aside(uuid, self._dirs.deleted)
        self._dirs.remove_set_aside(self._dirs.deleted, uuid=uuid)

    def quarantine_disks(self, uuid: str) -> str:
        """Rename a guest's directory into quarantine; returns the new path.

        If that was done before, returns where it is; empty if there is nothing of the guest.
        """
        with files.explained(f"Moving the disks of guest {uuid} to quarantine"):
            path = self._dirs.set_aside(uuid, self._dirs.quarantine)
        before = self._dirs.set_aside_before(uuid, self._dirs.quarantine)
        return path or (before[-1] if before else "")

    def sweep(self, in_use: Iterable[str], max_age: int) -> list[str]:
        """Remove what nothing needs any more; see virt/driver.py. Returns the removed paths."""
        removed: list[str] = []
        days = self._conf.disk.quarantine_days
        for part in (
            partial(self._dirs.remove_set_aside, self._dirs.deleted),
            partial(self._dirs.remove_set_aside, self._dirs.quarantine, days * DAY),
            self._cache.sweep_parts,
            partial(self._cache.sweep_bases, in_use, max_age),
        ):
            try:
                removed += part()
            except (Retryable, Unknown) as error:
                LOG.warning("A sweep left something behind. %s", error)
            except OSError as error:
                LOG.warning("A sweep left something behind. It tries again later. %s", error)
        return removed

    # -- how ---------------------------------------------------------------------------------
    def _plan(
        self, guest: Guest, base: CachedImage | None, secrets: Mapping[str, Any]
    ) -> list[_Plan]:
        flavor, conf = guest.flavor, self._conf
        plans = []
        if base is not None:
            size = flavor.root_gb * GIB or base.virtual_size
            kind = conf.disk.images_type
            make = self._make_overlay if kind == "qcow2" else self._make_copy
            plans.append(_Plan("root", "disk", kind, size, partial(make, base, size)))
        if flavor.ephemeral_gb:
            size = flavor.ephemeral_gb * GIB
            plans.append(
                _Plan("ephemeral", "disk.eph0", "raw", size, partial(self._make_ephemeral, size))
            )
        if flavor.swap_mb:
            size = flavor.swap_mb * MIB
            plans.append(_Plan("swap", "disk.swap", "raw", size, partial(self._make_swap, size)))
        if configdrive.wanted(guest, conf.force_config_drive):
            make_drive = partial(
                configdrive.make,
                guest=guest,
                secrets=secrets,
                tool=conf.disk.mkisofs_cmd,
                domain=conf.dhcp_domain,
                timeout=conf.disk.command_timeout,
            )
            plans.append(_Plan("config", "disk.config", "raw", 0, make_drive, "cdrom"))
        return plans

    def _create(self, directory: str, plan: _Plan, base: CachedImage | None) -> Disk:
        """Make one disk, unless it exists."""
        path = os.path.join(directory, plan.file)
        if os.path.exists(path):
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

    def _complete(
        self, uuid: str, recorded: tuple[Disk, ...], plans: list[_Plan]
    ) -> tuple[Disk, ...]:
        """Make recorded disks that are missing, if nothing was on them. Lost data stays lost."""
        for disk in recorded:
            if os.path.exists(disk.path):
                continue
            plan = next((each for each in plans if each.role == disk.role), None)
            if plan is None or disk.role in ("root", "ephemeral"):
                raise Failed(
                    f"The {disk.role} disk of guest {uuid} has vanished: {disk.path}.",
                    now="Its other disks are as they were; no empty disk was put in its place.",
                    next="Restore the file, or delete the guest.",
                    code="disk_missing",
                )
            self._create(os.path.dirname(disk.path), plan, None)
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
        _make_empty(path, size)
        if self._conf.disk.default_ephemeral_format == "ext4":
            argv = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-L", EPHEMERAL_LABEL, path)
            command.run(argv, self._conf.disk.command_timeout)

    def _make_swap(self, size: int, path: str) -> None:
        _make_empty(path, size)
        command.run(("mkswap", path), self._conf.disk.command_timeout)


def _make_empty(path: str, size: int) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.truncate(size)


def _check_existing(path: str, plan: _Plan, base: CachedImage | None) -> None:
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


def _too_small(what: str, code: str) -> Failed:
    return Failed(
        what,
        now="No disk was made.",
        next="Choose a larger flavor or a smaller image.",
        code=code,
    )
