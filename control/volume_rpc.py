"""What an agent asks its embedded control plane that it would ask Cinder in a cloud.

Namespace ``magnetar``, version 1.0, topic ``conductor``. Each method answers ``{"result": …}``, or
``{"error": …}`` with one of our errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oslo_messaging

from compute.errors import MagnetarError
from compute.rpc.serializer import Context
from control import volume_states as can
from control.volume_keeper import VolumeKeeper
from control.volumes import from_image
from db.control import volumes
from db.control.volumes import A

Row = dict[str, Any]


def answer(work: Callable[[], Any]) -> Row:
    """What ``work`` gives, or why it does not."""
    try:
        return {"result": work()}
    except MagnetarError as error:
        return {"error": error.to_dict()}


class VolumeService:
    """Volumes and attachments, as plain dicts. See compute.engine.world.Volumes."""

    target = oslo_messaging.Target(namespace="magnetar", version="1.0")

    def __init__(self, keeper: VolumeKeeper):
        self.keeper, self.store = keeper, keeper.store

    def volume_show(self, context: Context, volume_id: str) -> Row:
        """A volume with its attachments."""
        def work() -> Row:
            with self.store.begin() as connection:
                row = can.known(connection, volume_id)
                found = volumes.attachments(connection, A.volume_uuid == volume_id)
            return told(row, found)

        return answer(work)

    def volume_create(self, context: Context, size_gb: int, name: str,
                      image_id: str | None = None, source_volume_id: str | None = None) -> Row:
        """The id of a new volume; the same request and name give the same."""
        def work() -> str:
            values: Row = {
                "name": name, "size": size_gb, "format": self.keeper.conf.control.volume_format,
                "source_volume": source_volume_id, "request_id": context.request_id,
            }
            if image_id:
                values.update(from_image(self.keeper.images.show(image_id)))
            return self.keeper.create(values)["uuid"]

        return answer(work)

    def volume_delete(self, context: Context, volume_id: str) -> Row:
        """Delete a volume; quiet if it is gone."""
        def work() -> None:
            try:
                self.keeper.delete(volume_id)
            except MagnetarError as error:
                if error.code != "volume_not_found":
                    raise

        return answer(work)

    def volume_attachment_create(self, context: Context, volume_id: str,
                                 instance_uuid: str) -> Row:
        """Reserve a volume; the attachment's id."""
        def work() -> str:
            with self.store.begin() as connection:
                return can.reserve(connection, volume_id, instance_uuid)["uuid"]

        return answer(work)

    def volume_attachment_update(self, context: Context, attachment_id: str, connector: Row,
                                 mountpoint: str) -> Row:
        """Give a host access; the connection_info."""
        def work() -> Row:
            with self.store.begin() as connection:
                row = can.connect(connection, attachment_id, connector, mountpoint)
            return self.keeper.files.connection_info(row)

        return answer(work)

    def volume_attachment_complete(self, context: Context, attachment_id: str) -> Row:
        """The volume is attached."""
        def work() -> None:
            with self.store.begin() as connection:
                can.complete(connection, attachment_id)

        return answer(work)

    def volume_attachment_delete(self, context: Context, attachment_id: str) -> Row:
        """Give a volume back; quiet if it is gone."""
        def work() -> None:
            with self.store.begin() as connection:
                freed = can.release(connection, attachment_id)
            self.keeper.delete_freed([freed] if freed else [])

        return answer(work)

    def volume_roll_detaching(self, context: Context, volume_id: str) -> Row:
        """A detach that was begun does not take place."""
        def work() -> None:
            with self.store.begin() as connection:
                can.roll_detaching(connection, volume_id)

        return answer(work)

    def volume_migrate_completion(self, context: Context, old_id: str, new_id: str,
                                  error: bool) -> Row:
        """{save_volume_id}: volumes keep their ids here, so it is the one that is in use now."""
        return {"result": {"save_volume_id": old_id if error else new_id}}


def told(row: Row, attachments: list[Row]) -> Row:
    """A volume in the words of Cinder's API."""
    return {
        "id": row["uuid"], "name": row["name"], "status": row["status"], "size": row["size"],
        "multiattach": row["multiattach"], "bootable": row["bootable"],
        "image_metadata": row["image_metadata"] or {}, "volume_type": None,
        "migration_status": None,
        "attachments": [
            {"attachment_id": a["uuid"], "server_id": a["instance_uuid"], "host_name": a["host"],
             "device": a["mountpoint"]} for a in attachments],
    }
