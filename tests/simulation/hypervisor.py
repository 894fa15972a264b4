"""Hypervisors that tell the simulation what is done to whom, and migrations on virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from compute.model import move as moves
from compute.model import states
from virt.fake import FakeDriver, hooked
from virt.fake_moves import ON
from virt.fake_state import Fabric, content_of

PACES = (0.2, 1.0, 8.0)  # seconds that a notch of a migration takes at most


class SimDriver(FakeDriver):
    """A hypervisor that tells the simulation, at the moment of the effect, what is done to whom."""

    watch: Callable[[str, str, int | None], None] = staticmethod(lambda what, uuid, power: None)
    gone: Callable[[str, str], None] = staticmethod(lambda what, uuid: None)
    departs: Callable[[str], None] = staticmethod(lambda uuid: None)

    def power(self, uuid: str) -> int | None:
        found = self._read(uuid)
        return found["power_state"] if found else None

    def _set_power(self, uuid: str, power_state: int, event: str) -> None:
        before = self.power(uuid)
        if before is not None and before != power_state:
            what = {states.RUNNING: "on", states.POWER_PAUSED: "pause"}.get(power_state, "off")
            self.watch(what, uuid, before)
        super()._set_power(uuid, power_state, event)

    @hooked
    def undefine(self, uuid: str) -> None:
        self.watch("undefine", uuid, self.power(uuid))
        FakeDriver.undefine.__wrapped__(self, uuid)

    @hooked
    def delete_disks(self, uuid: str) -> None:
        self._destroy("delete disks of", uuid, FakeDriver.delete_disks)

    @hooked
    def quarantine_disks(self, uuid: str) -> str:
        return self._destroy("quarantine disks of", uuid, FakeDriver.quarantine_disks)

    @hooked
    def delete_aside_disks(self, uuid: str) -> None:
        FakeDriver.delete_aside_disks.__wrapped__(self, uuid)
        self.gone("delete former disks of", uuid)

    def _destroy(self, what: str, uuid: str, method: Any) -> Any:
        self.watch(what, uuid, self.power(uuid))
        found = method.__wrapped__(self, uuid)
        self.gone(what, uuid)
        return found

    @hooked
    def migrate(self, uuid: str, plan: moves.MovePlan) -> None:
        FakeDriver.migrate.__wrapped__(self, uuid, plan)
        self.departs(uuid)

    def newest(self, uuid: str) -> int:
        """The greatest number on any root disk of a guest that is not in quarantine; -1: there is
        no such disk."""
        counts = [(content_of(path) or {}).get("count", 0) for path in self.copies(uuid)
                  if "_quarantine" not in path.parts]
        return max(counts, default=-1)

    def cut_power(self) -> set[str]:
        """No domain runs here any more; returns those that did. Migrations from and to here fail,
        as the other end will notice."""
        was = {p.stem for p in self.domains.glob("*.json") if self.power(p.stem) in ON}
        for uuid in sorted(was):
            self.stop_domain(uuid)
        return was


class Traffic:
    """Migrations under way, one notch of each at a time.

    :param fabric: in which they are.
    """

    def __init__(self, fabric: Fabric, rng: random.Random, now: Callable[[], float]):
        self.fabric, self.rng, self.now = fabric, rng, now
        self.pace = rng.choice(PACES)
        self.next: dict[str, float] = {}
        fabric.set(hold=True, samples=rng.choice((1, 3, 10)), converges=rng.random() < 0.7)

    def departs(self, uuid: str) -> None:
        """A guest begins to move."""
        self.next[uuid] = self.now() + self.rng.uniform(0, self.pace)

    def notch(self, uuid: str, at: Callable[[str], SimDriver]) -> str:
        """A guest's migration goes on; returns its phase."""
        move = self.fabric.move(uuid)
        if move is not None and move["phase"] not in moves.ENDED:
            at(move["source"]).notch(uuid, held=True)
            move = self.fabric.move(uuid)
        if move is None or move["phase"] in moves.ENDED:
            del self.next[uuid]
        else:
            self.next[uuid] = self.now() + self.rng.uniform(0, self.pace)
        return move["phase"] if move else "gone"
