"""The disks that a new server asks for beyond its flavor's: rows of ``block_device_mapping``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import Refused
from compute.model.guest import Image
from control import common
from control import volume_states as can
from control.volume_files import check_size
from db.control import records

Row = dict[str, Any]
LARGEST = 1 << 20  # GiB
KEYS = frozenset({
    "uuid", "source_type", "destination_type", "boot_index", "volume_size",
    "delete_on_termination", "device_name", "disk_bus", "device_type", "tag",
})
NONE = "No server was created."


@dataclass(frozen=True)
class Boot:
    """What a server boots from, and its further volumes.

    ``image`` is what is known of the image, also of the one that a volume was made from; ``ref``
    is the Instance's image_ref, empty for a server that boots from a volume.
    """

    image: Image
    ref: str
    devices: tuple[Row, ...]

    @property
    def from_volume(self) -> bool:
        """Whether the root disk is a volume, and takes no room on the host."""
        return self.devices[0]["destination_type"] == "volume"


class Boots:
    """Understands what a create asks for.

    :param image: the usable image of a name or id. :param volume: the row of a volume.
    """

    def __init__(self, image: Callable[[str], Image], volume: Callable[[str], Row]):
        self._image, self._volume = image, volume

    def wanted(self, image: str | None, volume: str | None, boot_from_volume: int | None,
               block_devices: Iterable[Mapping[str, Any]] | None) -> Boot:
        """What is asked for, the root disk first.

        :raises Refused: it makes no sense, or names what cannot be had.
        """
        asked = [dict(device) for device in block_devices or ()]
        if volume:
            asked.insert(0, {"source_type": "volume", "uuid": volume, "boot_index": 0})
        elif image and boot_from_volume is not None:
            asked.insert(0, {"source_type": "image", "uuid": image, "boot_index": 0,
                             "volume_size": boot_from_volume})
        elif image:
            asked.insert(0, {"source_type": "image", "uuid": image, "boot_index": 0,
                             "destination_type": "local", "delete_on_termination": True})
        if boot_from_volume and not image:
            raise _bad("A volume to boot from is made from an image.", "Name the image.")
        if image and volume:
            raise _bad("A server boots from an image or from a volume.", "Give one of both.")
        asked.sort(key=lambda device: device.get("boot_index") != 0)
        roots = [device for device in asked if device.get("boot_index") == 0]
        if len(roots) != 1:
            raise _bad(f"{len(roots)} disks are to be booted from.",
                       "Give an image, a volume, or one block device with boot_index 0.")
        rows = tuple(self._row(device) for device in asked)
        _check_twice(rows)
        return Boot(self._described(roots[0]), self._ref(rows[0]), rows)

    @staticmethod
    def _ref(root: Row) -> str:
        return root["image_id"] if root["destination_type"] == "local" else ""

    def _described(self, root: Row) -> Image:
        if root["source_type"] == "image":
            return self._image(root["uuid"])
        if root["source_type"] != "volume":
            raise _bad("An empty disk cannot be booted from.", "Name an image or a volume.")
        volume = self._volume(root["uuid"])
        if not volume["bootable"]:
            raise Refused(f"Volume {can.label(volume)} is not bootable.", now=NONE,
                          next=f"If it is: 'magnetar volume set --bootable {volume['uuid']}'.",
                          code="volume_not_bootable")
        return described(volume["image_metadata"] or {})

    def _row(self, device: Mapping[str, Any]) -> Row:
        unknown = sorted(set(device) - KEYS)
        source = device.get("source_type")
        if unknown or source not in ("image", "volume", "blank"):
            raise _bad(f"The block device {dict(device)!r} is not understood"
                       f"{': ' + ', '.join(unknown) if unknown else ''}.",
                       "source_type is image, volume or blank; the other keys are "
                       f"{', '.join(sorted(KEYS - {'source_type'}))}.")
        destination = device.get("destination_type") or "volume"
        boot = device.get("boot_index")
        root = boot == 0
        if destination not in ("volume", "local") or (
                destination == "local" and not (source == "image" and root)):
            raise _bad(f"A {destination} disk cannot be made from {source} here.",
                       "Local disks are the flavor's; use destination_type=volume.")
        size = device.get("volume_size")
        row: Row = {
            "source_type": source, "destination_type": destination, "no_device": False,
            "encrypted": False, "device_type": device.get("device_type") or "disk",
            "disk_bus": device.get("disk_bus"), "device_name": device.get("device_name"),
            "boot_index": boot, "tag": device.get("tag"),
            "delete_on_termination": bool(device.get("delete_on_termination", False)),
            "volume_size": None if size is None
            else common.checked_number("volume_size", size, 1, LARGEST),
        }
        getattr(self, f"_{source}_row")(row, device.get("uuid") or "")
        return row

    def _image_row(self, row: Row, key: str) -> None:
        image = self._image(key)
        row["image_id"] = image.id
        if row["destination_type"] == "volume":
            if not row["volume_size"]:
                raise _bad(f"The volume from image {key} needs a size.", "Give its GiB.")
            check_size(image, 0, row["volume_size"])

    def _volume_row(self, row: Row, key: str) -> None:
        volume = self._volume(key)
        row.update(volume_id=volume["uuid"], volume_size=volume["size"])

    @staticmethod
    def _blank_row(row: Row, key: str) -> None:
        if not row["volume_size"]:
            raise _bad("An empty volume needs a size.", "Give its GiB as volume_size.")


def described(metadata: Mapping[str, str]) -> Image:
    """The image that a volume was made from, as the volume remembers it."""
    own = ("image_id", "image_name", "min_disk", "min_ram", "disk_format", "container_format",
           "size", "checksum")
    return Image(id="", disk_format=metadata.get("disk_format", ""),
                 min_ram=int(metadata.get("min_ram") or 0),
                 properties={name: value for name, value in metadata.items() if name not in own})


def create(connection: Connection, instance_uuid: str, devices: Iterable[Row]) -> None:
    """Write the disks of a new server down, and reserve the volumes that are there.

    :raises Refused: a volume cannot be had.
    """
    for row in devices:
        attachment = can.reserve(connection, row["volume_id"], instance_uuid)["uuid"] \
            if row.get("volume_id") else None
        records.create_device(connection, {
            **row, "instance_uuid": instance_uuid, "attachment_id": attachment})


def _check_twice(rows: Iterable[Row]) -> None:
    ids = [row["volume_id"] for row in rows if row.get("volume_id")]
    if len(set(ids)) != len(ids):
        raise _bad("A volume is named twice.", "Name each volume once.")


def _bad(what: str, next: str) -> Refused:  # noqa: A002
    return Refused(what, now=NONE, next=next, code="bad_block_device")
