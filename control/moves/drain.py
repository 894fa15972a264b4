"""Emptying hosts: ``host drain`` while the host works, ``host evacuate`` when it is lost.

A drain is a row; what was moved for it are the moves that carry its id. So whoever looks at both
knows how far it is, and a control plane that was killed goes on where it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

from compute.errors import MagnetarError
from compute.model import states
from control.common import context_for
from control.moves.base import COLD, EVACUATION, LIVE, Plan
from control.moves.care import Moves
from db.control import drains, instances, moves, records, tables
from db.control.moves import ENDED
from db.control.store import Store
from db.control.types import utcnow

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
C, M, V = tables.instances.c, tables.migrations.c, tables.moves.c

DRAIN, EVACUATE = "drain", "evacuate"
DONE, STUCK, STOPPED = "done", "stuck", "stopped"
LIVE_FROM, COLD_FROM = (states.ACTIVE, states.PAUSED), (states.ACTIVE, states.STOPPED)
EVACUATED = (states.ACTIVE, states.STOPPED, states.ERROR)
ATTEMPTS = 2  # of one kind of move for one server in one drain
MOVED = ("completed", "confirmed", "done")
PASSING = ("retryable", "unknown")  # kinds of errors that time alone may mend
ADVICE = {
    states.SOFT_DELETED: "it was deleted: restore it, or delete it for good with --force",
    states.SUSPENDED: "it is suspended: resume it, or leave it where it is",
    states.RESIZED: "it is resized: confirm or revert that first",
    states.PAUSED: "it is paused: it can only move while it runs on two working hosts",
}


class Drains:
    """Goes on with the drains there are, one pass at a time."""

    def __init__(self, conf: Any, store: Store, moves_: Moves):
        self.conf, self.store, self.moves = conf, store, moves_
        self._turn = threading.Lock()

    def step(self) -> bool:
        """One pass over all drains; whether any goes on."""
        with self._turn:
            self._confirm()
            with self.store.begin() as connection:
                found = drains.running(connection)
            for drain in found:
                try:
                    self._step(drain)
                except MagnetarError as error:
                    LOG.warning("Draining host %s is left for later: %s", drain["host"], error)
            return bool(found)

    def _confirm(self) -> None:
        """Nobody else confirms what was moved for a drain."""
        with self.store.begin() as connection:
            found = moves.opened(connection, V.drain_id.is_not(None), M.status == "finished",
                                 C.task_state.is_(None), C.vm_state == states.RESIZED)
        for move in found:
            try:
                self.moves.cold.confirm(context_for(), move["instance_uuid"])
            except MagnetarError as error:
                LOG.warning("Server %s stays unconfirmed for now: %s", move["instance_uuid"],
                            error)

    def _step(self, drain: Row) -> None:
        with self.store.begin() as connection:
            guests = guests_of(connection, drain["host"])
            tried = moves.query(connection, V.drain_id == drain["id"])
        going = sum(1 for move in tried if move["status"] not in ENDED)
        notes: dict[str, str] = {}
        waiting = False
        for guest in guests:
            mine = [move for move in tried if move["instance_uuid"] == guest["uuid"]]
            if mine and mine[-1]["status"] not in ENDED:
                continue
            kind, why = choose(drain["kind"], guest, mine)
            if kind is None:
                notes[guest["uuid"]] = why
                waiting = waiting or why.startswith("waits")
            elif going < drain["max_moves"]:
                error = self._begin(drain, guest, kind)
                if error is None:
                    going += 1
                    continue
                notes[guest["uuid"]] = error.what
                waiting = waiting or error.kind in PASSING or error.code == "busy"
            else:
                waiting = True
        self._save(drain, notes, bool(going or waiting))

    def _begin(self, drain: Row, guest: Row, kind: str) -> MagnetarError | None:
        """Begin one move. Returns why it was refused, None when it was not."""
        plan = Plan(
            {LIVE: "live-migrate", COLD: "migrate"}.get(kind, "evacuate"),
            {LIVE: "live-migration", COLD: "migrate"}.get(kind, "evacuate"), kind,
            {LIVE: LIVE_FROM, COLD: COLD_FROM}.get(kind, EVACUATED),
            None if kind == EVACUATION else (None,),
            excluded={drain["host"]: "it is being emptied"}, drain=drain["id"],
            args={"block_migration": None},
        )
        try:
            self.moves.begin(context_for(), guest["uuid"], plan)
        except MagnetarError as error:
            return error
        return None

    def _save(self, drain: Row, notes: dict[str, str], going: bool) -> None:
        values: Row = {"notes": notes}
        if not going:
            values.update(status=STUCK if notes else DONE, ended_at=utcnow())
            LOG.info("Emptying host %s is %s.", drain["host"], values["status"])
        with self.store.begin() as connection:
            drains.save(connection, drain["id"], values)


def guests_of(connection: Any, host: str) -> list[Row]:
    """The living servers of a host, the oldest first."""
    return instances.query(connection, C.host == host, C.deleted.is_(False))


def choose(kind: str, guest: Row, tried: list[Row]) -> tuple[str | None, str]:
    """How a server is to be moved next, or None with the reason why it is not, which begins with
    ``waits`` when time alone may change it. ``tried`` are its ended moves of this drain."""
    vm_state, task = guest["vm_state"], guest["task_state"]
    if tried and tried[-1]["status"] == "cancelled":
        return None, f"somebody stopped its migration {tried[-1]['migration_id']}"
    if kind == EVACUATE:
        if vm_state not in EVACUATED:
            return None, f"a server that is {vm_state} cannot be evacuated"
        return _again(EVACUATION, tried)
    if task is not None or vm_state == states.BUILDING:
        return None, f"waits: it is busy with {task or vm_state}"
    if vm_state not in (*LIVE_FROM, *COLD_FROM):
        return None, ADVICE.get(vm_state, f"a server that is {vm_state} cannot be moved")
    if vm_state == states.STOPPED:
        return _again(COLD, tried)
    lives = [move for move in tried if move["kind"] == LIVE]
    # no host can take it while it runs: that was found out before anything was moved
    if lives and lives[-1]["message"]:
        if vm_state in COLD_FROM:
            return _again(COLD, tried)
        return None, f"{ADVICE[vm_state]}; {lives[-1]['message']}"
    return _again(LIVE, tried)


def _again(kind: str, tried: list[Row]) -> tuple[str | None, str]:
    mine = [move for move in tried if move["kind"] == kind]
    if len(mine) < ATTEMPTS:
        return kind, ""
    last = mine[-1]
    return None, f"{kind} ended as {last['status']} {len(mine)} times: " \
                 f"{last['message'] or 'see its faults'}"


def progress(connection: Any, drain: Row) -> Row:
    """How far a drain is: which servers are gone, which are on their way, which are left."""
    guests = {guest["uuid"]: guest for guest in guests_of(connection, drain["host"])}
    tried = moves.query(connection, V.drain_id == drain["id"])
    moving = [move for move in tried if move["status"] not in ENDED]
    moved = {move["instance_uuid"]: move for move in tried
             if move["status"] in MOVED and move["host"] != drain["host"]}
    on_the_way = {move["instance_uuid"] for move in moving}
    notes = drain["notes"] or {}
    left = [guest for uuid, guest in guests.items() if uuid not in on_the_way]
    return {
        "host": drain["host"], "kind": drain["kind"], "status": drain["status"],
        "max": drain["max_moves"], "started_at": drain["created_at"],
        "ended_at": drain["ended_at"], "total": len(guests.keys() | moved.keys() | on_the_way),
        "moved": len(moved),
        "moving": [_going(move) for move in moving],
        "left": [{"server": guest["display_name"], "server_id": guest["uuid"],
                  "vm_state": guest["vm_state"], "reason": notes.get(guest["uuid"])}
                 for guest in left],
        "unconfirmed": _unconfirmed(connection, drain["host"], on_the_way),
    }


def _going(move: Row) -> Row:
    return {"server": move["display_name"], "server_id": move["instance_uuid"],
            "migration": move["migration_id"], "type": move["kind"], "status": move["status"],
            "dest_compute": move["dest_compute"]}


def _unconfirmed(connection: Any, host: str, except_: Iterable[str]) -> list[str]:
    """Servers elsewhere whose former disks are still on the host: somebody else's resizes."""
    found = records.query_migrations(connection, M.source_compute == host, M.status == "finished",
                                     M.dest_compute != host,
                                     M.instance_uuid.not_in(list(except_)))
    return sorted(row["instance_uuid"] for row in found)
