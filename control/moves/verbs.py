"""The tenants' and operators' verbs that move servers, with the checks of Nova's API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from compute.errors import MagnetarError, Refused
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import Context
from control import wire
from control.common import NOTHING, context_for
from control.messages import Computes
from control.moves.base import COLD, EVACUATION, LIVE, RESIZE, Plan, image_properties
from control.moves.care import Moves
from control.moves.cold import same_flavor
from control.moves.fencing import confirm_fenced
from db.control import instances
from db.control.store import Store

Row = dict[str, Any]
COLD_FROM = (states.ACTIVE, states.STOPPED)
LIVE_FROM = (states.ACTIVE, states.PAUSED)
EVACUATED = (states.ACTIVE, states.STOPPED, states.ERROR)
BLOCK = {None: None, "auto": None, True: True, False: False}
HERE = "the server is on it already"


class MoveVerbs:
    """Mixin of :class:`control.api.ControlPlane`."""

    conf: Any
    store: Store
    computes: Computes
    moves: Moves
    # given by the other parts of the control plane
    _find: Callable[..., Row]
    _flavor: Callable[[str], Row]
    _asked: Callable[[str, str, str], bool]
    server_show: Callable[[str], Row]
    host_show: Callable[[str], Row]

    # -- another size ------------------------------------------------------------------------

    def server_resize(self, server: str, flavor: str, request_id: str | None = None) -> Row:
        """Give a server another flavor, on its host or another one. It then waits to be confirmed
        or reverted.

        :raises Refused: no such flavor, the same one, a smaller disk, no host has room.
        """
        row, wanted = self._whole(server), self._flavor(flavor)
        check_flavor(row, wanted)
        excluded = {}
        if not self.conf.control.allow_resize_to_same_host and row["host"]:
            excluded[row["host"]] = f"{HERE}, and [control] allow_resize_to_same_host is off"
        fields = primitives.data(wire.flavor(wanted))
        return self._move(row, request_id, Plan(
            "resize", "resize", RESIZE, COLD_FROM, flavor=fields, excluded=excluded))

    def server_resize_confirm(self, server: str, request_id: str | None = None) -> Row:
        """Keep a resized or migrated server as it is; its former disks are deleted."""
        return self._end(server, "confirmResize", self.moves.cold.confirm, request_id)

    def server_resize_revert(self, server: str, request_id: str | None = None) -> Row:
        """Bring a resized or migrated server back to its former size and host."""
        return self._end(server, "revertResize", self.moves.cold.revert, request_id)

    def _end(self, server: str, action: str, verb: Callable[[Context, str], None],
             request_id: str | None) -> Row:
        context, row = context_for(request_id), self._find(server)
        if not (request_id and self._asked(row["uuid"], action, request_id)):
            verb(context, row["uuid"])
        return self.server_show(row["uuid"])

    # -- another host --------------------------------------------------------------------------

    def server_migrate(self, server: str, host: str | None = None,
                       request_id: str | None = None) -> Row:
        """Move a server to another host while it is shut down. It then waits to be confirmed or
        reverted. ``host``: to this one, which is checked like any other."""
        row = self._whole(server)
        return self._move(row, request_id, Plan(
            "migrate", "migrate", COLD, COLD_FROM, host=host, excluded=self._not_here(row)))

    def server_live_migrate(self, server: str, host: str | None = None,
                            block_migration: str | bool | None = None,
                            strategy: str | None = None, bandwidth: int | None = None,
                            max_pause: int | None = None, request_id: str | None = None) -> Row:
        """Move a server to another host while it runs.

        :param block_migration: True: its disks are local and go along; False: they are shared;
            ``auto`` or None: its hosts find out.
        :param strategy: instead of its host's live_migration_strategy, as ``bandwidth`` (MiB/s, 0
            without a limit) is instead of live_migration_bandwidth and ``max_pause`` (ms) instead
            of live_migration_downtime.
        :raises Refused: its host does not permit that; nothing is done.
        """
        row = self._whole(server)
        asked = given(strategy=strategy, bandwidth=bandwidth, max_pause=max_pause)
        if block_migration not in BLOCK:
            raise Refused(f"block_migration cannot be {block_migration!r}.", now=NOTHING,
                          next="Use true, false or auto.", code="bad_value")
        if asked and row["host"]:
            self.computes.call_own(context_for(), row["host"], "migration_options",
                                   guest=row["uuid"], **asked)
        return self._move(row, request_id, Plan(
            "live-migrate", "live-migration", LIVE, LIVE_FROM, host=host,
            excluded=self._not_here(row),
            args={"block_migration": BLOCK[block_migration], "asked": asked}))

    def server_evacuate(self, server: str, host: str | None = None, fenced: bool = False,
                        request_id: str | None = None) -> Row:
        """Start a server of a lost host on another one.

        :param fenced: confirms that the lost host is off; it holds until it is heard of again.
        :raises Refused: ``host_up`` or ``not_fenced``: it might still run there.
        """
        row = self._whole(server)
        if fenced and row["host"]:
            confirm_fenced(self.store, self.conf, row["host"])
        return self._move(row, request_id, Plan(
            "evacuate", "evacuate", EVACUATION, EVACUATED, None, host=host,
            excluded=self._not_here(row)))

    def _whole(self, server: str) -> Row:
        """A server's row with its flavor and what it remembers of its image."""
        uuid = self._find(server)["uuid"]
        with self.store.begin() as connection:
            row = instances.get(connection, uuid, extra=("flavor", "system_metadata"))
        return row or self._find(server)

    @staticmethod
    def _not_here(row: Row) -> Mapping[str, str]:
        return {row["host"]: HERE} if row["host"] else {}

    def _move(self, row: Row, request_id: str | None, plan: Plan) -> Row:
        context = context_for(request_id)
        if not (request_id and self._asked(row["uuid"], plan.action, request_id)):
            self.moves.begin(context, row["uuid"], plan)
        return self.server_show(row["uuid"])

    # -- while it goes on ------------------------------------------------------------------------

    def server_migration_abort(self, server: str, migration: int | None = None) -> Row:
        """Stop a live migration in whatever phase it is; the server stays where it runs."""
        row = self._find(server)
        move = self.moves.live.abort(context_for(), row, migration)
        return self.server_migration_show(row["uuid"], move["migration_id"])

    def server_migration_force_complete(self, server: str, migration: int | None = None) -> Row:
        """Let a running live migration end soon, with post-copy or a longer pause."""
        row = self._find(server)
        move = self.moves.live.force_complete(context_for(), row, migration)
        return self.server_migration_show(row["uuid"], move["migration_id"])

    def server_migration_set(self, server: str, bandwidth: int | None = None,
                             max_pause: int | None = None, migration: int | None = None) -> Row:
        """Change a live migration while it goes on: ``bandwidth`` in MiB/s, 0 without a limit, and
        ``max_pause`` in ms. Returns it with what is in force then."""
        row = self._find(server)
        asked = given(bandwidth=bandwidth, max_pause=max_pause)
        move, told = self.moves.live.change(context_for(), row, migration, asked)
        return {**self.server_migration_show(row["uuid"], move["migration_id"]), **told}

    server_migration_show: Callable[..., Row]

    def server_plan_live_migrate(self, server: str, host: str | None = None,
                                 block_migration: str | bool | None = None,
                                 strategy: str | None = None, bandwidth: int | None = None,
                                 max_pause: int | None = None) -> Row:
        """What a live migration of a server would do, and whether it could: checks, strategy,
        predicted time and pause. Nothing is changed. The options are those of
        :meth:`server_live_migrate`."""
        row = self._find(server)
        if not row["host"]:
            raise Refused(f"Server {row['display_name']} is on no host.", now=NOTHING,
                          next="Wait until it is built.", code="not_ready")
        to = self.host_show(host)["host"] if host else self._likely(row)
        if to == row["host"]:
            raise Refused(f"Server {row['display_name']} is on host {to} already.", now=NOTHING,
                          next="Name another host, or none.", code="same_host")
        return self.computes.call_own(context_for(), row["host"], "plan_live_migrate",
                                      guest=row["uuid"], host=to, block=BLOCK.get(block_migration),
                                      **given(strategy=strategy, bandwidth=bandwidth,
                                              max_pause=max_pause))

    def _likely(self, row: Row) -> str:
        """The host that would be chosen now. Raises Refused(code='no_valid_host')."""
        mover = self.moves.live
        with self.store.begin() as connection:
            whole = mover.row(connection, row["uuid"])
            wanted = mover.request(connection, whole, None, self._not_here(row))
            return mover.scheduler.choose(connection, wanted).host.host

    def server_migration_progress(self, server: str, migration: int | None = None) -> Row:
        """A server's newest migration, with ``progress`` as the host that works on it tells:
        phase, remaining bytes, dirty rate, bandwidth, iteration, seconds left; None when it tells
        nothing."""
        row = self._find(server, deleted=True)
        shown = self.server_migration_show(row["uuid"], migration)
        host = shown["dest_compute"] if shown["type"] == EVACUATION else row["host"]
        progress = None
        if host and not shown["ended"]:
            with contextlib.suppress(MagnetarError):  # it is shown what is known
                progress = self.computes.call_own(context_for(), host, "migration_progress",
                                                  guest=row["uuid"])
        return {**shown, "progress": progress, "vm_state": row["vm_state"],
                "task_state": row["task_state"]}


def given(**asked: Any) -> Row:
    """What was asked for, without what was not."""
    return {name: value for name, value in asked.items() if value is not None}


def check_flavor(row: Row, flavor: Row) -> None:
    """Whether a server can get this flavor at all.

    :raises Refused: codes ``same_flavor``, ``disk_shrinks``, ``flavor_too_small``.
    """
    name, old = row["display_name"], primitives.data(row["flavor"])
    if same_flavor(row, flavor):
        raise Refused(f"Server {name} has flavor {flavor['name']} already.", now=NOTHING,
                      next="Choose another flavor, or use 'magnetar server migrate' to move it.",
                      code="same_flavor")
    for what, key in (("disk", "root_gb"), ("ephemeral disk", "ephemeral_gb")):
        if flavor[key] < old[key]:
            raise Refused(
                f"Server {name} cannot get flavor {flavor['name']}: its {what} of {old[key]} GiB "
                f"would shrink to {flavor[key]} GiB.", now=NOTHING, code="disk_shrinks",
                next="Choose a flavor whose disks are not smaller.")
    image = image_properties(row["system_metadata"])
    memory, disk = int(image.get("min_ram") or 0), int(image.get("min_disk") or 0)
    if flavor["memory_mb"] < memory or (flavor["root_gb"] and flavor["root_gb"] < disk):
        raise Refused(
            f"Flavor {flavor['name']} is too small for server {name}: its image needs "
            f"{memory} MiB of memory and {disk} GiB of disk.", now=NOTHING,
            next="Choose a larger flavor.", code="flavor_too_small")


