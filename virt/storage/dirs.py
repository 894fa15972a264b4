"""The guests' directories: ``<instances_path>/<uuid>/`` with the disks and ``disks.json``.

``disks.json`` is written when all disks exist, before any guest runs on them; from then on it is
the only source of their formats. It holds names, no paths, so that it stays right when the
directory is renamed. ``<uuid>_resize`` is the way back of a guest that changes its size or host.
A directory on its way out is first renamed, to ``_quarantine`` or ``_deleted``, so that a crash
never leaves one that is half removed under its own name.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import time
from calendar import timegm
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from compute import concurrency
from compute.errors import MagnetarError, Refused, Retryable, Unknown
from compute.model.guest import Disk
from virt.storage import files

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RECORD = "disks.json"
ASIDE = re.compile(rf"({UUID.pattern})_resize")
_STAMP = "%Y%m%dT%H%M%SZ"
_REMOVED = re.compile(rf"({UUID.pattern})\.(\d{{8}}T\d{{6}}Z)(\.\d+)?")


@dataclass(frozen=True)
class Record:
    """What a ``disks.json`` says. ``base`` is the file name in the image cache of what the root
    disk is backed by, empty if it stands by itself; ``origin`` the id of the directory that the
    disks were copied from (see :mod:`virt.storage.aside`)."""

    disks: tuple[Disk, ...]
    image_id: str = ""
    base: str = ""
    origin: str = ""


class Dirs:
    """The directories of one ``instances_path``.

    :param release: gives up what a directory has elsewhere, before it is removed.
    """

    def __init__(self, instances_path: str, release: Callable[[str], None] = lambda path: None):
        self.path, self._release = instances_path, release
        self.quarantine = os.path.join(instances_path, "_quarantine")
        self.deleted = os.path.join(instances_path, "_deleted")

    def of(self, uuid: str) -> str:
        """Path of a guest's directory. Raises Refused(code='invalid_uuid')."""
        if not UUID.fullmatch(uuid):
            raise Refused(
                f"{uuid!r} is not a uuid.",
                now="Nothing was done.",
                next="Name the guest by its uuid, in lower case and with dashes.",
                code="invalid_uuid",
            )
        return os.path.join(self.path, uuid)

    def aside_of(self, uuid: str) -> str:
        """Path of ``<uuid>_resize``. Raises Refused(code='invalid_uuid')."""
        return self.of(uuid) + "_resize"

    def uuids(self) -> list[str]:
        """The guests that have a directory. Raises Unknown."""
        return [os.path.basename(path) for path in self._entries(self.path, UUID)]

    def aside_uuids(self) -> list[str]:
        """The guests that have a directory ``<uuid>_resize``. Raises Unknown."""
        names = (os.path.basename(path) for path in self._entries(self.path, ASIDE))
        return [name.removesuffix("_resize") for name in names]

    def record(self, uuid: str, name: str = RECORD) -> Record | None:
        """What ``disks.json`` says, None if there is none yet. Raises Unknown."""
        path = os.path.join(self.of(uuid), name)
        try:
            return parse(files.read_json(path), self.of(uuid))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unknown(
                f"{path} cannot be read ({error}).",
                now=f"It is not known which disks guest {uuid} has; they were not touched.",
                next="Restore the file, or move the guest's directory away by hand.",
                code="disks_unknown",
            ) from error

    def disks(self, uuid: str) -> tuple[Disk, ...]:
        """The recorded disks whose files exist. Raises Unknown."""
        record = self.record(uuid)
        disks = record.disks if record else ()
        return tuple(disk for disk in disks if os.path.lexists(disk.path))

    def write(self, uuid: str, record: Record, name: str = RECORD) -> None:
        """Record a guest's disks, durably and at once; from now on they count as complete.

        :param name: another file for the record, which makes nothing complete.
        :raises OSError:
        """
        data = {
            "version": 1,
            "image_id": record.image_id,
            "base": record.base,
            "origin": record.origin,
            "disks": [
                {
                    "role": disk.role,
                    "file": os.path.basename(disk.path),
                    "format": disk.format,
                    "size": disk.size,
                    "device": disk.device,
                    **({"bus": disk.bus} if disk.bus else {}),
                    **({"link": disk.link} if disk.link else {}),
                }
                for disk in record.disks
            ],
        }
        files.write_json(os.path.join(self.of(uuid), name), data)

    def bases(self) -> set[str]:
        """File names of what the disks of all guests are backed by, those set aside for a
        resize and those in quarantine included.

        Both the record and the header count: the header alone tells of a disk whose making was
        cut off before the record. Raises Unknown.
        """
        used: set[str] = set()
        seen: list[str] | None = None
        while (paths := self._with_disks()) != seen:  # again if one was renamed under our eyes
            seen = paths
            for path in paths:
                try:
                    used |= _bases_of(path)
                except OSError as error:
                    raise self._unreadable(path, error) from error
        return used - {""}

    def _with_disks(self) -> list[str]:
        return [
            *self._entries(self.path, UUID),
            *self._entries(self.path, ASIDE),
            *self._entries(self.quarantine, _REMOVED),
        ]

    def remove_later(self, uuid: str, parent: str, path: str = "") -> str | None:
        """Rename a guest's directory (or another ``path`` of it) into ``parent``, quarantine or
        deleted; returns where it is, None if there was none. Raises OSError."""
        path = path or self.of(uuid)
        if not os.path.isdir(path):
            return None
        files.make_dirs(parent, 0o700)
        stamp = time.strftime(_STAMP, time.gmtime())
        target, count = os.path.join(parent, f"{uuid}.{stamp}"), 0
        while os.path.lexists(target):
            count += 1
            target = os.path.join(parent, f"{uuid}.{stamp}.{count}")
        os.rename(path, target)
        files.fsync_dir(parent)
        files.fsync_dir(self.path)
        return target

    def removed_before(self, uuid: str, parent: str) -> list[str]:
        """What :meth:`remove_later` moved into ``parent`` for a guest, oldest first."""
        return [path for path in self._entries(parent, _REMOVED)
                if os.path.basename(path).startswith(uuid)]

    def remove_for_good(self, parent: str, min_age: float = 0, uuid: str = "") -> list[str]:
        """Remove what has been there for at least ``min_age`` seconds, and return its paths.

        :raises Retryable: code ``delete_failed``, after all others were removed.
        """
        removed, problems = [], []
        for path in self.removed_before(uuid, parent):
            if time.time() - _removed_at(path) < min_age:
                continue
            try:
                self._release(path)
                concurrency.native(shutil.rmtree, path)
                removed.append(path)
            except MagnetarError as error:
                problems.append(f"{path} ({error.what})")
            except OSError as error:
                problems.append(f"{path} ({error.strerror})")
        if problems:
            raise Retryable(
                f"Disks could not be removed: {', '.join(problems)}.",
                now="No guest uses them any more; they take up space.",
                next="Every sweep tries again; remove what the message names if it stays.",
                code="delete_failed",
            )
        return removed

    def _entries(self, parent: str, pattern: re.Pattern) -> Iterator[str]:
        try:
            names = sorted(os.listdir(parent))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(parent, error) from error
        for name in names:
            if pattern.fullmatch(name) and os.path.isdir(os.path.join(parent, name)):
                yield os.path.join(parent, name)

    def _unreadable(self, path: str, error: OSError) -> Unknown:
        return Unknown(
            f"{path} cannot be read ({error.strerror}).",
            now="It is not known which disks there are; none was touched.",
            next="Make the directory readable for the agent; it looks again.",
            code="disks_unknown",
        )


def _removed_at(path: str) -> float:
    """When a directory was renamed, in seconds since the epoch; its name tells."""
    return timegm(time.strptime(os.path.basename(path).split(".")[1], _STAMP))


def parse(data: dict[str, Any], directory: str) -> Record:
    """The record that a ``disks.json`` holds, with paths below ``directory``.

    :raises KeyError, TypeError, ValueError: it is malformed.
    """
    disks = tuple(
        Disk(
            role=disk["role"],
            # A name, never a path: what is recorded cannot lead out of the directory.
            path=os.path.join(directory, os.path.basename(disk["file"])),
            format=disk["format"],
            size=int(disk["size"]),
            device=disk["device"],
            bus=disk.get("bus", ""),
            link=disk.get("link", ""),
        )
        for disk in data["disks"]
    )
    return Record(
        disks,
        str(data.get("image_id") or ""),
        os.path.basename(str(data.get("base") or "")),
        str(data.get("origin") or ""),
    )


def _bases_of(directory: str) -> set[str]:
    """What a guest's disks are backed by, those of its rescue system included."""
    recorded = {_recorded_base(directory, name) for name in (RECORD, "rescue.json")}
    return recorded | {os.path.basename(backing_file(os.path.join(directory, name)))
                       for name in ("disk", "disk.rescue")}


def _recorded_base(directory: str, name: str) -> str:
    try:
        return str(files.read_json(os.path.join(directory, name)).get("base") or "")
    except (FileNotFoundError, ValueError):
        return ""  # the header still tells


def backing_file(path: str) -> str:
    """The backing file that a qcow2 header names; empty if none, or if it is no qcow2 file.

    Only for comparing, never for opening. Raises OSError, not if the file is missing.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(20)
            if len(header) < 20 or header[:4] != b"QFI\xfb":
                return ""
            offset, length = struct.unpack(">QI", header[8:])
            if not offset or length > 1023:
                return ""
            file.seek(offset)
            return file.read(length).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
