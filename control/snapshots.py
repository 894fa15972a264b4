"""Images of servers' disks: described here, filled by the server's host."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Callable, Mapping
from typing import Any

from compute.errors import MagnetarError
from compute.model import states
from compute.model.guest import Image
from control import common, views
from control.common import context_for

Row = dict[str, Any]
SENT = ("metadata", "system_metadata", "info_cache", "security_groups", "flavor")
FROM = (states.ACTIVE, states.STOPPED, states.PAUSED, states.SUSPENDED)
# What an image does not have from the one that the server was made of.
OWN = frozenset({"min_disk", "min_ram", "disk_format", "container_format", "cache_in_nova",
                 "bittorrent", "image_type", "backup_type", "instance_uuid"})


class Snapshots:
    """Mixin of :class:`control.api.ControlPlane`."""

    images: Any
    _act: Callable[..., Row]  # given by Servers
    _asked: Callable[[str, str, str], bool]
    _find: Callable[[str], Row]
    _fields: Callable[[str], Row]

    def server_image_create(
        self, server: str, name: str | None = None, properties: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Row:
        """Make an image of a server's root disk, while the server goes on. Returns the image,
        which is queued until its host has stored it.

        :param name: of the image; the server's own when there is none.
        """
        return self._imaged(server, name, "createImage", states.IMAGE_SNAPSHOT_PENDING,
                            "snapshot_instance", {**(properties or {}), "image_type": "snapshot"},
                            {}, request_id)

    def server_backup_create(
        self, server: str, name: str | None = None, backup_type: str = "", rotation: int = 1,
        properties: Mapping[str, str] | None = None, request_id: str | None = None,
    ) -> Row:
        """The same, and of the server's backups of this type only the newest ``rotation`` stay."""
        rotation = common.checked_number("The number of backups to keep", rotation, 0)
        common.checked_properties("backup type", {"backup_type": backup_type})
        return self._imaged(server, name, "createBackup", states.IMAGE_BACKUP, "backup_instance",
                            {**(properties or {}), "image_type": "backup",
                             "backup_type": backup_type},
                            {"backup_type": backup_type, "rotation": rotation}, request_id)

    def _imaged(self, server: str, name: str | None, verb: str, task: str, method: str,
                properties: Mapping[str, str], args: Row, request_id: str | None) -> Row:
        context_for(request_id)  # a malformed one is refused before anything is described
        row = self._find(server)
        image_id = str(uuidlib.uuid5(uuidlib.UUID(row["uuid"]), request_id) if request_id
                       else uuidlib.uuid4())
        if request_id and self._asked(row["uuid"], verb, request_id):
            return views.image(self.images.show(image_id))
        image = self._reserve(row, image_id, name, common.checked_properties("property",
                                                                             properties))
        try:
            self._act(row["uuid"], verb, FROM, (None,), task, method, SENT,
                      {"image_id": image.id, **args}, request_id)
        except MagnetarError:
            self.images.delete(image.id)
            raise
        return views.image(self.images.show(image_id))

    def _reserve(self, row: Row, image_id: str, name: str | None,
                 properties: Mapping[str, str]) -> Image:
        """Describe the image of a server's disk, with what the server knows of its own image."""
        kept = self._fields(row["uuid"]).get("system_metadata") or {}
        known = {key.removeprefix("image_"): value for key, value in kept.items()
                 if key.startswith("image_")}
        inherited = {key: value for key, value in known.items() if key not in OWN}
        return self.images.reserve(
            image_id=image_id, name=common.checked_name("image", name or row["display_name"]),
            min_disk=max(int(known.get("min_disk") or 0), row["root_gb"] or 0),
            min_ram=int(known.get("min_ram") or 0),
            properties={**inherited, "base_image_ref": row["image_ref"] or "",
                        "instance_uuid": row["uuid"], **properties},
        )
