"""The part of the libvirt driver that is about files: images and disks, which are the store's
matter, and console logs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Retryable
from compute.model.guest import CachedImage, Disk, Flavor, Guest, Image
from virt.driver import Cancel, ImageSource, Progress
from virt.libvirt import host as this_host
from virt.storage import console


class Stored:
    """Methods of :class:`virt.driver.Driver` about files."""

    def __init__(self, conf: Any, store: Any):
        self.conf, self.store = conf, store
        self._direct_io: dict[str, bool] = {}

    def disks(self, uuid: str) -> tuple[Disk, ...]:
        return self.store.disks(uuid)

    def guest_dirs(self) -> Iterable[str]:
        return self.store.guest_dirs()

    def cached_image(self, image: Image) -> CachedImage | None:
        return self.store.cached_image(image)

    def fetch_image(
        self, image: Image, source: ImageSource, progress: Progress, cancel: Cancel
    ) -> CachedImage:
        return self.store.fetch_image(image, source, progress, cancel)

    def check_image(self, guest: Guest, base: CachedImage) -> None:
        self.store.check_image(guest, base)

    def create_disks(
        self, guest: Guest, base: CachedImage | None, secrets: Mapping[str, str]
    ) -> tuple[Disk, ...]:
        return self.store.create_disks(guest, base, secrets)

    def delete_disks(self, uuid: str) -> None:
        self.store.delete_disks(uuid)

    def quarantine_disks(self, uuid: str) -> str:
        return self.store.quarantine_disks(uuid)

    def sweep(self, in_use: Iterable[str], max_age: int) -> list[str]:
        return self.store.sweep(in_use, max_age)

    # -- a copy of its root disk ------------------------------------------------------------
    def copy_off(self, uuid: str, progress: Progress, cancel: Cancel) -> None:
        self.store.copies.make(uuid, progress, cancel)

    def copied(self, uuid: str) -> Disk | None:
        return self.store.copies.whole(uuid)

    def shape_copy(self, uuid: str, format: str, compress: bool, cancel: Cancel) -> None:
        self.store.copies.shape(uuid, format, compress, cancel)

    def detach_base(self, uuid: str) -> None:
        self.store.copies.detach_base(uuid)

    # -- another size -----------------------------------------------------------------------
    def check_resize(self, guest: Guest, flavor: Flavor) -> None:
        self.store.check_resize(guest, flavor)

    def set_aside_disks(self, uuid: str) -> None:
        self.store.set_aside_disks(uuid)

    def bring_back_disks(self, uuid: str) -> None:
        self.store.bring_back_disks(uuid)

    def aside_disks(self, uuid: str) -> bool:
        return self.store.aside_disks(uuid)

    def delete_aside_disks(self, uuid: str) -> None:
        self.store.delete_aside_disks(uuid)

    def copy_disks(
        self, guest: Guest, source: str | None, base: CachedImage | None, progress: Progress,
        cancel: Cancel,
    ) -> tuple[Disk, ...]:
        return self.store.copy_disks(guest, source, base, progress, cancel)

    def grow_disks(self, guest: Guest) -> tuple[Disk, ...]:
        return self.store.grow_disks(guest)

    # -- console logs, and how disks are cached ---------------------------------------------
    def _console(self, uuid: str) -> str:
        return os.path.join(self.conf.disk.instances_path, uuid, "console.log")

    def _prepare_console(self, uuid: str) -> None:
        try:
            console.prepare(self._console(uuid))
        except OSError as error:
            raise Retryable(
                f"The console log of {uuid} could not be made: {error.strerror}.",
                now="The guest was not started.",
                next=f"Check space and permissions of {error.filename}; it is tried again.",
                code="console_unwritable",
            ) from error

    def _cache_mode(self) -> str:
        for entry in self.conf.libvirt.disk_cachemodes:
            source, _, mode = entry.partition("=")
            if source == "file":
                return mode
        path = self.conf.disk.instances_path
        return "none" if self._takes_direct_io(path) else "writeback"

    def _takes_direct_io(self, path: str) -> bool:
        if path not in self._direct_io:
            self._direct_io[path] = this_host.supports_direct_io(path)
        return self._direct_io[path]
