"""What all kinds of moves share: admission with a claim on the new host, and giving up."""

from __future__ import annotations

import logging
import uuid as uuidlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import MagnetarError, Refused, Retryable
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context, admin_context
from control import common, wire
from control.builds import Builds
from control.common import NOTHING
from control.messages import Computes
from control.objects import Call
from control.objects.instances import load
from control.refusals import refusal
from control.scheduler import Choice, Request
from control.scheduler.hosts import is_up, silence
from db.control import catalog, instances, moves, records, services, tables
from db.control.store import Store
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
C, M, V = tables.instances.c, tables.migrations.c, tables.moves.c

RESIZE, COLD, LIVE, EVACUATION = "resize", "migration", "live-migration", "evacuation"
TASKS = {RESIZE: states.RESIZE_PREP, COLD: states.RESIZE_PREP, LIVE: states.MIGRATING,
         EVACUATION: states.REBUILDING}
FIRST = {RESIZE: "pre-migrating", COLD: "pre-migrating", LIVE: "accepted",
         EVACUATION: "accepted"}
SENT = ("metadata", "system_metadata", "info_cache", "security_groups", "flavor", "old_flavor",
        "new_flavor", "numa_topology", "pci_requests", "pci_devices", "resources",
        "trusted_certs")


@dataclass(frozen=True)
class Plan:
    """What was asked for. ``flavor`` are the fields of the new one, None when it stays; ``host``
    is the one asked for, None to have one chosen; ``tasks`` None for whatever goes on;
    ``excluded`` are hosts that cannot be, with the reason; ``drain`` the drain it is part of."""

    verb: str
    action: str
    kind: str
    vm_states: tuple[str, ...]
    tasks: tuple[str | None, ...] | None = (None,)
    flavor: Mapping[str, Any] | None = None
    host: str | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    drain: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


class Mover:
    """Base of the kinds of moves."""

    def __init__(self, conf: Any, store: Store, computes: Computes, builds: Builds, images: Any):
        self.conf, self.store, self.computes, self.images = conf, store, computes, images
        self.builds, self.scheduler = builds, builds.scheduler

    # -- admission ---------------------------------------------------------------------------

    def open(self, context: Context, uuid: str, plan: Plan) -> Row:
        """Claim a host and write the move down; returns it (see db.control.moves.query).

        :raises Refused: busy, in the wrong state, host down, no valid host. Nothing was done.
        """
        with self.builds.turn, self.store.begin() as connection:
            instances.hold(connection, uuid)
            row = self.row(connection, uuid)
            self._check_state(row, plan)
            self.check_source(connection, row, plan)
            self.check_others(connection, row)
            wanted = self.request(
                connection, row, plan.flavor, plan.excluded, forced=plan.host is not None,
                leaving=plan.drain is not None or plan.kind == EVACUATION)
            choice = self.scheduler.named(connection, wanted, plan.host) if plan.host \
                else self.scheduler.choose(connection, wanted)
            where = [instances.matches(C.vm_state, plan.vm_states)]
            if plan.tasks is not None:
                where.append(instances.matches(C.task_state, plan.tasks))
            values = {"task_state": TASKS[plan.kind], "progress": 0}
            if instances.save(connection, uuid, values, *where) is None:
                self._check_state(self.row(connection, uuid), plan)
                raise Retryable(f"Server {row['display_name']} changed at the same moment.",
                                now=NOTHING, next="Try again.", code="changed")
            records.start_action(connection, plan.action, uuid, context.request_id or "",
                                 context.user_id, context.project_id)
            args = {**plan.args, "forced": plan.host is not None, "drain": plan.drain,
                    "excluded": dict(plan.excluded)}
            return self.write(connection, context, row, plan.kind, plan.flavor, choice, wanted,
                              args)

    @staticmethod
    def row(connection: Connection, uuid: str) -> Row:
        extra = ("flavor", "server_group", "system_metadata", "allocation_node")
        row = instances.get(connection, uuid, extra=extra)
        if row is None:
            raise common.not_found("server", uuid)
        return row

    @staticmethod
    def _check_state(row: Row, plan: Plan) -> None:
        tasks = (row["task_state"],) if plan.tasks is None else plan.tasks
        if row["host"] is None or row["vm_state"] not in plan.vm_states \
                or row["task_state"] not in tasks:
            raise refusal(row, row, plan.verb, plan.vm_states, tasks)

    def check_source(self, connection: Connection, row: Row, plan: Plan) -> None:
        """Whether the server's host can do its part. Raises Refused(code='host_down')."""
        if row["host"]:
            self.check_up(connection, row["host"], f"{plan.verb} server {row['display_name']}")

    def check_others(self, connection: Connection, row: Row) -> None:
        """What a move means for others of the server that have not ended: there can be none, as
        its task_state says."""

    def check_up(self, connection: Connection, host: str, doing: str) -> None:
        """Refuse what a host has to do that is down."""
        service = services.get(connection, host)
        if service is None or not is_up(service, self.conf):
            heard = f"; it was last heard of {silence(service):.0f} seconds ago" if service else ""
            raise Refused(
                f"Cannot {doing}: host {host} is down{heard}.", now=NOTHING, code="host_down",
                next="Start its agent and try again. If the host is lost, see to it that it is off "
                     f"and use 'magnetar host evacuate {host} --fenced'.")

    def request(
        self, connection: Connection, row: Row, flavor: Mapping[str, Any] | None,
        excluded: Mapping[str, str], *, forced: bool = False, leaving: bool = False,
    ) -> Request:
        """What the scheduler has to find room for. The server stays in its zone unless a host was
        asked for by name (``forced``). When all servers of its host are ``leaving``, those of its
        affinity group that are still there do not keep it: they will follow."""
        old = primitives.data(row["flavor"])
        size = amounts(flavor or old)
        groups = catalog.find_groups(connection, row["server_group"]) if row["server_group"] else []
        group = groups[0] if groups else {}
        members = instances.group_nodes(connection, row["server_group"]) if groups else []
        leaving = leaving and group.get("policy") == "affinity"
        return Request(
            **size, zone=None if forced else row["availability_zone"],
            properties=image_properties(row["system_metadata"]),
            excluded=excluded, group_policy=group.get("policy"),
            group_nodes=tuple(node for uuid, node in members if uuid != row["uuid"]
                              and not (leaving and node == row["allocation_node"])),
            group_limit=group.get("max_server_per_host") or 1,
            max_io_ops=self.conf.control.max_io_ops,
            here=(row["allocation_node"] or "", old["vcpus"], old["memory_mb"]),
        )

    def write(
        self, connection: Connection, context: Context, row: Row, kind: str,
        flavor: Mapping[str, Any] | None, choice: Choice, wanted: Request, args: Row,
    ) -> Row:
        """The migration record and its move. Returns the move."""
        old = primitives.data(row["flavor"])
        values = {
            "instance_uuid": row["uuid"], "source_compute": row["host"],
            "source_node": row["node"], "status": FIRST[kind], "migration_type": kind,
            "user_id": context.user_id, "project_id": context.project_id,
        }
        if kind != EVACUATION:
            values.update(old_instance_type_id=old["id"],
                          new_instance_type_id=(flavor or old)["id"])
        migration = records.create_migration(connection, values)
        host = choice.host
        args = {**args, **self.message(row, flavor, choice, wanted, args), "zones": {
            row["allocation_node"] or "": row["availability_zone"], host.uuid: host.zone}}
        sizes = {f"old_{name}": n for name, n in amounts(old).items()}
        sizes.update({f"new_{name}": n for name, n in amounts(flavor or old).items()})
        moves.create(connection, {
            "migration_id": migration["id"], "instance_uuid": row["uuid"],
            "request_id": context.request_id, "source_node": row["allocation_node"],
            "dest_node": host.uuid, "args": args, "drain_id": args.get("drain"),
            "sent_at": utcnow(), "token": str(uuidlib.uuid4()), **sizes,
        })
        return moves.get(connection, migration["id"]) or {}

    def message(self, row: Row, flavor: Mapping[str, Any] | None, choice: Choice,
                wanted: Request, args: Row) -> Row:
        """What has to be kept for the message to the host."""
        return {}

    # -- going on and giving up ----------------------------------------------------------------

    def taken(self, move: Row, older_than: float) -> bool:
        """Take a move that nobody worked on for ``older_than`` seconds; False when another
        process was faster."""
        due = utcnow() - timedelta(seconds=older_than)
        with self.store.begin() as connection:
            return moves.save(connection, move["id"], {"sent_at": utcnow()},
                              V.sent_at <= due, V.token == move["token"]) is not None

    def context(self, move: Row) -> Context:
        """The context of the request that the move comes from."""
        return admin_context(move["request_id"], user_id=common.PROJECT, project_id=common.PROJECT,
                             user_name=common.PROJECT, project_name=common.PROJECT)

    def loaded(self, connection: Connection, context: Context, move: Row,
               attrs: tuple[str, ...] = SENT) -> tuple[Row, Row]:
        """The Instance and the Migration of a move, as they are now."""
        instance = load(Call(connection, context), C.uuid == move["instance_uuid"], attrs=attrs)[0]
        rows = records.query_migrations(connection, M.id == move["migration_id"])
        return instance, wire.from_row("Migration", rows[0])

    def fail(self, move: Row, error: MagnetarError | None, expected: tuple[str, ...],
             status: str = "error") -> bool:
        """End a move that no host works on: the server is as before, and with ``error`` a fault
        says why. False when its migration is not in one of the ``expected`` statuses any more."""
        with self.store.begin() as connection:
            if not moves.advance(connection, move["migration_id"], status, expected):
                return False
            instances.save(connection, move["instance_uuid"], {"task_state": None},
                           C.task_state == TASKS[move["kind"]])
            if error is not None:
                moves.save(connection, move["id"], {"message": str(error)})
                instances.create_fault(connection, {
                    "instance_uuid": move["instance_uuid"], "code": 500,
                    "message": error.what[:255], "details": str(error),
                })
        if error is not None:
            LOG.warning("The %s of server %s is given up: %s", move["kind"],
                        move["instance_uuid"], error)
        return True

    def withdraw(self, move: Row) -> None:
        """Take a move back that could not be sent; the same request may be made again."""
        self.fail(move, None, (move["status"],))
        with self.store.begin() as connection:
            moves.save(connection, move["id"], {"drain_id": None})  # it does not count as a try
            records.forget_action(connection, move["instance_uuid"], move["request_id"])

    def host_of(self, connection: Connection, node_uuid: str | None) -> Row | None:
        """The compute node's row, with whether its host is ``up``."""
        nodes = services.nodes(connection, uuids=[node_uuid]) if node_uuid else []
        if not nodes:
            return None
        service = services.get(connection, nodes[0]["host"])
        return {**nodes[0], "up": service is not None and is_up(service, self.conf)}


def amounts(flavor: Mapping[str, Any]) -> dict[str, int]:
    """What a flavor claims: vCPUs, MiB of memory, GiB of disk."""
    return {"vcpus": flavor["vcpus"], "memory_mb": flavor["memory_mb"],
            "disk_gb": flavor["root_gb"] + flavor["ephemeral_gb"]}


def image_properties(system_metadata: Mapping[str, str] | None) -> dict[str, str]:
    """What an instance remembers of its image's properties."""
    return {name.removeprefix("image_"): value for name, value in (system_metadata or {}).items()
            if name.startswith("image_")}
