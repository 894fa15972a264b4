"""Evacuation: a server of a host that is lost is started on another one."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import Refused
from compute.model import states
from compute.rpc import primitives
from control import building
from control.common import NOTHING
from control.moves import spec
from control.moves.base import EVACUATION, SENT, C, Mover, Plan
from control.scheduler.hosts import silence
from db.control import moves, networks, services

Row = dict[str, Any]
WAITING = ("accepted",)


class Evacuation(Mover):
    """A server is made anew on another host, from its disks where those are shared."""

    def check_source(self, connection: Connection, row: Row, plan: Plan) -> None:
        """A server may only be started elsewhere when it is certain that it does not run: its host
        is silent, and somebody has seen to it that it is off.

        :raises Refused: codes ``host_up``, ``not_fenced``.
        """
        host, name = row["host"], row["display_name"]
        service = services.get(connection, host)
        if service is None:
            return
        left = self.conf.control.service_down_time - silence(service)
        if left >= 0:
            raise Refused(
                f"Cannot evacuate server {name}: host {host} was heard of "
                f"{silence(service):.0f} seconds ago.", now=NOTHING, code="host_up",
                next=f"If it is off, try again in {left + 1:.0f} seconds; if it runs, use "
                     f"'magnetar host drain {host}'.")
        if service["fenced_at"] is None:
            raise Refused(
                f"Cannot evacuate server {name}: nobody has confirmed that host {host} is off. Its "
                "servers may still run there, and would then run twice on the same disks.",
                now=NOTHING, code="not_fenced",
                next="Power it off or cut it from network and storage, then use 'magnetar host "
                     f"evacuate {host} --fenced', or --fenced with this command.")

    def check_others(self, connection: Connection, row: Row) -> None:
        """Whatever went on with the lost host has ended with it.

        :raises Refused: code ``busy``: the server is being evacuated already.
        """
        for move in moves.opened(connection, C.uuid == row["uuid"]):
            if move["kind"] == EVACUATION and move["task_state"] is not None:
                raise Refused(
                    f"Cannot evacuate server {row['display_name']}: that goes on already, to host "
                    f"{move['dest_compute'] or 'that was chosen'}.", now=NOTHING, code="busy",
                    next=f"See 'magnetar server migration list --server {row['uuid']}'.")
            moves.advance(connection, move["migration_id"], "error", (move["status"],))

    def send(self, move: Row) -> None:
        """Send rebuild_instance to the host that the server is scheduled to.

        :raises Retryable: it could not be sent.
        """
        context = self.context(move)
        with self.store.begin() as connection:
            now = moves.get(connection, move["migration_id"])
            node = self.host_of(connection, move["dest_node"])
            if now is None or node is None or now["status"] not in WAITING \
                    or now["task_state"] != states.REBUILDING:
                return
            instance, migration = self.loaded(connection, context, now,
                                              (*SENT, "migration_context"))
            fields = primitives.data(instance)
            ports = networks.instance_ports(connection, [fields["uuid"]])
        image = spec.image_of(self.images, fields)
        flavor = primitives.data(fields["flavor"])
        limits = {"numa_topology": None, "vcpu": None, "disk_gb": None, "memory_mb": None}
        self.computes.cast(
            context, node["host"], "rebuild_instance", instance=instance, migration=migration,
            new_pass=building.admin_password(), injected_files=None, image_ref=None,
            orig_image_ref=None, orig_sys_metadata=None, bdms=None, recreate=True,
            on_shared_storage=None, preserve_ephemeral=False,
            scheduled_node=node["hypervisor_hostname"],
            limits=primitives.make("SchedulerLimits", limits),
            request_spec=spec.request_spec(fields, image, flavor, ports, context,
                                           now["server_group"]),
            accel_uuids=[], reimage_boot_volume=False, target_state=None)

