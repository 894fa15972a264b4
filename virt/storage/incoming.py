"""Disks for a guest that arrives while it runs.

The destination makes files that libvirt then fills: an empty overlay on the same base where there
is one, an empty disk where not. Until the guest has arrived they are listed in ``incoming.json``;
its contents become ``disks.json`` then. So a directory with the former and without the latter is
half of an arrival, and nobody's disks.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from compute.errors import Failed, NeedsOperator, Refused
from compute.model.guest import CachedImage, Disk, Image
from compute.model.move import Check
from virt.storage import command, console, files, making
from virt.storage.cache import Cache
from virt.storage.console import BEFORE, CONSOLE
from virt.storage.dirs import RECORD, Dirs, Record, parse
from virt.storage.outgoing import CARRIED, CARRIED_DEVICES, unpack
from virt.storage.shared import storage_id

MARKER = "incoming.json"


class Incoming:
    """The destination's end of a live migration, as far as storage goes."""

    def __init__(self, dirs: Dirs, cache: Cache, qemu_img: command.QemuImg):
        self._dirs, self._cache, self._qemu_img = dirs, cache, qemu_img

    def check(self, uuid: str, outgoing: Mapping[str, Any]) -> list[Check]:
        """What can be found out here about taking a guest's disks. Changes nothing but the file
        that tells the storage's id."""
        if self._same_storage(outgoing):
            lost = self._unseen(outgoing)
            return [
                Check("shared storage", not lost,
                      f"not visible here: {', '.join(lost)}" if lost else
                      "both hosts see the guest's disks", _CLONED if lost else "")
            ]  # fmt: skip
        checks = [self._check_room(outgoing), self._check_directory(uuid)]
        for disk in outgoing["disks"]:
            if disk.get("backing_image"):
                checks.append(self._check_base(disk))
            if disk["device"] in CARRIED_DEVICES and not disk.get("content"):
                checks.append(
                    Check("config drive", False,
                          f"{disk['size']} bytes, of which {CARRIED} can go along, compressed",
                          "Move the guest cold: its config drive is copied as a file then.")
                )  # fmt: skip
        return checks

    def _check_room(self, outgoing: Mapping[str, Any]) -> Check:
        there = self._dirs.path
        while not os.path.exists(there):
            there = os.path.dirname(there)
        with files.explained(f"Looking for room in {there}"):
            free = files.free(there)
        now = full = 0
        for disk in outgoing["disks"]:
            image = disk.get("backing_image")
            alone = image and self._cache.get(Image(image)) is None
            now += disk["allocated"] + (disk.get("backing_allocated", 0) if alone else 0)
            full += disk["size"]
        found = f"{free} bytes free, {now} needed now, {full} when the disks are full"
        if now > free:
            return Check("disk room", False, found, "Free space here, or choose another host.")
        return Check("disk room", True if full <= free else None, found)

    def _check_directory(self, uuid: str) -> Check:
        path = self._dirs.of(uuid)
        if os.path.lexists(os.path.join(path, RECORD)):
            return Check("disk directory", False, f"{path} holds disks of the guest",
                         "Find out whether they are needed; move the directory away.")
        if os.path.isdir(path) and os.listdir(path):
            return Check("disk directory", None,
                         f"{path} holds what an earlier attempt left; it is moved away")
        return Check("disk directory", True, f"{path} is free")

    def _check_base(self, disk: Mapping[str, Any]) -> Check:
        image = disk["backing_image"]
        if self._cache.get(Image(image)) is not None:
            return Check("base image", True, f"image {image} is in the cache")
        return Check("base image", None,
                     f"image {image} is not in the cache; it is fetched first, and if that does "
                     "not work the whole disk is copied")

    def prepare(
        self, uuid: str, outgoing: Mapping[str, Any], base: CachedImage | None
    ) -> dict[str, Any]:
        """Make what libvirt fills; see :class:`virt.storage.store.Store`.

        :raises Retryable: code ``disk_full``.
        :raises Failed: code ``storage_not_shared``, ``config_drive_missing``.
        :raises NeedsOperator: code ``disk_in_the_way`` if the guest has disks here.
        """
        if self._same_storage(outgoing):
            if lost := self._unseen(outgoing):
                raise _not_shared(lost)
            paths = {disk["target"]: disk["path"] for disk in outgoing["disks"]}
            return {"copy_disks": [], "incremental": False, "shared": True, "paths": paths}
        with files.explained(f"Making room for guest {uuid}", "The guest runs where it was."):
            record = self._dirs.record(uuid)
            if record is None:
                record = self._begin(uuid, outgoing, base)
                files.remove_parts(self._dirs.of(uuid))  # of a dead process
                with self._cache.using(base) if base and record.base else nullcontext():
                    for disk, told in zip(record.disks, outgoing["disks"], strict=True):
                        self._make(disk, told, base if record.base else None)
                self._make_console(uuid, outgoing)
            elif not record.origin or record.origin != outgoing.get("attempt"):
                raise _in_the_way(uuid, self._dirs.of(uuid))
        pairs = list(zip(record.disks, outgoing["disks"], strict=True))
        return {
            "copy_disks": [told["target"] for disk, told in pairs if disk.device == "disk"],
            "incremental": bool(record.base),
            "shared": False,
            "paths": {told["target"]: disk.path for disk, told in pairs},
        }

    def _begin(
        self, uuid: str, outgoing: Mapping[str, Any], base: CachedImage | None
    ) -> Record:
        """Write down what will be made; what another attempt left goes away, since a disk with old
        contents would keep them where the guest has discarded its own."""
        directory, attempt = self._dirs.of(uuid), str(outgoing.get("attempt") or "")
        found = self._marked(uuid)
        if found is not None and attempt and found.origin == attempt:
            return found
        if found is not None:
            self.discard(uuid)
        elif os.path.isdir(directory) and os.listdir(directory):
            self._dirs.remove_later(uuid, self._dirs.quarantine)
        files.make_dirs(directory)
        overlay = base is not None and any(
            disk.get("backing_image") == base.image_id for disk in outgoing["disks"]
        )
        disks = tuple(
            Disk(disk["role"], os.path.join(directory, os.path.basename(disk["path"])),
                 disk["format"], int(disk["size"]), disk["device"])
            for disk in outgoing["disks"]
        )  # fmt: skip
        record = Record(disks, origin=attempt)
        if base is not None and overlay:
            record = Record(disks, base.image_id, os.path.basename(base.path), attempt)
        self._dirs.write(uuid, record, MARKER)
        return record

    def _make(self, disk: Disk, told: Mapping[str, Any], base: CachedImage | None) -> None:
        """Make one disk, unless it exists."""
        if os.path.exists(disk.path):
            return
        part = files.part_name(disk.path)
        try:
            if disk.device in CARRIED_DEVICES:
                files.write(part, _unpacked(told))
            elif disk.format == "raw":
                making.make_empty(part, disk.size)
            elif base is not None and told.get("backing_image"):
                self._qemu_img.create_overlay(part, disk.size, base.path, base.format)
            else:
                self._qemu_img.create_empty(part, disk.size)
            os.chmod(part, 0o600)
            files.publish(part, disk.path)
        finally:
            files.remove(part)

    def _make_console(self, uuid: str, outgoing: Mapping[str, Any]) -> None:
        path = os.path.join(self._dirs.of(uuid), CONSOLE)
        console.prepare(path)
        if outgoing.get("console") and not os.path.exists(path + BEFORE):
            files.write(path + BEFORE, unpack(outgoing["console"]), 0o640)

    def keep_console(self, uuid: str, packed: str) -> None:
        """Replace what a guest wrote to its console before it came here; virtlogd writes on.

        :raises Refused: code ``guest_not_found``: its disks are not here any more.
        :raises Retryable: code ``disk_full``.
        """
        if self._dirs.record(uuid) is None:
            raise Refused(
                f"Guest {uuid} has no disks in {self._dirs.of(uuid)}.",
                now="Nothing was changed.",
                next=f"See 'magnetar explain {uuid}' for where the guest is.",
                code="guest_not_found",
            )
        path = os.path.join(self._dirs.of(uuid), CONSOLE + BEFORE)
        with files.explained(f"Keeping the console log of guest {uuid}"):
            files.write(path, unpack(packed), 0o640)

    def arrived(self, uuid: str) -> tuple[Disk, ...]:
        """Let what was prepared be the guest's disks; returns them. Idempotent.

        :raises Failed: code ``disk_missing`` if nothing was prepared.
        """
        with files.explained(f"Recording the disks of guest {uuid}", "The guest runs on them."):
            marked, record = self._marked(uuid), self._dirs.record(uuid)
            if record is None and marked is not None:
                record = marked
                self._dirs.write(uuid, record)
            if record is None:
                raise Failed(
                    f"There are no disks of guest {uuid} in {self._dirs.of(uuid)}.",
                    now="Nothing was recorded.",
                    next=f"See 'magnetar explain {uuid}' for where the guest is.",
                    code="disk_missing",
                )
            files.remove(os.path.join(self._dirs.of(uuid), MARKER))
            files.remove_parts(self._dirs.of(uuid))  # of a record that a dead process began
        return record.disks

    def discard(self, uuid: str) -> None:
        """Remove what was prepared for a guest that did not come. Quiet if nothing is there; a
        guest's own disks are left alone, also those on storage that both hosts share.

        :raises Retryable: code ``delete_failed``; a sweep tries again, too.
        """
        if self._marked(uuid) is None or self._dirs.record(uuid) is not None:
            return
        with files.explained(f"Removing what was prepared for guest {uuid}"):
            self._dirs.remove_later(uuid, self._dirs.deleted)
        self._dirs.remove_for_good(self._dirs.deleted, uuid=uuid)

    def _marked(self, uuid: str) -> Record | None:
        """What ``incoming.json`` lists; None if there is none, or no whole one."""
        path = self._dirs.of(uuid)
        try:
            return parse(files.read_json(os.path.join(path, MARKER)), path)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _same_storage(self, outgoing: Mapping[str, Any]) -> bool:
        theirs = outgoing.get("storage")
        return bool(theirs) and theirs == storage_id(self._dirs.path)

    @staticmethod
    def _unseen(outgoing: Mapping[str, Any]) -> list[str]:
        return [disk["path"] for disk in outgoing["disks"] if not os.path.exists(disk["path"])]


_CLONED = (
    "If one host's disks were cloned from the other's, remove .storage-id below instances_path "
    "on one of them; it is made anew. Else mount the shared directory at the same path."
)


def _unpacked(told: Mapping[str, Any]) -> bytes:
    try:
        if not told.get("content"):
            raise ValueError("it was too large to go along")
        return unpack(told["content"])
    except (ValueError, zlib.error) as error:
        raise Failed(
            f"The config drive of the guest did not come along: {error}.",
            now="The guest runs where it was.",
            next="Move the guest cold: its config drive is copied as a file then.",
            code="config_drive_missing",
        ) from error


def _not_shared(lost: list[str]) -> Failed:
    return Failed(
        f"Both hosts tell the same id of their storage, and this one does not see "
        f"{', '.join(lost)}.",
        now="Nothing was made here; the guest runs where it was.",
        next=_CLONED,
        code="storage_not_shared",
    )


def _in_the_way(uuid: str, directory: str) -> NeedsOperator:
    return NeedsOperator(
        f"Guest {uuid} is to arrive, and has disks here already: {directory}.",
        now="They were not touched; the guest runs where it was.",
        next="Find out whether they are needed; keep them elsewhere, for example: "
        f"mv {directory} {directory}.kept",
        code="disk_in_the_way",
    )
