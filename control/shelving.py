"""Shelving servers: kept as an image, and started from it where there is room."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from compute.errors import MagnetarError, Refused, Retryable
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context, admin_context
from control import building
from control.building import BUILD_ATTRS
from control.builds import Builds
from control.common import NOTHING, context_for
from control.messages import Computes
from control.moves import spec
from control.moves.care import Moves
from control.objects import Call
from control.objects.instances import load
from control.refusals import refusal
from control.snapshots import SENT
from db.control import instances, networks, records, services
from db.control.store import Store
from db.control.tables import instances as table
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
C = table.c
WAITING = (C.vm_state == states.SHELVED_OFFLOADED, C.task_state == states.UNSHELVING,
           C.host.is_(None), C.deleted.is_(False))


class Shelving:
    """Mixin of :class:`control.api.ControlPlane`."""

    store: Store
    builds: Builds
    moves: Moves
    computes: Computes
    images: Any
    # given by Servers and Snapshots
    _act: Callable[..., Row]
    _asked: Callable[[str, str, str], bool]
    _find: Callable[[str], Row]
    _imaged: Callable[..., Row]
    server_show: Callable[[str], Row]

    def server_shelve(self, server: str, request_id: str | None = None) -> Row:
        """Stop a server and keep it as an image. Whether it stays on its host is the host's
        shelved_offload_time."""
        row = self._find(server)
        self._imaged(row["uuid"], f"{row['display_name'][:247]}-shelved", "shelve", states.SHELVING,
                     "shelve_instance", {"image_type": "snapshot"},
                     {"clean_shutdown": True, "accel_uuids": []}, request_id)
        return self.server_show(row["uuid"])

    def server_shelve_offload(self, server: str, request_id: str | None = None) -> Row:
        """Give a shelved server's disks and room on its host back; its image alone is kept."""
        return self._act(server, "shelveOffload", (states.SHELVED,), (None,),
                         states.SHELVING_OFFLOADING, "shelve_offload_instance", SENT,
                         {"clean_shutdown": True, "accel_uuids": []}, request_id)

    def server_unshelve(self, server: str, host: str | None = None,
                        request_id: str | None = None) -> Row:
        """Start a shelved server: where it is, or if it was offloaded, where there is room.

        :param host: start it there, if it was offloaded.
        """
        context = context_for(request_id)
        row = self._find(server)
        uuid = row["uuid"]
        if request_id and self._asked(uuid, "unshelve", request_id):
            return self.server_show(uuid)
        if row["vm_state"] == states.SHELVED_OFFLOADED:
            self._schedule(context, uuid, host)
            return self.server_show(uuid)
        if host is not None and row["vm_state"] == states.SHELVED:
            raise Refused(f"Server {row['display_name']} is still on host {row['host']}.",
                          now=NOTHING, next="Leave the host out; or offload it first.",
                          code="bad_state")
        return self._act(uuid, "unshelve", (states.SHELVED, states.SHELVED_OFFLOADED), (None,),
                         states.POWERING_ON, "start_instance", SENT, {}, request_id)

    def _schedule(self, context: Context, uuid: str, host: str | None) -> None:
        """Choose a host for an offloaded server, write that down, and send it there."""
        with self.builds.turn, self.store.begin() as connection:
            instances.hold(connection, uuid)
            row = self.moves.cold.row(connection, uuid)
            wanted = self.moves.cold.request(connection, row, None, {}, forced=host is not None)
            scheduler = self.builds.scheduler
            choice = scheduler.named(connection, wanted, host) if host \
                else scheduler.choose(connection, wanted)
            values = {"task_state": states.UNSHELVING, "allocation_node": choice.host.uuid,
                      "scheduled_at": utcnow()}
            where = (C.vm_state == states.SHELVED_OFFLOADED, C.task_state.is_(None))
            if instances.save(connection, uuid, values, *where) is None:
                raise refusal(instances.get(connection, uuid), row, "unshelve",
                              (states.SHELVED, states.SHELVED_OFFLOADED), (None,))
            records.start_action(connection, "unshelve", uuid, context.request_id or "",
                                 context.user_id, context.project_id)
        try:
            self._send_unshelve(context, uuid)
        except MagnetarError:
            with self.store.begin() as connection:
                instances.save(connection, uuid, {"task_state": None, "allocation_node": None},
                               *WAITING)
                records.forget_action(connection, uuid, context.request_id)
            raise

    def _send_unshelve(self, context: Context, uuid: str) -> None:
        """Send a waiting server to the host that was chosen. Raises Retryable."""
        with self.store.begin() as connection:
            rows = instances.query(connection, C.uuid == uuid, *WAITING, extra=(
                "allocation_node", "system_metadata", "flavor", "server_group"))
            if not rows:
                return
            [row] = rows
            nodes = services.nodes(connection, uuids=[row["allocation_node"]])
            instance = load(Call(connection, context), C.uuid == uuid, attrs=BUILD_ATTRS)[0]
            ports = networks.instance_ports(connection, [uuid])
            instances.save(connection, uuid, {"scheduled_at": utcnow()})
        if not nodes:
            raise Retryable("The chosen host is not known any more.", now="Nothing was begun.",
                            next="Try again.", code="changed")
        image = self.images.show((row["system_metadata"] or {}).get("shelved_image_id") or "")
        flavor = primitives.data(row["flavor"])
        self.computes.cast(
            context, nodes[0]["host"], "unshelve_instance", instance=instance,
            image=building.image_dict(image), filter_properties={"limits": {}},
            node=nodes[0]["hypervisor_hostname"], accel_uuids=[],
            request_spec=spec.request_spec(row, image, flavor, ports, context,
                                           row["server_group"]))

    def resume_unshelving(self, older_than: float) -> None:
        """Send again what no host has taken up for so many seconds, under its own request id."""
        due = utcnow() - timedelta(seconds=older_than)
        with self.store.begin() as connection:
            rows = instances.query(connection, *WAITING, C.scheduled_at <= due)
            asked = {row["uuid"]: records.actions(connection, row["uuid"]) for row in rows}
        for row in rows:
            ids = [action["request_id"] for action in asked[row["uuid"]]
                   if action["action"] == "unshelve"]
            LOG.info("Sending the unshelving of server %s again.", row["uuid"])
            context = admin_context(ids[-1] if ids else None, user_id=row["user_id"],
                                    project_id=row["project_id"])
            try:
                self._send_unshelve(context, row["uuid"])
            except MagnetarError as error:
                LOG.warning("Server %s: %s", row["uuid"], error)

    def forget_shelved_image(self, uuid: str) -> None:
        """The image of a server that is deleted goes with it."""
        with self.store.begin() as connection:
            row = instances.get(connection, uuid, deleted=True, extra=("system_metadata",)) or {}
        image = (row.get("system_metadata") or {}).get("shelved_image_id")
        if image:
            self.images.remove({}, image)
