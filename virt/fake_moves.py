"""The fake hypervisor's migrations: files of the fabric, which outlive every process.

A migration goes through its phases by looks: each :meth:`FakeMoves.job` at the source, and each
look at the arriving domain at the destination, is one notch, whether or not the agent that began it
is alive. A test that wants to own the pace holds it (``fabric.set(hold=True)``) and calls
:meth:`FakeMoves.notch` itself. Like libvirt, a host forgets how a migration ended when the process
that asked for it is gone.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from compute.errors import Refused, Retryable
from compute.model import move as moves
from compute.model import states
from compute.model.move import JobSample, MovePlan
from virt.fake_arrivals import FakeArrivals
from virt.fake_state import TARGETS, URI, FakeState, hooked, replace

BEFORE = (moves.SETUP, moves.PRECOPY, moves.SWITCHOVER)  # the guest is the source's
AFTER = (moves.POSTCOPY, moves.POSTCOPY_PAUSED)  # it is the destination's, and needs the source
POSTCOPY_REASONS = {moves.POSTCOPY: "postcopy", moves.POSTCOPY_PAUSED: "postcopy_failed"}
BANDWIDTH = 1 << 30  # bytes/s
ON = (states.RUNNING, states.POWER_PAUSED)
_starters = itertools.count(1)


class FakeMoves(FakeArrivals):
    """See virt.driver.Driver, "to another host"."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._starter = f"{os.getpid()}.{next(_starters)}"

    # -- at the source ------------------------------------------------------------------------
    @hooked
    def migrate(self, uuid: str, plan: MovePlan) -> None:
        with self.fabric.lock():
            found = self._need(uuid)
            if found.get("job"):
                return
            if found["power_state"] not in ON:
                raise Refused(f"Domain {uuid} does not run.", code="invalid_state")
            other = plan.uri.removeprefix(URI)
            move = {"uuid": uuid, "source": self.hostname, "destination": other,
                    "starter": self._starter, "plan": plan.to_plain(), "phase": moves.SETUP,
                    "was": found["power_state"], "sample": 0, "began": self.now(),
                    "downtime_ms": plan.downtime_ms, "error": "",
                    **found.get("size", {"memory_mb": 64})}
            move["doomed"] = self._why_doomed(found, move)
            self._write(uuid, {**found, "job": "out"})
            if not move["doomed"]:
                there = self.at(other)
                move["instead_of"] = there._read(uuid)
                there._write(uuid, {
                    **found, "power_state": states.POWER_PAUSED, "reason": "migration",
                    "job": "in", "persistent": False, "generation": plan.generation,
                    "operation": plan.operation, "place": plan.rewrite.get("place")})
            self.fabric.set_move(uuid, move)

    def _why_doomed(self, found: Mapping[str, Any], move: Mapping[str, Any]) -> str:
        """Why a migration fails at once; empty when it does not."""
        uuid, other, plan = move["uuid"], move["destination"], move["plan"]
        if self._broken(move) or self.fabric.root(other) is None:
            return f"unable to connect to server at '{other}'"
        if other == self.hostname:
            return "Attempt to migrate guest to the same host"
        if found.get("devices"):
            return f"cannot migrate a domain with {found['devices']}"
        there = self.at(other)
        domain = there._read(uuid)
        if domain and domain["power_state"] in ON:
            return f"domain {uuid} is already active on {other}"
        missing = [d for d in found["disks"] if not (there._dir(uuid) / d).exists()]
        if missing:
            return f"{missing} cannot be opened on {other}"
        there_connected = {json.loads(path.read_bytes())
                           for path in there.root.glob(f"connected/*/{uuid}")}
        unplugged = [one["path"] for one in found.get("volumes", {}).values()
                     if one["path"] not in there_connected]
        if unplugged:
            return f"{unplugged} are not connected to {other}"
        return "" if plan["tls"] in (True, False) else "no certificates"

    @hooked
    def job(self, uuid: str) -> JobSample | None:
        self.notch(uuid)
        move = self.fabric.move(uuid)
        if move is None or move["source"] != self.hostname:
            return None
        if move["phase"] in moves.ENDED and move["starter"] != self._starter:
            return None
        return self._sample(move)

    def _sample(self, move: Mapping[str, Any]) -> JobSample:
        faults = self.fabric.faults()
        memory = int(move["memory_mb"]) << 20
        ended = move["phase"] == moves.COMPLETED
        left = 0 if ended else int(memory * max(0, 1 - move["sample"] / faults["samples"]))
        if not faults["converges"] and move["phase"] in BEFORE:
            left = max(left, memory // 2)
        now = self.now()
        return JobSample(
            phase=move["phase"], time=now, elapsed=now - move["began"], memory_total=memory,
            memory_processed=memory - left, memory_remaining=left,
            dirty_rate=faults["dirty_rate"], bandwidth=BANDWIDTH, iteration=move["sample"] + 1,
            downtime_ms=5 if ended else move["downtime_ms"], error=move["error"])

    @hooked
    def abort_job(self, uuid: str) -> None:
        with self.fabric.lock():
            found, move = self._read(uuid), self._mine(uuid)
            if found and found.get("job") == "save":
                self._write(uuid, {**found, "job": "", "save_looks": 0})
            if move is None:
                return
            if move["phase"] in AFTER:
                raise Refused(f"Guest {uuid} runs on {move['destination']} already.",
                              now="The migration goes on.", code="too_late")
            self._call_off(move, moves.CANCELLED, "cancelled by client")

    def _mine(self, uuid: str) -> dict[str, Any] | None:
        """The migration that a guest is on from here now, if it is."""
        move = self.fabric.move(uuid)
        mine = move and move["source"] == self.hostname and move["phase"] not in moves.ENDED
        return move if mine else None

    @hooked
    def tune_job(self, uuid: str, *, downtime_ms: int | None = None,
                 bandwidth: int | None = None) -> None:
        with self.fabric.lock():
            move = self._mine(uuid)
            if move is not None:
                self.fabric.set_move(uuid, {
                    **move, "downtime_ms": downtime_ms or move["downtime_ms"],
                    "bandwidth": bandwidth if bandwidth is not None else move.get("bandwidth")})

    @hooked
    def start_postcopy(self, uuid: str) -> None:
        with self.fabric.lock():
            move = self._mine(uuid)
            if move is None or not move["plan"]["postcopy"]:
                raise Refused(f"Guest {uuid} is on no migration that can go on in post-copy.",
                              code="invalid_state")
            if move["phase"] in BEFORE:
                self._switch(move, moves.POSTCOPY)

    @hooked
    def recover_postcopy(self, uuid: str, plan: MovePlan) -> None:
        with self.fabric.lock():
            move = self._mine(uuid)
            if move is None or move["phase"] not in AFTER:
                raise Refused(f"Guest {uuid} is on no migration in post-copy.",
                              code="invalid_state")
            if self._broken(move):
                raise Retryable(f"{move['destination']} cannot be reached.",
                                now="The guest waits for its memory.", code="unreachable")
            self._postcopy(move, moves.POSTCOPY, "")

    @hooked
    def measure_dirty_rate(self, uuid: str, seconds: int) -> int | None:
        running = self._need(uuid)["power_state"] == states.RUNNING
        return self.fabric.faults()["dirty_rate"] if running else None

    # -- what the hypervisors do by themselves ------------------------------------------------
    def see_arrival(self, uuid: str) -> None:
        """A look at a domain that is on its way here is one notch of its migration."""
        found = self._read(uuid)
        if found is not None and found.get("job") == "in":
            self.notch(uuid)

    def notch(self, uuid: str, *, held: bool = False) -> None:
        """A migration goes one notch further.

        :param held: a test's hand: also while migrations are held.
        """
        if not self._goes_on(self.fabric.move(uuid)):
            return
        with self.fabric.lock():
            move, faults = self.fabric.move(uuid) or {}, self.fabric.faults()
            if self._goes_on(move) and self.hostname in (
                    move["source"], move["destination"]) and (held or not faults["hold"]):
                self._notch(move, faults)

    @staticmethod
    def _goes_on(move: Mapping[str, Any] | None) -> bool:
        return move is not None and bool(move) and move["phase"] not in moves.ENDED

    def _notch(self, move: dict[str, Any], faults: Mapping[str, Any]) -> None:
        phase, source = move["phase"], self.at(move["source"])
        failing = move["doomed"] or (faults["fail_at"] == phase and f"made to fail at {phase}")
        if phase in BEFORE and (failing or self._broken(move)):
            self._call_off(move, moves.FAILED, failing or "the connection was lost")
        elif phase == moves.POSTCOPY and (failing or self._broken(move)):
            self._postcopy(move, moves.POSTCOPY_PAUSED, "the connection was lost")
        elif phase == moves.SETUP:
            self.fabric.set_move(move["uuid"], {**move, "phase": moves.PRECOPY})
        elif phase == moves.PRECOPY:
            source.work(move["uuid"])
            move["sample"] += 1
            found = source._need(move["uuid"])
            move["was"] = found["power_state"]  # somebody may have paused it meanwhile
            if self._fits(move, faults):
                move["phase"] = moves.SWITCHOVER
                source._write(move["uuid"], {**found, "reason": "migration",
                                             "power_state": states.POWER_PAUSED})
            self.fabric.set_move(move["uuid"], move)
        elif phase == moves.SWITCHOVER:
            self._end(move, faults["parted"])
        elif phase == moves.POSTCOPY:
            self.at(move["destination"]).work(move["uuid"])
            move["sample"] += 1
            if move["sample"] >= 2 * faults["samples"]:
                self._switch(move, moves.COMPLETED)
            else:
                self.fabric.set_move(move["uuid"], move)

    def _fits(self, move: Mapping[str, Any], faults: Mapping[str, Any]) -> bool:
        """Whether what is left fits into the pause that is allowed."""
        quiet = faults["converges"] or move["was"] != states.RUNNING
        return move["sample"] >= faults["samples"] and (
            quiet or move["downtime_ms"] >= faults["enough_downtime"])

    def _broken(self, move: Mapping[str, Any]) -> bool:
        faults = self.fabric.faults()
        return faults["cut"] or bool({move["source"], move["destination"]} & set(faults["down"]))

    def _switch(self, move: dict[str, Any], phase: str) -> None:
        """The guest becomes the destination's: at once, or at first in need of the source."""
        uuid, plan = move["uuid"], move["plan"]
        source, there = self.at(move["source"]), self.at(move["destination"])
        left, came = source._read(uuid) or {}, there._need(uuid)
        completed = phase == moves.COMPLETED
        if move["phase"] in BEFORE:
            self._carry_disks(plan, source, there, uuid)
            came |= {"power_state": move["was"], "count": left.get("count", 0)}
            source._write(uuid, {**left, "power_state": states.POWER_PAUSED,
                                 "reason": POSTCOPY_REASONS.get(phase, "migration")})
        there._write(uuid, {**came, "persistent": completed, "job": "" if completed else "in",
                            "reason": POSTCOPY_REASONS.get(phase, "migrated")})
        if completed:
            (source.domains / f"{uuid}.json").unlink(missing_ok=True)
        if move["phase"] in BEFORE:
            self._see_alone(uuid)
            there._see_whole(uuid, came["count"])
            there.work(uuid)
        self.fabric.set_move(uuid, {**move, "phase": phase})

    def _end(self, move: dict[str, Any], parted: bool) -> None:
        """It is over, and both ends know, or the source takes the guest for its own."""
        uuid, source = move["uuid"], self.at(move["source"])
        stays = source._need(uuid)
        self._switch(move, moves.COMPLETED)
        if parted:
            runs = move["was"] == states.RUNNING
            source._write(uuid, {**stays, "job": "", "power_state": move["was"],
                                 "reason": "migration_canceled" if runs else "migration"})
            self.fabric.set_move(uuid, {**move, "phase": moves.FAILED,
                                        "error": "the connection was lost"})

    def _postcopy(self, move: dict[str, Any], phase: str, error: str) -> None:
        """Post-copy breaks, or goes on; both ends say so."""
        self.fabric.set_move(move["uuid"], {**move, "phase": phase, "error": error})
        for end in (self.at(move["source"]), self.at(move["destination"])):
            found = end._need(move["uuid"])
            end._write(move["uuid"], {**found, "reason": POSTCOPY_REASONS[phase]})

    def _see_alone(self, uuid: str) -> None:
        running = self.fabric.running(uuid)
        if len(running) > 1:
            self.fabric.accuse(f"{uuid} runs on {' and on '.join(running)}")

    def _carry_disks(self, plan: Mapping[str, Any], source: FakeState, there: FakeState,
                     uuid: str) -> None:
        for disk in source._listed(source._dir(uuid)):
            if TARGETS[disk.role] in plan["copy_disks"]:
                name = os.path.basename(disk.path)
                replace(there._dir(uuid) / name, pathlib.Path(disk.path).read_bytes())

    def _call_off(self, move: dict[str, Any], phase: str, error: str,
                  source_power: int | None = None) -> None:
        """The guest stays with the source; what was made of it at the destination goes."""
        uuid = move["uuid"]
        source, there = self.at(move["source"]), self.at(move["destination"])
        self.fabric.set_move(uuid, {**move, "phase": phase, "error": error})
        if not move["doomed"]:
            before = move.get("instead_of")
            if before:
                there._write(uuid, before)
            else:
                (there.domains / f"{uuid}.json").unlink(missing_ok=True)
        stays = source._read(uuid)
        if stays is not None:
            stopped = move["phase"] == moves.SWITCHOVER
            power = source_power or (move["was"] if stopped else stays["power_state"])
            reason = "destroyed" if source_power else "migration_canceled" if stopped \
                else stays.get("reason", "")
            source._write(uuid, {**stays, "job": "", "power_state": power, "reason": reason})

    def stop_domain(self, uuid: str) -> None:
        """A domain goes off; when it was on its way, so does its migration."""
        with self.fabric.lock():
            move = self.fabric.move(uuid)
            found = self._read(uuid)
            if move and found and found.get("job") and move["phase"] not in moves.ENDED:
                self._stop_moving(move)
                return
            if found and found.get("job"):
                self._write(uuid, {**found, "job": ""})
        self._set_power(uuid, states.SHUTDOWN, "stopped")

    def _stop_moving(self, move: dict[str, Any]) -> None:
        uuid, died = move["uuid"], f"the domain was stopped on {self.hostname}"
        if move["phase"] in BEFORE:
            off = states.SHUTDOWN if self.hostname == move["source"] else None
            self._call_off(move, moves.FAILED, died, off)
            return
        # In post-copy neither half is a guest any more.
        for half in (self.at(move["source"]), self.at(move["destination"])):
            found = half._read(uuid)
            if found is not None:
                half._write(uuid, {**found, "job": "", "power_state": states.SHUTDOWN,
                                   "persistent": True, "reason": "destroyed"})
        self.fabric.set_move(uuid, {**move, "phase": moves.FAILED, "error": died})
