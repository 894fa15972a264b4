"""What a move's messages say of a server that exists: its image and its request spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import MagnetarError
from compute.model.guest import Image
from compute.rpc.serializer import Context
from control import building
from control.boot_devices import Boot
from control.building import Wish
from control.moves.base import image_properties

Row = dict[str, Any]
OWN = ("min_ram", "min_disk", "disk_format", "container_format", "base_image_ref")


def image_of(images: Any, row: Row) -> Image:
    """A server's image as the image service has it, or when it is gone there, as the server
    remembers it."""
    try:
        return images.show(row["image_ref"])
    except MagnetarError:
        known = image_properties(row["system_metadata"])
        return Image(
            id=row["image_ref"] or "", disk_format=known.get("disk_format", ""),
            container_format=known.get("container_format", "bare"),
            min_disk=int(known.get("min_disk", 0)), min_ram=int(known.get("min_ram", 0)),
            properties={name: value for name, value in known.items() if name not in OWN},
        )


def request_spec(row: Row, image: Image, flavor: Mapping[str, Any], ports: Iterable[Row],
                 context: Context, group: str | None) -> Row:
    """A RequestSpec for a server that exists. ``ports`` are its rows of ``ports``."""
    wish = Wish(
        name=row["display_name"], image=image, flavor=dict(flavor),
        networks=tuple({"network_id": port["network_uuid"], "port_id": port["uuid"]}
                       for port in ports),
        group={"uuid": group} if group else None,
        boot=None if row["image_ref"] else Boot(image, "", ({"destination_type": "volume"},)),
    )
    return building.request_spec(wish, row["uuid"], context)
