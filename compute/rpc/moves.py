"""Handlers of the compute RPC methods with which guests move between hosts.

Calls that other agents or the conductor wait for answer when their part is done; what they began is
an operation in the journal all the same, and does not need the caller any more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compute.engine.world import World
from compute.errors import MagnetarError, Refused, Retryable, Unknown, from_dict
from compute.manager import Manager
from compute.migration import checks
from compute.model import wire
from compute.rpc.primitives import Primitive, data, make, own, with_own
from db.journal import OperationRow, rows

LOG = logging.getLogger(__name__)
PREPARE_SECONDS = 1700.0  # below the 1800 s that callers wait
SWITCH_SECONDS = 50.0
FIRST_LOOK, LAST_LOOK = 0.01, 0.2  # seconds between two looks at an operation, growing


class MoveHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    manager: Manager
    world: World
    _accept: Callable[..., OperationRow]

    # -- checks, asked by the conductor -------------------------------------------------------
    def check_can_live_migrate_destination(self, context, args) -> Primitive:
        """Whether this host can take a guest; asks the guest's host for its part."""
        with self._event(context, args, "check_can_live_migrate_destination"):
            return self._check_destination(context, args)

    def _check_destination(self, context, args) -> Primitive:
        fields = wire.instance_of(args)
        source = str(fields.get("host") or "")
        if source == self.world.host:
            raise Refused(f"Guest {fields['uuid']} is on host {source} already.",
                          now="Nothing was changed.", next="Choose another host.",
                          code="cannot_move")
        asked = make("LibvirtLiveMigrateData", {
            "block_migration": args["block_migration"],
            "disk_over_commit": args["disk_over_commit"]})
        asked = with_own(asked, {"incoming": dict(self.world.driver.incoming_facts())})
        answer = self.world.peers.call(
            context, source, "check_can_live_migrate_source", instance=args["instance"],
            dest_check_data=asked)
        told = own(answer)
        if not told:
            raise Refused(f"The agent of host {source} is none that guests can come from.",
                          now="Nothing was changed.", next="Move it with that agent's own kind.",
                          code="cannot_move")
        return self._checked(context, args, told)

    def _checked(self, context, args, told: Mapping[str, Any]) -> Primitive:
        found = checks.at_destination(self.world, context, args["instance"], told["outgoing"])
        listed = [*checks.from_plain(told["checks"]), *found]
        guest = wire.instance_of(args)["uuid"]
        shared = checks.shares(self.world, told["outgoing"])
        listed += checks.block_wanted(args["block_migration"], shared)
        checks.refuse(listed, guest, self.world.host)
        return make("LibvirtLiveMigrateData", {
            "is_shared_instance_path": shared, "is_shared_block_storage": False,
            "block_migration": not shared, "disk_over_commit": bool(args["disk_over_commit"]),
            "disk_available_mb": int(self.world.driver.incoming_facts()["disk_free"]) >> 20,
            "image_type": "default", "instance_relative_path": guest,
            "dst_wants_file_backed_memory": False, "file_backed_memory_discard": False,
        })

    def check_can_live_migrate_source(self, context, args) -> Primitive:
        """This host's part of the checks, and its facts, for an agent of ours that asks."""
        with self._event(context, args, "check_can_live_migrate_source"):
            return self._check_source(args)

    def _check_source(self, args) -> Primitive:
        guest = wire.instance_of(args)["uuid"]
        incoming = own(args["dest_check_data"]).get("incoming")
        outgoing = dict(self.world.driver.outgoing(guest))
        found = self.world.driver.check_outgoing(guest, incoming) if incoming else ()
        return with_own(args["dest_check_data"], {
            "outgoing": outgoing, "checks": checks.to_plain(found, self.world.host)})

    # -- another size, and cold ----------------------------------------------------------------
    def prep_resize(self, context, args) -> None:
        self._accept("resize_prep", context, args)

    def resize_instance(self, context, args) -> None:
        self._accept("resize_out", context, args)

    def finish_resize(self, context, args) -> None:
        self._accept("resize_in", context, args)

    def confirm_resize(self, context, args) -> None:
        self._accept("resize_confirm", context, args)

    def revert_resize(self, context, args) -> None:
        self._accept("resize_revert", context, args)

    def finish_revert_resize(self, context, args) -> None:
        self._accept("resize_back", context, args)

    # -- the migration ------------------------------------------------------------------------
    def live_migration(self, context, args) -> None:
        self._accept("live_out", context, args)

    def live_migration_force_complete(self, context, args) -> None:
        """Remember that the migration shall end now; its monitor looks for it."""
        with self._event(context, args, "live_migration_force_complete", late=True):
            row = self._leaving(args)
            self.world.journal.claim("force", row.guest, row.guest, row.id, {})
            self.manager.wake(row.guest)

    def live_migration_abort(self, context, args) -> None:
        """Stop a migration, in whatever phase it is."""
        with self._event(context, args, "live_migration_abort", late=True):
            self.manager.abort(self._leaving(args).id, "the migration was aborted on request")

    def _leaving(self, args) -> OperationRow:
        """The operation that moves a guest away from here.

        :raises Refused: code ``no_migration``.
        """
        guest = wire.instance_of(args)["uuid"]
        row = self._active(guest, "live_out")
        if row is None:
            raise Refused(f"Guest {guest} is not being moved away from here.",
                          now="Nothing was changed.", code="no_migration")
        return row

    def pre_live_migration(self, context, args) -> Primitive:
        """Begin this host's half; answers when it is prepared for the guest."""
        guest = wire.instance_of(args)["uuid"]
        self._room_for_one_more(guest)
        row = self._accept("live_in", context, without_contents(args))
        prepared = self._wait_for(row, self._prepared, PREPARE_SECONDS)
        return with_own(args["migrate_data"] or make("LibvirtLiveMigrateData", {}), prepared)

    def _room_for_one_more(self, guest: str) -> None:
        limit = self.world.conf.max_concurrent_incoming_live_migrations
        held = [c for c in self.world.journal.claims(kind="lease") if c.guest != guest]
        if limit and len(held) >= limit:
            raise Retryable(f"Host {self.world.host} receives {len(held)} guests already.",
                            now="Nothing was done.", next="It is asked again.",
                            code="incoming_busy")

    def _prepared(self, row: OperationRow) -> Any:
        done = [s for s in self.world.journal.steps(row.id)
                if s.name == "disks" and s.phase == rows.FORWARD and s.state == rows.STEP_DONE]
        return done[0].outcome if done and row.state == rows.RUNNING else None

    def post_live_migration_at_destination(self, context, args) -> None:
        """The guest has arrived: answers when this host has made it its own."""
        with self._event(context, args, "post_live_migration_at_destination"):
            self._arrived(context, args)

    def _arrived(self, context, args) -> None:
        guest = wire.instance_of(args)["uuid"]
        row = self._active(guest, "live_in")
        if row is None:
            if data(self.world.conductor.instance(context, guest)).get("host") == self.world.host:
                return
            row = self._again(context, guest)
        self.manager.wake(guest)
        self._wait_for(row, lambda row: row.state == rows.DONE, SWITCH_SECONDS)

    def _again(self, context, guest: str) -> OperationRow:
        """The lease was over before the guest came after all: its half is begun once more."""
        before = [r for r in self.world.journal.find(guest=guest) if r.verb == "live_in"]
        if not before:
            raise Refused(f"Host {self.world.host} knows nothing of guest {guest}.",
                          now="Nothing was changed.", code="guest_not_found")
        return self.manager.accept("live_in", guest, f"arrived-{uuid.uuid4()}",
                                   before[-1].request["args"], context)

    def rollback_live_migration_at_destination(self, context, args) -> None:
        """The source has taken the migration back."""
        row = self._active(wire.instance_of(args)["uuid"], "live_in")
        if row is not None:
            self.manager.abort(row.id, "the source took the migration back")

    def drop_move_claim_at_destination(self, context, args) -> None:
        """Nothing is claimed before pre_live_migration, whose lease ends by itself."""
        wire.instance_of(args)

    def check_instance_shared_storage(self, context, args) -> bool:
        """Whether a file that the asking host made is seen here."""
        name = str((args["data"] or {}).get("filename") or "")
        inside = os.path.realpath(self.world.conf.disk.instances_path)
        return os.path.realpath(name).startswith(inside + os.sep) and os.path.exists(name)

    # -- helpers --------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _event(self, context, args, method: str, late: bool = False) -> Iterator[None]:
        """Show what a method does as an InstanceActionEvent, and its error as a fault too.

        A conductor that is away takes nothing from what is done.

        :param late: begin the event afterwards, for what must not wait for the conductor.
        """
        guest, name = wire.instance_of(args)["uuid"], f"compute_{method}"
        conductor = self.world.conductor
        if not late:
            self._told(lambda: conductor.event_start(context, guest, name))
        error: MagnetarError | None = None
        try:
            yield
        except MagnetarError as found:
            error = found
            raise
        finally:
            plain = error.to_dict() if error else None
            if late:
                self._told(lambda: conductor.event_start(context, guest, name))
            if plain:
                self._told(lambda: conductor.fault(context, guest, plain))
            self._told(lambda: conductor.event_finish(context, guest, name, plain))

    @staticmethod
    def _told(tell: Callable[[], None]) -> None:
        try:
            tell()
        except MagnetarError as error:
            LOG.warning("What was done could not be shown in the control plane: %s", error)

    def _active(self, guest: str, verb: str) -> OperationRow | None:
        found = self.world.journal.find(guest=guest, active=True)
        return next((row for row in found if row.verb == verb), None)

    def _wait_for(self, row: OperationRow, look: Callable[[OperationRow], Any],
                  seconds: float, going: tuple[str, ...] = (rows.ACCEPTED, rows.RUNNING)) -> Any:
        """Wait for an operation to come as far as ``look`` asks; raises what it failed of once it
        is in none of the states ``going``."""
        deadline, pause = self.world.clock.now() + seconds, FIRST_LOOK
        while True:
            row = self.world.journal.row(row.id)
            found = look(row)
            if found:
                return found
            if row.state not in going:
                raise from_dict(dict(row.error or {"what": f"{row.verb} of guest {row.guest} is "
                                                           f"{row.state}."}))
            if self.world.clock.now() > deadline:
                raise Unknown(f"{row.verb} of guest {row.guest} is still at step {row.step}.",
                              next="It goes on; ask again.", code="timeout")
            self.world.clock.wait(pause)
            pause = min(pause * 1.5, LAST_LOOK)



def without_contents(args: Mapping[str, Any]) -> dict[str, Any]:
    """pre_live_migration's arguments, with what guests have written apart, as ``contents``."""
    try:
        told = json.loads(args["disk"])
        outgoing = told["outgoing"]
        contents = {"console": outgoing.pop("console", None),
                    "disks": {disk["target"]: disk.pop("content")
                              for disk in outgoing["disks"] if disk.get("content")}}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise wire.malformed("Argument 'disk' does not hold what a source of ours tells: "
                             f"{error!r}.") from error
    return {**args, "disk": json.dumps(told), "contents": contents}
