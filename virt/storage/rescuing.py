"""The disks of a guest that is rescued: those of another system, beside its own.

``rescue.json`` in the guest's directory lists, like ``disks.json``, all disks that the guest has
while it is rescued, in the order in which it sees them. Classic rescue puts the rescue system
first and the guest's root disk second; with the image properties ``hw_rescue_bus`` or
``hw_rescue_device`` all disks stay where they are, and the rescue system comes last, on that bus.
The config drive is made anew in either case, since it carries the rescue system's password.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from compute.errors import Failed
from compute.model.guest import CachedImage, Disk, Guest, Image
from virt.storage import cache, dirs, files, firmware, making

RECORD = "rescue.json"
SUFFIX = ".rescue"
BUSES = ("virtio", "scsi", "sata", "ide", "usb")
DEVICES = ("disk", "cdrom")


class Rescuing:
    """Makes and removes the disks of rescue systems."""

    def __init__(self, where: dirs.Dirs, base_cache: cache.Cache, maker: making.Maker):
        self._dirs, self._cache, self._maker = where, base_cache, maker

    def disks(self, uuid: str) -> tuple[Disk, ...]:
        """All disks of a rescued guest in their order; empty when it has no rescue system."""
        record = self._dirs.record(uuid, RECORD)
        return record.disks if record else ()

    def create(self, guest: Guest, image: Image, base: CachedImage,
               secrets: Mapping[str, Any]) -> tuple[Disk, ...]:
        """Make a rescue system's disks, and list all of them.

        :raises Failed: code ``image_unacceptable``: the image's wishes cannot be had.
        :raises Retryable: code ``disk_full``, ``image_not_cached``.
        """
        device, bus = place(image)
        directory = self._dirs.of(guest.uuid)
        own = self._dirs.disks(guest.uuid)
        with files.explained(f"Creating the rescue disks of guest {guest.uuid}"):
            files.remove_parts(directory)
            root, drive = self._maker.plan_rescue(guest, base, secrets)
            with self._cache.using(base) if base else nullcontext():
                system = replace(self._maker.create(directory, root, base, anew=True),
                                 device=device, bus=bus or "")
                fresh = self._maker.create(directory, drive, None, anew=True) if drive else None
                listed = ordered(system, own, fresh, bus is not None)
                self._dirs.write(guest.uuid, dirs.Record(
                    listed, base.image_id, os.path.basename(base.path)), RECORD)
        return listed

    def delete(self, uuid: str) -> None:
        """Remove a rescue system's disks. Quiet if there are none.

        :raises Retryable: code ``delete_failed`` and the like.
        """
        directory = self._dirs.of(uuid)
        with files.explained(f"Removing the rescue disks of guest {uuid}", "Some may be left."):
            files.remove(os.path.join(directory, RECORD))
            for name in ("disk", "disk.config"):
                files.remove(os.path.join(directory, name + SUFFIX))


def place(image: Image) -> tuple[str, str | None]:
    """The device and bus that an image asks for as a rescue system; None for classic rescue, an
    empty bus for the usual one of the device.

    :raises Failed: code ``image_unacceptable``.
    """
    device = image.properties.get("hw_rescue_device")
    bus = image.properties.get("hw_rescue_bus")
    for name, value, allowed in (("hw_rescue_device", device, DEVICES),
                                 ("hw_rescue_bus", bus, BUSES)):
        if value is not None and value not in allowed:
            raise _unacceptable(image, f"{name}={value}", ", ".join(allowed))
    if bus == "virtio" and (device == "cdrom" or image.disk_format == "iso" and not device):
        raise _unacceptable(image, "hw_rescue_device=cdrom with hw_rescue_bus=virtio",
                            "scsi, sata, ide, usb")
    usual = "cdrom" if image.disk_format == "iso" else "disk"
    if device is None and bus is None:
        return usual, None
    return device or usual, bus or ""


def _unacceptable(image: Image, asked: str, allowed: str) -> Failed:
    return Failed(
        f"Image {image.id} cannot be a rescue system: it has {asked}.",
        now="No disk was made.",
        next=f"Set the property to one of {allowed}, or remove it.",
        code="image_unacceptable",
    )


def ordered(system: Disk, own: Iterable[Disk], drive: Disk | None,
            stable: bool) -> tuple[Disk, ...]:
    """All disks of the rescued guest: see the module.

    :param drive: the new config drive, in the place of the guest's own.
    """
    kept = [drive if disk.role == "config" and drive else disk for disk in own]
    if stable:
        return (*kept, system)
    return (system, *(disk for disk in kept if disk.role in ("root", "config", firmware.KIND)))
