"""From a wish to a message at a host: schedule, write down, send; send again; try elsewhere.

The row in ``instances`` keeps all that the message needs until the server is active, so that a
message lost with a process or a broker is sent again. Agents take a build up once: the first save
of a build compares ``task_state`` with ``scheduling``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import oslo_messaging
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context, admin_context
from control import addresses, boot_devices, building
from control.building import Wish
from control.messages import Computes
from control.objects import Call
from control.objects.instances import destroy_rows, load
from control.objects.records import device_list
from control.scheduler import Request, Scheduler, selection
from db.control import catalog, instances, networks, records, services
from db.control.store import Store
from db.control.tables import instances as table
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
C = table.c
WAITING = (C.vm_state == states.BUILDING, C.task_state == states.SCHEDULING, C.host.is_(None))


class Builds:
    """Everything about servers that no host has yet."""

    def __init__(self, conf: Any, store: Store, computes: Computes):
        self.conf, self.store, self.computes = conf, store, computes
        self.scheduler = Scheduler(conf)
        self.turn = threading.Lock()  # room is looked for and claimed by one at a time

    # -- a new server ------------------------------------------------------------------------

    def create(self, context: Context, wish: Wish) -> str:
        """Create a server and send it to its host. Returns its uuid, for a repeated request that
        of the one server.

        :raises Refused: no valid host, a port that another server has, or the request's server is
            deleted already.
        :raises Retryable: it could not be sent; nothing was created.
        """
        try:
            with self.turn, self.store.begin() as connection:
                old = self._earlier(connection, context, wish.name)
                uuid = old or self._insert(connection, context, wish)
        except IntegrityError:  # the same request at the same time, on another server
            with self.store.begin() as connection:
                old = uuid = self._earlier(connection, context, wish.name) or ""
        if not old:
            try:
                self.send(context, uuid)
            except MagnetarError:
                with self.store.begin() as connection:  # and the request may be repeated
                    instances.save(connection, uuid, {"request_id": None})
                    destroy_rows(Call(connection, context), uuid)
                raise
        return uuid

    @staticmethod
    def _earlier(connection: Connection, context: Context, name: str) -> str | None:
        found = instances.query(
            connection, C.request_id == context.request_id, C.display_name == name
        )
        if found and found[0]["deleted"]:
            raise Refused(
                f"Request {context.request_id} made server {found[0]['uuid']}, which has been "
                "deleted since.",
                now="No server was created.",
                next="Use a new request id for a new server.",
                code="request_used",
            )
        return found[0]["uuid"] if found else None

    def _insert(self, connection: Connection, context: Context, wish: Wish) -> str:
        members = instances.group_nodes(connection, wish.group["uuid"]) if wish.group else []
        wanted = building.request(wish, [node for _, node in members], self.conf)
        choice = self.scheduler.choose(connection, wanted)
        values = building.instance_values(wish, context, choice, self.conf)
        row = instances.create(connection, values)
        boot_devices.create(connection, row["uuid"], wish.boot.devices if wish.boot else ())
        for position, network in enumerate(wish.networks):
            if network["port_id"]:  # nobody else gets it until this server's host takes it up
                addresses.take(connection, row["uuid"], position, network, None)
        records.start_action(connection, "create", row["uuid"], context.request_id or "",
                             context.user_id, context.project_id)
        return row["uuid"]

    # -- sending -----------------------------------------------------------------------------

    def send(self, context: Context, uuid: str) -> None:
        """Send a waiting build to the host that it is scheduled to.

        :raises Retryable: it could not be sent.
        """
        with self.store.begin() as connection:
            call = Call(connection, context)
            rows = instances.query(connection, C.uuid == uuid, *WAITING,
                                   extra=("build_args", "allocation_node"))
            if not rows or not rows[0]["build_args"]:
                return
            instance = load(call, C.uuid == uuid, attrs=building.BUILD_ATTRS)[0]
            devices = device_list(call, [uuid])
            host = self._host_of(connection, rows[0]["allocation_node"])
            instances.save(connection, uuid, {"scheduled_at": utcnow()})
        if host is None:
            return
        self.computes.cast(
            context, host, "build_and_run_instance", instance=instance,
            admin_password=building.admin_password(), block_device_mapping=devices,
            **rows[0]["build_args"],
        )

    @staticmethod
    def _host_of(connection: Connection, node_uuid: str | None) -> str | None:
        nodes = services.nodes(connection, uuids=[node_uuid]) if node_uuid else []
        return nodes[0]["host"] if nodes else None

    def resume(self, older_than: float) -> list[str]:
        """Send builds again that no host has taken up for ``older_than`` seconds, each under its
        own request id: to its own host, or if that gave it up, to the next one. Returns uuids."""
        with self.store.begin() as connection:
            due = utcnow() - timedelta(seconds=older_than)
            rows = instances.query(connection, *WAITING, C.deleted.is_(False),
                                   C.scheduled_at <= due,
                                   extra=("request_id", "allocation_node", "build_args"))
        rows = [row for row in rows if row["build_args"]]
        for row in rows:
            LOG.info("Sending the build of server %s again.", row["uuid"])
            context = admin_context(
                row["request_id"], user_id=row["user_id"], project_id=row["project_id"]
            )
            try:
                if row["allocation_node"] is None:
                    self.reschedule(context, row["uuid"], row["build_args"])
                else:
                    self.send(context, row["uuid"])
            except MagnetarError as error:
                LOG.warning("Server %s: %s", row["uuid"], error)
        return [row["uuid"] for row in rows]

    # -- trying elsewhere --------------------------------------------------------------------

    def reschedule(self, context: Context, uuid: str, args: Row) -> None:
        """A host handed a build back: choose the next alternate, or any host that was not tried;
        when there is none, the server goes to ERROR and says why.

        :param args: what the build is sent with; ``retry`` names the hosts that were tried.
        """
        try:
            with self.turn, self.store.begin() as connection:
                moved = self._move(connection, uuid, args)
        except MagnetarError as error:
            said = " ".join(retry_of(args).get("exc_reason") or ())
            self.give_up(uuid, f"{error} The last host said: {said}" if said else str(error))
            return
        if moved:
            self.send(context, uuid)

    def _move(self, connection: Connection, uuid: str, args: Row) -> bool:
        """Claim the next host for a build; False when it waits for none, or was moved before."""
        rows = instances.query(connection, C.uuid == uuid, *WAITING, C.deleted.is_(False),
                               extra=("flavor", "server_group", "build_args"))
        retry = retry_of(args)
        attempts, tried = int(retry.get("num_attempts", 1)), retry.get("hosts") or []
        moved_to = retry_of(rows[0]["build_args"]).get("num_attempts", 1) if rows else 0
        if moved_to != attempts:
            LOG.info("Server %s does not wait for host number %s; it is not rescheduled.", uuid,
                     attempts + 1)
            return False
        if attempts >= self.conf.control.max_attempts:
            raise Refused(
                f"No valid host was found: {attempts} hosts were tried, which is as many as "
                f"max_attempts allows ({', '.join(sorted({pair[0] for pair in tried}))}).",
                code="no_valid_host",
            )
        wanted = self._request_again(connection, rows[0], args, tried)
        host, others = self._next(connection, wanted, args.get("host_list") or [])
        args["node"], args["host_list"] = host.node, others
        args["filter_properties"]["retry"] = {
            "num_attempts": attempts + 1, "hosts": [*tried, [host.host, host.node]],
        }
        instances.save(connection, uuid, {
            "allocation_node": host.uuid, "build_args": args, "availability_zone": host.zone,
        })
        return True

    def _request_again(self, connection: Connection, row: Row, args: Row, tried: list) -> Request:
        spec = primitives.data(args.get("request_spec"))
        groups = catalog.find_groups(connection, row["server_group"]) if row["server_group"] else []
        members = instances.group_nodes(connection, row["server_group"]) if groups else []
        group = groups[0] if groups else {}
        return Request(
            vcpus=row["vcpus"], memory_mb=row["memory_mb"],
            disk_gb=row["root_gb"] + row["ephemeral_gb"], zone=spec.get("availability_zone"),
            properties=(args.get("image") or {}).get("properties") or {},
            tried=frozenset(pair[0] for pair in tried), group_policy=group.get("policy"),
            group_nodes=tuple(node for uuid, node in members if uuid != row["uuid"]),
            group_limit=group.get("max_server_per_host") or 1,
            max_io_ops=self.conf.control.max_io_ops,
        )

    def _next(self, connection: Connection, wanted: Request, alternates: list[Row]) -> Any:
        """The next host, and the alternates that remain after it."""
        for index, alternate in enumerate(alternates):
            node = primitives.data(alternate)["compute_node_uuid"]
            host = self.scheduler.check(connection, wanted, node)
            if host is not None:
                return host, alternates[index + 1 :]
        choice = self.scheduler.choose(connection, wanted)
        return choice.host, [selection(host, wanted) for host in choice.alternates]

    def give_up(self, uuid: str, reason: str) -> None:
        """A waiting build becomes ERROR, with a fault that says why; its addresses are freed."""
        values = {"vm_state": states.ERROR, "task_state": None, "allocation_node": None,
                  "build_args": None}
        with self.store.begin() as connection:
            if instances.save(connection, uuid, values, *WAITING) is None:
                return
            networks.release_ports(connection, uuid)
            instances.create_fault(connection, {
                "instance_uuid": uuid, "code": 500, "message": reason[:255], "details": reason,
            })
        LOG.warning("Server %s could not be built anywhere: %s", uuid, reason)


def retry_of(args: Mapping[str, Any] | None) -> Row:
    """Which hosts a build was tried on, ``{num_attempts, hosts, exc_reason}``."""
    return ((args or {}).get("filter_properties") or {}).get("retry") or {}


class ComputeTask:
    """Namespace ``compute_task``: what a host hands back."""

    target = oslo_messaging.Target(namespace="compute_task", version="1.26")

    def __init__(self, builds: Builds):
        self.builds = builds

    def build_instances(
        self, context: Context, instances: list[Row], image: Row, filter_properties: Row,
        request_spec: Row | None = None, host_lists: list[Any] | None = None,
        block_device_mapping: Any = None, legacy_bdm: bool = False, admin_password: Any = None,
        **rest: Any,
    ) -> None:
        """Build these instances on hosts that were not tried yet."""
        for index, instance in enumerate(instances):
            host_list = host_lists[index] if host_lists and index < len(host_lists) else []
            self.builds.reschedule(context, primitives.data(instance)["uuid"], {
                "image": image, "request_spec": request_spec,
                "filter_properties": {"limits": {}, **(filter_properties or {})},
                "injected_files": rest.get("injected_files") or [],
                "requested_networks": rest.get("requested_networks"),
                "security_groups": rest.get("security_groups") or ["default"], "limits": {},
                "host_list": list(host_list or ()), "accel_uuids": rest.get("accel_uuids") or [],
            })
