"""Servers' volumes that come and go."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control import volume_states as can
from control import wire
from control.common import NOTHING, context_for
from control.messages import Computes
from control.objects import Call
from control.objects.instances import load
from control.refusals import refusal
from control.volume_keeper import VolumeKeeper
from db.control import instances, records, volumes
from db.control.store import Store
from db.control.tables import block_device_mapping
from db.control.tables import instances as table
from db.control.types import parse_time, utcnow
from db.control.volumes import A, V

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
I, B = table.c, block_device_mapping.c  # noqa: E741
SENT = ("metadata", "system_metadata", "info_cache", "security_groups", "flavor",
        "device_metadata")
# as in Nova, but for servers without a host, whose volumes stay as they are
ATTACH_FROM = (states.ACTIVE, states.PAUSED, states.STOPPED, states.RESIZED, states.SOFT_DELETED,
               states.SHELVED)
SWAP_FROM = (states.ACTIVE, states.PAUSED, states.RESIZED)
SWEPT = (states.ACTIVE, states.PAUSED, states.STOPPED, states.SUSPENDED)
FORGOTTEN = 600  # seconds after which nobody attaches any more what nobody began to attach
DEVICE = re.compile(r"/dev/[a-z]{1,8}")


class ServerVolumes:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    computes: Computes
    keeper: VolumeKeeper
    # given by Servers and Volumes
    _find: Callable[..., Row]
    _asked: Callable[[str, str, str | None], bool]
    _volume: Callable[[str], Row]

    def server_volumes(self, server: str) -> list[Row]:
        """A server's volumes, in the order in which they came."""
        uuid = self._find(server)["uuid"]
        with self.store.begin() as connection:
            return [shown(row) for row in records.devices(connection, [uuid]) if row["volume_id"]]

    # -- attach --------------------------------------------------------------------------------

    def server_add_volume(
        self, server: str, volume: str, device: str | None = None, tag: str | None = None,
        delete_on_termination: bool = False, request_id: str | None = None,
    ) -> Row:
        """Attach a volume to a server, running or not; its host goes on with it when this returns.
        The answer has the request's id, by which 'server.actions' tells how it ended. The same
        request id again has no second effect.

        :raises Refused: volume or server are in another state; it is attached already.
        :raises Failed: the server's host could not take it; nothing of it is left.
        """
        if device is not None and not DEVICE.fullmatch(device):
            raise Refused(f"{device!r} is no name of a disk in a server.", now=NOTHING,
                          next="Use one such as /dev/vdb, or leave it out.", code="bad_value")
        row = self._volume(volume)
        context, seen = context_for(request_id), self._find(server)
        again = self._again(seen, "attach_volume", request_id, row)
        if again is not None:
            return again
        with self._acting(context, seen, "attach_volume", "attach a volume to", ATTACH_FROM
                          ) as instance:
            self._check_free(row, seen)
            host = primitives.data(instance)["host"]
            try:
                device_row = self._reserve_volume(context, host, instance, row, device, tag,
                                                  delete_on_termination)
                self.computes.cast(context, host, "attach_volume", instance=instance,
                                   bdm=wire.from_row("BlockDeviceMapping", device_row))
            except MagnetarError as error:
                if error.kind != "unknown":  # else it may be on its way; the sweep looks at it
                    self._unreserve_volume(row["uuid"], seen["uuid"])
                raise
        return {**shown(device_row), "request_id": context.request_id}

    def _again(self, seen: Row, action: str, request_id: str | None, row: Row) -> Row | None:
        """What an earlier request of this id made, None if there was none."""
        if not request_id or not self._asked(seen["uuid"], action, request_id):
            return None
        with self.store.begin() as connection:
            found = records.find_device(connection, volume_id=row["uuid"],
                                        instance_uuid=seen["uuid"])
        made = shown(found) if found else {"server_id": seen["uuid"], "volume_id": row["uuid"]}
        return {**made, "request_id": request_id}

    def _check_free(self, row: Row, seen: Row) -> None:
        """Say what is wrong before the server's host is asked."""
        with self.store.begin() as connection:
            if records.find_device(connection, volume_id=row["uuid"], instance_uuid=seen["uuid"]):
                raise Refused(
                    f"Volume {can.label(row)} is attached to server {seen['display_name']} "
                    "already.", now=NOTHING,
                    next=f"See 'magnetar server volume list {seen['display_name']}'.",
                    code="volume_attached")
            can.check(connection, row["uuid"], seen["uuid"])

    def _reserve_volume(self, context: Context, host: str, instance: Row, row: Row,
                        device: str | None, tag: str | None, delete_on_termination: bool) -> Row:
        """The row of ``block_device_mapping``, made by the host, with an attachment of ours."""
        made = self.computes.call_long(
            context, host, "reserve_block_device_name", instance=instance, device=device,
            volume_id=row["uuid"], disk_bus=None, device_type=None, tag=tag,
            multiattach=row["multiattach"])
        with self.store.begin() as connection:
            attachment = can.reserve(connection, row["uuid"], primitives.data(instance)["uuid"])
            saved = records.save_device(connection, primitives.data(made)["id"], {
                "attachment_id": attachment["uuid"], "volume_size": row["size"],
                "delete_on_termination": delete_on_termination})
            if saved is None:
                raise Refused("The server's block device went away while it was made.",
                              now=NOTHING, next="Try again.", code="stale")
        return saved

    def _unreserve_volume(self, volume: str, instance: str) -> None:
        """Take back what was reserved for an attach that does not take place."""
        with self.store.begin() as connection:
            for row in records.devices(connection, [instance]):
                if row["volume_id"] == volume:
                    _drop(connection, row)

    # -- detach --------------------------------------------------------------------------------

    def server_remove_volume(self, server: str, volume: str,
                             request_id: str | None = None) -> Row:
        """Take a volume out of a server; its host goes on with it when this returns. The answer
        has the request's id, by which 'server.actions' tells how it ended.

        :raises Refused: it is not attached, or what the server boots from; or the server or the
            volume is in another state.
        """
        row, seen = self._volume(volume), self._find(server)
        context = context_for(request_id)
        again = self._again(seen, "detach_volume", request_id, row)
        if again is not None:
            return again
        device = self._attached(row, seen)
        if device["boot_index"] == 0:
            raise Refused(f"Server {seen['display_name']} boots from volume {can.label(row)}.",
                          now=NOTHING, next="It goes with the server.", code="root_volume")
        with self._acting(context, seen, "detach_volume", "detach a volume of", ATTACH_FROM
                          ) as instance:
            with self.store.begin() as connection:
                can.begin_detaching(connection, row["uuid"])
            try:
                self.computes.cast(
                    context, primitives.data(instance)["host"], "detach_volume",
                    volume_id=row["uuid"], instance=instance,
                    attachment_id=device["attachment_id"])
            except MagnetarError:
                with self.store.begin() as connection:
                    can.roll_detaching(connection, row["uuid"])
                raise
        return {**shown(device), "request_id": context.request_id}

    def _attached(self, row: Row, seen: Row) -> Row:
        with self.store.begin() as connection:
            device = records.find_device(connection, volume_id=row["uuid"],
                                         instance_uuid=seen["uuid"])
        if device is None:
            raise Refused(
                f"Volume {can.label(row)} is not attached to server {seen['display_name']}.",
                now=NOTHING, next=f"See 'magnetar server volume list {seen['display_name']}'.",
                code="volume_not_attached")
        return device

    # -- change --------------------------------------------------------------------------------

    def server_update_volume(self, server: str, volume: str, delete_on_termination: bool) -> Row:
        """Whether a volume goes with its server."""
        device = self._attached(self._volume(volume), self._find(server))
        with self.store.begin() as connection:
            return shown(records.save_device(connection, device["id"], {
                "delete_on_termination": bool(delete_on_termination)}) or device)

    def server_swap_volume(self, server: str, old: str, new: str,
                           request_id: str | None = None) -> Row:
        """Copy a volume that a running server uses to another one, which takes its place; the
        host goes on with it when this returns.

        :raises Refused: they cannot be swapped; nothing was changed.
        """
        row, other, seen = self._volume(old), self._volume(new), self._find(server)
        context = context_for(request_id)
        again = self._again(seen, "swap_volume", request_id, other)
        if again is not None:
            return again
        self._attached(row, seen)
        check_swap(row, other)
        with self._acting(context, seen, "swap_volume", "swap a volume of", SWAP_FROM
                          ) as instance:
            with self.store.begin() as connection:
                can.check(connection, other["uuid"], seen["uuid"])
                can.begin_detaching(connection, row["uuid"])
                attachment = can.reserve(connection, other["uuid"], seen["uuid"])
            try:
                self.computes.cast(
                    context, primitives.data(instance)["host"], "swap_volume", instance=instance,
                    old_volume_id=row["uuid"], new_volume_id=other["uuid"],
                    new_attachment_id=attachment["uuid"])
            except MagnetarError:
                with self.store.begin() as connection:
                    can.roll_detaching(connection, row["uuid"])
                    can.release(connection, attachment["uuid"])
                raise
        return {"server_id": seen["uuid"], "volume_id": other["uuid"],
                "request_id": context.request_id}

    # -- what all of them do -------------------------------------------------------------------

    @contextmanager
    def _acting(self, context: Context, seen: Row, action: str, doing: str,
                vm_states: Sequence[str]) -> Iterator[Row]:
        """Write an action down, if the server is in a state for it; the Instance to send. What is
        not carried out is not in its history."""
        uuid = seen["uuid"]
        with self.store.begin() as connection:
            now = instances.get(connection, uuid)
            fits = now is not None and now["vm_state"] in vm_states \
                and now["task_state"] is None and now["host"] and now["launched_at"]
            if not fits:
                raise refusal(now, seen, doing, vm_states, (None,))
            records.start_action(connection, action, uuid, context.request_id or "",
                                 context.user_id, context.project_id)
            instance = load(Call(connection, context), I.uuid == uuid, attrs=SENT)[0]
        try:
            yield instance
        except MagnetarError as error:
            if error.kind != "unknown":
                with self.store.begin() as connection:
                    records.forget_action(connection, uuid, context.request_id)
            raise

    # -- what was left behind ------------------------------------------------------------------

    def sweep_volumes(self, older_than: float = FORGOTTEN) -> list[str]:
        """Take back what was reserved for servers and never attached, and detaches that no host
        took up, since a message or an answer was lost; delete volumes that were freed by the end
        of their servers. Returns the ids of the volumes. A host that takes a message up later
        finds the reservation gone, and attaches nothing."""
        due = utcnow() - timedelta(seconds=older_than)
        with self.store.begin() as connection:
            swept = _sweep_devices(connection, due) + _sweep_attachments(connection, due)
            kept = _sweep_detaching(connection, due)
            doomed = [row["uuid"] for row in volumes.query(connection, V.status == can.DELETING)]
        for uuid in swept:
            LOG.warning("Volume %s was reserved for a server and never attached; it is free again.",
                        uuid)
        for uuid in kept:
            LOG.warning("Volume %s was to be detached, and no host is at it; it stays in use.",
                        uuid)
        self.keeper.delete_freed(doomed)
        return swept + kept


def _sweep_devices(connection: Connection, due: Any) -> list[str]:
    found = records.query_devices(
        connection, B.volume_id.is_not(None), B.connection_info.is_(None),
        B.created_at <= due)
    rest = {row["uuid"] for row in instances.query(
        connection, I.uuid.in_({row["instance_uuid"] for row in found}), I.deleted.is_(False),
        I.vm_state.in_(SWEPT), I.task_state.is_(None))} if found else set()
    swept = []
    for row in found:
        attachment = volumes.attachment(connection, row["attachment_id"] or "")
        begun = attachment is not None and (
            attachment["status"] != can.RESERVED or parse_time(attachment["created_at"]) > due)
        if row["instance_uuid"] in rest and not begun:
            _drop(connection, row)
            swept.append(row["volume_id"])
    return swept


def _sweep_attachments(connection: Connection, due: Any) -> list[str]:
    """Reservations that no block device names: their servers are gone, or never took them."""
    found = volumes.attachments(connection, A.status == can.RESERVED, A.created_at <= due)
    if not found:
        return []
    named = {row["attachment_id"] for row in records.query_devices(
        connection, B.attachment_id.in_([a["uuid"] for a in found]))}
    swept = []
    for attachment in found:
        if attachment["uuid"] not in named:
            can.release(connection, attachment["uuid"])
            swept.append(attachment["volume_uuid"])
    return swept


def _sweep_detaching(connection: Connection, due: Any) -> list[str]:
    """Volumes that were to leave their servers, where no host is at it. One that is after all ends
    well all the same."""
    kept = []
    for row in volumes.query(connection, V.status == can.DETACHING, V.updated_at <= due):
        users = {a["instance_uuid"]
                 for a in volumes.attachments(connection, A.volume_uuid == row["uuid"])}
        actions = [action["id"] for user in users for action in records.actions(connection, user)
                   if action["action"] in ("detach_volume", "swap_volume")]
        going_on = any(event["finish_time"] is None
                       for event in records.events(connection, actions)) if actions else False
        if not going_on:
            can.roll_detaching(connection, row["uuid"])
            kept.append(row["uuid"])
    return kept


def _drop(connection: Connection, device: Row) -> None:
    if device["attachment_id"]:
        can.release(connection, device["attachment_id"])
    records.delete_devices(connection, B.id == device["id"])


def check_swap(row: Row, other: Row) -> None:
    """Whether one volume may take another's place. Raises Refused."""
    reason = ""
    if row["uuid"] == other["uuid"]:
        reason = "it is the same one"
    elif other["size"] < row["size"]:
        reason = f"it has {other['size']} GiB, and {row['size']} GiB are needed"
    elif row["multiattach"] or other["multiattach"]:
        reason = "volumes that several servers may have cannot be swapped"
    if reason:
        raise Refused(f"Volume {can.label(other)} cannot take the place of {can.label(row)}: "
                      f"{reason}.", now=NOTHING, next="Choose another volume.",
                      code="volume_unavailable")


def shown(row: Mapping[str, Any]) -> Row:
    """A server's volume as people and machines see it."""
    return {"server_id": row["instance_uuid"], "volume_id": row["volume_id"],
            "device": row["device_name"], "tag": row["tag"], "boot_index": row["boot_index"],
            "size": row["volume_size"], "delete_on_termination": row["delete_on_termination"],
            "attachment_id": row["attachment_id"], "bdm_uuid": row["uuid"]}
