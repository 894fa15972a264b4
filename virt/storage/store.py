"""The storage half of a driver: cached images, the guests' disks, their moves, and quarantine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

from oslo_config import cfg
from oslo_log import log

from compute.errors import Failed, Retryable, Unknown
from compute.model.guest import CachedImage, Disk, Flavor, Guest, Image
from compute.model.move import Check
from virt.driver import Cancel, ImageSource, Progress
from virt.storage import (
    aside,
    cache,
    command,
    copying,
    dirs,
    files,
    growing,
    incoming,
    linked,
    making,
    onecopy,
    outgoing,
    rescuing,
    shared,
)
from virt.storage.source import LocalSource, Opener, Source

LOG = log.getLogger(__name__)
DAY = 86400


class Store:
    """Disks and images below ``[disk] instances_path``.

    :param open_source: opens a directory of another host; None where no host can be reached.
    """

    def __init__(self, conf: cfg.ConfigOpts, open_source: Opener | None = None):
        self._conf, self._open_source = conf, open_source
        path = os.path.abspath(conf.disk.instances_path)
        qemu_img = command.QemuImg(
            conf.disk.images_cpu_time_limit,
            conf.disk.images_address_space_limit,
            conf.disk.command_timeout,
        )
        self._qemu_img, self._linked = qemu_img, linked.Linked.of(conf, qemu_img)
        self._dirs = dirs.Dirs(path, self._linked.release)
        self._cache = cache.Cache(
            path,
            qemu_img,
            users=self._dirs.bases,
            lock_timeout=conf.disk.image_lock_timeout,
            force_raw=conf.disk.force_raw_images,
        )
        self._maker = making.Maker(conf, qemu_img, self._linked)
        self._aside = aside.Aside(self._dirs)
        self.rescuing = rescuing.Rescuing(self._dirs, self._cache, self._maker)
        self._copier = copying.Copier(self._dirs, self._cache, qemu_img)
        self.copies = onecopy.OneCopy(self._dirs, qemu_img, self._linked)
        self._outgoing = outgoing.Outgoing(self._dirs, self._cache.path)
        self._incoming = incoming.Incoming(self._dirs, self._cache, qemu_img)

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
        if base.virtual_size > flavor.root_gb * making.GIB:
            raise _too_small(
                f"Image {base.image_id} holds a disk of {base.virtual_size} bytes, and flavor "
                f"{flavor.name} has a root disk of {flavor.root_gb} GiB "
                f"({flavor.root_gb * making.GIB} bytes).",
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
            record = self._dirs.record(guest.uuid)
            if base is not None and record is None:
                self.check_image(guest, base)
            files.make_dirs(self._dirs.path)
            files.make_dirs(directory)
            files.remove_parts(directory)  # of a dead process: the operation holds the guest
            plans = self._maker.plan(guest, base, secrets)
            if record is not None:
                return self._maker.complete(guest.uuid, record.disks, plans)
            with self._cache.using(base) if base else nullcontext():
                disks = tuple(self._maker.create(directory, plan, base) for plan in plans)
                record = dirs.Record(disks)
                if base and self._conf.disk.images_type == "qcow2":
                    record = dirs.Record(disks, base.image_id, os.path.basename(base.path))
                self._dirs.write(guest.uuid, record)
        return disks

    def delete_disks(self, uuid: str) -> None:
        """Remove a guest's directory. Only called with a proof of ownership.

        :raises Retryable: code ``delete_failed``; a sweep tries again, too.
        """
        with files.explained(f"Removing the disks of guest {uuid}", "They still exist."):
            self._dirs.remove_later(uuid, self._dirs.deleted)
        self._dirs.remove_for_good(self._dirs.deleted, uuid=uuid)

    def quarantine_disks(self, uuid: str) -> str:
        """Rename a guest's directory into quarantine; returns the new path.

        If that was done before, returns where it is; empty if there is nothing of the guest.
        """
        with files.explained(f"Moving the disks of guest {uuid} to quarantine"):
            path = self._dirs.remove_later(uuid, self._dirs.quarantine)
        before = self._dirs.removed_before(uuid, self._dirs.quarantine)
        return path or (before[-1] if before else "")

    def sweep(self, in_use: Iterable[str], max_age: int) -> list[str]:
        """Remove what nothing needs any more; see virt/driver.py. Returns the removed paths."""
        removed: list[str] = []
        days = self._conf.disk.quarantine_days
        for part in (
            partial(self._dirs.remove_for_good, self._dirs.deleted),
            partial(self._dirs.remove_for_good, self._dirs.quarantine, days * DAY),
            self._cache.sweep_parts,
            partial(self._copier.sweep, max_age),
            partial(self._cache.sweep_bases, in_use, max_age),
        ):
            try:
                removed += part()
            except (Retryable, Unknown) as error:
                LOG.warning("A sweep left something behind. %s", error)
            except OSError as error:
                LOG.warning("A sweep left something behind. It tries again later. %s", error)
        return removed

    # -- another size, another host -----------------------------------------------------------
    def set_aside_disks(self, uuid: str) -> None:
        """Rename the guest's directory to ``<uuid>_resize``: the way back. Quiet if done.

        :raises Failed: code ``disk_missing``.
        :raises NeedsOperator: code ``disk_in_the_way`` if others are there.
        """
        self._aside.set_aside(uuid)

    def bring_back_disks(self, uuid: str) -> None:
        """Rename ``<uuid>_resize`` back. Quiet if done. Half-made disks go to quarantine.

        :raises Failed: code ``disk_missing``.
        :raises NeedsOperator: code ``disk_in_the_way`` if complete disks are there.
        """
        self._aside.bring_back(uuid)

    def aside_disks(self, uuid: str) -> bool:
        """Whether ``<uuid>_resize`` exists here."""
        return self._aside.exists(uuid)

    def aside_dirs(self) -> Iterable[str]:
        """The uuids that have a directory ``<uuid>_resize``. Raises Unknown."""
        return self._dirs.aside_uuids()

    def delete_aside_disks(self, uuid: str) -> None:
        """Remove ``<uuid>_resize``. Quiet if it is gone. Only called with a proof of ownership.

        :raises Retryable: code ``delete_failed``; a sweep tries again, too.
        """
        self._aside.delete(uuid)

    def check_resize(self, guest: Guest, flavor: Flavor) -> None:
        """Raise Failed(code='disk_shrink') when the guest's disks are larger than the flavor."""
        record = self._dirs.record(guest.uuid)
        linked.stays(guest.uuid, record.disks if record else ())
        growing.check(guest, record.disks if record else (), flavor)

    def copy_disks(
        self, guest: Guest, source: str | None, base: CachedImage | None, progress: Progress,
        cancel: Cancel,
    ) -> tuple[Disk, ...]:
        """Make the guest's directory from a ``<uuid>_resize`` directory; see virt/driver.py.

        :param source: the other host's hypervisor as this one reaches it; None for this machine.
        :raises Retryable: code ``source_unreachable`` and the like; what was copied is kept.
        :raises Failed: code ``disk_full``, ``disk_missing``, ``disk_unacceptable``.
        :raises NeedsOperator: code ``disk_in_the_way`` if the guest has other disks here.
        """
        path = self._dirs.aside_of(guest.uuid)
        if source is None:
            origin: Source = LocalSource(path, self._cache.path)
        elif self._open_source is not None:
            origin = self._open_source(
                source, guest.uuid, os.path.basename(path), self._dirs.path)
        else:
            raise Failed(
                f"The disks of guest {guest.uuid} cannot be copied: nothing here reads {source}.",
                now="Nothing was copied.",
                next="Use a driver that reaches other hosts.",
                code="unsupported",
            )
        with closing(origin):
            return self._copier.copy(guest.uuid, origin, base, progress, cancel)

    def grow_disks(self, guest: Guest) -> tuple[Disk, ...]:
        """Enlarge disks to the guest's flavor; never shrinks. Only while the guest is off.

        :raises Failed: code ``disk_missing``.
        :raises Retryable: code ``disk_full``.
        """
        with files.explained(f"Enlarging the disks of guest {guest.uuid}", "Some may be larger."):
            return growing.grow(self._dirs, self._maker, self._qemu_img, guest)

    # -- to another host while it runs ----------------------------------------------------------
    def storage_id(self) -> str:
        """An id of the directory of disks; hosts with the same id share it. Raises Failed."""
        return shared.storage_id(self._dirs.path)

    def outgoing(
        self, uuid: str, targets: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The part of :meth:`virt.driver.Driver.outgoing` that is about disks: ``disks`` (each
        with ``device`` as well; a config drive with its ``content``, which is secret), ``storage``,
        ``console`` (the end of the log, packed) and ``attempt`` (an id, new each time).

        :param targets: the domain's target for each path; without it, those of virtio disks.
        :raises Failed: code ``disk_missing``.
        """
        return self._outgoing.describe(uuid, targets)

    def outgoing_console(self, uuid: str) -> str:
        """``console`` of :meth:`outgoing` alone."""
        return self._outgoing.console(uuid)

    def keep_console(self, uuid: str, packed: str) -> None:
        """Let what a guest wrote to its console before it came here be this, packed.

        :raises Refused: code ``guest_not_found``.
        """
        self._incoming.keep_console(uuid, packed)

    def outgoing_disks(
        self, uuid: str, targets: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """``disks`` of :meth:`outgoing` alone."""
        return self.outgoing(uuid, targets)["disks"]

    def check_incoming_disks(self, guest: Guest, outgoing: Mapping[str, Any]) -> list[Check]:
        """What can be found out here about taking a guest's disks. Changes nothing."""
        return self._incoming.check(guest.uuid, outgoing)

    def prepare_incoming(
        self, guest: Guest, outgoing: Mapping[str, Any], base: CachedImage | None
    ) -> dict[str, Any]:
        """Make what libvirt fills: overlays on ``base``, empty disks, config drive, console log.

        Returns ``copy_disks`` (targets), ``incremental``, ``shared``, ``paths`` ({target: path
        here}). Idempotent for one ``outgoing['attempt']``; another one begins anew.

        :raises Retryable: code ``disk_full``.
        :raises Failed: code ``storage_not_shared``, ``config_drive_missing``.
        :raises NeedsOperator: code ``disk_in_the_way`` if the guest has disks here.
        """
        return self._incoming.prepare(guest.uuid, outgoing, base)

    def arrived(self, guest: Guest) -> tuple[Disk, ...]:
        """Let what was prepared be the guest's disks. Idempotent.

        :raises Failed: code ``disk_missing``.
        """
        return self._incoming.arrived(guest.uuid)

    def discard_incoming(self, uuid: str) -> None:
        """Remove what was prepared for a guest that did not come, and never a guest's own disks.
        Quiet if nothing is there. Raises Retryable(code='delete_failed')."""
        self._incoming.discard(uuid)


def _too_small(what: str, code: str) -> Failed:
    return Failed(
        what,
        now="No disk was made.",
        next="Choose a larger flavor or a smaller image.",
        code=code,
    )
