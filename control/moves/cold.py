"""Resize and cold migration: to the new host, elsewhere when it fails there, confirm, revert."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control import building, wire
from control.builds import retry_of
from control.moves import spec
from control.moves.base import COLD, RESIZE, C, M, Mover, V
from control.refusals import refusal
from control.scheduler import Choice, Request, selection
from db.control import instances, moves, networks, records, services
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
SENT_PREP = ("metadata", "system_metadata", "info_cache", "security_groups", "numa_topology",
             "pci_requests", "pci_devices", "flavor", "old_flavor", "new_flavor", "vcpu_model",
             "trusted_certs", "resources")
SENT_LATER = ("metadata", "system_metadata", "info_cache", "security_groups", "numa_topology",
              "flavor", "old_flavor", "new_flavor")
WAITING = ("pre-migrating",)


class Cold(Mover):
    """A server goes to another host, or gets another size, while it does not run."""

    def message(self, row: Row, flavor: Mapping[str, Any] | None, choice: Choice,
                wanted: Request, args: Row) -> Row:
        """All of prep_resize but the instance and the migration."""
        tried = [*args.get("tried", ()), [choice.host.host, choice.host.node]]
        filters: Row = {"limits": {}}
        if not args.get("forced"):  # a host that was asked for by name is the only one tried
            filters["retry"] = {"num_attempts": len(tried), "hosts": tried}
        others = args["others"] if "others" in args else [
            selection(host, wanted) for host in choice.alternates]
        return {"node": choice.host.node, "host_list": others, "filter_properties": filters,
                "flavor": flavor}

    def send(self, move: Row) -> None:
        """Send prep_resize to the host that the move is scheduled to.

        :raises Retryable: it could not be sent.
        """
        context = self.context(move)
        with self.store.begin() as connection:
            now = moves.get(connection, move["migration_id"])
            node = self.host_of(connection, move["dest_node"])
            if now is None or node is None or now["status"] not in WAITING \
                    or now["task_state"] != states.RESIZE_PREP:
                return
            instance, migration = self.loaded(connection, context, now, SENT_PREP)
            fields = primitives.data(instance)
            service = services.get(connection, fields["host"])
            rows = [wire.from_row("Service", service)] if service else []
            fields["services"] = wire.make_list("ServiceList", rows)
            args = self._arguments(connection, context, now, fields)
        self.computes.cast(context, node["host"], "prep_resize", instance=instance,
                           migration=migration, **args)

    def _arguments(self, connection: Connection, context: Context, move: Row, fields: Row) -> Row:
        kept = move["args"]
        flavor = kept["flavor"] or primitives.data(fields["flavor"])
        image = spec.image_of(self.images, fields)
        ports = networks.instance_ports(connection, [fields["uuid"]])
        return {
            "image": building.image_dict(image), "flavor": wire.flavor(flavor),
            "request_spec": spec.request_spec(fields, image, flavor, ports, context,
                                              move["server_group"]),
            "filter_properties": kept["filter_properties"], "node": kept["node"],
            "clean_shutdown": True, "host_list": kept["host_list"],
        }

    # -- elsewhere -----------------------------------------------------------------------------

    def reschedule(self, context: Context, uuid: str, filters: Row, host_list: list[Row]) -> None:
        """A host handed a move back before anything was moved: try the next alternate, or any host
        that was not tried; when there is none, the server stays as it is, and a fault says why."""
        with self.store.begin() as connection:
            found = moves.query(connection, V.instance_uuid == uuid)
        old = next((m for m in reversed(found) if m["kind"] in (RESIZE, COLD)), None)
        retry = retry_of({"filter_properties": filters})
        if old is None or old["task_state"] != states.RESIZE_PREP \
                or len(old["args"].get("tried", ())) + 1 != retry.get("num_attempts", 1):
            LOG.info("Server %s does not wait for another host; it is not rescheduled.", uuid)
            return
        try:
            move = self._next(context, old, retry, host_list)
        except MagnetarError as error:
            said = " ".join(retry.get("exc_reason") or ())
            text = f"{error.what} The last host said: {said}" if said else error.what
            why = Refused(text, now="The server is as before.", next=error.next, code=error.code)
            if not self.fail(old, why, (*WAITING, "error", "failed")):
                LOG.info("The %s of server %s has ended already.", old["kind"], uuid)
            return
        self.send(move)

    def _next(self, context: Context, old: Row, retry: Row, host_list: list[Row]) -> Row:
        tried = [list(pair) for pair in retry.get("hosts") or ()]
        if old["args"]["forced"]:
            raise Refused("The host that was asked for could not take it.", code="no_valid_host",
                          next="Try another host, or none to have one chosen.")
        if len(tried) >= self.conf.control.max_attempts:
            names = ", ".join(sorted({pair[0] for pair in tried}))
            raise Refused(f"No valid host was found: {len(tried)} hosts were tried, which is as "
                          f"many as max_attempts allows ({names}).", code="no_valid_host")
        why = {pair[0]: "the move failed there before" for pair in tried}
        flavor = old["args"]["flavor"]
        with self.builds.turn, self.store.begin() as connection:
            moves.advance(connection, old["migration_id"], "error", WAITING)
            row = self.row(connection, old["instance_uuid"])
            args = {**old["args"], "tried": tried}
            excluded = {**old["args"].get("excluded", {}), **why}
            wanted = self.request(connection, row, flavor, excluded,
                                  leaving=old["drain_id"] is not None)
            choice, args["others"] = self._choose(connection, wanted, host_list)
            return self.write(connection, context, row, old["kind"], flavor, choice, wanted, args)

    def _choose(self, connection: Connection, wanted: Request, host_list: list[Row]) -> Any:
        for index, alternate in enumerate(host_list):
            node = primitives.data(alternate)["compute_node_uuid"]
            host = self.scheduler.check(connection, wanted, node)
            if host is not None:
                return Choice(host), host_list[index + 1:]
        choice = self.scheduler.choose(connection, wanted)
        return choice, [selection(host, wanted) for host in choice.alternates]

    # -- the end -------------------------------------------------------------------------------

    def confirm(self, context: Context, uuid: str) -> None:
        """Keep the server as it is now; its former host forgets it.

        :raises Refused: not resized, busy, or the former host is down.
        """
        self._end(context, uuid, "confirm the resize of", "confirmResize", "confirming")

    def revert(self, context: Context, uuid: str) -> None:
        """Bring the server back to its former host and size.

        :raises Refused: not resized, busy, or one of its hosts is down.
        """
        self._end(context, uuid, "revert the resize of", "revertResize", "reverting")

    def _end(self, context: Context, uuid: str, verb: str, action: str, status: str) -> None:
        with self.store.begin() as connection:
            row = self.row(connection, uuid)
            if row["vm_state"] != states.RESIZED or row["task_state"] is not None:
                raise refusal(row, row, verb, (states.RESIZED,), (None,))
            found = moves.opened(connection, C.uuid == uuid, M.status == "finished")
            if not found:
                raise Refused(
                    f"Cannot {verb} server {row['display_name']}: that was asked for already.",
                    now="It goes on.", code="busy",
                    next=f"See 'magnetar server migration list --server {uuid}'.")
            move = found[-1]
            hosts = [move["source_compute"]]
            hosts += [move["dest_compute"]] if status == "reverting" else []
            for host in hosts:
                self.check_up(connection, host, f"{verb} server {row['display_name']}")
            if not self._mark(connection, context, move, action, status):
                raise refusal({**row, "task_state": status}, row, verb, (), (None,))
            move = moves.get(connection, move["migration_id"]) or {}
        try:
            self.send_end(move)
        except MagnetarError:
            self._unmark(move, status)
            raise

    @staticmethod
    def _mark(connection: Connection, context: Context, move: Row, action: str,
              status: str) -> bool:
        if not moves.advance(connection, move["migration_id"], status, ("finished",)):
            return False
        if status == "reverting":
            instances.save(connection, move["instance_uuid"],
                           {"task_state": states.RESIZE_REVERTING})
        moves.save(connection, move["id"], {
            "request_id": context.request_id, "sent_at": utcnow()})
        records.start_action(connection, action, move["instance_uuid"], context.request_id or "",
                             context.user_id, context.project_id)
        return True

    def _unmark(self, move: Row, status: str) -> None:
        """It could not be sent: the server waits for a word again."""
        with self.store.begin() as connection:
            if moves.advance(connection, move["migration_id"], "finished", (status,)):
                instances.save(connection, move["instance_uuid"], {"task_state": None},
                               C.task_state == states.RESIZE_REVERTING)
            records.forget_action(connection, move["instance_uuid"], move["request_id"])

    def send_end(self, move: Row) -> None:
        """Send confirm_resize to the former host, or revert_resize to the present one; nothing
        when the move is in neither state. Raises Retryable: it could not be sent."""
        with self.store.begin() as connection:
            now = moves.get(connection, move["migration_id"])
            message = self._end_message(connection, now) if now else None
        if message is not None:
            host, method, args = message
            self.computes.cast(self.context(move), host, method, **args)

    def _end_message(self, connection: Connection, move: Row) -> tuple[str, str, Row] | None:
        if move["status"] not in ("confirming", "reverting"):
            return None
        context = self.context(move)
        instance, migration = self.loaded(connection, context, move, SENT_LATER)
        both = {"instance": instance, "migration": migration}
        if move["status"] == "confirming":
            return move["source_compute"], "confirm_resize", both
        fields = primitives.data(instance)
        ports = networks.instance_ports(connection, [fields["uuid"]])
        flavor = primitives.data(fields["old_flavor"] or fields["flavor"])
        request_spec = spec.request_spec(fields, spec.image_of(self.images, fields), flavor, ports,
                                         context, move["server_group"])
        return move["dest_compute"], "revert_resize", {**both, "request_spec": request_spec}

    def forget_former(self, connection: Connection, context: Context,
                      uuid: str) -> Callable[[], None]:
        """A resized server is about to be deleted: its former host has to forget it too. Returns
        what tells it so once the transaction is over."""
        found = moves.opened(connection, C.uuid == uuid, M.status == "finished")
        if not found:
            return lambda: None
        moves.advance(connection, found[-1]["migration_id"], "confirming", ("finished",))
        moves.save(connection, found[-1]["id"], {"request_id": context.request_id})
        now = moves.get(connection, found[-1]["migration_id"]) or {}
        host, method, args = self._end_message(connection, now) or ("", "", {})

        def tell() -> None:
            try:
                self.computes.cast(context, host, method, **args)
            except MagnetarError as error:  # it cleans up when it looks what became of the server
                LOG.warning("Host %s was not told to forget server %s: %s", host, uuid, error)

        return tell


def same_flavor(row: Row, flavor: Row) -> bool:
    """Whether a server has this flavor already."""
    return primitives.data(row["flavor"]).get("flavorid") == flavor["flavorid"]

