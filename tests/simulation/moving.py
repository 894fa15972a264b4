"""The control plane's part in moves: who asks hosts for them, and asks again."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from compute.errors import MagnetarError
from compute.model import states
from compute.rpc.primitives import data, make
from tests import fakes
from tests.fake_conductor import ENDED

COLD, LIVE, EVACUATION = ("resize", "migration"), "live-migration", "evacuation"
TASKS = {"resize": states.RESIZE_PREP, "migration": states.RESIZE_PREP, LIVE: states.MIGRATING,
         EVACUATION: states.REBUILDING}
FIRST = {"resize": "pre-migrating", "migration": "pre-migrating", LIVE: "accepted",
         EVACUATION: "accepted"}
EVACUATED = (states.ACTIVE, states.STOPPED, states.ERROR)
# Operations that switch a guest on in the course of a move, once for each that is asked for.
SWITCHES = ("resize_out", "resize_in", "resize_back", "live_out", "live_in", "evacuate")
LIMITS = make("SchedulerLimits", dict.fromkeys(
    ("numa_topology", "vcpu", "disk_gb", "memory_mb")))
CALL_SECONDS = 60.0
AGAIN_SECONDS = 45.0  # after which a message that nobody took up is sent again


def flavor(number: int) -> dict:
    """Flavor 1 is what guests are built with, 2 has a larger disk, 3 only more memory."""
    return fakes.flavor(**{1: {}, 2: {"root_gb": 2}, 3: {"memory_mb": 128}}[number]
                        | {"id": number, "flavorid": str(number), "name": f"flavor{number}"})


@dataclass
class Move:
    """What the control plane remembers of a move besides its Migration."""

    id: int
    guest: str
    kind: str
    dest: str
    context: dict[str, Any]
    flavor: dict
    tried: tuple[str, ...]
    sent: float


class Moving:
    """Mixin of tests.simulation.control.ControlPlane.

    ``resends`` says whether what was lost on its way to a host is sent again, as the embedded
    control plane does; a stock Nova leaves it to the hosts.
    """

    hosts: list[str]
    rng: random.Random
    now: Callable[[], float]
    cast: Callable[[str, str, dict], None]
    state: dict[str, Any]
    asked_on: Counter[tuple[str, str]]
    stamp: Callable[[], str]
    context: Callable[[], dict[str, Any]]
    fields: Callable[[str], dict[str, Any]]
    ask_host: Callable[[str, str, dict, dict], Any]  # (host, method, context, args), and waits
    resends = True

    def __init__(self) -> None:
        self.moves: dict[int, Move] = {}
        self.off: set[str] = set()  # hosts that are fenced

    # -- looking ------------------------------------------------------------------------------
    def moving(self, id: int) -> dict[str, Any]:
        """A Migration's fields."""
        return data(self.state["migrations"][str(id)])

    def opened(self, uuid: str | None = None) -> Iterator[Move]:
        """Moves that have not ended."""
        return (m for m in list(self.moves.values()) if uuid in (None, m.guest)
                and self.moving(m.id)["status"] not in ENDED)

    def _finished(self, uuid: str) -> Move | None:
        return next((m for m in self.opened(uuid) if m.kind in COLD
                     and self.moving(m.id)["status"] == "finished"), None)

    def legal_moves(self, uuid: str) -> list[str]:
        """What the API would let somebody do about moves of a guest that has no task."""
        fields, found = self.fields(uuid), []
        if fields["host"] in self.off:
            return []
        if fields["vm_state"] in (states.ACTIVE, states.STOPPED):
            found += ["resize", "migrate"]
        if fields["vm_state"] in (states.ACTIVE, states.PAUSED):
            found += ["live-migrate"] * 3
        waits = self._finished(uuid) if fields["vm_state"] == states.RESIZED else None
        if waits is not None and self.moving(waits.id)["source_compute"] not in self.off:
            found += ["confirm", "revert"]
        return found

    # -- asking -------------------------------------------------------------------------------
    def move(self, uuid: str, verb: str) -> None:
        """What the API does when somebody asks for a verb that is legal."""
        fields = self.fields(uuid)
        others = [h for h in self.hosts if h != fields["host"]]
        if verb == "resize":
            now = int(data(fields["flavor"])["flavorid"])
            larger = self.rng.choice([n for n in (1, 2, 3) if n not in (now, 1)])
            self._open(uuid, "resize", self.rng.choice(self.hosts), flavor(larger))
        elif verb == "migrate":
            self._open(uuid, "migration", self.rng.choice(others), fields["flavor"])
        elif verb == "live-migrate":
            self._open(uuid, LIVE, self.rng.choice(others), fields["flavor"])
        else:
            move = self._finished(uuid)
            self.moving(move.id).update(status="confirming" if verb == "confirm" else "reverting",
                                        updated_at=self.stamp())
            if verb == "revert":
                fields.update(task_state=states.RESIZE_REVERTING, updated_at=self.stamp())
                self.asked_on[uuid, "resize_back"] += 1
            move.context = self.context()
            self._send_end(move)

    def evacuate(self, uuid: str) -> bool:
        """Start a guest of a fenced host elsewhere; False when that is not legal."""
        fields = self.fields(uuid)
        if fields["host"] not in self.off or fields["vm_state"] not in EVACUATED \
                or fields["task_state"] == states.DELETING:
            return False
        for move in self.opened(uuid):
            if move.kind == EVACUATION and fields["task_state"] is not None:
                return False
            self.moving(move.id).update(status="error")
        up = [h for h in self.hosts if h not in self.off]
        if up:
            self._open(uuid, EVACUATION, self.rng.choice(up), fields["flavor"])
        return bool(up)

    def _open(self, uuid: str, kind: str, dest: str, size: dict,
              context: dict[str, Any] | None = None, tried: tuple[str, ...] = ()) -> None:
        fields, id = self.fields(uuid), len(self.state["migrations"]) + 1
        fields.update(task_state=TASKS[kind], updated_at=self.stamp())
        self.state["migrations"][str(id)] = fakes.migration(
            uuid, fields["host"], None, id=id, dest_node=None, status=FIRST[kind],
            migration_type=kind, created_at=self.stamp(), updated_at=self.stamp(),
            old_instance_type_id=data(fields["flavor"])["id"],
            new_instance_type_id=data(size)["id"])
        for verb in SWITCHES:
            self.asked_on[uuid, verb] += 1
        move = self.moves[id] = Move(id, uuid, kind, dest, context or self.context(), size, tried,
                                     self.now())
        self._send(move)

    # -- sending ------------------------------------------------------------------------------
    def _instance(self, uuid: str) -> dict:
        return copy.deepcopy(self.state["instances"][uuid])

    def _say(self, host: str, move: Move, method: str, **args: Any) -> None:
        self.cast(host, f"{method} {move.guest[:8]}", {
            "method": method, "guest": move.guest, "context": move.context, "args": {
                "instance": self._instance(move.guest), **args}})

    def _migration(self, move: Move) -> dict:
        return copy.deepcopy(self.state["migrations"][str(move.id)])

    def _send(self, move: Move) -> None:
        move.sent = self.now()
        if move.kind in COLD:
            hosts = [[h, h] for h in [*move.tried, move.dest]]
            self._say(move.dest, move, "prep_resize", image={"id": fakes.IMAGE_ID},
                      flavor=move.flavor, request_spec={}, node=move.dest, clean_shutdown=True,
                      filter_properties={"retry": {"num_attempts": len(hosts), "hosts": hosts}},
                      migration=self._migration(move), host_list=None)
        elif move.kind == EVACUATION:
            self._say(move.dest, move, "rebuild_instance", new_pass="", injected_files=[],
                      image_ref=fakes.IMAGE_ID, orig_image_ref=fakes.IMAGE_ID,
                      orig_sys_metadata={}, bdms={}, recreate=True, on_shared_storage=None,
                      preserve_ephemeral=False, migration=self._migration(move),
                      scheduled_node=move.dest, limits=LIMITS, request_spec={})
        else:
            self.spawn(lambda: self._live(move))

    spawn: Callable[[Callable[[], None]], None]

    def _live(self, move: Move) -> None:
        """Ask the destination whether it can take a guest, then tell its host."""
        try:
            checked = self.ask_host(
                move.dest, "check_can_live_migrate_destination", move.context, {
                    "instance": self._instance(move.guest), "block_migration": None,
                    "disk_over_commit": False, "migration": self._migration(move),
                    "limits": LIMITS})
        except MagnetarError as error:
            self._fail(move, ("accepted",), str(error))
            return
        if self._waits_for_live(move):
            self.moving(move.id).update(dest_compute=move.dest, dest_node=move.dest)
            self._say(self.moving(move.id)["source_compute"], move, "live_migration",
                      dest=move.dest, block_migration=None, migration=self._migration(move),
                      migrate_data=checked)

    def _waits_for_live(self, move: Move) -> bool:
        return self.moving(move.id)["status"] == "accepted" \
            and self.fields(move.guest)["task_state"] == states.MIGRATING

    def _send_end(self, move: Move) -> None:
        move.sent, ends = self.now(), self.moving(move.id)
        if ends["status"] == "confirming":
            self._say(ends["source_compute"], move, "confirm_resize",
                      migration=self._migration(move))
        else:
            self._say(ends["dest_compute"], move, "revert_resize", request_spec={},
                      migration=self._migration(move))

    def _fail(self, move: Move, statuses: tuple[str, ...], why: str,
              status: str = "error") -> bool:
        """A move ends that no host works on."""
        ends, fields = self.moving(move.id), self.fields(move.guest)
        if ends["status"] not in statuses:
            return False
        ends.update(status=status)
        if fields["task_state"] == TASKS[move.kind]:
            fields.update(task_state=None, updated_at=self.stamp())
        self.state["faults"].append([move.guest, why])
        return True

    # -- while it goes on ---------------------------------------------------------------------
    def stop_live(self, uuid: str, verb: str) -> bool:
        """Abort a live migration, or force it to complete; False when it is not legal."""
        move = next((m for m in self.opened(uuid) if m.kind == LIVE), None)
        if move is None:
            return False
        ends = self.moving(move.id)
        if verb == "force":
            if ends["status"] == "running":
                self._say(ends["source_compute"], move, "live_migration_force_complete")
            return ends["status"] == "running"
        sent = ends["dest_compute"] is not None
        if not self._fail(move, ("accepted",), "aborted", "cancelled") \
                and ends["status"] not in ("queued", "preparing", "running"):
            return False
        if sent:
            self._say(ends["source_compute"], move, "live_migration_abort", migration_id=move.id)
        return True

    def reschedule(self, message: dict[str, Any]) -> None:
        """A host hands a resize back: the next one is tried, or it stays as it is."""
        uuid = message["guest"]
        mine = [m for m in self.moves.values() if m.guest == uuid and m.kind in COLD]
        filters = (message["args"]["scheduler_hint"] or {}).get("filter_properties") or {}
        tried = tuple(host for host, _ in filters["retry"]["hosts"])
        fields = self.fields(uuid)
        if not mine or fields["deleted"] or fields["task_state"] != states.RESIZE_PREP \
                or len(mine[-1].tried) + 1 != filters["retry"]["num_attempts"]:
            return
        old = mine[-1]
        left = [h for h in self.hosts if h not in tried and (
            old.kind == "resize" or h != fields["host"])]
        if not left:
            self._fail(old, ("pre-migrating", "error", "failed"), "no host is left")
            return
        if self.moving(old.id)["status"] == "pre-migrating":
            self.moving(old.id).update(status="error")
        self._open(uuid, old.kind, left[0], old.flavor, old.context, tried)

    def care(self) -> None:
        """Go on with moves whose next word is the control plane's, and was not heard."""
        for move in self.opened():
            ends, fields = self.moving(move.id), self.fields(move.guest)
            if fields["deleted"] or self.now() - move.sent < AGAIN_SECONDS:
                continue
            if ends["status"] in ("confirming", "reverting") and move.kind in COLD:
                if self.resends:
                    self._send_end(move)
            elif ends["status"] != FIRST[move.kind] or (
                    move.kind in COLD and (ends["dest_compute"] or not self.resends)):
                continue
            elif fields["task_state"] != TASKS[move.kind]:
                self._fail(move, (ends["status"],), "it was broken off before it began")
            elif move.dest in self.off:
                self._fail(move, (ends["status"],), "its host went down")
            else:
                self._send(move)

    def forget_former(self, uuid: str) -> None:
        """A resized guest is about to be deleted: its former host has to forget it too."""
        move = self._finished(uuid)
        if move is not None:
            self.moving(move.id).update(status="confirming", updated_at=self.stamp())
            move.context = self.context()
            self._send_end(move)
