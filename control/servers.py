"""Tenants' verbs on servers, with the checks of state that Nova's API makes."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.model.guest import Image
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control import common, views
from control.boot_devices import Boots
from control.building import Wish
from control.builds import Builds
from control.common import NOTHING, context_for
from control.messages import Computes
from control.moves.care import Moves
from control.objects import Call
from control.objects.instances import destroy_rows, load
from control.objects.records import device_list
from control.refusals import not_ready, refusal
from control.scheduler.hosts import is_up
from db.control import catalog, instances, networks, records, services
from db.control.store import Store
from db.control.tables import instances as table

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
C = table.c
SHOWN = ("metadata", "flavor", "request_id")
SENT = ("metadata", "system_metadata")  # as Nova's API has it loaded when it casts
SENT_SHOWN = (*SENT, "info_cache", "security_groups")
SENT_ALL = (*SENT_SHOWN, "numa_topology", "flavor", "old_flavor",
            "new_flavor")
SOFT = ("rebooting", "reboot_pending", "reboot_started")
HARD = ("rebooting_hard", "reboot_pending_hard", "reboot_started_hard")
HARD_REBOOT_FROM = (states.ACTIVE, states.STOPPED, states.PAUSED, states.SUSPENDED, states.ERROR)
HARD_REBOOT_OVER = (None, *SOFT, *HARD, "resuming", "unpausing", "pausing", "suspending")
USER_DATA_LIMIT = 65535
GIB = 1 << 30


class Servers:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    store: Store
    computes: Computes
    builds: Builds
    moves: Moves
    images: Any
    # given by the other parts of the control plane
    forget_shelved_image: Callable[[str], None]
    _bootable_image: Callable[[str], Image]
    _flavor: Callable[[str], Row]
    _networks: Callable[[list | str | None], list[Row]]
    _public_key: Callable[[str | None, str | None], str | None]
    _delete_softly: Callable[[Row, str | None], Row | None]
    _volume: Callable[[str], Row]
    sweep_volumes: Callable[[], list[str]]

    # -- looking -------------------------------------------------------------------------------

    def server_list(self, host: str | None = None, name: str | None = None,
                    deleted: bool = False) -> list[Row]:
        """All servers, the oldest first; in a constant number of statements."""
        where: list[ColumnElement[bool]] = [C.deleted.is_(deleted)]
        if host is not None:
            where.append(C.host == host)
        if name is not None:
            where.append(C.display_name == name)
        return self._views(*where)

    def server_show(self, server: str) -> Row:
        """One server by id or name; a deleted one only by id."""
        return self._views(C.uuid == self._find(server, deleted=True)["uuid"])[0]

    def server_actions(self, server: str) -> list[Row]:
        """What was asked of a server, oldest first, and what hosts did for it."""
        uuid = self._find(server, deleted=True)["uuid"]
        with self.store.begin() as connection:
            rows = records.actions(connection, uuid)
            events = records.events(connection, [row["id"] for row in rows])
        return [views.action(row, [e for e in events if e["action_id"] == row["id"]])
                for row in rows]

    def _views(self, *where: Any) -> list[Row]:
        with self.store.begin() as connection:
            rows = instances.query(connection, *where, extra=SHOWN)
            uuids = [row["uuid"] for row in rows]
            ports = networks.instance_ports(connection, uuids) if uuids else []
            faults = instances.faults(connection, uuids) if uuids else []
        newest: dict[str, Row] = {}
        for fault in faults:
            newest.setdefault(fault["instance_uuid"], fault)
        mine: dict[str, list[Row]] = {}
        for port in ports:
            mine.setdefault(port["instance_uuid"], []).append(port)
        names = {image.id: image.name for image in self.images.list()} if rows else {}
        return [
            views.server(row, mine.get(row["uuid"], ()), newest.get(row["uuid"]),
                         names.get(row["image_ref"]))
            for row in rows
        ]

    def _fields(self, uuid: str) -> Row:
        """All that the control plane keeps of a server."""
        with self.store.begin() as connection:
            extra = ("system_metadata", "flavor")
            return instances.query(connection, C.uuid == uuid, extra=extra)[0]

    def _find(self, server: str, deleted: bool = False) -> Row:
        with self.store.begin() as connection:
            rows = instances.query(
                connection, (C.uuid == server) | (C.display_name == server)
            )
        rows = [row for row in rows if not row["deleted"] or (deleted and row["uuid"] == server)]
        return common.one("server", server, rows)

    # -- creating ------------------------------------------------------------------------------

    def server_create(
        self,
        name: str,
        image: str | None = None,
        flavor: str = "",
        networks: list | str | None = None,
        key_name: str | None = None,
        public_key: str | None = None,
        user_data: str | None = None,
        config_drive: bool | None = None,
        properties: dict[str, str] | None = None,
        availability_zone: str | None = None,
        hints: dict[str, str] | None = None,
        volume: str | None = None,
        boot_from_volume: int | None = None,
        block_devices: list[dict[str, Any]] | None = None,
        request_id: str | None = None,
    ) -> Row:
        """Create a server; it is being built when this returns.

        :param networks: names, ids, ``{network, fixed_ip, tag}`` or ``{port, tag}``; None or
            ``auto`` for the only network there is; an empty list or ``none`` for no NIC.
        :param user_data: base64 text as Nova's API takes it, or plain text.
        :param hints: ``group``: a server group, by name or id.
        :param volume: boot from this volume. :param boot_from_volume: from a new one, of so many
            GiB, that is made from the image.
        :param block_devices: further volumes, in the words of Nova's block_device_mapping_v2.
        :param request_id: the same id and name again give the same server.
        :raises Refused: what is wrong with the request; nothing was created.
        """
        context = context_for(request_id)
        boot = Boots(self._bootable_image, self._volume).wanted(
            image, volume, boot_from_volume, block_devices)
        wish = Wish(
            name=common.checked_name("server", name),
            image=boot.image, boot=boot, flavor=self._flavor(flavor),
            networks=tuple(self._networks(networks)),
            key_name=key_name, public_key=self._public_key(key_name, public_key),
            user_data=checked_user_data(user_data), config_drive=bool(config_drive),
            metadata=common.checked_properties("property", properties),
            zone=availability_zone or None, group=self._hinted_group(hints),
        )
        check_fit(wish.image, {**wish.flavor, "root_gb": wish.root_gb})
        return self.server_show(self.builds.create(context, wish))

    def _hinted_group(self, hints: dict[str, str] | None) -> Row | None:
        unknown = sorted(set(hints or ()) - {"group"})
        if unknown:
            raise Refused(f"The scheduler knows no hint {', '.join(unknown)}.", now=NOTHING,
                          next="The only one is group=SERVER_GROUP.", code="bad_hint")
        if not hints or not hints.get("group"):
            return None
        with self.store.begin() as connection:
            rows = catalog.find_groups(connection, hints["group"])
        return common.one("server group", hints["group"], rows)

    # -- deleting ------------------------------------------------------------------------------

    def server_delete(self, server: str, force: bool = False,
                      request_id: str | None = None) -> Row:
        """Delete a server, whatever it is doing. Its host does it; where there is no host, or
        the host is down, the control plane does, and the host cleans up when it comes back.

        With ``reclaim_instance_interval``, a server that ever ran can be restored for so long,
        unless it is forced; what was deleted so before is forced by a second delete.

        Returns the server as it is then; deleting is over when it is gone, or soft-deleted.
        """
        context = context_for(request_id)
        row = self._find(server)
        uuid = row["uuid"]
        kept = None if force else self._delete_softly(row, request_id)
        if kept is not None:
            return kept
        with self.store.begin() as connection:
            call = Call(connection, context)
            row = instances.get(connection, uuid) or {}
            if not row:
                raise common.not_found("server", server)
            records.start_action(connection, "delete", uuid, context.request_id or "",
                                 context.user_id, context.project_id)
            tell_former = self.moves.cold.forget_former(connection, context, uuid)
            service = services.get(connection, row["host"]) if row["host"] else None
            local = service is None or not is_up(service, self.conf)
            if local:
                self._local_delete(call, row)
            else:
                instances.save(connection, uuid, {"task_state": states.DELETING, "progress": 0})
                instance = load(call, C.uuid == uuid, attrs=SENT_ALL)[0]
                devices = device_list(call, [uuid])
        tell_former()
        self.forget_shelved_image(uuid)
        if local:
            self.sweep_volumes()
            return {**self._deleted(row), "task_state": None}
        self._tell(context, instance, {"task_state": row["task_state"]}, "terminate_instance",
                   bdms=devices)
        return self.server_show(uuid)

    @staticmethod
    def _local_delete(call: Call, row: Row) -> None:
        host = row["host"]
        why = f"host {host} is down and cleans up when it is back" if host else "it has no host"
        LOG.info("Server %s is deleted by the control plane alone: %s.", row["uuid"], why)
        instances.save(call.connection, row["uuid"],
                       {"vm_state": states.DELETED, "task_state": None})
        destroy_rows(call, row["uuid"], host_lives=not host)

    @staticmethod
    def _deleted(row: Row) -> Row:
        return {"id": row["uuid"], "name": row["display_name"], "status": "DELETED",
                "vm_state": states.DELETED, "host": row["host"]}

    # -- power ---------------------------------------------------------------------------------

    def server_start(self, server: str, request_id: str | None = None) -> Row:
        """Start a stopped server."""
        return self._act(server, "start", (states.STOPPED,), (None,), states.POWERING_ON,
                         "start_instance", SENT, {}, request_id)

    def server_stop(self, server: str, request_id: str | None = None) -> Row:
        """Shut a server down cleanly, by force when that takes too long."""
        return self._act(server, "stop", (states.ACTIVE, states.ERROR), (None,),
                         states.POWERING_OFF, "stop_instance", SENT,
                         {"clean_shutdown": True}, request_id)

    def server_reboot(self, server: str, hard: bool = False,
                      request_id: str | None = None) -> Row:
        """Reboot a server: softly (the guest is asked), or hard (the domain is made anew)."""
        args = {"block_device_info": None, "reboot_type": "HARD" if hard else "SOFT"}
        if hard:
            return self._act(server, "reboot", HARD_REBOOT_FROM, HARD_REBOOT_OVER,
                             states.REBOOTING_HARD, "reboot_instance", SENT_ALL, args, request_id)
        return self._act(server, "reboot", (states.ACTIVE,), (None,), states.REBOOTING,
                         "reboot_instance", SENT_ALL, args, request_id)

    def _act(
        self, server: str, verb: str, vm_states: Sequence[str], tasks: Sequence[str | None],
        task: str, method: str, attrs: Sequence[str], args: Row, request_id: str | None,
        change: Row | None = None,
    ) -> Row:
        """Set task_state if the server is in one of these states, and tell its host.

        A request id that was used for this verb on this server before has no second effect.

        :param change: further columns to save along, as long as the message can be sent.

        :raises Refused: ``busy`` (something else is going on), ``bad_state``, ``not_ready``.
        """
        context = context_for(request_id)
        row = self._find(server)
        uuid = row["uuid"]
        if request_id and self._asked(uuid, verb, request_id):
            return self.server_show(uuid)
        with self.store.begin() as connection:
            where = (instances.matches(C.vm_state, vm_states),
                     instances.matches(C.task_state, tasks),
                     C.host.is_not(None), C.launched_at.is_not(None))
            kept = ("system_metadata", "metadata")
            full = (instances.get(connection, uuid, extra=kept) if change else None) or {}
            before = {"task_state": row["task_state"],
                      **{name: full.get(name) for name in change or ()}}
            values = {"task_state": task, "progress": 0, **(change or {})}
            if instances.save(connection, uuid, values, *where) is None:
                raise refusal(instances.get(connection, uuid), row, verb, vm_states, tasks)
            records.start_action(connection, verb, uuid, context.request_id or "",
                                 context.user_id, context.project_id)
            instance = load(Call(connection, context), C.uuid == uuid, attrs=attrs)[0]
        self._tell(context, instance, before, method, **args)
        return self.server_show(uuid)

    def _asked(self, uuid: str, verb: str, request_id: str) -> bool:
        """Whether this very request was accepted before."""
        with self.store.begin() as connection:
            action = records.find_action(connection, uuid, request_id)
        return action is not None and action["action"] == verb

    def _tell(self, context: Context, instance: Row, before: Row, method: str,
              **args: Any) -> None:
        """Send a verb to a server's host; when it cannot be sent, take what was saved back."""
        data = primitives.data(instance)
        try:
            self.computes.cast(context, data["host"], method, instance=instance, **args)
        except MagnetarError:
            with self.store.begin() as connection:
                instances.save(connection, data["uuid"], before, C.task_state == data["task_state"])
                records.forget_action(connection, data["uuid"], context.request_id)
            raise

    # -- the rest ------------------------------------------------------------------------------

    def server_explain(self, server: str) -> Row:
        """What goes on with a server, as the agent of its host explains it.

        :raises Refused: ``not_ready`` when it has no host yet.
        """
        row = self._find(server)
        if not row["host"]:
            raise not_ready(row, "explain")
        return self.computes.call_own(context_for(), row["host"], "explain", guest=row["uuid"])

    def console_log(self, server: str, lines: int | None = None) -> str:
        """The last lines of a server's serial console, all that is kept without ``lines``.

        :raises Refused: ``not_ready`` when it has no host yet.
        """
        if lines is not None:
            common.checked_number("The number of lines", lines, 0)
        row = self._find(server)
        if not row["host"]:
            raise not_ready(row, "read the console of")
        context = context_for()
        with self.store.begin() as connection:
            instance = load(Call(connection, context), C.uuid == row["uuid"],
                            attrs=SENT_SHOWN)[0]
        return self.computes.call(context, row["host"], "get_console_output",
                                  instance=instance, tail_length=lines)


def checked_user_data(text: str | None) -> str | None:
    """User data as base64, encoded if it was plain text. Raises Refused when it is too long."""
    if not text:
        return None
    try:
        base64.b64decode(text, validate=True)
        encoded = text
    except (binascii.Error, ValueError):
        encoded = base64.b64encode(text.encode()).decode()
    if len(encoded) > USER_DATA_LIMIT:
        raise Refused(
            f"The user data has {len(encoded)} characters in base64; {USER_DATA_LIMIT} may be.",
            now="No server was created.", next="Let a short script fetch the rest.",
            code="bad_user_data",
        )
    return encoded


def check_fit(image: Image, flavor: Row, now: str = "No server was created.") -> None:
    """Whether a flavor is large enough for what the image says of itself.

    :raises Refused: code ``flavor_too_small``.
    """
    root = flavor["root_gb"]
    reason = ""
    if image.min_ram > flavor["memory_mb"]:
        reason = (f"the image needs {image.min_ram} MiB of memory, "
                  f"the flavor has {flavor['memory_mb']}")
    elif root and image.min_disk > root:
        reason = f"the image needs a disk of {image.min_disk} GiB, the flavor has {root}"
    elif root and image.size > root * GIB:
        reason = f"the image has {image.size} bytes, the flavor's disk {root} GiB"
    if reason:
        raise Refused(
            f"Flavor {flavor['name']} is too small for image {image.name or image.id}: {reason}.",
            now=now, next="Choose a larger flavor.", code="flavor_too_small",
        )


