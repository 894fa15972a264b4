"""Live migration: find a host that says it can take the server, then tell the server's host.

Hosts are asked in a small pool of threads, since an answer takes its time. The migration stays
``accepted`` until the server's host has queued it; until then all of it is done again if it has to.
"""

from __future__ import annotations

import logging
import threading
import uuid as uuidlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control.common import NOTHING
from control.moves.base import LIVE, C, M, Mover
from control.refusals import refusal
from control.scheduler import Choice
from db.control import moves, records
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
ACCEPTED = ("accepted",)
ABORTABLE = ("queued", "preparing", "running")
LIMITS = {"numa_topology": None, "vcpu": None, "disk_gb": None, "memory_mb": None}


class Live(Mover):
    """A server goes to another host while it runs."""

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self._pool = ThreadPoolExecutor(self.conf.control.move_workers, "live-checks")
        self._at_work: set[int] = set()
        self._guard = threading.Lock()

    def stop(self) -> None:
        """Begin no more; what is not sent is found by the next process."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- from accepted to sent -----------------------------------------------------------------

    def send(self, move: Row) -> None:
        """Look for a host in the background; quiet when this process does so already."""
        with self._guard:
            if move["migration_id"] in self._at_work:
                return
            self._at_work.add(move["migration_id"])
        try:
            self._pool.submit(self._work, move)
        except RuntimeError:  # this control plane is stopping
            self._done(move)

    def _done(self, move: Row) -> None:
        with self._guard:
            self._at_work.discard(move["migration_id"])

    def _work(self, move: Row) -> None:
        try:
            self.run(move)
        except MagnetarError as error:
            self.fail(move, error, ACCEPTED)
        except Exception:  # the migration stays accepted, and is tried again by the timer
            LOG.exception("Looking for a host for server %s failed.", move["instance_uuid"])
        finally:
            self._done(move)

    def run(self, move: Row) -> None:
        """Ask hosts until one can take the server, and tell its own host.

        :raises MagnetarError: no host can; the first reason of each is told.
        """
        context, token = self.context(move), str(uuidlib.uuid4())
        said: dict[str, str] = {}
        while True:
            with self.store.begin() as connection:
                now = moves.get(connection, move["migration_id"])
                if not self._wanted(now) or not self._hold(connection, now, token, move):
                    return
                node = self.host_of(connection, now["dest_node"])
                instance, migration = self.loaded(connection, context, now)
            try:
                answer = self._ask(context, now, node, instance, migration)
                break
            except MagnetarError as error:
                name = node["host"] if node else "?"
                LOG.info("Host %s cannot take server %s: %s", name, now["instance_uuid"], error)
                said[name] = error.what
                self._elsewhere(now, said, error)
                move = {**now, "token": token}
        self._tell(context, now, node, token, instance, answer)

    @staticmethod
    def _wanted(now: Row | None) -> bool:
        return now is not None and now["status"] in ACCEPTED and now["task_state"] == "migrating"

    @staticmethod
    def _hold(connection: Connection, now: Row, token: str, seen: Row) -> bool:
        """Only one process at a time looks for a host."""
        if now["token"] not in (seen["token"], token):
            return False
        values = {"token": token, "sent_at": utcnow()}
        return moves.save(connection, now["id"], values) is not None

    def _ask(self, context: Context, move: Row, node: Row | None, instance: Row,
             migration: Row) -> Any:
        if node is None or not node["up"]:
            raise Refused("it is down", code="host_down")
        return self.computes.call_long(
            context, node["host"], "check_can_live_migrate_destination", instance=instance,
            block_migration=move["args"]["block_migration"], disk_over_commit=False,
            migration=migration, limits=primitives.make("SchedulerLimits", LIMITS))

    def _elsewhere(self, move: Row, said: Mapping[str, str], last: MagnetarError) -> None:
        """Claim another host. Raises Refused when there is none, with what each one said."""
        reasons = " ".join(f"{host}: {text}" for host, text in said.items())
        if move["args"]["forced"]:
            raise Refused(f"Host {reasons}", now="The server runs where it was.", next=last.next,
                          code="cannot_migrate")
        with self.builds.turn, self.store.begin() as connection:
            row = self.row(connection, move["instance_uuid"])
            tried = {**move["args"]["excluded"],
                     **{host: f"it said: {text}" for host, text in said.items()}}
            wanted = self.request(connection, row, None, tried,
                                  leaving=move["drain_id"] is not None)
            try:
                choice = self.scheduler.choose(connection, wanted)
            except MagnetarError as error:
                raise Refused(f"No host can take it. {reasons}", code="cannot_migrate",
                              now="The server runs where it was.",
                              next=last.next or error.next) from error
            self._claim(connection, move, choice)

    @staticmethod
    def _claim(connection: Connection, move: Row, choice: Choice) -> None:
        zones = {**move["args"]["zones"], choice.host.uuid: choice.host.zone}
        moves.save(connection, move["id"], {"dest_node": choice.host.uuid,
                                            "args": {**move["args"], "zones": zones}})

    def _tell(self, context: Context, move: Row, node: Row, token: str, instance: Row,
              answer: Any) -> None:
        with self.store.begin() as connection:
            now = moves.get(connection, move["migration_id"])
            if not self._wanted(now) or now["token"] != token:
                return
            records.save_migration(connection, move["migration_id"], {
                "dest_compute": node["host"], "dest_node": node["hypervisor_hostname"],
                "dest_compute_id": node["id"]})
            _, migration = self.loaded(connection, context, now, ())
        if now["args"].get("asked"):  # the server's host looks for it there; Nova reads past it
            answer = primitives.with_own(answer, {"asked": now["args"]["asked"]})
        self.computes.cast_alt(
            context, move["source_compute"], "live_migration", instance=instance,
            dest=node["host"], block_migration=move["args"]["block_migration"],
            migration=migration, migrate_data=answer)

    # -- while it goes on ----------------------------------------------------------------------

    def current(self, connection: Connection, row: Row, migration: int | None) -> Row:
        """A server's live migration that has not ended, the one of this id if given.

        :raises Refused: code ``migration_not_found``.
        """
        where = [C.uuid == row["uuid"], M.migration_type == LIVE]
        if migration is not None:
            where.append(M.id == migration)
        found = moves.opened(connection, *where)
        if not found:
            raise Refused(
                f"Server {row['display_name']} is not being live-migrated"
                f"{f' by migration {migration}' if migration is not None else ''}.",
                now=NOTHING, code="migration_not_found",
                next=f"See 'magnetar server migration list --server {row['uuid']}'.")
        return found[-1]

    @staticmethod
    def _check_going(move: Row, row: Row, verb: str, vm_states: tuple[str, ...]) -> None:
        """Only a server that migrates, as its states say, can be helped so; as in Nova."""
        now = {**row, "vm_state": move["vm_state"], "task_state": move["task_state"]}
        if now["task_state"] is None:
            raise Refused(f"Cannot {verb} server {row['display_name']}: it is {now['vm_state']} "
                          "and not migrating.", now=NOTHING, code="bad_state",
                          next=f"See 'magnetar explain {row['uuid']}' for what became of it.")
        if now["task_state"] != states.MIGRATING or now["vm_state"] not in vm_states:
            raise refusal(now, now, verb, vm_states, (states.MIGRATING,))

    def change(self, context: Context, row: Row, migration: int | None,
               asked: Mapping[str, Any]) -> tuple[Row, Row]:
        """Change a live migration while it goes on, by its host, whose journal keeps it; what was
        asked for is remembered here only to be shown. Returns the move and what is in force.

        :raises Refused: there is none, it is at its end, or that is not possible.
        """
        with self.store.begin() as connection:
            move = self.current(connection, row, migration)
        told = self.computes.call_own(context, move["source_compute"], "migration_set",
                                      guest=row["uuid"], **asked)
        with self.store.begin() as connection:
            args = (moves.get(connection, move["migration_id"]) or move)["args"]
            moves.save(connection, move["id"], {
                "args": {**args, "asked": {**(args.get("asked") or {}), **asked}}})
        return move, told

    def abort(self, context: Context, row: Row, migration: int | None) -> Row:
        """Stop a live migration, whatever its phase; the server stays where it runs.

        :raises Refused: there is none, or it cannot be stopped any more.
        """
        with self.store.begin() as connection:
            move = self.current(connection, row, migration)
            self._check_going(move, row, "abort the migration of",
                              (move["vm_state"],))
            records.start_action(connection, "live_migration_cancel", row["uuid"],
                                 context.request_id or "", context.user_id, context.project_id)
            instance, _ = self.loaded(connection, context, move)
        if move["status"] in ACCEPTED and self.fail(move, None, ACCEPTED, "cancelled"):
            if move["dest_compute"]:  # it may have reached its host in this moment
                self._cast_abort(context, move, instance)
            return move
        with self.store.begin() as connection:
            move = self.current(connection, row, move["migration_id"])
        if move["status"] not in ABORTABLE:
            raise Refused(
                f"Migration {move['migration_id']} of server {row['display_name']} cannot be "
                f"stopped: it is {move['status']}.", now="It goes on.", code="bad_state",
                next=f"Follow it with 'magnetar migration watch {row['display_name']}'.")
        self._cast_abort(context, move, instance)
        return move

    def _cast_abort(self, context: Context, move: Row, instance: Row) -> None:
        self.computes.cast(context, move["source_compute"], "live_migration_abort",
                           instance=instance, migration_id=move["migration_id"])

    def force_complete(self, context: Context, row: Row, migration: int | None) -> Row:
        """Let a live migration end soon, at the price of a longer pause or of post-copy.

        :raises Refused: there is none, or memory does not go over yet.
        """
        with self.store.begin() as connection:
            move = self.current(connection, row, migration)
            self._check_going(move, row, "force the migration of", (states.ACTIVE,))
            if move["status"] != "running":
                raise Refused(
                    f"Migration {move['migration_id']} of server {row['display_name']} cannot be "
                    f"forced to complete: it is {move['status']}.", now="It goes on.",
                    code="bad_state", next="This works while it is running.")
            records.start_action(connection, "live_migration_force_complete", row["uuid"],
                                 context.request_id or "", context.user_id, context.project_id)
            instance, _ = self.loaded(connection, context, move)
        self.computes.cast(context, move["source_compute"], "live_migration_force_complete",
                           instance=instance)
        return move

