"""Volumes: files here, or what an operator registered from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compute.errors import MagnetarError, Refused
from compute.model.guest import Image
from compute.rpc.serializer import Context
from control import common
from control import volume_states as can
from control.common import NOTHING, context_for
from control.volume_files import FORMATS
from control.volume_keeper import VolumeKeeper
from db.control import instances, records, volumes
from db.control.store import Store
from db.control.tables import instances as table
from db.control.volumes import A

Row = dict[str, Any]
I = table.c  # noqa: E741
LARGEST = 1 << 20  # GiB
RESETTABLE = (can.AVAILABLE, can.ERROR, can.IN_USE)


class Volumes:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    store: Store
    keeper: VolumeKeeper
    # given by the other parts of the control plane
    _usable_image: Callable[[str], Image]
    _find: Callable[..., Row]
    _event: Callable[..., None]

    def volume_create(
        self,
        name: str,
        size: int | None = None,
        image: str | None = None,
        source: str | None = None,
        disk_format: str | None = None,
        multiattach: bool = False,
        bootable: bool | None = None,
        description: str | None = None,
        properties: dict[str, str] | None = None,
        connection_info: dict[str, Any] | None = None,
        request_id: str | None = None,
    ) -> Row:
        """Create a volume: empty, from an image, or from another volume.

        :param size: GiB; may be left out where the source has one.
        :param connection_info: as Cinder's drivers give it, for a volume that exists elsewhere:
            it is registered, and nothing is made.
        :raises Refused: what is wrong with the request. :raises Retryable: there is no room.
        """
        context = context_for(request_id)
        given = [what for what in (image, source, connection_info) if what]
        if len(given) > 1:
            raise _bad("A volume has one source.", "Give one of image, source, connection_info.")
        if size is None and (not given or connection_info):
            raise _bad("A new volume needs a size.", "Give its GiB.")
        values: Row = {
            "name": common.checked_name("volume", name), "description": description or None,
            "size": None if size is None
            else common.checked_number("The size", size, 1, LARGEST),
            "format": None if connection_info else self._format(disk_format),
            "multiattach": bool(multiattach), "bootable": bool(bootable),
            "properties": common.checked_properties("property", properties),
            "connection_info": connection_info and checked_connection(connection_info),
            "request_id": context.request_id,
        }
        if image:
            values.update(from_image(self._usable_image(image), bootable))
        if source:
            values["source_volume"] = self._volume(source)["uuid"]
        return self._volume_views([self.keeper.create(values)])[0]

    def _format(self, disk_format: str | None) -> str:
        wanted = disk_format or self.conf.control.volume_format
        if wanted not in FORMATS:
            raise _bad(f"Volumes of format {wanted!r} cannot be made here.",
                       f"Choose one of: {', '.join(FORMATS)}.")
        return wanted

    def volume_list(self) -> list[Row]:
        """All volumes, the oldest first."""
        with self.store.begin() as connection:
            rows = volumes.query(connection)
        return self._volume_views(rows)

    def volume_show(self, volume: str) -> Row:
        """One volume by id or name."""
        return self._volume_views([self._volume(volume)])[0]

    def volume_delete(self, volume: str) -> None:
        """Delete a volume that no server has, and what is on it. What was registered from
        elsewhere is forgotten, and stays where it is.

        :raises Refused: ``volume_in_use``, ``volume_unavailable``.
        """
        self.keeper.delete(self._volume(volume)["uuid"])

    def volume_set(
        self, volume: str, size: int | None = None, name: str | None = None,
        description: str | None = None, properties: dict[str, str] | None = None,
        bootable: bool | None = None, state: str | None = None, detached: bool = False,
        request_id: str | None = None,
    ) -> Row:
        """Change a volume; its servers see a new size at once.

        :param size: GiB, never less than it has. The same size again tells servers once more.
        :param state: an operator's word for what is true, when the record is wrong.
        :param detached: an operator's word that servers which are gone do not use it any more.
        :raises Refused: it cannot be changed so. :raises Retryable: there is no room.
        """
        context, row = context_for(request_id), self._volume(volume)
        values: Row = {}
        if name is not None:
            values["name"] = common.checked_name("volume", name)
        if description is not None:
            values["description"] = description
        if properties:
            more = common.checked_properties("property", properties)
            values["properties"] = {**(row["properties"] or {}), **more}
        if bootable is not None:
            values["bootable"] = bool(bootable)
        if state is not None and state not in RESETTABLE:
            raise _bad(f"A volume cannot be set to {state!r}.",
                       f"Choose one of: {', '.join(RESETTABLE)}.")
        if size is not None:
            self._extend(context, row, common.checked_number("The size", size, 1, LARGEST))
        with self.store.begin() as connection:
            if values:
                volumes.save(connection, row["uuid"], values)
            if detached:
                self._forget_users(connection, row)
            if state is not None:
                volumes.save(connection, row["uuid"], {"status": state, "message": None})
        return self.volume_show(row["uuid"])

    def _extend(self, context: Context, row: Row, size: int) -> None:
        users = self._users(row["uuid"])
        running = [user for user in users if user["vm_state"] not in ("stopped", "shelved")]
        if row["format"] == "qcow2" and running and size > row["size"]:
            raise Refused(
                f"Volume {can.label(row)} is of format qcow2, and server "
                f"{running[0]['display_name']} uses it.", now=NOTHING,
                next="Stop the server first, or take the volume out of it; raw volumes can be "
                "extended at any time.", code="volume_unavailable")
        self.keeper.extend(row["uuid"], size)
        for user in users:
            self._tell_extended(context, row, user)

    def _tell_extended(self, context: Context, row: Row, user: Row) -> None:
        with self.store.begin() as connection:
            records.start_action(connection, "extend_volume", user["uuid"],
                                 context.request_id or "", context.user_id, context.project_id)
        try:
            self._event(context, user, "volume-extended", tag=row["uuid"])
        except MagnetarError as error:
            raise type(error)(
                f"Volume {can.label(row)} was extended, but the host of server "
                f"{user['display_name']} could not be told: {error.what}",
                now="The server sees the new size when it is started next.",
                next="Give the same command again when the host can be reached.",
                code=error.code) from error

    def _users(self, uuid: str) -> list[Row]:
        """The servers on hosts that have a volume attached."""
        with self.store.begin() as connection:
            found = {a["instance_uuid"] for a in volumes.attachments(
                connection, A.volume_uuid == uuid, A.status == can.ATTACHED)}
            rows = instances.query(connection, I.uuid.in_(found), I.deleted.is_(False))
        return [row for row in rows if row["host"]]

    @staticmethod
    def _forget_users(connection: Any, row: Row) -> None:
        """Free a volume of the servers that are gone.

        :raises Refused: code ``volume_in_use``, when one of them is there.
        """
        found = volumes.attachments(connection, A.volume_uuid == row["uuid"])
        there = instances.query(connection, I.uuid.in_({a["instance_uuid"] for a in found}),
                                I.deleted.is_(False))
        if there:
            raise Refused(
                f"Volume {can.label(row)} belongs to server {there[0]['display_name']}, which is "
                "there.", now=NOTHING,
                next=f"Take it out: 'magnetar server remove volume {there[0]['uuid']} "
                f"{row['uuid']}'.", code="volume_in_use")
        for attachment in found:
            can.release(connection, attachment["uuid"])

    def _volume(self, key: str) -> Row:
        with self.store.begin() as connection:
            return common.one("volume", key, volumes.find(connection, key))

    def _volume_views(self, rows: Iterable[Row]) -> list[Row]:
        rows = list(rows)
        with self.store.begin() as connection:
            found = volumes.attachments(connection, A.volume_uuid.in_([r["uuid"] for r in rows]))
            servers = instances.query(
                connection, I.uuid.in_({a["instance_uuid"] for a in found})) if found else []
        names = {row["uuid"]: row["display_name"] for row in servers}
        return [shown(row, [a for a in found if a["volume_uuid"] == row["uuid"]], names)
                for row in rows]


def shown(row: Row, attachments: Iterable[Row], names: Mapping[str, str]) -> Row:
    """A volume as people and machines see it: size in GiB. How a registered one is reached is
    not shown, for it may hold passwords."""
    told = row["connection_info"] or {}
    return {
        "id": row["uuid"], "name": row["name"], "description": row["description"],
        "size": row["size"], "status": row["status"], "bootable": row["bootable"],
        "multiattach": row["multiattach"], "disk_format": row["format"],
        "driver": told.get("driver_volume_type", "local"), "image": row["source_image"],
        "source_volume": row["source_volume"], "properties": row["properties"] or {},
        "message": row["message"], "created_at": row["created_at"],
        "attachments": [
            {"attachment_id": a["uuid"], "server_id": a["instance_uuid"],
             "server": names.get(a["instance_uuid"]), "host_name": a["host"],
             "device": a["mountpoint"], "status": a["status"]} for a in attachments],
    }


def from_image(image: Image, bootable: bool | None = None) -> Row:
    """The columns of a volume that is made from an image."""
    metadata = {
        **image.properties, "image_id": image.id, "image_name": image.name,
        "min_disk": str(image.min_disk), "min_ram": str(image.min_ram),
        "disk_format": image.disk_format, "container_format": image.container_format,
        "size": str(image.size),
    }
    return {"source_image": image.id, "image_metadata": metadata,
            "bootable": bootable is not False}


def checked_connection(told: Any) -> Row:
    """A connection_info that a host can work with. Raises Refused(code='bad_value')."""
    if not isinstance(told, dict) or not isinstance(told.get("data"), dict) \
            or not isinstance(told.get("driver_volume_type"), str):
        raise _bad("The connection_info is not of the form {driver_volume_type, data}.",
                   "Give it as a driver of Cinder does, for example {\"driver_volume_type\": "
                   "\"nfs\", \"data\": {\"export\": …, \"name\": …}}.")
    return told


def _bad(what: str, next: str) -> Refused:  # noqa: A002
    return Refused(what, now=NOTHING, next=next, code="bad_value")
