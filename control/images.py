"""Images, which are kept by the image service; names are found here."""

from __future__ import annotations

from typing import Any

from compute.errors import Refused
from compute.model.guest import Image
from control import common, views
from control.common import NOTHING

Row = dict[str, Any]
FORMATS = ("qcow2", "raw", "iso")


class Images:
    """Mixin of :class:`control.api.ControlPlane`."""

    images: Any

    def image_create(
        self,
        name: str,
        stream: Any,
        disk_format: str = "qcow2",
        properties: dict[str, str] | None = None,
        min_disk: int = 0,
        min_ram: int = 0,
        id: str | None = None,  # noqa: A002 - openstackclient's word
    ) -> Row:
        """Store an image.

        :param stream: the bytes, as something with ``read``, or the path of a file.
        :param min_disk: GiB. :param min_ram: MiB.
        :raises Refused: name, format or properties are wrong, or the bytes are not what they are
            declared as; nothing was stored.
        """
        if disk_format not in FORMATS:
            raise Refused(
                f"Images of format {disk_format!r} cannot be booted here.", now=NOTHING,
                next=f"Convert it to one of: {', '.join(FORMATS)}.", code="bad_image_format",
            )
        image = self.images.create(
            stream, disk_format=disk_format, name=common.checked_name("image", name),
            image_id=id, min_disk=common.checked_number("min_disk", min_disk, 0),
            min_ram=common.checked_number("min_ram", min_ram, 0),
            properties=common.checked_properties("property", properties),
        )
        return views.image(image)

    def image_list(self) -> list[Row]:
        """All images, the oldest first."""
        return [views.image(image) for image in self.images.list()]

    def image_show(self, image: str) -> Row:
        """One image by id or name."""
        return views.image(self._image(image))

    def image_delete(self, image: str) -> None:
        """Delete an image; servers made from it keep running."""
        self.images.delete(self._image(image).id)

    def _usable_image(self, key: str) -> Image:
        """An image that a server can be made from."""
        image = self._image(key)
        if image.status != "active":
            raise Refused(
                f"Image {image.name or image.id} is {image.status}: its host has not stored it "
                "yet.", now=NOTHING, code="image_not_active",
                next=f"Wait until 'magnetar image show {image.id}' says active.",
            )
        return image

    def _bootable_image(self, key: str) -> Image:
        """One of which a disk can be made."""
        image = self._usable_image(key)
        if image.disk_format == "iso":
            raise Refused(f"Image {image.name or image.id} is an ISO image, from which no disk can "
                          "be made.", now=NOTHING, code="bad_image_format",
                          next="Rescue a server with it, or choose a disk image.")
        return image

    def _image(self, key: str) -> Image:
        found = {image.id: image for image in self.images.list() if key in (image.id, image.name)}
        row = common.one("image", key, [{"uuid": image_id} for image_id in found])
        return found[row["uuid"]]
